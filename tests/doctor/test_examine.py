"""The whole examination, without a weight, and its page."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pefttune import doctor, pipeline
from pefttune.doctor import Report


@pytest.fixture
def examined(recipe_of: Any) -> Any:
    """The report of the tests' recipe with these changes."""

    def run(**changes: Any) -> Report:
        recipe = recipe_of({key.replace("__", "."): value for key, value in changes.items()})
        return doctor.examine(recipe, *pipeline.read_data(recipe))

    return run


def checks(report: Report) -> list[tuple[str, str]]:
    return [(finding.level, finding.check) for finding in report.findings]


def test_a_sound_recipe(examined: Any) -> None:
    report = examined()
    assert report.counts == {"error": 0, "warning": 0, "note": 0}
    assert report.verdict == "nothing to mend"
    assert {part: of.rows for part, of in report.parts.items()} == {"train": 28, "validation": 16, "test": 16}
    assert sum(of.kinds["good"] for of in report.parts.values()) == 30
    assert len(report.shown) == 3
    json.dumps(asdict(report))


def test_no_weight_is_read(examined: Any, tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "base")
    (folder / "model.safetensors").unlink()
    assert examined(base__source=str(folder)).shown


def test_the_worst_comes_first(examined: Any, tmp_path: Path) -> None:
    with (tmp_path / "reviews.jsonl").open("a") as file:
        file.write('{"text": "fine <pad> film", "label": "good"}\n{"text": 7, "label": "good"}\n')
    report = examined(data__max_length=1024, data__max_bad_rows=1)
    assert checks(report) == [("error", "beyond-positions"), ("warning", "broken"), ("note", "special-strings")]
    assert report.verdict == "1 error, 1 warning, 1 note"
    assert report.findings[1].where == ("reviews.jsonl:62, column `text`: is int, not text",)


def test_rows_that_are_dropped_are_not_looked_at(examined: Any, tmp_path: Path) -> None:
    long = "<pad>" * 50
    with (tmp_path / "train.jsonl").open("w") as file:
        for text, label in [("fine", "good"), ("dull", "bad"), (long, "good")]:
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    parts = {"data__source": None, "data__train": f"{tmp_path}/train.jsonl"}
    held_out = {f"data__{part}": str(shutil.copy(tmp_path / "reviews.jsonl", tmp_path / f"{part}.jsonl"))
                for part in ("validation", "test")}  # fmt: skip
    with (tmp_path / "validation.jsonl").open("w") as file:
        file.write('{"text": "warm", "label": "good"}\n')
    report = examined(**parts, **held_out, data__max_length=100, data__too_long="drop")
    assert [shown.origin for shown in report.shown] == ["train.jsonl:1", "train.jsonl:2"]
    assert report.parts["train"].lengths.cut_rows == 1
    assert ("warning", "cut") in checks(report)


QUESTION = {"question": "who?", "context": "Ada wrote notes. " * 20, "answers": {"text": ["Ada"], "answer_start": [0]}}
LONG = "one long line. " * 20


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ({"type": "question-answering", "stride": 8}, QUESTION),
        ({"type": "token-classification", "stride": 8}, {"tokens": LONG.split(), "tags": ["B-X"] * 60}),
        ({"type": "summarization", "max_new_tokens": 8}, {"document": LONG, "summary": "line"}),
        ({"type": "text-generation", "max_new_tokens": 8}, {"prompt": LONG, "completion": LONG}),
    ],
    ids=lambda value: value.get("type", ""),
)
def test_every_task_measures_rows_beyond_the_limit(
    examined: Any, tmp_path: Path, task: dict[str, Any], values: dict[str, Any]
) -> None:
    text = next(name for name in ("context", "document", "prompt", "tokens") if name in values)
    with (tmp_path / "reviews.jsonl").open("w") as file:
        for number in range(60):
            own = f"{values[text]} {number}" if isinstance(values[text], str) else [*values[text][:-1], str(number)]
            file.write(json.dumps({**values, text: own}) + "\n")
    report = examined(task=task, data__max_length=128)
    assert all(part.lengths.longest > 300 for part in report.parts.values())


def test_answers_that_were_mended_are_told(examined: Any, tmp_path: Path) -> None:
    with (tmp_path / "reviews.jsonl").open("w") as file:
        for number in range(60):
            answers = {"text": ["wrote"], "answer_start": [2 if number % 2 else 4]}
            file.write(json.dumps({**QUESTION, "context": f"Ada wrote note {number}.", "answers": answers}) + "\n")
    report = examined(task={"type": "question-answering", "stride": 8})
    [finding] = [finding for finding in report.findings if finding.check == "mended"]
    assert (finding.level, finding.rows) == ("note", 30)
    assert finding.where[0] == (
        "reviews.jsonl:2, column `answers`: 'wrote' stands at character 4 of the context, not 2"
    )


class Page(html.parser.HTMLParser):
    """Opened and closed tags, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while (last := self.open.pop()) != tag:
            assert last in ("li", "tr", "td", "th"), f"<{last}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_all_of_it_and_nothing_from_elsewhere(examined: Any, tmp_path: Path) -> None:
    with (tmp_path / "reviews.jsonl").open("a") as file:
        for name in ("bad", "good"):
            text = f"<script>alert('{name}')</script> & <|end|>\nend"
            file.writelines(json.dumps({"text": f"{text} {i}", "label": f"<b>{name}"}) + "\n" for i in range(40))
    report = examined()
    page = doctor.render_page(report)
    parsed = Page(page)
    assert not parsed.tags & {"script", "link", "img", "b"}
    assert not re.findall(r"https?:|src=|url\(|@import", page)
    for finding in report.findings:
        assert finding.what in parsed.text
        assert finding.level in parsed.text
    assert all(shown.origin in parsed.text for shown in report.shown)
    assert "<script>alert('bad')</script> & <|end|>⏎\nend" in parsed.text
    assert '<span class="trained">d</span><span class="trained">&lt;|end|&gt;</span>' in page


def test_the_page_of_a_head_names_the_class(examined: Any) -> None:
    assert re.search(
        r'<span class="mark" data-label=" (good|bad) ">\d</span>', doctor.render_page(examined(task__approach="head"))
    )
