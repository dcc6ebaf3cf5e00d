"""CoNLL files: sentences, what parts them, and every fault with its line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pefttune.data import Row, load, read_rows
from pefttune.data.faults import BadRow
from pefttune.errors import DataError
from pefttune.recipe.schema import Data

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def read(path: Path, content: bytes) -> tuple[list[Row], list[str]]:
    """The rows, and the bad ones as they are told."""
    path.write_bytes(content)
    bad: list[BadRow] = []
    return list(read_rows(path, on_bad_row=bad.append)), [str(each) for each in bad]


def sentences(path: Path, content: bytes) -> list[tuple[str, str, str]]:
    """Origin, tokens and tags of each row of a file without faults."""
    rows, bad = read(path, content)
    assert not bad
    return [(row.origin, "|".join(row.values["tokens"]), "|".join(row.values["tags"])) for row in rows]


@pytest.mark.parametrize("ending", ["conll", "bio", "iob", "iob2", "annotated", "CoNLL"])
def test_sentences(tmp_path: Path, ending: str) -> None:
    rows, bad = read(tmp_path / f"a.{ending}", "Zoé\tB-PER\nran\tO\n\n.\tO\n".encode())
    assert not bad
    assert rows == [
        Row({"tokens": ["Zoé", "ran"], "tags": ["B-PER", "O"]}, f"a.{ending}:1"),
        Row({"tokens": ["."], "tags": ["O"]}, f"a.{ending}:4"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # Blank lines: several, of whitespace, at both ends; a byte order mark; returns; no line break at the end.
        (b"\xef\xbb\xbf\n \na\tO\r\n\r\n\t\nb\tO\n\t\nc\tO", [(3, "a", "O"), (6, "b", "O"), (8, "c", "O")]),
        # The first column and the last; spaces part them where there is no tab. A token may hold a space inside of it.
        (b"EU NNP B-NP B-ORG\n. . O O\n", [(1, "EU|.", "B-ORG|O")]),
        (b"EU  \t NNP\tB-ORG \nke s\tNN\tO\n", [(1, "EU|ke s", "B-ORG|O")]),
        (b"-DOCSTART- -X- O O\n\na NN O O\n-DOCSTART-\nb NN O O\n", [(3, "a", "O"), (5, "b", "O")]),
        # A token `#`, first in the file, first in a sentence, and inside one.
        (b"#\tO\nfun\tO\n\n#\tB-X\n", [(1, "#|fun", "O|O"), (4, "#", "B-X")]),
        (b"# O\nfun O\n\n# B-X\n\nso O\n# O\n", [(1, "#|fun", "O|O"), (4, "#", "B-X"), (6, "so|#", "O|O")]),
        (b"# O\n", [(1, "#", "O")]),
        (b"#yes\tO\n", [(1, "#yes", "O")]),
        # Comments before sentences: of the file, of CoNLL-U, of MultiCoNER; also with as many columns as tokens have.
        (b"# my own corpus\n\n# id 1\tdomain=en\na\tO\n# x\tO\n", [(4, "a|# x", "O|O")]),
        (
            b"# sent_id = 1\n# text = a b\na _ _ O\nb _ _ O\n\n# sent_id = 2\nc _ _ O\n",
            [(3, "a|b", "O|O"), (7, "c", "O")],
        ),
        (b"# id 5\tdomain=train\na _ _ O\n", [(2, "a", "O")]),
    ],
)
def test_lines(tmp_path: Path, content: bytes, expected: list[tuple[int, str, str]]) -> None:
    found = sentences(tmp_path / "a.conll", content)
    assert found == [(f"a.conll:{line}", tokens, tags) for line, tokens, tags in expected]


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (b"a\tO\nb\nc\tO\n\nd\tO\n", ["2: no tag after the token 'b'; it is in the sentence of lines 1 to 3"]),
        (b"a\tO\nb\t\n\nd\tO\n", ["2: no tag after the token 'b'; it is in the sentence of lines 1 to 2"]),
        (b"\tO\n\nd\tO\n", ["1: no token before the tag 'O'; it is in a sentence of this line alone"]),
        (b" \tB-X\n\nd\tO\n", ["1: no token before the tag 'B-X'; it is in a sentence of this line alone"]),
        (
            b"a\tO\n\nb\tX\tO\nc\n\nd\tO\n",
            ["3: 3 columns, where the file's first line with a token has 2; it is in the sentence of lines 3 to 4"],
        ),
        (
            # What could be a comment before a sentence is a fault inside of one.
            b"a\tO\n# it = b\nb\tO\n",
            ["2: 4 columns, where the file's first line with a token has 2; it is in the sentence of lines 1 to 3"],
        ),
        (
            b"a\tO\ncaf\xe9\tO\n",
            ["2: byte 0xe9 at character 4 is not UTF-8; save the file as UTF-8; it is in the sentence of lines 1 to 2"],
        ),
        (
            b"a\x00\tO\n",
            ["1: a NUL character; is this a text file, saved as UTF-8?; it is in a sentence of this line alone"],
        ),
        (
            b"one\nline\n\neach\n",
            [
                "1: no tag after the token 'one'; it is in the sentence of lines 1 to 2",
                "4: no tag after the token 'each'; it is in a sentence of this line alone",
            ],
        ),
    ],
)
def test_a_fault_names_its_line_and_costs_its_sentence_only(tmp_path: Path, content: bytes, faults: list[str]) -> None:
    rows, bad = read(tmp_path / "a.conll", content)
    assert bad == [f"a.conll:{fault}" for fault in faults]
    blocks = [block for block in content.split(b"\n\n") if block.strip()]
    assert len(rows) + len(bad) == len(blocks)
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path / "a.conll"))
    assert str(caught.value) == bad[0]


@pytest.mark.parametrize("content", [b"\n\n", b"# nothing but a comment\n", b"-DOCSTART- -X- O O\n\n"])
def test_a_file_without_sentences(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.conll has no rows$"):
        read(tmp_path / "a.conll", content)


def test_format_and_column_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\tO\n", encoding="utf-8")
    assert [row.values["tokens"] for row in read_rows(tmp_path / "a.txt", format="conll")] == [["a"]]
    with pytest.raises(DataError, match=r"`column_names` are for CSV and TSV files; this one is read as conll$"):
        read_rows(tmp_path / "a.txt", format="conll", column_names=("a", "b"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("word\tO\n" * 10 + "\n" + ("word\tO\n" * 10 + "\n") * 20_000, encoding="utf-8")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 20_001
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000  # the rows together are over 20 MB


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count", "faults"),
    [
        ("wnut17/wnut17train.conll", 3394, []),
        ("wnut17/emerging.dev.conll", 1009, []),
        ("wnut17/emerging.test.annotated", 1287, []),
        ("btc/a.conll", 1000, []),
        ("btc/b.conll", 2000, []),
        ("btc/e.conll", 200, []),
        ("btc/g.conll", 2138, []),
        ("btc/f.conll", 1999, [16301]),
        ("btc/h.conll", 1998, [22918, 30879, 30881]),
    ],
)
def test_official_files(name: str, count: int, faults: list[int]) -> None:
    """Every token of every sentence, but for the sentences of the tweets that lost a token: it is empty in the file."""
    bad: list[BadRow] = []
    rows = list(read_rows(SHARED / name, on_bad_row=bad.append))
    assert len(rows) == count
    assert [each.origin for each in bad] == [f"{Path(name).name}:{line}" for line in faults]
    assert all("no token before the tag 'O'" in each.message for each in bad)
    text = (SHARED / name).read_text(encoding="utf-8").replace("\n\t\n", "\n\n")
    blocks = [block.strip("\n").split("\n") for block in text.split("\n\n") if block.strip("\n")]
    whole = [block for block in blocks if all(line.split("\t")[0].strip() for line in block)]
    assert len(blocks) == count + len(faults)
    assert [[f"{token}\t{tag}" for token, tag in zip(*row.values.values(), strict=True)] for row in rows] == [
        ["\t".join(part.strip() for part in line.split("\t")) for line in block] for block in whole
    ]


@pytest.mark.shared
def test_official_sections_together() -> None:
    """The Broad Twitter Corpus: four sections to train on, one to validate on, one as the test."""
    sections = {part: [str(SHARED / "btc" / f"{name}.conll") for name in names] for part, names in SECTIONS.items()}
    columns: Any = ("tokens", "tags")
    report = load(Data(**sections, max_bad_rows=4), columns, ("tokens",), dict).report
    assert report.source == "a.conll + b.conll + e.conll + g.conll + h.conll + f.conll"
    assert report.rows["test"] == 1999
    assert report.rows["train"] + report.duplicates_removed["train"] == 1000 + 2000 + 200 + 2138
    assert report.rows["validation"] + report.duplicates_removed["validation"] == 1998
    assert len(report.bad_rows) == 4


SECTIONS = {"train": "abeg", "validation": "h", "test": "f"}
