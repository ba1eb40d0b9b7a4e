"""What the loader says about bad names, paths and files: one line with file, line and key; and nothing else, ever."""

import os
from pathlib import Path

import pytest
import yaml
from conftest import JSON_VALUES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tofe_edge.profiles import ProfileError, load_profile, profile_names
from tofe_edge.profiles.document import MAX_FILE_BYTES, parse_document
from tofe_edge.profiles.schema import build_profile

VALID = (Path(__file__).parent / "my_board.yaml").read_text(encoding="utf-8")


def line_of(text: str, fragment: str) -> int:
    """Line number, from 1, of the first line that holds ``fragment``."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if fragment in line)


def message_for(content: str | bytes, folder: Path) -> str:
    """What the loader says about a file with this content; also checks that it is one printable line."""
    path = folder / "board.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ProfileError) as caught:
        load_profile(str(path))
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ProfileError, match=r"'jetson_orinn'; did you mean 'jetson_orin'\?.*`tofe-edge devices`"):
        load_profile("jetson_orinn")


@pytest.mark.parametrize("name", ["", "zzzzzz", "schema", "Jetson Orin\n", "x" * 10_000])
def test_unknown_name_names_the_command(name: str) -> None:
    with pytest.raises(ProfileError, match=r"unknown profile .*`tofe-edge devices`") as caught:
        load_profile(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["nowhere/board.yaml", "board.yaml", "a/\0b", "x" * 5000 + ".yaml", "new\nline.yaml"])
def test_missing_file(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileError, match=r"no such file|cannot be read") as caught:
        load_profile(path)
    assert str(caught.value).isprintable()


def test_directory_and_named_pipe_do_not_block(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="is a directory"):
        load_profile(f"{tmp_path}/")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ProfileError, match="not a regular file"):
        load_profile(str(tmp_path / "pipe.yaml"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(VALID)
    path.chmod(0)
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(str(path))


def test_largest_allowed_size_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(VALID + "#" * (MAX_FILE_BYTES - len(VALID)))
    assert load_profile(str(path)).name == "my_board"


@pytest.mark.parametrize("content", [b"schema: 1\nname: \xff\n", VALID.encode("latin-1") + b"\n\xe9", b"a: 1\n\xc3"])
def test_not_utf8(content: bytes, tmp_path: Path) -> None:
    message = message_for(content, tmp_path)
    bad_line = content[: max(content.rfind(b"\xff"), content.rfind(b"\xe9"), content.rfind(b"\xc3"))].count(b"\n") + 1
    assert message.startswith(f":{bad_line}: not UTF-8")


ALIAS_BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh")
)


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ("schema: 1\nname: [a, b\ntitle: x\n", ":3:", "not valid profile YAML"),
        ("schema: 1\n\tname: x\n", ":2:1:", "not valid profile YAML"),
        ("schema: 1\n---\nschema: 1\n", ":2:1:", "another document"),
        ("schema: 1\nname: a\x01b\n", ":2:8:", "control character"),
        ("schema: 1\nname: &a x\ntitle: *a\n", ":2:7:", "anchors and aliases are refused"),
        ("schema: 1\nname: *a\n", ":2:7:", "anchors and aliases are refused"),
        ("schema: 1\nname: !!python/object:os.system x\n", ":2:7:", "tags ('!...') are refused"),
        ("schema: 1\nname: !!str x\n", ":2:7:", "tags ('!...') are refused"),
        ("schema: 1\nname: " + "[" * 5000, ":2:", "nested deeper than 16 levels"),
        ("schema: 1\nname: [" + "a," * 20_000 + "]\n", ":2:", "more than 10000 values"),
        ("schema: 1\nname: " + "- " * 5000, ":2:", "not valid profile YAML"),
        ('schema: 1\nname: "\\UFFFFFFFF"\n', ":", "not valid profile YAML"),
        ("%YAML 99999999999.1\n---\nschema: 1\n", ":1:", "not valid profile YAML"),
        (ALIAS_BOMB, ":1:4: ", "not valid profile YAML: anchors and aliases"),
        *((empty, ":1: ", "empty") for empty in ("", "\n\n", "# only a comment\n", "---\n")),
        *((other, ":1: ", "must be a mapping") for other in ("- 1\n- 2\n", "just text\n", "42\n")),
        ("#" * (MAX_FILE_BYTES + 1), ":", f"larger than {MAX_FILE_BYTES} bytes"),
    ],
)
def test_broken_yaml(content: str, where: str, what: str, tmp_path: Path) -> None:
    message = message_for(content, tmp_path)
    assert message.startswith(where)
    assert what in message


ENGINE = "{name: gpu, target: onnx, precision: fp16, runtime: TensorRT, provenance: derived, source: nobody}"

# Each case: what to replace in VALID, by what, then the fragment on whose line the fault is, its key, and the words.
BAD_VALUES = [
    # wrong words
    ("provenance: derived\n    source", "provenance: guess\n    source", "guess", "budget.gmacs.provenance",
     "'guess' is not one of vendor, measured, derived"),
    ("target: executorch", "target: tflite", "tflite", "defaults.target", "'tflite' is not one of executorch, coreml, onnx"),
    ("backend: xnnpack", "backend: coreml", "backend", "defaults.backend", "'coreml' is not one of xnnpack"),
    ("precision: int8", "precision: int9", "int9", "defaults.precision", "did you mean 'int8'?"),
    ("[neon, dotprod]", "[neon, dotprd]", "isa", "cpu.isa[1]", "did you mean 'dotprod'?"),
    ("kind: big", "kind: large", "large", "cpu.clusters[0].kind", "'large' is not one of big, little"),
    ("kind: big", "kind: little", "- name", "cpu.clusters", "no cluster has kind 'big'"),
    ("name: my_board", "name: My Board", "My Board", "name", "'My Board' is not a profile name"),
    ("defaults:", f"engines: [{ENGINE}, {ENGINE}]\ndefaults:", "engines:", "engines[1].name", "'gpu' is there twice; keep one"),
    ("defaults:", f"engines: [{ENGINE.replace('onnx', 'executorch')}]\ndefaults:", "engines:", "engines[0].precision",
     "'fp16' is not one of fp32, int8"),
    # unknown, missing and duplicate keys
    ("threads: 4", "threds: 4", "threds", "defaults", "unknown key 'threds'; did you mean 'threads'?"),
    ("threads: 4", "qqq: 4", "qqq", "defaults", "unknown key 'qqq'; allowed here: target, backend"),
    ("threads: 4", "<<: {threads: 4}", "<<", "defaults", "unknown key '<<'"),
    ("threads: 4", "[a]: 4", "[a]", "defaults", "a key must be a word, not a list"),
    ("soc: Some SoC\n", "", "schema", "soc", "missing"),
    ("    source: the rule\n", "", "value: 0.82", "budget.gmacs.source", "missing"),
    ("  threads: 4\n", "  threads: 4\n  threads: 2\n", "threads: 2", "defaults.threads",
     "given twice, first on line 24"),
    ("soc: Some SoC", "soc: Some SoC\nname: other", "name: other", "name", "given twice, first on line 2"),
    ("      int8_ops_per_cycle: {value: 64, provenance: derived, source: 2 pipes x 16 x 2}\n", "", "- name",
     "cpu.clusters[0]", "int8_ops_per_cycle is missing"),
    # wrong types
    ("  isa: [neon, dotprod]", "  isa: neon", "isa", "cpu.isa", "must be a list, not the text 'neon'"),
    ("  isa: [neon, dotprod]", "  isa: []", "isa", "cpu.isa", "must have at least 1 entry"),
    ("title: My board", "title: 5", "title", "title", "must be text, not the number '5'; put it in quotes"),
    ("title: My board", "title: yes", "title", "title", "must be text, not the boolean 'yes'"),
    ("title: My board", "title:", "title", "title", "must be text, not empty"),
    ("title: My board", "title: ' '", "title", "title", "must not be empty"),
    ("title: My board", 'title: "a\\nb"', "title", "title", "must be one line of printable text"),
    ("title: My board", "title: [a]", "title", "title", "must be text, not a list"),
    ("  gmacs:\n    value: 0.82\n    provenance: derived\n    source: the rule", "  gmacs: 0.82", "gmacs: 0.82",
     "budget.gmacs", "must be a mapping with the keys value, provenance, source, not the number '0.82'"),
    # numbers
    ("value: 0.82", "value: fast", "fast", "budget.gmacs.value", "must be a number, not the text 'fast'"),
    ("value: 0.82", "value: '0.82'", "'0.82'", "budget.gmacs.value", "remove the quotes"),
    ("value: 0.82", "value: true", "value: true", "budget.gmacs.value", "must be a number, not the boolean 'true'"),
    ("value: 0.82", "value: yes", "value: yes", "budget.gmacs.value", "must be a number, not the boolean 'yes'"),
    ("value: 0.82", "value:", "    value:", "budget.gmacs.value", "must be a number, not empty"),
    ("value: 0.82", "value: [1]", "[1]", "budget.gmacs.value", "must be a number, not a list"),
    ("value: 0.82", "value: .nan", ".nan", "budget.gmacs.value", "must be finite"),
    ("value: 0.82", "value: -.inf", "-.inf", "budget.gmacs.value", "must be finite"),
    ("value: 0.82", "value: 1e999", "1e999", "budget.gmacs.value", "must be finite"),
    ("value: 0.82", "value: -0.82", "-0.82", "budget.gmacs.value", "must be greater than zero"),
    ("value: 0.82", "value: 0", "value: 0", "budget.gmacs.value", "must be greater than zero"),
    ("value: 0.82", "value: 010", "010", "budget.gmacs.value", "write a plain decimal"),
    ("value: 0.82", "value: 1:30", "1:30", "budget.gmacs.value", "write a plain decimal"),
    ("value: 0.82", "value: 1_000", "1_000", "budget.gmacs.value", "write a plain decimal"),
    ("cores: 4", "cores: 4.0", "cores", "cpu.clusters[0].cores", "must be a whole number"),
    ("cores: 4", "cores: true", "cores", "cpu.clusters[0].cores", "must be a whole number, not the boolean"),
    ("cores: 4", "cores: " + "9" * 5000, "cores", "cpu.clusters[0].cores", "must be a whole number"),
    ("threads: 4", "threads: 5", "threads", "defaults.threads", "5 is more than the big cores; use at most 4"),
    ("threads: 4", "threads: 0", "threads", "defaults.threads", "must be greater than zero"),
    ("defaults:\n", "  accelerators:\n    - {name: GPU, kind: tpu, precision: fp16, peak_tops: 3}\ndefaults:\n", "tpu",
     "peaks.accelerators[0].kind", "'tpu' is not one of gpu, npu, dsp"),
    ("schema: 1", "schema: 2", "schema", "schema", "version 2 is not supported"),
    ("schema: 1", "schema: true", "schema", "schema", "must be a whole number, not the boolean"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "fragment", "key", "what"), BAD_VALUES)
def test_bad_value(old: str, new: str, fragment: str, key: str, what: str, tmp_path: Path) -> None:
    assert old in VALID
    content = VALID.replace(old, new, 1)
    message = message_for(content, tmp_path)
    assert message.startswith(f":{line_of(content, fragment)}: {key}: ")
    assert what in message


def load_bytes(content: bytes) -> None:
    """Loading must end in a profile or in a ProfileError of one printable line."""
    try:
        build_profile(parse_document(content, "random.yaml"))
    except ProfileError as error:
        message = str(error)
        assert message.isprintable()
        assert message.startswith("random.yaml:")


@given(st.binary(max_size=400))
def test_random_bytes(content: bytes) -> None:
    load_bytes(content)


@given(st.text(alphabet=st.sampled_from("ab01.:-?[]{}&*!|>'\"%@`#,\\ \n\t~<=+_xuU\x85\u2028é\ud800"), max_size=80))
def test_random_yaml_like_text(content: str) -> None:
    load_bytes(content.encode("utf-8", errors="surrogatepass"))


@given(data=st.data(), replacement=JSON_VALUES)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_valid_profile_with_one_value_replaced(data: st.DataObject, replacement: object) -> None:
    tree = yaml.safe_load(VALID)
    node: object = tree
    while True:
        assert isinstance(node, (dict, list))
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        child = node[key]
        if not isinstance(child, (dict, list)) or data.draw(st.booleans()):
            node[key] = replacement
            break
        node = child
    load_bytes(yaml.safe_dump(tree).encode())


@given(position=st.integers(0, len(VALID) - 1), piece=st.text(max_size=4), length=st.integers(0, 12))
def test_a_valid_profile_with_damaged_text(position: int, piece: str, length: int) -> None:
    load_bytes((VALID[:position] + piece + VALID[position + length :]).encode("utf-8", errors="surrogatepass"))


@given(st.text(max_size=40).filter(lambda name: name not in profile_names()))
def test_random_names(name: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(name)
    assert str(caught.value).isprintable()
