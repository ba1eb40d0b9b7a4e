"""JUnit XML says what the cases say, whatever text is in them, and has the shape that CI systems read."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.cli.junit import Case, Suite, junit_xml
from tofe_edge.errors import InputError

HOSTILE = [
    "]]></failure></testcase></testsuite>",
    "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;<![CDATA[x]]>",
    "a\" onclick='b' & &amp; &#0; <b/>",
    "\x00\x01\x08\x0b\x0c\x0e\x1b[31mred\x1b[0m\x7f\x85\x9f",
    "\ud800 and \udfff and \ufffe\uffff",
    "line one\r\nline two\rline three\n\tindented",
]


def parsed(suite_name: str, cases: list[Case]) -> ElementTree.Element:
    text = junit_xml([Suite(suite_name, cases)])
    root = ElementTree.fromstring(text.encode("utf-8"))
    assert ElementTree.tostring(root) == ElementTree.tostring(ElementTree.fromstring(text))
    return root


def test_the_document_of_a_small_suite() -> None:
    cases = [
        Case("size", True, "5.1 MB", 0.5),
        Case("top-1", False, "91.0 % is under 95 %\non 200 images", 1.25),
        Case("ok", True),
        Case("parity", False, "no such file", error=True),
    ]
    assert junit_xml([Suite("deit & co", cases, {"sha256": "<0>"})]) == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<testsuites name="deit &amp; co" tests="4" failures="1" errors="1" time="1.750000">\n'
        '  <testsuite name="deit &amp; co" tests="4" failures="1" errors="1" time="1.750000" skipped="0">\n'
        "    <properties>\n"
        '      <property name="sha256" value="&lt;0&gt;" />\n'
        "    </properties>\n"
        '    <testcase classname="deit &amp; co" name="size" time="0.500000">\n'
        "      <system-out>5.1 MB</system-out>\n"
        "    </testcase>\n"
        '    <testcase classname="deit &amp; co" name="top-1" time="1.250000">\n'
        '      <failure message="91.0 % is under 95 %" type="failure">91.0 % is under 95 %\non 200 images</failure>\n'
        "    </testcase>\n"
        '    <testcase classname="deit &amp; co" name="ok" time="0.000000" />\n'
        '    <testcase classname="deit &amp; co" name="parity" time="0.000000">\n'
        '      <error message="no such file" type="error">no such file</error>\n'
        "    </testcase>\n"
        "  </testsuite>\n"
        "</testsuites>\n"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(text: str) -> None:
    root = parsed(text, [Case(text, False, text), Case(text, True, text)])
    assert [element.tag for element in root[0].iter()] == ["testsuite", "testcase", "failure", "testcase", "system-out"]
    failed, passed = root[0]
    assert failed[0].text == passed[0].text == passed.get("name") == root.get("name") == passed.get("classname")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31m \x00", "\\x1b[31m \\x00"),
        ("\ud800\uffff\x85", "\\ud800\\uffff\\x85"),
        ("a\r\nb\rc\td", "a\nb\nc\td"),
        ("é ￼ 😀", "é ￼ 😀"),
    ],
)
def test_characters_that_xml_cannot_hold_are_escaped_and_others_kept(text: str, expected: str) -> None:
    entry = parsed("suite", [Case(text, True, text)])[0][0]
    assert entry[0].text == entry.get("name") == expected


@given(st.text(st.characters(), max_size=30), st.booleans())
def test_any_text_gives_a_document_and_printable_text_comes_back(text: str, passed: bool) -> None:
    entry = parsed("suite", [Case(text, passed, text)])[0][0]
    if text.isprintable() and text:
        assert entry.get("name") == entry[0].text == text


@pytest.mark.parametrize(
    ("message", "reason"), [("", "failed"), (" \n\n", "failed"), ("\n  first \nsecond", "first"), ("\r\na\rb", "a")]
)
def test_the_reason_is_the_first_line_with_text(message: str, reason: str) -> None:
    failure = parsed("suite", [Case("case", False, message)])[0][0][0]
    assert (failure.tag, failure.get("message"), failure.get("type")) == ("failure", reason, "failure")


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1e6)), max_size=20))
def test_counts_and_times_are_those_of_the_cases(entries: list[tuple[bool, float]]) -> None:
    root = parsed("suite", [Case(str(number), passed, "", time) for number, (passed, time) in enumerate(entries)])
    failures = sum(not passed for passed, _ in entries)
    assert len(root.findall(".//failure")) == failures and len(root[0]) == len(entries)
    for element in (root, root[0]):
        assert (element.get("tests"), element.get("failures")) == (str(len(entries)), str(failures))
        assert float(element.get("time", "")) == pytest.approx(sum(seconds for _, seconds in entries), abs=1e-6)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_an_impossible_time_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match="time of case 'slow'"):
        junit_xml([Suite("suite", [Case("slow", True, "", seconds)])])
