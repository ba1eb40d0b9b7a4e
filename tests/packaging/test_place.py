"""Bundles on the disk: whole, never over what is not an untouched bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import refused
from packaged_models import packaged, pretend_model

from tofe_edge.checkpoint import Checkpoint
from tofe_edge.errors import InputError
from tofe_edge.packaging.bundle import Bundle, BundleFile, Form
from tofe_edge.packaging.place import place
from tofe_edge.packaging.provenance import PROVENANCE, provenance_file
from tofe_edge.packaging.unpack import unpack

NAMES: dict[Form, str] = {"folder": "bundle", "zip": "bundle.zip", "tar.gz": "bundle.tar.gz"}


@pytest.fixture(params=list(NAMES))
def bundle(request: pytest.FixtureRequest, tiny_checkpoint: Checkpoint, tmp_path: Path) -> Bundle:
    model = packaged(pretend_model(tiny_checkpoint, tmp_path / "model"))
    files = {"a/run.sh": BundleFile(b"#!/bin/sh\n", executable=True), "b.txt": BundleFile(b"text")}
    files[PROVENANCE] = provenance_file("android", "test", model, [], files)
    return Bundle(NAMES[request.param], request.param, files)


def other(bundle: Bundle) -> Bundle:
    """Of the same name, with other files."""
    return replace(bundle, files={"c.txt": BundleFile(b"other"), PROVENANCE: bundle.files[PROVENANCE]})


def test_what_is_written_is_read_back_and_nothing_is_left_over(bundle: Bundle, tmp_path: Path) -> None:
    path = place(bundle, tmp_path / "out" / "deep", force=False)
    assert path == tmp_path / "out" / "deep" / bundle.name
    found = unpack(path)
    assert (found.form, found.files) == (bundle.form, bundle.files)
    assert list(path.parent.iterdir()) == [path]


def test_force_replaces_an_earlier_bundle_and_leaves_nothing_of_it(bundle: Bundle, tmp_path: Path) -> None:
    path = place(bundle, tmp_path / "out", force=False)
    message = refused(path, lambda: place(other(bundle), tmp_path / "out", force=False))
    assert "exists already; --force replaces" in message and unpack(path).files == bundle.files
    place(other(bundle), tmp_path / "out", force=True)
    assert unpack(path).files == other(bundle).files and list(path.parent.iterdir()) == [path]


def test_force_never_takes_what_is_somebodys_own(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "out" / bundle.name
    path.parent.mkdir()
    path.symlink_to(tmp_path)
    assert "is a link" in refused(path, lambda: place(bundle, path.parent, force=True))
    path.unlink()
    path.write_text("mine")
    assert "is no bundle of this program" in refused(path, lambda: place(bundle, path.parent, force=True))
    path.unlink()
    path.mkdir()
    assert "is no bundle of this program" in refused(path, lambda: place(bundle, path.parent, force=True))
    (path / "mine.txt").write_text("mine")
    assert "no provenance.json" in refused(path, lambda: place(bundle, path.parent, force=True))
    (path / PROVENANCE).write_text("{}")
    assert "not the provenance of a bundle" in refused(path, lambda: place(bundle, path.parent, force=True))
    assert (path / "mine.txt").read_text() == "mine"


def test_force_never_takes_a_bundle_that_was_worked_on(bundle: Bundle, tmp_path: Path) -> None:
    if bundle.form != "folder":
        pytest.skip("an archive that was changed is no bundle, which other tests show")
    path = place(bundle, tmp_path / "out", force=False)
    (path / "mine.txt").write_text("mine")
    assert "mine.txt was added" in refused(path, lambda: place(bundle, path.parent, force=True))
    (path / "mine.txt").unlink()
    (path / "b.txt").write_text("mine")
    assert "b.txt is not what was packaged" in refused(path, lambda: place(bundle, path.parent, force=True))
    assert (path / "b.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_told(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"):
        place(bundle, tmp_path / "file", force=False)
