"""Standard streams as cron, daemons, full disks and terminals give them: through the real entry point."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tofe_edge.cli.output import emit, facts, table
from tofe_edge.errors import visible

ESCAPES = "\x1b]0;t\x07 \x9b2J \x7f \u202e \u2066 \u2028 \r"


def call(words: str, redirection: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    line = f'exec "{sys.executable}" -m tofe_edge {words} {redirection}'
    return subprocess.run(
        ["sh", "-c", line], env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("words", "code"), [("devices", 0), ("devices --json", 0), ("--help", 0), ("devices nothing", 2)]
)
def test_closed_streams_do_not_change_the_exit_code(words: str, code: int, closed: str) -> None:
    ended = call(words, closed)
    assert ended.returncode == code
    assert "rror" not in ended.stderr or code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["devices", "devices --json", "--help", "devices --help", "--version"])
def test_a_full_stdout_is_one_line_and_exit_code_3(words: str, unbuffered: str) -> None:
    ended = call(words, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert ended.returncode == 3
    (line,) = ended.stderr.splitlines()
    assert line.startswith("tofe-edge: error: the output cannot be written (No space left")


def test_a_reader_that_goes_is_no_error() -> None:
    ended = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m tofe_edge devices --json | head -n 1'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""


def test_a_locale_without_unicode() -> None:
    ended = call("devices --json", "")
    plain = subprocess.run(
        [sys.executable, "-m", "tofe_edge", "devices", "no_süch"],
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0 and plain.returncode == 2
    assert "internal" not in plain.stderr and len(plain.stderr.splitlines()) == 1


def test_control_characters_are_written_out() -> None:
    assert visible(f"a{ESCAPES}\nb") == "a\\x1b]0;t\\x07 \\x9b2J \\x7f \\u202e \\u2066 \\u2028 \\r\nb"
    assert visible("Käse 猫 \U0001f408") == "Käse 猫 \U0001f408"


def test_they_do_not_reach_a_terminal_by_any_way(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"cat{ESCAPES}\ndog"
    text = f"{facts([('class', name)])}\n{table([[name, '1']], ['class', 'n'])}"
    assert len(text.splitlines()) == 4, "a name made a row of its own"
    emit(False, {}, text)
    emit(True, {name: name}, "")
    printed = capsys.readouterr().out
    assert visible(printed) == printed
    assert json.loads(printed[printed.index("{") :]) == {name: name}


def test_numbers_that_json_does_not_have_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    emit(True, {"a": [math.inf, (1.5, math.nan)], "b": {"c": -math.inf}}, "")
    assert json.loads(capsys.readouterr().out) == {"a": [None, [1.5, None]], "b": {"c": None}}
