"""Documents have a digest over their values, however they are written, and every key once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import JSON_VALUES
from hypothesis import given
from hypothesis import strategies as st

from tofe_edge.errors import InputError
from tofe_edge.io.documents import digest_of, parse_json, read_json, signed, verified, warn_without_digest

CONTENT: dict[str, Any] = {
    "name": "ä\n",
    "numbers": [1, -0.5, 1e300, 2**60],
    "none": None,
    "flags": [True, False],
    "in": {},
}


def test_the_digest_is_this_one() -> None:
    """The text that is hashed (docs/formats.md): other programs compute it too."""
    import hashlib

    text = b"{s1:a[d3ff0000000000000s2:\xc3\xa4nt]s1:b{}}"
    assert digest_of({"b": {}, "a": [1, "ä", None, True], "digest": "x"}) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda document: json.dumps(document, indent=4),
        lambda document: json.dumps(document, ensure_ascii=False, sort_keys=True),
        lambda document: json.dumps(dict(reversed(document.items()))),
        lambda document: json.dumps(document).replace("-0.5", "-5.0e-1"),
    ],
)
def test_another_way_of_writing_is_no_damage(rewrite: Callable[[Any], str]) -> None:
    assert verified(parse_json(rewrite(signed(2, CONTENT))), 2, "its") == CONTENT


@given(st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=4), st.text(max_size=4), JSON_VALUES)
def test_another_value_is(content: dict[str, Any], key: str, value: Any) -> None:
    content = {name: one for name, one in content.items() if name not in ("schema", "digest")}
    document = json.loads(json.dumps(signed(2, content)))
    changed = {**document, key: value}
    same = json.dumps(changed, sort_keys=True) == json.dumps(document, sort_keys=True)
    if digest_of(changed) != digest_of(document) or key == "schema":
        assert not same
        with pytest.raises(InputError, match="its (digest is not that of its content|schema)"):
            verified(changed, 2, "its")


def test_a_document_of_the_version_before_has_none_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    old = {"schema": 1, **CONTENT}
    assert verified(old, 2, "its") == CONTENT
    for _ in range(2):
        warn_without_digest(old, "net.json", "convert the model again")
        warn_without_digest(signed(2, CONTENT), "other.json", "convert the model again")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(
        "tofe-edge: warning: net.json: is of an earlier version and has no"
    )


@pytest.mark.parametrize("document", [{"schema": 2, **CONTENT}, {**signed(2, CONTENT), "digest": None}, {"schema": 3}])
def test_a_digest_cannot_be_left_out(document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="its (digest is not that|schema 3 is not 2)"):
        verified(document, 2, "its")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]'])
def test_a_key_that_stands_there_twice_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "twice.json").write_text(text)
    with pytest.raises(InputError, match=r"twice.json: cannot be read as JSON \(key 'a' stands there twice\); copy it"):
        read_json(tmp_path / "twice.json", "copy it again")
