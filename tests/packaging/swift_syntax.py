"""Swift files parsed by tree-sitter, where no compiler is at hand."""

from typing import Any

import pytest

_INSTALL = "pip install tree-sitter tree-sitter-swift"


def need_parser() -> Any:
    """A parser of Swift; the test is skipped without it."""
    try:
        import tree_sitter
        import tree_sitter_swift
    except ImportError:
        pytest.skip(f"needs a parser of Swift: {_INSTALL}")
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))


def syntax_errors(parser: Any, source: bytes) -> list[str]:
    """Where the source is no Swift: line and text."""
    found, open_nodes = [], [parser.parse(source).root_node]
    while open_nodes:
        node = open_nodes.pop()
        if node.is_error or node.is_missing:
            found.append(f"line {node.start_point[0] + 1}: {node.text[:60]!r}")
        open_nodes += node.children
    return found
