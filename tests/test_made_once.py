"""What tests share is made by one process of a run, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_once import made_once, share_in

MAKER = """
import sys, time
from pathlib import Path
from made_once import made_once, share_in

place = Path(sys.argv[1])

def make(folder: Path) -> None:
    with (place / "makers").open("a") as file:
        file.write("one more\\n")
    (folder / "first").write_text("1")
    time.sleep(0.3)
    (folder / "second").write_text("2")

share_in(place)
found = made_once("thing", make)
print(found, *sorted(path.name for path in found.iterdir()))
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    former = share_in(tmp_path)
    yield tmp_path
    share_in(former)


def test_of_processes_that_ask_at_once_one_makes_it_and_all_find_it_whole(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert said == [f"{tmp_path / 'thing'} first second\n"] * 3
    assert (tmp_path / "makers").read_text() == "one more\n"


def test_what_is_there_is_not_made_again(place: Path) -> None:
    made = made_once("thing", lambda folder: (folder / "content").write_text("of the first"))
    again = made_once("thing", lambda folder: (folder / "content").write_text("of the second"))
    assert made == again == place / "thing"
    assert (made / "content").read_text() == "of the first"


def test_a_failure_leaves_it_to_the_next_one_to_ask(place: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "content").write_text("half of it")
        raise RuntimeError("no more of it")

    with pytest.raises(RuntimeError, match="no more of it"):
        made_once("thing", fails)
    assert not (place / "thing").exists()
    assert (made_once("thing", lambda folder: (folder / "other").write_text("all")) / "other").read_text() == "all"
    assert [path.name for path in (place / "thing").iterdir()] == ["other"]


def test_who_does_not_share_makes_its_own(place: Path) -> None:
    shared = made_once("thing", lambda folder: (folder / "content").write_text("shared"))
    assert share_in(None) == place
    alone = [made_once("thing", lambda folder: (folder / "content").write_text("own")) for _ in range(2)]
    assert len({shared, *alone}) == 3
    assert [(folder / "content").read_text() for folder in alone] == ["own", "own"]
