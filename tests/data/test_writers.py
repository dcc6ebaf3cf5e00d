"""Writing: what is written is what is read, whole or not at all."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pefttune.data import read_rows, write_rows
from pefttune.errors import DataError, StorageError

FORMATS = ["jsonl", "json", "csv", "tsv", "parquet"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(tmp_path: Path, format: str, data: st.DataObject) -> None:
    text = LINE if format == "tsv" else TEXT
    rows = data.draw(st.lists(st.fixed_dictionaries({"text": text, "label": text}), min_size=1))
    path = tmp_path / f"a.{format}"
    write_rows(path, rows)
    assert [row.values for row in read_rows(path)] == rows


def test_conll_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.bio: files with the ending `\.bio` are only read: write JSONL or another"):
        write_rows(tmp_path / "a.bio", [{"tokens": ["a"], "tags": ["O"]}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["jsonl", "json", "parquet"])
def test_typed_round_trip(tmp_path: Path, format: str) -> None:
    rows = [{"n": number, "x": number / 7, "none": None, "list": [str(number)], "yes": True} for number in range(3000)]
    write_rows(tmp_path / f"a.{format}", rows)
    assert [row.values for row in read_rows(tmp_path / f"a.{format}")] == rows


@pytest.mark.parametrize(
    ("format", "line"), [("csv", 'x,1.5,,"[1, ""é""]",true\r\n'), ("tsv", 'x\t1.5\t\t[1, "é"]\ttrue\n')]
)
def test_values_in_cells(tmp_path: Path, format: str, line: str) -> None:
    write_rows(tmp_path / f"a.{format}", [{"a": "x", "b": 1.5, "c": None, "d": [1, "é"], "e": True}])
    assert (tmp_path / f"a.{format}").read_bytes().decode().splitlines(keepends=True)[1] == line


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows(tmp_path: Path, format: str) -> None:
    write_rows(tmp_path / f"a.{format}", [])
    with pytest.raises(DataError, match=r"is empty|has no rows"):
        list(read_rows(tmp_path / f"a.{format}"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_failure_leaves_the_old_file_alone(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    path.write_text("old")

    def rows() -> Iterator[dict[str, Any]]:
        yield {"text": "one"}
        raise ConnectionError("the maker of rows failed")

    with pytest.raises(ConnectionError):  # an OSError, but not one of the disk
        write_rows(path, rows())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    path.write_text("old")
    with files_of_at_most(10_000), pytest.raises(StorageError) as caught:
        write_rows(path, ({"text": os.urandom(50).hex()} for _ in range(1000)))
    assert str(caught.value) == f"{path} could not be written: File too large. What stood there is untouched."
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written: File exists"):
        write_rows(tmp_path / "file" / "a.csv", [])
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(StorageError, match="could not be written: Is a directory"):
        write_rows(tmp_path / "a.csv", [])
    assert {path.name for path in tmp_path.iterdir()} == {"file", "a.csv"}


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    for link in ("a.jsonl", "b.jsonl"):
        (tmp_path / link).symlink_to("real.jsonl" if link == "a.jsonl" else "new.jsonl")
        write_rows(tmp_path / link, [{"a": 1}])
        assert (tmp_path / link).is_symlink()
    assert (tmp_path / "real.jsonl").read_text() == (tmp_path / "new.jsonl").read_text() == '{"a": 1}\n'


def test_what_is_no_file_is_left_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    for name in ("pipe.jsonl", "loop.jsonl"):
        with pytest.raises(StorageError, match=r"could not be written: it is a device, a pipe or another thing"):
            write_rows(tmp_path / name, [{"a": 1}])
    assert (tmp_path / "pipe.jsonl").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["loop.jsonl", "pipe.jsonl"]


def test_a_new_file_has_the_usual_mode_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.jsonl"
    write_rows(path, [{"a": 1}])
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("text", "told"),
    [
        *[(text, "has a tab or a line break in a field, which TSV cannot hold") for text in ("a\tb", "a\nb", "a\rb")],
        ("", "is one empty field, which in TSV is no row"),
    ],
)
def test_tsv_refuses_what_it_cannot_hold(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DataError, match=f"^Row 2 {told}: write CSV or JSONL$"):
        write_rows(tmp_path / "a.tsv", [{"t": "fine"}, {"t": text}])


@pytest.mark.parametrize("format", ["csv", "tsv", "parquet"])
def test_a_table_refuses_other_columns(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataError, match=r"^Row 2 has the columns \['a', 'b'\], the first one \['a'\]: write JSONL"):
        write_rows(tmp_path / f"a.{format}", [{"a": "1"}, {"a": "1", "b": "2"}])


@pytest.mark.parametrize(
    ("first", "later", "read"),
    [
        (1, 1.99, 1.0),
        (None, "x", None),
        ([], [1.5], []),
        ({"a": 1}, {"a": 1.5, "author": "Ann"}, {"a": 1.0, "author": None}),
        ({"b": None}, {"b": b"\xff"}, {"b": None}),
        ({"b": [{"c": None}]}, {"a": "x", "b": [{"c": "y"}]}, {"b": [{"c": None}], "a": None}),
    ],
)
def test_parquet_takes_the_type_that_all_rows_have(tmp_path: Path, first: Any, later: Any, read: Any) -> None:
    """Rows far apart: the first 1,024 are not the only ones that say what a column holds."""
    write_rows(tmp_path / "a.parquet", [*[{"x": first}] * 1024, {"x": later}])
    found = [row.values["x"] for row in read_rows(tmp_path / "a.parquet")]
    assert found[:1024] == [read] * 1024
    assert found[1024] == later


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            [1] * 2048 + ["text"],
            r"^Row 2049, column `x`: Parquet cannot hold 'text' there, as a column has one type \(.*int64 vs string\)",
        ),
        (
            [1, "one"],
            r"^Row 2, column `x`: Parquet cannot hold 'one' there, .* \(.*tried to convert to int64\): write JSONL$",
        ),
        (
            [1, 2**70, 2],
            r"^Row 2, column `x`: 1180591620717411303424 cannot be written to Parquet \(Python int too large",
        ),
        (
            [b"\xff", "é"],
            r"^Row 2, column `x`: Parquet cannot hold 'é' there, as .* \(text among bytes\): write JSONL$",
        ),
        ([{"a": [b"\xff"]}, {"a": [None, "é"]}, None], r"^Row 2, column `x`: .* \(text among bytes\): write JSONL$"),
        (["é"] * 1024 + [b"\xff"], r"^Rows 1 to 1024, column `x`: text among bytes: write JSONL$"),
        ([b"\xff"] * 1024 + ["é"], r"^Row 1025, column `x`: text among bytes: write JSONL$"),
        (
            [2**53 + 1] * 1024 + [0.5],
            r"^Rows 1 to 1024, column `x`: Integer value 9007199254740993 not in range.*JSONL",
        ),
        ([{}], r"^Cannot write struct type 'x' with no child field to Parquet.*: write JSONL$"),
    ],
)
def test_parquet_refuses_what_it_cannot_hold(tmp_path: Path, values: list[Any], told: str) -> None:
    (tmp_path / "a.parquet").write_text("old")
    with pytest.raises(DataError, match=told):
        write_rows(tmp_path / "a.parquet", ({"n": 1, "x": value} for value in values))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the ending `\.xlsx` is not known: use one of `\.json`"):
        write_rows(tmp_path / "a.xlsx", [])
