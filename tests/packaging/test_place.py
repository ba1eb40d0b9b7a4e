"""Bundles on the disk: whole, never over what is not an untouched bundle."""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import refused
from packaged_models import packaged, pretend_model

from tofe_edge.errors import InputError
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging import place as module
from tofe_edge.packaging.archive import unpack
from tofe_edge.packaging.bundle import Bundle, BundleFile, Form
from tofe_edge.packaging.place import place
from tofe_edge.packaging.provenance import PROVENANCE, provenance_file

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

    def why() -> str:
        return refused(path, lambda: place(bundle, path.parent, force=True))

    path.symlink_to(tmp_path)
    assert "is a link" in why()
    path.unlink()
    path.write_text("mine")
    assert "is not a bundle of this program" in why()
    path.unlink()
    path.mkdir()
    assert "is not a bundle of this program" in why()
    (path / "mine.txt").write_text("mine")
    assert "no provenance.json" in why()
    (path / PROVENANCE).write_text("{}")
    assert "not the provenance of a bundle" in why()
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


def test_a_folder_that_cannot_be_written_to_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"):
        place(bundle, tmp_path / "file", force=False)


def meanwhile(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Have somebody else do something when the bundle is made and not yet in its place."""
    original = module._put

    def swap(draft: Path, path: Path, force: bool) -> None:
        action()
        original(draft, path, force)

    monkeypatch.setattr(module, "_put", swap)


def write_mine(path: Path, form: Form) -> Path:
    """Somebody's own file at a bundle's place, or in a folder there."""
    mine = path / "thesis.txt" if form == "folder" else path
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    return mine


@pytest.mark.parametrize("force", [False, True])
def test_foreign_files_stay(bundle: Bundle, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / bundle.name
    meanwhile(monkeypatch, lambda: write_mine(path, bundle.form))
    before = set(tmp_path.iterdir())
    message = refused(path, lambda: place(bundle, tmp_path, force))
    assert ("is not a bundle of this program" if force else "was made meanwhile") in message
    mine = path / "thesis.txt" if bundle.form == "folder" else path
    assert mine.read_text() == "mine" and set(tmp_path.iterdir()) == before | {path}


def test_changes_made_meanwhile_stay(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place(bundle, tmp_path / "out", force=False)
    meanwhile(monkeypatch, lambda: write_mine(path, bundle.form))
    message = refused(path, lambda: place(other(bundle), path.parent, force=True))
    assert "was added" in message or "is not a bundle of this program" in message
    assert "replaced" not in message
    mine = path / "thesis.txt" if bundle.form == "folder" else path
    assert mine.read_text() == "mine" and list(path.parent.iterdir()) == [path]


def test_hard_links_are_not_needed(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", refuse)
    path = place(bundle, tmp_path / "out", force=False)
    assert unpack(path).files == bundle.files
    place(other(bundle), path.parent, force=True)
    assert unpack(path).files == other(bundle).files and list(path.parent.iterdir()) == [path]
    path = tmp_path / bundle.name
    meanwhile(monkeypatch, lambda: write_mine(path, bundle.form))
    assert "was made meanwhile" in refused(path, lambda: place(bundle, tmp_path, force=False))


def test_one_of_two_packagers_wins(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=30)
    meanwhile(monkeypatch, together.wait)
    results: list[Path | InputError] = []

    def package() -> None:
        try:
            results.append(place(bundle, tmp_path / "out", force=False))
        except InputError as error:
            results.append(error)

    threads = [threading.Thread(target=package) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = tmp_path / "out" / bundle.name
    (error,) = (one for one in results if isinstance(one, InputError))
    assert path in results and "was made meanwhile" in str(error)
    assert unpack(path).files == bundle.files and list(path.parent.iterdir()) == [path]


def test_force_takes_what_macos_left_and_nothing_that_looks_like_it(bundle: Bundle, tmp_path: Path) -> None:
    if bundle.form != "folder":
        pytest.skip("nothing is left in archives")
    path = place(bundle, tmp_path / "out", force=False)
    for name in ("._mine.txt", ".DS_Store.md"):
        (path / name).write_text("mine")
        assert f"{name} was added" in refused(path, lambda: place(bundle, path.parent, force=True))
        (path / name).unlink()
    (path / "._b.txt").write_bytes(b"\0\5\x16\7\0\2\0\0")
    (path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    place(bundle, path.parent, force=True)
    assert not (path / ".DS_Store").exists()


def test_a_place_with_a_line_break_or_too_long_a_name_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "a\nb"
    place(bundle, out, force=False)
    with pytest.raises(InputError, match=r"^'[^\n]*a\\nb[^\n]*': exists already"):
        place(bundle, out, force=False)
    with pytest.raises(InputError, match="cannot be written"):
        place(bundle, tmp_path / ("x" * 300), force=False)
