"""CSV files of paths and labels: quoting, encodings, and lines that are refused by number."""

import csv
import io
from pathlib import Path

import pytest
from conftest import fine_or_refused, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from tofe_edge.io.dataset import find_samples

WORDNET = ["n01440764", "n01443537", "n01484850"]


def read(table: Path, content: str | bytes, ids: list[str] = WORDNET) -> list[tuple[str, int]]:
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(sample.path.relative_to(table.parent).as_posix(), sample.label) for sample in find_samples(table, ids)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "val.csv"


def test_labels_are_class_ids_or_indices_and_paths_are_relative_to_the_table(table: Path) -> None:
    assert read(table, "path,label\nb/2.jpg,n01443537\na.jpg, 2 \n") == [("b/2.jpg", 1), ("a.jpg", 2)]


def test_an_index_means_an_id_where_ids_are_numbers(table: Path) -> None:
    assert read(table, "path,label\na.jpg,1\nb.jpg,3\n", ["3", "1", "2"]) == [("a.jpg", 1), ("b.jpg", 0)]
    message = refused(table, lambda: read(table, "path,label\na.jpg,0\n", ["3", "1", "2"]))
    assert "line 2: label '0' is not a class id of this model (such as 3); correct it" in message


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na.jpg,0\nb.jpg,1",
        "path,label\r\na.jpg,0\r\n\r\nb.jpg,1\r\n",
        "\ufeffpath,label\na.jpg,0\nb.jpg,1\n",
        "label,path\n0,a.jpg\n1,b.jpg\n",
        'path, label ,note\n"a.jpg",0,"one, two ""three""\nfour"\nb.jpg,"1",\n',
        "path,label\n./a.jpg,0\nfolder/..//b.jpg,1\n",
        "path,label\n  a.jpg,0\nb.jpg ,1\n",
        " \npath,label\n   \na.jpg,0\n,\n \t, \nb.jpg,1\n\n",
    ],
)
def test_ways_to_write_the_same_table(table: Path, content: str) -> None:
    assert read(table, content) == [("a.jpg", 0), ("b.jpg", 1)]


def test_any_name_of_a_file_can_be_quoted(table: Path) -> None:
    names = ['a, "b".jpg', "line\nbreak.jpg", "ünïcode 图.jpg", " space.jpg", "-", "a:b"]
    (table.parent / " space.jpg").touch()
    text = io.StringIO()
    csv.writer(text).writerows([("path", "label"), *((name, 0) for name in names)])
    assert [name for name, _ in read(table, text.getvalue())] == names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the first line must name the column 'path' once, it is ''; begin the file with path,label"),
        ("\n\n", "must name the column 'path'"),
        ("path,label\n", "lists no image"),
        ("path,class\na.jpg,0\n", "the column 'label' once, it is 'path,class'"),
        ("path;label\na.jpg;0\n", "the column 'path' once, it is 'path;label'"),
        ("path,label,label\na.jpg,0,0\n", "the column 'label' once"),
        ("path,label\na.jpg,0\nb.jpg\n", "line 3 has 1 fields, the first line 2"),
        ("path,label\na,b.jpg,0\n", "line 2 has 3 fields, the first line 2; quote fields that hold a comma"),
        ("path,label\na.jpg,n09999999\n", "line 2: label 'n09999999' is not a class id of this model (such as n01440764) or"),
        ("path,label\na.jpg,0\nb.jpg,3\n", "line 3: label '3' is not a class id of this model (such as n01440764) or an index from 0 to 2"),
        ("path,label\na.jpg,-1\n", "label '-1' is not"),
        ("path,label\na.jpg,1.0\n", "label '1.0' is not"),
        ("path,label\na.jpg,²\n", "label '²' is not"),
        ("path,label\na.jpg,\n", "label '' is not"),
        ("path,label\na.jpg," + "9" * 5000 + "\n", "label '99999"),
        ("path,label\na.jpg,0\n./a.jpg,1\n", "line 3: './a.jpg' is in line 2 already; remove one of them"),
        ("path,label\n/etc/passwd,0\n", "line 2: '/etc/passwd' is not a path below the file's folder"),
        ("path,label\n../a.jpg,0\n", "line 2: '../a.jpg' is not a path below the file's folder"),
        ("path,label\nb/../../a.jpg,0\n", "'b/../../a.jpg' is not a path below"),
        ("path,label\n,0\n", "'' is not a path below"),
        ("path,label\n.,0\n", "'.' is not a path below"),
        ('path,label\n"a.jpg"x,0\n', "line 2 is not a CSV"),
        ('path,label\n"a.jpg,0\n', "is not a CSV (unexpected end of data)"),
        ("path,label\n" + "x" * 1_000_000 + ",0\n", "line 2 is longer than 65536 characters"),
        ('path,label\n"' + "x\n" * 500_000, "is not a CSV (field larger than field limit"),
        (b"path,label\na\xff.jpg,0\n", "is not UTF-8 (invalid start byte); save it as UTF-8"),
        ("path,label\na.jpg,0\n".encode("utf-16"), "is not UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_its_first_culprit(table: Path, content: str | bytes, words: str) -> None:
    message = refused(table, lambda: read(table, content))
    assert words in message
    assert len(message) < 300 + len(str(table))


fields = st.one_of(
    st.sampled_from(["path", "label", "a.jpg", "../a.jpg", "/a", "0", "n01440764", '"', "\ufeff", "\r\n", "\n", ","]),
    st.text(max_size=8),
)


@settings(max_examples=300)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(fields, max_size=12).map(lambda parts: ",".join(parts).encode("utf-8", "replace")),
    ),
    with_header=st.booleans(),
)
def test_any_bytes_are_handled(content: bytes, with_header: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = tmp_path_factory.getbasetemp() / "any.csv"
    fine_or_refused(lambda: read(table, b"path,label\n" * with_header + content), table)
