"""The commands in README and docs are calls that the program takes, and their Python examples run."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import write_images
from PIL import Image
from tiny_run import stand_in, write_dense

import tofe_edge
from tofe_edge import cli
from tofe_edge.model.checkpoint import Checkpoint

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_COMMAND = re.compile(r"(?:\$ )?(?:tofe-edge|python3? -m tofe_edge) (.+)")
_ASSIGNMENT = re.compile(r'(\w+)="([^"]*)"$')
_INLINE = re.compile(r"`(?:tofe-edge|python3? -m tofe_edge) ([^`]+)`")
_OMITTED = {"…", "..."}

NOT_RUN = {
    "coremltools.models.compute_plan": "needs macOS",
    "import tofe\n": "of the package for boards, which test_runtime_wheel.py runs",
    "from picamera2": "needs a Raspberry Pi and its camera",
    "import cv2": "needs OpenCV and a camera",
}
"""Text in a Python example -> why no test runs it."""

_INCOMPLETE = ("arguments are required", "expected one argument", "expected at least one argument")
"""What the parser says of a call that leaves something out."""

SLOW = {"te.convert("}
"""Text in a Python example that converts a model."""


def _refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the parser says against a call; empty if nothing."""
    try:
        cli.parse(words)
    except SystemExit as end:
        return "" if end.code == 0 else capsys.readouterr().err
    return ""


def _code_lines(text: str) -> Iterator[str]:
    """Yield the lines of fenced and indented blocks, those that end in a backslash joined with the next."""
    fenced, begun = False, ""
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            if line.endswith("\\"):
                begun += line.strip("\\ ") + " "
            else:
                yield begun + line.strip()
                begun = ""


def _expanded(line: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), line)


def _words(call: str) -> list[str]:
    """Return the words of one call, without comment, redirection and what follows in the same line."""
    words = shlex.split(call, comments=True)
    ends = [index for index, word in enumerate(words) if word in ("|", ">", ">>", "&&", "||", "&", ";")]
    return words[: min(ends, default=len(words))]


def commands(text: str) -> list[list[str]]:
    """Return the words of every command in the blocks of a document.

    Shell variables that the document sets are expanded. An ellipsis stands for the options of the first whole call of
    the same command.
    """
    variables: dict[str, str] = {}
    calls: list[list[str]] = []
    for line in _code_lines(text):
        assigned, command = _ASSIGNMENT.match(line), _COMMAND.match(line)
        if assigned:
            variables[assigned[1]] = _expanded(assigned[2], variables)
        elif command:
            words = _words(_expanded(command[1], variables))
            options = next((call[1:] for call in calls if call[0] == words[0]), [])
            calls.append([part for word in words for part in (options if word in _OMITTED else [word])])
    return calls


CALLS = {f"{path.name}: {shlex.join(words)}": words for path in DOCUMENTS for words in commands(path.read_text())}
INLINE = {
    f"{path.name}: {call}": _words(call)
    for path in DOCUMENTS
    for call in _INLINE.findall(path.read_text())
    if not _OMITTED & set(call.split())
}


def test_the_documents_are_read() -> None:
    text = 'Text\n    base="--a 1"\n    tofe-edge run $base \\\n        --b  # why\n```\n$ tofe-edge run … c > d\n```\ntofe-edge is'
    assert commands(text) == [["run", "--a", "1", "--b"], ["run", "--a", "1", "--b", "c"]]
    assert len(CALLS) > 30 and len(INLINE) > 10


@pytest.mark.parametrize("call", CALLS)
def test_documented_commands_are_taken(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not _refusal(CALLS[call], capsys)


@pytest.mark.parametrize("call", INLINE)
def test_commands_in_sentences_are_known(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They may leave out what they are not about; nothing in them may be unknown."""
    error = _refusal(INLINE[call], capsys)
    assert not error or any(text in error for text in _INCOMPLETE), error


def _examples() -> list[object]:
    found: list[object] = []
    for path in DOCUMENTS:
        for number, code in enumerate(
            re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL), 1
        ):
            marks = [pytest.mark.skip(reason=why) for text, why in NOT_RUN.items() if text in code]
            marks += [pytest.mark.slow for text in SLOW if text in code]
            found.append(pytest.param(code, id=f"{path.name}-{number}", marks=marks))
    return found


@pytest.mark.parametrize("code", _examples())
def test_python_examples_run(
    code: str,
    tiny_checkpoint: Checkpoint,
    tiny_model: Callable[..., Path],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder with what the examples name: ``photo.jpg``, images in ``val`` and ``photos``, dense weights, ``model.mlpackage``."""
    if "te.convert(" in code and not hasattr(tofe_edge, "convert"):
        pytest.skip("this version of tofe_edge has no function convert")
    monkeypatch.chdir(tmp_path)
    image_folder.rename(tmp_path / "val")
    Image.new("RGB", (96, 72), "teal").save("photo.jpg")
    if "te.reduce(" in code:
        stand_in(monkeypatch)
        write_dense(tmp_path).rename("my_vit.safetensors")
        write_images(tmp_path / "photos", 32)
    if "model.mlpackage" in code:
        (tmp_path / "model.mlpackage").symlink_to(tiny_model("--target", "coreml", "--precision", "fp16"))
        code = code.replace("224", "64")
    code = re.sub(r"tofe_deit_tiny_\d+", lambda _: str(tiny_checkpoint.path), code)
    # The tiny checkpoint stands for a shipped one.
    monkeypatch.setattr("tofe_edge.workflows.parity.find_by_checksum", lambda _: tiny_checkpoint)
    exec(compile(code, "example", "exec"), {"__name__": "example"})
