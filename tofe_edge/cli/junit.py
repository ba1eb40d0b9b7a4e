"""Checks and gates as JUnit XML, which CI systems show test by test."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from tofe_edge.errors import InputError

UNSAFE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters that XML 1.0 forbids (section 2.2), and the control characters that it advises against (DEL, C1)."""


@dataclass(frozen=True)
class Case:
    """One check. ``message`` is why it failed or what it measured, in any number of lines; ``seconds`` is finite and not negative."""

    name: str
    passed: bool
    message: str = ""
    seconds: float = 0.0
    error: bool = False
    """It did not pass because it could not be carried out."""


@dataclass(frozen=True)
class Suite:
    """The checks of one thing, and what is known of it."""

    name: str
    cases: Sequence[Case]
    properties: Mapping[str, str] = field(default_factory=dict)


def junit_xml(suites: Sequence[Suite]) -> str:
    """Return a document ``testsuites > testsuite > testcase`` with a ``failure`` or ``error`` in each case that did not pass.

    The ``message`` of a failure is the first line of the case's message, its text the whole; the message of a passed case
    is its ``system-out``. Characters that XML cannot hold are escaped, ``\\x1b`` for ESC, and every line ends in a line
    feed. Names should differ: some CI systems show one case per name. Write the string as UTF-8.

    Raises:
        InputError: the seconds of a case are negative or not finite.
    """
    every = [case for suite in suites for case in suite.cases]
    for case in every:
        if not (math.isfinite(case.seconds) and case.seconds >= 0):
            raise InputError(f"the time of case {case.name!r} must be finite and not negative, not {case.seconds}")
    root = ElementTree.Element(
        "testsuites", {"name": _safe(", ".join(suite.name for suite in suites)), **_totals(every)}
    )
    for suite in suites:
        # No schema gives the root a count of skipped tests.
        totals = {"name": _safe(suite.name), **_totals(suite.cases), "skipped": "0"}
        element = ElementTree.SubElement(root, "testsuite", totals)
        if suite.properties:
            known = ElementTree.SubElement(element, "properties")
            for name, value in suite.properties.items():
                ElementTree.SubElement(known, "property", {"name": _safe(name), "value": _safe(value)})
        for case in suite.cases:
            _append(element, case)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _totals(cases: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(not case.passed and not case.error for case in cases)),
        "errors": str(sum(not case.passed and case.error for case in cases)),
        "time": f"{math.fsum(case.seconds for case in cases):.6f}",
    }


def _append(suite: ElementTree.Element, case: Case) -> None:
    # GitLab and Jenkins group by classname and want one.
    attributes = {"classname": suite.get("name", ""), "name": _safe(case.name), "time": f"{case.seconds:.6f}"}
    entry = ElementTree.SubElement(suite, "testcase", attributes)
    message = _safe(case.message)
    if not case.passed:
        reason = next((line.strip() for line in message.split("\n") if line.strip()), "failed")
        kind = "error" if case.error else "failure"
        ElementTree.SubElement(entry, kind, {"message": reason, "type": kind}).text = message
    elif message:
        ElementTree.SubElement(entry, "system-out").text = message


def _safe(text: str) -> str:
    unified = text.replace("\r\n", "\n").replace("\r", "\n")  # a parser would turn them into line feeds, silently
    return UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), unified)
