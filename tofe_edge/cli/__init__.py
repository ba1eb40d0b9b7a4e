"""The command line: parse the arguments, make one library call, print a table or JSON, return an exit code.

The module of a command is imported when that command is called, so ``tofe-edge --help`` is fast and modules may import
what they need at their top.
"""

from __future__ import annotations

import argparse
import importlib
import io
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tofe_edge import __version__
from tofe_edge.cli.failures import failure_of
from tofe_edge.cli.streams import discard_output, flush, open_standard_streams, write_out, written
from tofe_edge.errors import coloured, visible

COMMANDS = {
    "convert": ("convert", "make a checked model file for a device", "--profile jetson_orin"),
    "profile": (
        "profile",
        "measure latency, memory, and time per stage and operator, here or on a device",
        "out/NAME.pte --runs 100",
    ),
    "parity": (
        "parity",
        "compare a converted model with the PyTorch reference",
        "out/NAME.pte --data val --max-drop 0.5 --junit parity.xml",
    ),
    "run": ("run", "run a converted model on images: classes, embeddings or features", "out/NAME.pte photo.jpg"),
    "package": (
        "package",
        "make a model into what an app's build takes, or check such a bundle",
        "out/NAME.pte --platform android",
    ),
    "select": ("select", "show which checkpoint fits a device, and why", "--profile raspberry_pi_5"),
    "calibrate": (
        "calibrate",
        "measure the parts of a net on a device, so that latencies can be predicted and held",
        "--profile raspberry_pi_5 --on ssh://pi@kitchen",
    ),
    "reduce": (
        "reduce",
        "make a dense net smaller in minutes, without labels: a ToFe checkpoint for a budget",
        "--weights v.pth --images val --share 0.5 --out my.safetensors",
    ),
    "train": ("train", "train ToFe on a dense backbone", "--pretrained --data photos --out photos.safetensors"),
    "evaluate": (
        "evaluate",
        "measure the accuracy of a checkpoint on labelled images",
        "tofe_deit_tiny_063 --data val",
    ),
    "tokens": (
        "tokens",
        "draw which tokens of images each stage keeps, freezes and reuses",
        "tofe_deit_tiny_063 --image photo.jpg --html tokens.html",
    ),
    "devices": ("devices", "list the device profiles, or show one", "jetson_orin"),
    "checkpoints": ("checkpoints", "list the shipped checkpoints, or show one", "tofe_deit_tiny_063"),
}
"""Name: module in this folder, what the command does, and an example. The module has ``add_options(parser)`` and ``run(args)``."""

_RENAMED = {"profiles": "devices"}
_INTERRUPTED = 130
_NOT_RUN = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a gate failed, 2 wrong input, 3 a device or runtime failed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    code = _NOT_RUN
    if threading.current_thread() is threading.main_thread():
        _clean_up_on_signals()
    try:
        parsed = parse(words)
        code = int(parsed.run(parsed))
        return code if written() else _NOT_RUN
    except SystemExit:  # --help and --version, or a wrong call
        if not written():
            return _NOT_RUN
        raise
    except KeyboardInterrupt:
        print("tofe-edge: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; keep Python from complaining about it at exit.
        discard_output()
        return code
    except Exception as error:
        if "--debug" in words:
            raise
        code, message = failure_of(error)
        print(coloured(f"tofe-edge: error: {visible(message)}", sys.stderr), file=sys.stderr)
        flush()
        return code


def _clean_up_on_signals() -> None:
    """Let a signal end the process in order: files and folders, on devices too, are removed first."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # What `nohup` told to be ignored stays ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _: sys.exit(128 + received))


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others."""

    example = ""

    def format_help(self) -> str:
        """What it does first, then how it is called, and an example."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help() + (f"\nexample:\n  {self.example}\n" if self.example else "")

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: error: {visible(' '.join(message.split()))}; see `{self.prog} --help`\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own swallows errors: help into a full disk would be a success.
        write_out(message, file or sys.stderr)


class _Completion(argparse.Action):
    """``--print-completion``: imports every command, once, so that what a shell reads at each TAB imports none."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        import shtab

        from tofe_edge.profiles import profile_names

        if values not in shtab.SUPPORTED_SHELLS:
            parser.error(f"{option_string}: {values!r} is not one of {', '.join(shtab.SUPPORTED_SHELLS)}")
        complete, commands = _program()
        for name in COMMANDS:
            command = _add_command(commands, name)
            for action in command._actions:
                if action.dest == "profile" or (name, action.dest) == ("devices", "name"):
                    action.choices = profile_names()
                elif action.type is Path or action.dest in ("checkpoint", "data", "start"):
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        write_out(f"{shtab.complete(complete, values)}\n", sys.stdout)
        parser.exit()


def _program() -> tuple[Parser, Any]:
    """A parser without commands, and where those go."""
    parser = Parser(
        prog="tofe-edge",
        description="Edge inference for ToFe vision transformers: a device profile in, a measured and checked model out.",
        epilog="Exit codes: 0 done; 1 a gate failed; 2 the input or the call is wrong; 3 a device or runtime failed.",
    )
    parser.example = "tofe-edge convert --profile jetson_orin"
    parser.add_argument("--version", action="version", version=f"tofe-edge {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        metavar="SHELL",
        help="print what a shell needs to complete commands and options: bash, zsh, fish or tcsh",
    )
    return parser, parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _add_command(commands: Any, name: str) -> Parser:
    """Import a command and declare its options."""
    file, sentence, example = COMMANDS[name]
    module = importlib.import_module(f"{__name__}.{file}")
    command: Parser = commands.add_parser(name, help=sentence, add_help=not hasattr(module, "OWN_HELP"))
    command.description = f"{sentence[0].upper()}{sentence[1:]}."
    command.example = f"tofe-edge {name} {example}"
    module.add_options(command)
    command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=module.run)
    return command


def parser_of(name: str) -> Parser:
    """The parser of a command."""
    return _add_command(_program()[1], name)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of the command that the first word names; ``run`` is its function.

    Raises:
        SystemExit: help or the version was asked for (0), or the call is wrong (2, with one line on stderr).
    """
    parser, commands = _program()
    called = words[0] if words else "--help"
    name = _RENAMED.get(called, called)
    if name not in COMMANDS:
        for listed, (_, sentence, _) in COMMANDS.items():
            commands.add_parser(listed, help=sentence)
        parser.parse_args(words or ["--help"])
        parser.error("the command comes first")
    if name != called:
        print(f"tofe-edge: hint: `{called}` is now called `{name}`", file=sys.stderr)
    # Intermixed: options may stand between MODEL and its IMAGEs.
    return _add_command(commands, name).parse_intermixed_args(list(words[1:]))
