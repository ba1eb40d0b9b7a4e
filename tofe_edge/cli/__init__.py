"""The command line: parse, make one library call, print a table or JSON, return an exit code."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence

from tofe_edge import __version__
from tofe_edge.cli import (
    calibrate,
    checkpoints,
    convert,
    evaluate,
    package,
    parity,
    profile,
    profiles_list,
    run,
    select,
    tokens,
    train,
)
from tofe_edge.errors import TofeEdgeError
from tofe_edge.profiles import ProfileError

_COMMANDS = (
    convert,
    profile,
    parity,
    run,
    package,
    select,
    calibrate,
    train,
    evaluate,
    tokens,
    profiles_list,
    checkpoints,
)
_INTERRUPTED = 130
_NOT_RUN = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a gate failed, 2 wrong input, 3 a device or runtime failed."""
    parsed = build_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    code = _NOT_RUN
    if threading.current_thread() is threading.main_thread():
        _tidy_up_when_ended()
    try:
        code = int(parsed.run(parsed))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("tofe-edge: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    except (TofeEdgeError, ProfileError) as error:
        if parsed.debug:
            raise
        print(f"tofe-edge: error: {_one_line(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, TofeEdgeError) else 2
    except OSError as error:
        # A path nobody could open: a name that is too long, a folder without permission.
        if parsed.debug:
            raise
        print(f"tofe-edge: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        # A defect of this program or of a library. Exit code 1 is kept for gates.
        if parsed.debug:
            raise
        what = f"{type(error).__name__}: {_one_line(error)[:200]}"
        print(f"tofe-edge: error: internal error ({what}); run again with --debug and report it", file=sys.stderr)
        return 3


def _tidy_up_when_ended() -> None:
    """By default a signal ends the process at once; files and folders, on devices too, are to be tidied away first."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # What `nohup` told to be ignored stays ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _: sys.exit(128 + received))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(
        prog="tofe-edge",
        description="Edge inference for ToFe vision transformers: a device profile in, a measured and checked model out.",
        epilog="Exit codes: 0 done; 1 a gate failed; 2 the input or the call is wrong; 3 a device or runtime failed.",
    )
    parser.add_argument("--version", action="version", version=f"tofe-edge {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        sub = command.add_parser(commands)
        sub.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run)
    return parser
