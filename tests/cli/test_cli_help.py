"""Help and usage of the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tofe_edge.cli import main

COMMANDS = (
    "convert", "profile", "calibrate", "parity", "run", "select", "package", "train", "evaluate", "tokens", "profiles", "checkpoints",
)  # fmt: skip


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tofe_edge", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    assert all(f"\n    {command}" in done.stdout for command in COMMANDS)
    assert "Exit codes: 0 done; 1 a gate failed; 2 the input or the call is wrong; 3 a device" in words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_the_json_switch(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom tofe_edge.cli import main\n"
        "try:\n    main(['convert', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'timm', 'torchvision', 'executorch', 'torchao', 'coremltools', 'sklearn'} & sys.modules.keys()\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run"], ["profile", "x.pte", "--runs", "0"], ["convert", "--what"]]
)
def test_a_wrong_call_is_exit_code_2_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("usage: tofe-edge")
