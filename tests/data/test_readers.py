"""Reading: every format, every fault with its message, and memory that does not grow with the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pefttune.data import Row, read_rows, write_rows
from pefttune.data.escapes import WholeCharacters
from pefttune.data.faults import BadRow
from pefttune.errors import DataError

FORMATS = ["jsonl", "json", "csv", "tsv", "parquet"]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def rows_of(path: Path, content: bytes, **options: Any) -> list[Row]:
    path.write_bytes(content)
    return list(read_rows(path, **options))


@pytest.mark.parametrize(
    ("name", "content", "origins"),
    [
        ("a.jsonl", b'{"text": "one", "n": 1}\n\n{"text": "two", "n": 2}\n', [1, 3]),
        ("a.ndjson", b'\xef\xbb\xbf{"text": "one", "n": 1}\r\n{"text": "two", "n": 2}', [1, 2]),
        ("a.json", b'[{"text": "one", "n": 1},\n\n{"text": "two", "n": 2}]', [1, 2]),
        (
            "a.json",
            b'\xef\xbb\xbf{"version": [{"x": 1}], "data": [{"text": "one", "n": 1}, {"text": "two", "n": 2}]}',
            [1, 2],
        ),
    ],
)
def test_json_rows(tmp_path: Path, name: str, content: bytes, origins: list[int]) -> None:
    assert rows_of(tmp_path / name, content) == [
        Row({"text": "one", "n": 1}, f"{name}:{origins[0]}"),
        Row({"text": "two", "n": 2}, f"{name}:{origins[1]}"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("a.csv", b'\xef\xbb\xbftext,label\r\n"say ""hi"",\nnow",1\r\n\r\nplain,0\r\n', None),
        ("a.csv", b'\n"say ""hi"",\nnow",1\nplain,0\n', ("text", "label")),
    ],
)
def test_csv_rows_start_where_their_first_line_is(tmp_path: Path, name: str, content: bytes, names: Any) -> None:
    assert rows_of(tmp_path / name, content, column_names=names) == [
        Row({"text": 'say "hi",\nnow', "label": "1"}, "a.csv:2"),
        Row({"text": "plain", "label": "0"}, "a.csv:5" if names is None else "a.csv:4"),
    ]


def test_tsv_takes_quotes_and_stray_returns_as_they_are(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.tsv", b'text\tlabel\r\n"open\t1\r\n\r\na\rb\t\n') == [
        Row({"text": '"open', "label": "1"}, "a.tsv:2"),
        Row({"text": "a\rb", "label": ""}, "a.tsv:4"),
    ]


def test_no_blank_lines_between_line_ends_of_cr_cr_lf(tmp_path: Path) -> None:
    """As Windows writes the line ends CR LF in text mode."""
    rows = rows_of(tmp_path / "a.csv", b'text\r\r\na\r\r\n\r\r\n"b\r\r\nc"\r\r\nd\r\r\n')
    assert [row.values["text"] for row in rows] == ["a", "", "b\r\r\nc", "d"]


def test_the_only_column_may_have_any_name(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.csv", b'"Comment; free\ttext"\ngood; but late\n')
    assert [row.values for row in rows] == [{"Comment; free\ttext": "good; but late"}]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_blank_line_of_one_column_is_a_row_but_at_the_end(tmp_path: Path, ending: str) -> None:
    rows = rows_of(tmp_path / f"a.{ending}", b"\ntext\nfoo\n\n\r\nbar\n\n\n")
    assert [(row.values["text"], row.origin) for row in rows] == [
        ("foo", f"a.{ending}:3"),
        ("", f"a.{ending}:4"),
        ("", f"a.{ending}:5"),
        ("bar", f"a.{ending}:6"),
    ]


def test_long_csv_field(tmp_path: Path) -> None:
    long = "x" * 200_000  # the csv module's own limit is 131,072
    assert rows_of(tmp_path / "a.csv", f"text\n{long}\n".encode())[0].values == {"text": long}


ROW_FAULTS = [
    ("a.jsonl", b'{"a": 1}\n{"a": }\n', "a.jsonl:2: broken JSON at character 7: Expecting value"),
    ("a.jsonl", b"[1, 2]\n", "a.jsonl:1: not an object with columns, but [1, 2]"),
    ("a.jsonl", b'{"a": "caf\xe9"}\n', "a.jsonl:1: byte 0xe9 at character 11 is not UTF-8; save the file as UTF-8"),
    ("a.jsonl", b'{"a": "\\ud83d"}\n', "a.jsonl:1: a `\\u` escape stands for half a character (a lone surrogate)"),
    ("a.jsonl", b'{"a": {"b": 1, "b": 2}}\n', "a.jsonl:1: JSON that cannot be read: `b` stands twice in an object"),
    ("a.json", b'[{"a": 1}, "b"]', 'a.json:2: not an object with columns, but "b"'),
    ("a.csv", b"a,b\n1\n", "a.csv:2: 1 fields, where the columns are 2: `a`, `b`"),
    ("a.csv", b'a,b\n1,2\n"x"y,2\n', "a.csv:3: broken CSV: ',' expected after '\"'"),
    ("a.csv", b'a,b\n1,2\n"x,2\n', "a.csv:3: broken CSV: unexpected end of data"),
    (
        "a.csv",
        b"a,b\n1,2\n1,caf\xe9\n",
        "a.csv:3, column `b`: byte 0xe9 at character 4 is not UTF-8; save the file as UTF-8",
    ),
    ("a.tsv", b"a\tb\n1\t2\t3\n", "a.tsv:2: 3 fields, where the columns are 2: `a`, `b`"),
]


@pytest.mark.parametrize(("name", "content", "message"), ROW_FAULTS)
def test_a_broken_row_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / name, content)
    assert str(caught.value) == message


@pytest.mark.parametrize(("name", "content", "message"), ROW_FAULTS)
def test_a_broken_row_can_be_skipped(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    bad: list[BadRow] = []
    rows_of(tmp_path / name, content, on_bad_row=bad.append)
    assert [str(each) for each in bad] == [message]


def test_reading_goes_on_after_a_broken_row(tmp_path: Path) -> None:
    bad: list[BadRow] = []
    good = rows_of(tmp_path / "a.csv", b'a,b\n"x"y,2\n3,4\n5\n6,7\n', on_bad_row=bad.append)
    assert [row.origin for row in good] == ["a.csv:3", "a.csv:5"]
    assert [each.origin for each in bad] == ["a.csv:2", "a.csv:4"]


OLD_ENDS = "{path}: its lines end in CR alone, as on an old Mac: save it with line ends of LF or CR LF"
NUL = "{path}: a NUL character in a column's name; is this a text file, saved as UTF-8?"
OPEN_QUOTE = (
    'A quote opens there and is not closed as it should be; inside of a quoted field a quote is doubled (""). '
    "Mend the quotes."
)


def test_column_names_for_a_file_with_a_header(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^a\.csv:1: a header line, not a row \(with `data\.column_names`"):
        rows_of(tmp_path / "a.csv", b"a,b\n1,2\n", column_names=("a", "b"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "{path} is empty"),
        ("a.csv", b"a,b\n", "{path} has no rows"),
        ("a.jsonl", b"\n \n", "{path} has no rows"),
        ("a.tsv", b"\n", "{path} has no rows"),
        ("a.csv", b"a,b,a\n1,2,3\n", "{path}: more than one column is called `a`"),
        ("a.csv", b"caf\xe9\n1\n", "a.csv:1: byte 0xe9 at character 4 is not UTF-8; save the file as UTF-8"),
        (
            "a.csv",
            b'a,b\n1,2\n"x,2\n3,4\n"y,5\n6,7\n',
            "{path}: broken CSV from line 3 to line 5: ',' expected after '\"'. " + OPEN_QUOTE,
        ),
        (
            "a.csv",
            b'a,b\n1,2\n"x,2\n3,4\n',
            "{path}: broken CSV from line 3 to line 4: unexpected end of data. " + OPEN_QUOTE,
        ),
        ("a.csv", b'"a"b,c\n1,2\n', "a.csv:1: broken CSV: ',' expected after '\"'"),
        (
            "a.json",
            b'{"rows": [{"a": 1}]}',
            "{path} has no rows: give an array of objects, or an object with such an array under `data`",
        ),
        (
            "a.json",
            b'[{"a": 1}, {"a" 2}]',
            "{path}: broken JSON after row 1: object key and value must be separated by a colon (':'). "
            "If each line is an object of its own, name it `.jsonl`, or set `data.format: jsonl` in a recipe.",
        ),
        (
            "a.json",
            b'{"a": 1}\n{"a": 2}\n',
            "{path}: broken JSON after row 0: trailing garbage. "
            "If each line is an object of its own, name it `.jsonl`, or set `data.format: jsonl` in a recipe.",
        ),
        (
            "a.json",
            b'[{"a": "caf\xe9"}]',
            "{path}: broken JSON after row 0: invalid bytes in UTF8 string. "
            "If each line is an object of its own, name it `.jsonl`, or set `data.format: jsonl` in a recipe.",
        ),
        (
            "a.json",
            b'[{"a": 1, "b": {"a": 2}}, {"a": 1, "a": 2}]',
            "{path}: broken JSON after row 1: `a` stands twice in an object. "
            "If each line is an object of its own, name it `.jsonl`, or set `data.format: jsonl` in a recipe.",
        ),
        (
            "a.json",
            b'[{"a\\nb": 1, "a\\nb": 2}]',
            "{path}: broken JSON after row 0: `a\nb` stands twice in an object. "
            "If each line is an object of its own, name it `.jsonl`, or set `data.format: jsonl` in a recipe.",
        ),
        *[
            (
                "a.json",
                b'[{"a": "%s"}]' % escapes,
                "{path}: the `\\u` escape at byte " + byte + " stands for half a character (a lone surrogate)",
            )
            for escapes, byte in [
                (rb"\ud800", "9"),
                (rb"\\\\\uDC00", "13"),
                (rb"\ud83d\ude00\ud83d \ude00", "21"),
                (rb"\u0416" * 30_000 + rb"\udbff", "180009"),
            ]
        ],
        ("a.tsv", b"a\tb\r1\t2\r3\t4\r", OLD_ENDS),
        ("a.conll", b"a\tO\rb\tO\r\rc\tO\r", OLD_ENDS),
        ("a.jsonl", b'{"a": 1}\r{"a": 2}\r', OLD_ENDS),
        ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), NUL),
        ("a.tsv", "a\tb\n1\t2\n".encode("utf-16-le"), NUL),
        (
            # ijson.items needs gigabytes for these hundred kilobytes.
            "a.json",
            b"[" * 100_000,
            "{path}: broken JSON after row 0: more than 100 brackets inside one another. "
            "If each line is an object of its own, name it `.jsonl`, or set `data.format: jsonl` in a recipe.",
        ),
        (
            "a.txt",
            b"a\n",
            "{path}: the ending `.txt` is not known: use one of `.json`, `.jsonl`, `.ndjson`, `.csv`, `.tsv`, "
            "`.parquet`, `.conll`, `.bio`, `.iob`, `.iob2`, `.annotated`",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError) as caught:
        rows_of(path, content, on_bad_row=lambda bad: None)
    assert str(caught.value) == message.format(path=path)


def test_deep_json_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:1: JSON that cannot be read: maximum recursion depth"):
        rows_of(tmp_path / "a.jsonl", b"[" * 100_000)


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        ([1, 10**15], "timestamp[s]", "timestamp[ms] that cannot be read: Python int too large"),
        ([1, 9 * 10**18], "duration[s]", "duration[s] that cannot be read: Python int too large"),
        ([b"fine", b"caf\xe9"], "string", "string that cannot be read: 'utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_a_value_of_parquet_that_cannot_be_read(tmp_path: Path, values: list[Any], kind: str, told: str) -> None:
    raw = pa.array(values, pa.binary() if kind == "string" else pa.int64())
    column = pa.Array.from_buffers(pa.type_for_alias(kind), len(values), raw.buffers())
    pq.write_table(pa.table({"text": ["one", "two"], "x": column}), tmp_path / "a.parquet")
    bad: list[BadRow] = []
    rows = list(read_rows(tmp_path / "a.parquet", on_bad_row=bad.append))
    assert [row.origin for row in rows] == ["a.parquet:1"]
    assert [(each.origin, each.column) for each in bad] == [("a.parquet:2", "x")]
    assert bad[0].message.startswith(f"holds a {told}")


def test_cut_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_rows(path, [{"text": "one"}])
    with pytest.raises(DataError, match=r"a\.parquet: broken Parquet after row 0: "):
        rows_of(path, path.read_bytes()[:-8])


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    (tmp_path / "notes").write_text("{}")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "gone.csv").symlink_to("nothing.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    for path, message in [
        (tmp_path / "trian.jsonl", "{path} does not exist. In that folder there is `train.jsonl`."),
        (tmp_path / "loop.csv", "{path} is a link that leads to no file"),
        (tmp_path / "gone.csv", "{path} is a link that leads to no file"),
        (
            tmp_path / "pipe.csv",
            "{path} is no file, but a pipe or a device: write what it gives into a file, and name that",
        ),
        (tmp_path / "zzz.csv", "{path} does not exist."),
        (tmp_path / "no" / "a.csv", f"{{path}} does not exist. There is no folder {tmp_path / 'no'}."),
    ]:
        with pytest.raises(DataError) as caught:
            read_rows(path)
        assert str(caught.value) == message.format(path=path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv is a folder: name a file$"):
        read_rows(tmp_path / "folder.csv")


def test_a_missing_file_in_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:  # a folder's mode does not stop root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DataError, match=r"none\.csv does not exist\.$"):
        read_rows(tmp_path / "none.csv")


def test_format_and_column_names_are_never_ignored(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.txt", b"1\t2\n", format="tsv", column_names=("a", "b"))[0].values == {
        "a": "1",
        "b": "2",
    }
    with pytest.raises(DataError, match=r"`column_names` are for CSV and TSV files; this one is read as jsonl$"):
        rows_of(tmp_path / "a.jsonl", b"{}\n", column_names=("a",))


@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    write_rows(path, ({"text": f"{number} " * 50, "label": "x"} for number in range(20_000)))
    next(read_rows(path))  # imports are not counted
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The rows together are over 6 MB; 1024 of them, which Parquet reads at once, are 0.5 MB.
    assert peak < 1_500_000


def test_memory_does_not_grow_with_escapes(tmp_path: Path) -> None:
    """As Python writes any text that is not English."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "ж😀" * 50}] * 5000))
    next(read_rows(path))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 5000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000  # of 4.5 MB


@pytest.mark.parametrize("size", range(12, 24))
def test_no_piece_ends_within_an_escape(tmp_path: Path, size: int) -> None:
    content = rb"\\\\ud83d\\ud83d\ud83d\ude00\u0416\\\ud83d\ude00" * 40
    whole = WholeCharacters(BytesIO(content), tmp_path)
    pieces = list(iter(lambda: whole.read(size), b""))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) < size + 12
    broken = WholeCharacters(BytesIO(content + rb"\ud83d"), tmp_path)
    with pytest.raises(DataError, match=rf"escape at byte {len(content) + 1} stands for half"):
        list(iter(lambda: broken.read(size), b""))


def test_nothing_heavy_is_imported() -> None:
    heavy = ["torch", "datasets", "pyarrow", "ijson", "numpy"]
    code = f"import sys, pefttune.data; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "column_names", "count", "columns"),
    [
        ("sst2/train.tsv", ("text", "label"), 6920, ["text", "label"]),
        ("sst2/dev.tsv", ("text", "label"), 872, ["text", "label"]),
        ("sst2/test.tsv", ("text", "label"), 1821, ["text", "label"]),
        ("banking77/train.csv", None, 10_003, ["text", "category"]),
        ("banking77/test.csv", None, 3080, ["text", "category"]),
        ("sms_spam/SMSSpamCollection.tsv", None, 5574, ["Label", "SMS"]),
        ("gsm8k/test.jsonl", None, 1319, ["question", "answer"]),
        ("ag_news/test.csv", ("class", "title", "description"), 7600, ["class", "title", "description"]),
    ],
)
def test_official_files(name: str, column_names: Any, count: int, columns: list[str]) -> None:
    rows = list(read_rows(SHARED / name, column_names=column_names))
    assert len(rows) == count
    assert all(list(row.values) == columns and all(row.values.values()) for row in rows)
    if "label" in columns:
        assert {row.values["label"] for row in rows} == {"0", "1"}


def test_json_of_a_row_is_what_was_written(tmp_path: Path) -> None:
    value = {
        "text": "café 😀 \\ud83d?",
        "pairs": "\\\\😀" * 20_000,
        "spans": [[0, 4], []],
        "meta": {"n": 1.5, "none": None, "yes": True},
        "big": 10**17,
    }
    for name, content in [("a.json", json.dumps([value])), ("a.jsonl", json.dumps(value))]:
        assert rows_of(tmp_path / name, content.encode())[0].values == value
