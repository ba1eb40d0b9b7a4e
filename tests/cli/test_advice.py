"""Every command and option that any message names is there to be followed."""

import argparse
import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tofe_edge
from tofe_edge.cli import _RENAMED, COMMANDS

SOURCES = Path(tofe_edge.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
COMMAND = re.compile(r"`tofe-edge (\w+)((?: [^`]*)?)`")
OTHER_PROGRAMS = re.compile(
    r"\b(jetson_clocks|pip|adb|ssh|cmake|apt-get|npm|git|xcrun|swift|tar|tofe_runner) |^--(top|values) "
)
"""With options of their own; the last ones are those of the native runner."""


def options_of(command: str) -> set[str]:
    module = importlib.import_module(f"tofe_edge.cli.{COMMANDS[command][0]}")
    parser = argparse.ArgumentParser(add_help=False)
    module.add_options(parser)
    return {"--json", "--debug", "--help", *parser._option_string_actions}


OPTIONS = {command: options_of(command) for command in COMMANDS}
ALL = set().union(*OPTIONS.values()) | {"--version"}


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file that have a blank in them, but for documentation; placeholders are ``{}``."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(part)
        for node in ast.walk(module)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    documentation = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if id(node) in inner or id(node) in documentation:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if " " in text:
            yield node.lineno, text


def files() -> list[Path]:
    found = {path.resolve(): path for path in sorted(SOURCES.rglob("*.py"))}
    for link in ("converters", "runtimes", "profiles"):  # links to folders are not followed
        found.update({path.resolve(): path for path in sorted((SOURCES / link).resolve().rglob("*.py"))})
    return list(found.values())


def test_every_command_and_option_in_a_message_exists() -> None:
    wrong, seen = [], 0
    for path in files():
        own = OPTIONS.get(path.stem) if path.parent.name == "cli" else None
        for line, text in sentences(path):
            where = f"{path.name}:{line}: {text[:160]}"
            for command, rest in COMMAND.findall(text):
                command = _RENAMED.get(command, command)
                seen += 1
                if command not in COMMANDS:
                    wrong.append(f"no command {command}: {where}")
                elif any(option not in OPTIONS[command] for option in OPTION.findall(rest)):
                    wrong.append(f"{command} has no such option: {where}")
            if OTHER_PROGRAMS.search(text) or COMMAND.search(text):
                continue
            for option in OPTION.findall(text):
                seen += 1
                if option not in (own or ALL):
                    wrong.append(f"no option {option}: {where}")
    assert not wrong, "\n".join(wrong)
    assert seen > 150


@pytest.mark.parametrize("command", ["tokens", "checkpoints", "evaluate", "convert", "parity", "reduce"])
def test_what_reads_plain_weights_lets_their_net_be_named(command: str) -> None:
    """Weights whose net is not known say: name it with --backbone."""
    assert "--backbone" in OPTIONS[command]
