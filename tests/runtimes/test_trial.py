"""The first run of a model of unknown origin."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program, TinyModel, refusal, write_images

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact, open_artifact
from tofe_edge.runtimes import trial
from tofe_edge.runtimes.trial import TrialError, try_first

PREPARED = (
    "import sys; from pathlib import Path; from tofe_edge.io.artifact import open_artifact; "
    "from tofe_edge.runtimes import trial; trial._set_limits(open_artifact(Path(sys.argv[2]))); "
)


@pytest.fixture
def unknown(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """A model that this user has neither converted nor tried."""
    artifact = open_artifact(tiny_model())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return artifact


@pytest.mark.parametrize(
    ("what", "error", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", TrialError, "ended the process of its first run (SIGSEGV)"),
        ("import os; os.abort()", TrialError, "(SIGABRT)"),
        ("import os; os._exit(70)", TrialError, "(exit code 70)"),
        ("import os; os.write(2, b'std::bad_alloc'); os.abort()", TrialError, "asked for more memory"),
        ("import resource; resource.setrlimit(0, (1, 2))\nwhile True: pass", TrialError, "took more CPU time"),
        ("print('noise\\nM: is damaged'); raise SystemExit(2)", InputError, "M: is damaged"),
        ("print('M: fails'); raise SystemExit(3)", DeviceError, "M: fails"),
    ],
)
def test_however_the_trial_ends_it_is_one_line(
    what: str, error: type[Exception], said: str, unknown: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_START", what)
    with pytest.raises(error) as caught:
        try_first(unknown)
    assert type(caught.value) is error and said in str(caught.value)


def test_the_trial_has_limits(unknown: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "import resource as r; print(); print(r.getrlimit(r.RLIMIT_CPU)[0] < 120, len(bytearray(64 << 20))); bytearray(8 << 30)"
    caught_as = f"\ntry: {shown}\nexcept MemoryError: sys.exit(2)"
    monkeypatch.setattr(trial, "_START", PREPARED + caught_as)
    with pytest.raises(InputError, match="True 67108864"):
        try_first(unknown)


def test_a_model_is_tried_once(
    unknown: Artifact, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_images(tmp_path / "images", 1) / "0" / "0.png"
    code, out, err = program("run", unknown.path, image)
    assert (code, err) == (0, "") and out
    assert [path.name for path in (tmp_path / "state" / "tofe-edge" / "trusted").iterdir()] == [unknown.manifest.sha256]
    monkeypatch.setattr(trial, "_START", "raise SystemExit(1)")
    assert program("run", unknown.path, image)[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        lambda model, image: ("run", model, image),
        lambda model, image: ("run", model, "--self-test"),
        lambda model, image: ("profile", model),
        lambda model, image: ("parity", model),
    ],
)
def test_every_command_that_runs_a_model_tries_it_first(
    command: Callable[[Path, Path], tuple[object, ...]],
    two_budgets_copy: Path,
    tiny_checkpoint: object,
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trial, "_START", "import os; os.abort()")
    image = write_images(tmp_path / "images", 1) / "0" / "0.png"
    words = command(two_budgets_copy, image)
    if words[0] == "parity":
        words = (*words, "--checkpoint", tiny_checkpoint.path)  # type: ignore[attr-defined]
    assert "(SIGABRT)" in refusal(program, *words, code=3)


def test_a_checked_bundle_is_tried_first(
    unknown: Artifact, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program("package", unknown.path, "--platform", "android", "--source", "--out", tmp_path / "out")[0] == 0
    (bundle,) = (tmp_path / "out").iterdir()
    monkeypatch.setattr(trial, "_START", "import os; os.abort()")
    line = refusal(program, "package", "--check", bundle, code=3)
    assert line.startswith(unknown.path.stem) and "(SIGABRT)" in line


def test_where_nothing_can_be_noted_it_says_so(
    unknown: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "_START", "pass")
    (tmp_path / "state").write_text("a file")
    try_first(unknown)
    assert "set XDG_STATE_HOME" in capsys.readouterr().err
