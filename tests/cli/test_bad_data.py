"""Wrong data, and texts that are too long: file and line, before the base is loaded where that can be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REVIEW = '{"text": "fine", "label": "good"}\n{"text": "dull", "label": "bad"}\n'


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("reviws.jsonl", None, "does not exist. In that folder there is `reviews.jsonl`."),
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("folder.csv/x.csv", None, "There is no folder"),
        ("rows.xyz", REVIEW, "the ending `.xyz` is not known"),
        ("broken.jsonl", REVIEW + '{"text": "fine", "label"', "broken.jsonl:3: broken JSON at character"),
        ("binary.jsonl", REVIEW + '{"text": "\udcff", "label": "bad"}', "binary.jsonl:3: byte 0xff"),
        ("column.csv", "text,lable\nfine,good\n", "has no column `label`: there are `text`, `lable`. Did you mean"),
        ("fields.csv", "text,label\nfine\n", "fields.csv:2: 1 fields, where the columns are 2"),
        ("blank.csv", "text,label\nfine,good\n ,bad\n", "blank.csv:3, column `text`: is empty"),
        ("number.jsonl", REVIEW + '{"text": 7, "label": "bad"}', "number.jsonl:3, column `text`: is int, not text"),
        ("null.jsonl", REVIEW + '{"text": "x", "label": null}', "null.jsonl:3, column `label`: is empty"),
        ("parquet.parquet", REVIEW, "parquet.parquet: broken Parquet"),
    ],
)
def test_a_data_file(refuses: Any, tmp_path: Path, name: str, content: str | None, told: str) -> None:
    (tmp_path / "reviews.jsonl").write_text("")
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    refuses([f"data.source={tmp_path / name}"], "DataError", told)


def test_an_unknown_label(refuses: Any, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(REVIEW + '{"text": "so so", "label": "goood"}\n')
    refuses(
        [f"data.source={tmp_path}/x.jsonl", "task.labels=[good, bad]"],
        "DataError",
        "x.jsonl:3, column `label`: 'goood' is not one of good, bad; did you mean 'good'?",
    )


def test_one_class_only(refuses: Any, tmp_path: Path) -> None:
    rows = [{"text": f"film {number}", "label": "good"} for number in range(60)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    refuses([f"data.source={tmp_path}/x.jsonl"], "DataError", "every training row has the label 'good'")


def test_too_few_rows(refuses: Any, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(REVIEW)
    refuses([f"data.source={tmp_path}/x.jsonl"], "DataError", "No rows are left for")


def test_bad_data_is_told_before_torch_is_imported(shop: Any, tmp_path: Path) -> None:
    script = (
        "import sys; from pefttune.cli import main\n"
        "try:\n    main()\nfinally:\n    print({'torch', 'transformers'} & sys.modules.keys(), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "train", shop.recipe, "data.source=none.csv"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr == "error: none.csv does not exist.\nset()\n"


# Texts over `max_length`, which the tiny tokenizer counts in bytes: the prompt takes 59


def test_long_texts_are_cut_and_reported(train: Any) -> None:
    done = train("data.max_length=70")
    assert done.code == 0, done.err
    for part in ("training", "validation", "test"):
        assert f"{part} rows do not fit data.max_length = 70 tokens; they lose their end: reviews.jsonl:" in done.err


def test_long_texts_are_dropped_and_reported(train: Any, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in REVIEW.splitlines() * 30]
    rows = [
        {**row, "text": f"{row['text']} {'x' * (60 * (number % 3 == 0))} {number}"} for number, row in enumerate(rows)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = train(f"data.source={tmp_path}/x.jsonl", "data.max_length=100", "data.too_long=drop")
    assert done.code == 0, done.err
    assert "training rows do not fit data.max_length = 100 tokens; they are dropped: x.jsonl:" in done.err
    assert "test rows do not fit data.max_length = 100 tokens; they lose their end: x.jsonl:" in done.err


def test_all_texts_dropped(refuses: Any) -> None:
    refuses(["data.max_length=70", "data.too_long=drop"], "DataError", "none is left to train on")


def test_a_long_text_is_an_error_if_asked(refuses: Any) -> None:
    told = "training rows do not fit data.max_length = 70 tokens: reviews.jsonl:"
    refuses(["data.max_length=70", "data.too_long=error"], "DataError", told)


def test_a_long_test_row_is_an_error_before_training(refused: Any, train: Any, shop: Any, tmp_path: Path) -> None:
    rows = [{"text": "fine " * 100, "label": "good"}, {"text": "dull", "label": "bad"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = train(f"data.test={tmp_path}/test.jsonl", "data.too_long=error", "data.max_length=200", "--json")
    refused(done, 2, "DataError", "1 of 2 test rows do not fit", "test.jsonl:1")
    assert "training 1/2" not in done.err


def test_no_room_for_a_text(refuses: Any) -> None:
    refuses(["data.max_length=40"], "DataError", "data.max_length: 40 tokens leave no room for a text")


def test_a_head_goes_on_where_the_base_cannot_be_asked(train: Any) -> None:
    """A head needs no instruction; the base that it would be compared with does."""
    done = train("task.approach=head", "data.max_length=40", "--json")
    assert done.code == 0, done.err
    assert "notice: the base is not asked zero-shot: data.max_length: 40 tokens leave no room" in done.err
    assert list(done.document["comparison"]["others"]) == ["always 'bad'"]


def test_hub_data_without_network(refuses: Any) -> None:
    refuses(["data.source=someone/rows"], "DataError", "`someone/rows` could not be loaded from the Hub", "network;")
