"""CoNLL files: a token on each line with its tag, and a blank line after each sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pefttune.data.example import Row
from pefttune.data.faults import BadRow
from pefttune.data.text import fault_in, open_text

_HASH = "# "  # begins a comment, or a line of the token `#` in a file whose columns are parted by spaces
_Line = tuple[int, str]


def read_conll(path: Path, _: Sequence[str] | None) -> Iterator[Row | BadRow]:
    """One row for each sentence, `{"tokens": [...], "tags": [...]}`; `origin` is its first line.

    The first column is the token and the last one the tag; tabs part them, spaces in a line without a tab. Whitespace
    alone is a blank line, and a line that begins with `-DOCSTART-` parts sentences as well. Before a sentence, a line
    that begins with `# ` is a comment when it holds `=` or has not as many columns as the file's other lines.
    """
    with open_text(path, newline="\n") as file:
        width = _width(file)
    with open_text(path, newline="\n") as file:
        for sentence in _sentences(file, width):
            yield _row(path.name, sentence, width)


def _width(lines: Iterable[str]) -> int:
    """How many columns the first line has that can only be a token's; 2 when there is none."""
    return next((len(_columns(line)) for line in lines if not (_parts(line) or line.startswith(_HASH))), 2)


def _sentences(lines: Iterable[str], width: int) -> Iterator[list[_Line]]:
    sentence: list[_Line] = []
    for number, line in enumerate(lines, 1):
        if _parts(line):
            if sentence:
                yield sentence
            sentence = []
        elif sentence or not _is_comment(line, width):
            sentence.append((number, line.rstrip("\r\n")))
    if sentence:
        yield sentence


def _parts(line: str) -> bool:
    return not line.strip() or line.startswith("-DOCSTART-")


def _is_comment(line: str, width: int) -> bool:
    return line.startswith(_HASH) and ("=" in line or len(_columns(line)) != width)


def _columns(line: str) -> list[str]:
    if "\t" in line:
        return [column.strip() for column in line.split("\t")]
    return [column for part in line.split(" ") if (column := part.strip())]


def _row(name: str, sentence: list[_Line], width: int) -> Row | BadRow:
    tokens, tags = [], []
    first, last = sentence[0][0], sentence[-1][0]
    for number, line in sentence:
        columns = _columns(line)
        if fault := fault_in(line) or _fault(columns, width):
            whole = f"the sentence of lines {first} to {last}" if last > first else "a sentence of this line alone"
            return BadRow(f"{name}:{number}", None, f"{fault}; it is in {whole}")
        tokens.append(columns[0])
        tags.append(columns[-1])
    return Row({"tokens": tokens, "tags": tags}, f"{name}:{first}")


def _fault(columns: list[str], width: int) -> str | None:
    if any("\0" in column for column in columns):
        return "a NUL character; is this a text file, saved as UTF-8?"
    if not columns[0]:
        return f"no token before the tag {columns[-1]!r}"
    if len(columns) == 1 or not columns[-1]:
        return f"no tag after the token {columns[0]!r}"
    if len(columns) != width:
        return f"{len(columns)} columns, where the file's first line with a token has {width}"
    return None
