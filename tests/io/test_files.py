"""Atomic writes: the old file or the new one, never a part, and nothing left lying around."""

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from conftest import refused

from tofe_edge.errors import InputError
from tofe_edge.io import files
from tofe_edge.io.files import (
    Content,
    fingerprint,
    fingerprint_of,
    finish_replacement,
    put_in_place,
    replace_together,
    sha256_of,
    size_of,
    staging_dir,
    write_atomically,
    write_bytes,
    write_content,
    write_json,
)


class UnforeseenError(Exception):
    """Neither an OSError nor anything this project raises."""


def partial(path: Path, error: BaseException) -> None:
    path.write_bytes(b"half of the n")
    raise error


@contextmanager
def umask(mask: int) -> Iterator[None]:
    previous = os.umask(mask)
    try:
        yield
    finally:
        os.umask(previous)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_holds_what_was_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "er" / "file.bin", b"new")
    assert (tmp_path / "deep" / "er" / "file.bin").read_bytes() == b"new"
    assert names(tmp_path / "deep" / "er") == ["file.bin"]


@pytest.mark.parametrize("error", [UnforeseenError(), KeyboardInterrupt(), SystemExit(1)])
def test_an_exception_leaves_the_old_content_and_no_temporary_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_atomically(path, lambda temporary: partial(temporary, error))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def produce(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent, "a rename is atomic only within a file system"

    write_atomically(path, produce)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask_also_when_replacing(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "file.bin"
    with umask(mask):
        for content in (b"one", b"two"):
            write_bytes(path, content)
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        assert os.umask(mask) == mask, "the umask itself must be left as it was"


def test_what_stands_in_the_way_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "new.bin", tmp_path / "folder"):
        assert "cannot be written" in refused(path, lambda: write_bytes(path, b"x"))  # noqa: B023  (called at once)
    folder = tmp_path / "file" / "folder"
    assert "cannot be written to" in refused(folder, lambda: staging_dir(folder).__enter__())
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("call", ["pathlib.Path.write_bytes", "os.fsync", "tempfile.mkstemp"])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        message = refused(path, lambda: write_bytes(path, b"new"))
    assert "No space left on device" in message
    assert "free some space" in message
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_json_has_a_stable_order_and_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"b": [1, None], "a": "é"})
    write_json(tmp_path / "two.json", {"a": "é", "b": [1, None]})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == {"a": "é", "b": [1, None]}


@pytest.mark.parametrize("error", [UnforeseenError(), KeyboardInterrupt(), InputError("x"), None])
def test_the_staging_folder_is_gone_whatever_happened(tmp_path: Path, error: BaseException | None) -> None:
    seen: list[Path] = []

    with pytest.raises(type(error)) if error else nullcontext(), staging_dir(tmp_path) as place:
        seen.append(place)
        (place / "sub").mkdir()
        (place / "sub" / "big.bin").write_bytes(b"x")
        assert place.parent == tmp_path
        if error:
            raise error
    assert not seen[0].exists()
    assert names(tmp_path) == []


def test_an_interrupt_when_the_staging_folder_has_just_been_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def interrupted(path: str, *mode: int) -> None:
        make(path, *mode)
        if Path(path).name.startswith(".tofe-edge-"):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), staging_dir(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_an_unused_output_folder_is_removed(tmp_path: Path) -> None:
    with staging_dir(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()
    with staging_dir(tmp_path / "used") as place:
        (place / "model").write_bytes(b"x")
        (place / "model").replace(tmp_path / "used" / "model")
    assert names(tmp_path / "used") == ["model"]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_inside_the_staging_folder_is_an_input_error(tmp_path: Path) -> None:
    def work(action: Callable[[Path], object]) -> None:
        with staging_dir(tmp_path) as place:
            (place / "model").write_bytes(b"x")
            action(place)

    def no_reader(_: Path) -> None:
        raise BrokenPipeError(errno.EPIPE, "no reader")

    (tmp_path / "model").mkdir()
    assert "No space left on device" in refused(tmp_path, lambda: work(full))
    assert "model" in refused(tmp_path, lambda: work(lambda place: (place / "model").replace(tmp_path / "model")))
    with pytest.raises(BrokenPipeError):
        work(no_reader)
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_checksums_are_sha256_at_any_size(tmp_path: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_checksum_of_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "no", lambda: sha256_of(tmp_path / "no"))


@pytest.mark.parametrize("content", [b"one file", {"a": b"1", "b/c": b"", "b/d.bin": bytes(5000)}])
def test_what_is_written_has_the_fingerprint_of_what_was_to_be_written(tmp_path: Path, content: Content) -> None:
    path = tmp_path / "model"
    write_content(path, content)
    assert fingerprint_of(path) == fingerprint(content)
    assert size_of(path) == fingerprint(content).size_bytes


def test_a_folders_fingerprint_tells_names_contents_and_places_apart() -> None:
    folders: list[Content] = [
        {"a": b"1", "b": b"2"}, {"a": b"2", "b": b"1"}, {"a": b"1", "c": b"2"}, {"a": b"12", "b": b""}, {"a": b"1"}, {"b/a": b"1"}
    ]  # fmt: skip
    assert len({fingerprint(folder) for folder in folders}) == len(folders)
    assert fingerprint({"a": b"1", "b": b"2"}) == fingerprint({"b": b"2", "a": b"1"})


@pytest.mark.parametrize("there", [None, {"old": b"1", "deep/old": b"2"}])
def test_a_finished_folder_takes_the_place_of_what_was_there(tmp_path: Path, there: Content | None) -> None:
    draft, path = tmp_path / "draft", tmp_path / "model"
    write_content(draft, {"new": b"1"})
    if there:
        write_content(path, there)
    put_in_place(draft, path)
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("new", "there", "message"),
    [
        ({"new": b"1"}, b"old", "is a file where a folder should go"),
        (b"{}", {"precious": b"1"}, "is a folder where a file should go"),
    ],
)
def test_files_and_folders_stay_apart(tmp_path: Path, new: Content, there: Content, message: str) -> None:
    draft, path = tmp_path / "draft", tmp_path / "model"
    write_content(draft, new)
    write_content(path, there)
    assert message in refused(path, lambda: put_in_place(draft, path))
    assert fingerprint_of(path) == fingerprint(there)


def test_a_folder_with_a_link_has_no_fingerprint(tmp_path: Path) -> None:
    write_content(tmp_path / "model", {"a": b"1"})
    link = tmp_path / "model" / "link"
    link.symlink_to("/etc/passwd")
    assert "is not a plain file" in refused(link, lambda: fingerprint_of(tmp_path / "model"))


def test_the_old_folder_comes_back_if_the_new_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, path = tmp_path / "draft", tmp_path / "model"
    write_content(draft, {"new": b"1"})
    write_content(path, {"old": b"1"})
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self == draft:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(files, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(draft, path)
    assert names(path) == ["old"]


def parts(model: Path) -> dict[str, Content]:
    """A model in three parts, by suffix, as they stand."""
    found = {path.suffix: path for path in model.parent.iterdir() if path.stem == model.stem}
    return {
        suffix: path.read_bytes() if path.is_file() else path.joinpath("a").read_bytes()
        for suffix, path in found.items()
    }


def drafts_of(folder: Path, text: bytes) -> list[Path]:
    content: dict[str, Content] = {"m.pte": text, "m.json": text, "m.golden": {"a": text}}
    for name, part in content.items():
        write_content(folder / name, part)
    return [folder / name for name in content]


class KilledError(BaseException):
    """The process is gone here: nothing that follows happens."""


def test_a_set_of_files_is_replaced_as_a_whole_wherever_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (dict.fromkeys((".pte", ".json", ".golden"), text) for text in (b"old", b"new"))
    seen, steps = set(), 0
    while True:
        folder = tmp_path / str(steps)
        replace_together(drafts_of(folder / "draft", b"old"), folder / "m.pte")
        assert parts(folder / "m.pte") == old and not list(folder.glob(".*"))
        drafts = drafts_of(folder / "draft2", b"new")
        left = steps

        def killed_at_this_one(call: Callable[..., object]) -> Callable[..., object]:
            def replaced(*arguments: object, **options: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KilledError
                return call(*arguments, **options)

            return replaced

        with monkeypatch.context() as patch, suppress(KilledError):
            for name in ("replace", "mkdir"):
                patch.setattr(Path, name, killed_at_this_one(getattr(Path, name)))
            patch.setattr("shutil.rmtree", killed_at_this_one(shutil.rmtree))
            replace_together(drafts, folder / "m.pte")
        finish_replacement(folder / "m.pte")
        assert parts(folder / "m.pte") in (old, new)
        assert not list(folder.glob(".m*"))
        seen.add(parts(folder / "m.pte") == new)
        if left >= 0:
            break
        steps += 1
    assert seen == {True, False} and steps > 8


def test_a_replacement_puts_nothing_else_in_place(tmp_path: Path) -> None:
    write_content(tmp_path / ".m.pte.new", {"m.pte": b"1", ".bashrc": b"x", "other.pte": b"x", "m": b"x"})
    finish_replacement(tmp_path / "m.pte")
    assert names(tmp_path) == ["m.pte"]


def test_what_killed_processes_left_is_removed_and_what_is_in_use_stays(tmp_path: Path) -> None:
    def leave(name: str) -> Path:
        path = tmp_path / name
        write_content(path, {"big": b"x"}) if "part" not in name else path.write_bytes(b"x")
        os.utime(path, (1e9, 1e9))
        return path

    with staging_dir(tmp_path) as used:
        os.utime(used, (1e9, 1e9))
        dead = [leave(".tofe-edge-0123"), leave(".m.json.abc.part")]
        other = leave(".other.abc.part")
        with staging_dir(tmp_path):
            write_json(tmp_path / "m.json", {})
        assert used.exists() and other.exists() and not any(path.exists() for path in dead)


def test_a_folder_is_exchanged_also_where_the_system_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for possible in (True, False):
        folder = tmp_path / str(possible)
        write_content(folder / "draft", {"new": b"1"})
        write_content(folder / "model", {"old": b"1"})
        with monkeypatch.context() as patch:
            if not possible:
                patch.setattr(files, "exchange", lambda *_: False)
            put_in_place(folder / "draft", folder / "model")
        assert names(folder) == ["model"] and names(folder / "model") == ["new"]
