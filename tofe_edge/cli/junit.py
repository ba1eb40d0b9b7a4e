"""Checks and gates as JUnit XML, which CI systems show test by test."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
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


def junit_xml(suite_name: str, cases: Iterable[Case]) -> str:
    """Return a document ``testsuites > testsuite > testcase`` with a ``failure`` in each case that did not pass.

    The ``message`` of a failure is the first line of the case's message, its text the whole; the message of a passed case
    is its ``system-out``. Characters that XML cannot hold are escaped, ``\\x1b`` for ESC, and every line ends in a line
    feed. Names should differ: some CI systems show one case per name. Write the string as UTF-8.

    Raises:
        InputError: the seconds of a case are negative or not finite.
    """
    listed = list(cases)
    for case in listed:
        if not (math.isfinite(case.seconds) and case.seconds >= 0):
            raise InputError(f"the time of case {case.name!r} must be finite and not negative, not {case.seconds}")
    totals = {
        "name": _safe(suite_name),
        "tests": str(len(listed)),
        "failures": str(sum(not case.passed for case in listed)),
        "errors": "0",
        "skipped": "0",
        "time": f"{math.fsum(case.seconds for case in listed):.6f}",
    }
    # No schema gives the root a count of skipped tests.
    root = ElementTree.Element("testsuites", {key: value for key, value in totals.items() if key != "skipped"})
    suite = ElementTree.SubElement(root, "testsuite", totals)
    for case in listed:
        _append(suite, case)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _append(suite: ElementTree.Element, case: Case) -> None:
    # GitLab and Jenkins group by classname and want one.
    attributes = {"classname": suite.get("name", ""), "name": _safe(case.name), "time": f"{case.seconds:.6f}"}
    entry = ElementTree.SubElement(suite, "testcase", attributes)
    message = _safe(case.message)
    if not case.passed:
        reason = next((line.strip() for line in message.split("\n") if line.strip()), "failed")
        ElementTree.SubElement(entry, "failure", {"message": reason, "type": "failure"}).text = message
    elif message:
        ElementTree.SubElement(entry, "system-out").text = message


def _safe(text: str) -> str:
    unified = text.replace("\r\n", "\n").replace("\r", "\n")  # a parser would turn them into line feeds, silently
    return UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), unified)
