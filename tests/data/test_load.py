"""From a recipe's `data` section to checked and divided rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pefttune.data import Dataset, load, load_file, write_rows
from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened
from pefttune.errors import DataError
from pefttune.recipe.schema import Bin, Data, Split

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
COLUMNS, INPUTS = ("text", "label"), ("text",)


def check(values: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(values["text"], str) or not values["text"].strip():
        raise RowFault("text", "is empty")
    if values["label"] not in ("good", "bad"):
        raise RowFault("label", f"unknown label {values['label']!r}")
    return values


def rows_of(count: int, name: str = "text") -> list[dict[str, Any]]:
    return [{"text": f"{name} {number}", "label": ("good", "bad")[number % 2]} for number in range(count)]


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    write_rows(path, rows)
    return str(path)


def loaded(**config: Any) -> Dataset:
    return load(Data(**config), COLUMNS, INPUTS, check)


def texts(rows: Sequence[Any]) -> list[str]:
    return [row.values["text"] for row in rows]


def message_of(**config: Any) -> str:
    with pytest.raises(DataError) as caught:
        loaded(**config)
    return str(caught.value)


def test_one_source_is_divided(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", rows_of(200))
    dataset = loaded(source=source, split=Split(validation=0.2, test=0.3))
    parts = [dataset.train, dataset.validation, dataset.test]
    assert sorted(texts([row for part in parts for row in part])) == sorted(row["text"] for row in rows_of(200))
    assert all(row.origin == f"a.csv:{int(row.values['text'][5:]) + 2}" for part in parts for row in part)
    assert dataset.report.rows == {"train": len(parts[0]), "validation": len(parts[1]), "test": len(parts[2])}
    assert loaded(train=source, split=Split(validation=0.2, test=0.3)) == dataset


def test_rows_stay_in_their_part_when_the_file_grows(tmp_path: Path) -> None:
    before = loaded(source=written(tmp_path / "a.csv", rows_of(200)))
    after = loaded(source=written(tmp_path / "a.csv", rows_of(150, "new") + rows_of(200)[::-1]))
    for part in ("train", "validation", "test"):
        assert set(texts(getattr(before, part))) < set(texts(getattr(after, part)))


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.csv", rows_of(60))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loaded(source="~/a.csv").report.source == "a.csv"


def test_three_files(tmp_path: Path) -> None:
    dataset = loaded(
        train=written(tmp_path / "train.jsonl", rows_of(5, "a")),
        validation=written(tmp_path / "dev.tsv", rows_of(3, "b")),
        test=written(tmp_path / "test.json", rows_of(2, "c")),
    )
    assert dataset.report.rows == {"train": 5, "validation": 3, "test": 2}
    assert dataset.report.source == "train.jsonl + dev.tsv + test.json"
    assert [row.origin for row in dataset.test] == ["test.json:1", "test.json:2"]


def test_a_part_of_several_files(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a.jsonl", rows_of(30, "a")), written(tmp_path / "b.csv", rows_of(40, "b"))
    c, d = written(tmp_path / "c.tsv", rows_of(3, "c")), written(tmp_path / "d.jsonl", rows_of(4, "d"))
    dataset = loaded(train=(a, b), validation=(c,), test=(d,))
    assert texts(dataset.train) == [row["text"] for row in [*rows_of(30, "a"), *rows_of(40, "b")]]
    assert dataset.report.rows == {"train": 70, "validation": 3, "test": 4}
    assert dataset.report.source == "a.jsonl + b.csv + c.tsv + d.jsonl"
    assert [row.origin for row in dataset.train[29:31]] == ["a.jsonl:30", "b.csv:2"]


def test_each_of_several_files_must_have_the_columns(tmp_path: Path) -> None:
    a = written(tmp_path / "a.csv", rows_of(30))
    b = written(tmp_path / "b.csv", [{"text": "x", "lable": "good"}] * 30)
    assert message_of(train=(a, b)).startswith("b.csv:2 has no column `label`: there are `text`, `lable`.")
    assert message_of(train=(a, b), test=b) == f"`{b}` is given for more than one part of the data, one of them `train`"


def test_what_has_no_file_is_split_off_train(tmp_path: Path) -> None:
    train, test = written(tmp_path / "train.jsonl", rows_of(100)), written(tmp_path / "test.jsonl", rows_of(3, "c"))
    rows = loaded(train=train, test=test, split=Split(validation=0.3, test=0.3)).report.rows
    assert rows["test"] == 3
    assert rows["train"] + rows["validation"] == 100
    assert loaded(source=train, test=test, split=Split(validation=0.3, test=0.3)).report.rows == rows


def test_duplicates(tmp_path: Path) -> None:
    def file(name: str, names: str) -> str:
        return written(tmp_path / name, [{"text": name, "label": "good"} for name in names])

    # e is in all three; a and f twice in one. Another label does not make another row.
    write_rows(tmp_path / "train.csv", [{"text": name, "label": "bad"} for name in "aabcdef"])
    dataset = loaded(
        train=str(tmp_path / "train.csv"), validation=file("dev.csv", "dexz"), test=file("test.csv", "ceffx")
    )
    assert [texts(dataset.train), texts(dataset.validation), texts(dataset.test)] == [
        ["a", "a", "b"],
        ["d", "z"],
        ["c", "e", "f", "f", "x"],
    ]
    assert dataset.report.duplicates_removed == {"train": 4, "validation": 2}
    assert dataset.report.duplicates_inside == {"train": 1, "validation": 0, "test": 1}


def test_a_limit_on_the_test_does_not_let_its_other_rows_into_training(tmp_path: Path) -> None:
    train, test = written(tmp_path / "a.csv", rows_of(50)), written(tmp_path / "b.csv", rows_of(20))
    whole = loaded(train=train, test=test)
    limited = loaded(train=train, test=test, max_test_samples=2, max_eval_samples=1, max_train_samples=10)
    assert limited.report.rows == {"train": 10, "validation": 1, "test": 2}
    assert set(texts(limited.train)) < set(texts(whole.train))
    assert not set(texts(limited.train)) & {row["text"] for row in rows_of(20)}


def test_columns_are_mapped_and_others_dropped(tmp_path: Path) -> None:
    rows = [{"Sentence": row["text"], "id": "7", "Label": row["label"]} for row in rows_of(100)]
    dataset = loaded(source=written(tmp_path / "a.csv", rows), columns={"text": "Sentence", "label": "Label"})
    assert all(list(row.values) == ["text", "label"] for row in dataset.train)


def test_a_missing_column(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", [{"text": "x", "lable": "good"}])
    assert message_of(source=source) == (
        "a.csv:2 has no column `label`: there are `text`, `lable`. Did you mean `lable`? "
        "Say which one is the task's `label` under `data.columns`."
    )
    assert message_of(source=source, columns={"lable": "lable"}) == (
        "`data.columns` names `lable`, but the task's columns are `text`, `label`. Did you mean `label`?"
    )


def test_bad_rows_are_named_together(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in rows_of(40)]
    lines[3] = '{"text": "x", "label": }'
    lines[4] = '{"text": "x"}'
    lines[5] = '{"text": " ", "label": "good"}'
    lines[6] = '{"text": "x", "label": "goood"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = str(tmp_path / "a.jsonl")
    assert message_of(source=source, max_bad_rows=3) == (
        "4 rows are broken, and `data.max_bad_rows` lets 3 be skipped:\n"
        "  a.jsonl:4: broken JSON at character 24: Expecting value\n"
        "  a.jsonl:5, column `label`: is missing\n"
        "  a.jsonl:6, column `text`: is empty\n"
        "  a.jsonl:7, column `label`: unknown label 'goood'\n"
        "Mend them, or raise `data.max_bad_rows`."
    )
    report = loaded(source=source, max_bad_rows=4).report
    assert [str(bad) for bad in report.bad_rows] == [
        "a.jsonl:4: broken JSON at character 24: Expecting value",
        "a.jsonl:5, column `label`: is missing",
        "a.jsonl:6, column `text`: is empty",
        "a.jsonl:7, column `label`: unknown label 'goood'",
    ]
    assert sum(report.rows.values()) == 36


def test_of_many_bad_rows_ten_are_shown(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", [{"sentence": f"{number}", "label": "?"} for number in range(25)])
    lines = message_of(source=source, columns={"text": "sentence"}).splitlines()
    assert lines[0] == "25 rows are broken, and `data.max_bad_rows` lets 0 be skipped:"
    assert lines[1] == "  a.csv:2, column `label`: unknown label '?'"
    assert lines[10] == "  a.csv:11, column `label`: unknown label '?'"
    assert lines[11] == "  and 15 more"
    assert len(lines) == 13


def test_a_fault_names_the_column_of_the_file(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", [{"sentence": "", "label": "good"}])
    assert "  a.csv:2, column `sentence`: is empty\n" in message_of(source=source, columns={"text": "sentence"})


BINS = {"bad": Bin(below=-0.5), "good": Bin(above=0.5)}


def test_bins(tmp_path: Path) -> None:
    ratings = [-4, -0.6, -0.5, 0, 0.5, 0.6, "4", " 3.5 "]
    rows = [{"text": f"{rating!r} {number}", "rating": rating} for rating in ratings for number in range(30)]
    source = written(tmp_path / "a.jsonl", rows)
    dataset = loaded(source=source, columns={"label": "rating"}, label_bins=BINS)
    assert dataset.report.left_out_by_bins == 90
    labels = {row.values["text"].rsplit(" ", 1)[0]: row.values["label"] for row in dataset.train}
    assert labels == {"-4": "bad", "-0.6": "bad", "0.6": "good", "'4'": "good", "' 3.5 '": "good"}


@pytest.mark.parametrize("value", ["x", "", None, True, "nan", "inf", [1], 10**400])
def test_bins_need_a_number(tmp_path: Path, value: Any) -> None:
    source = written(tmp_path / "a.jsonl", [{"text": "x", "rating": value}])
    message = message_of(source=source, columns={"label": "rating"}, label_bins=BINS)
    assert f"  a.jsonl:1, column `rating`: `data.label_bins` needs a number, not {shortened(value)}\n" in message


def test_bins_need_a_task_with_labels(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", rows_of(9))
    with pytest.raises(DataError, match=r"^`data\.label_bins` is set, but the task has no `label`, only `text`$"):
        load(Data(source=source, label_bins=BINS), ("text",), ("text",), dict)


def test_an_empty_part(tmp_path: Path) -> None:
    source, other = written(tmp_path / "a.csv", rows_of(50)), written(tmp_path / "b.csv", rows_of(50))
    assert message_of(source=source, split=Split(validation=0, test=0.5)).endswith(
        "Raise `data.split.validation`, name a source as `data.validation`, or give more rows."
    )
    assert message_of(source=source, split=Split(validation=0.5, test=0)).startswith(
        "No rows are left for test (rows: "
    )
    assert message_of(train=source, validation=written(tmp_path / "c.csv", rows_of(2, "c")), test=other) == (
        "No rows are left for train (rows: {'train': 0, 'validation': 2, 'test': 50}; left out by `data.label_bins`: "
        "0; broken: 0; removed from train because they are in a part held out as well: 50). Give more rows."
    )


def test_the_report_is_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{number},good\n" for number in range(60)) + "x\n")
    report = json.loads(json.dumps(asdict(loaded(source=str(tmp_path / "a.csv"), max_bad_rows=1).report)))
    assert report["source"] == "a.csv"  # no path of the machine
    assert report["bad_rows"] == [
        {"origin": "a.csv:62", "column": None, "message": "1 fields, where the columns are 2: `text`, `label`"}
    ]
    assert all(len(report["fingerprints"][part]) == 64 for part in ("train", "validation", "test"))
    assert (report["title"], report["licence"]) == (None, None)


def test_a_fingerprint_changes_with_a_label(tmp_path: Path) -> None:
    rows = rows_of(60)
    before = loaded(source=written(tmp_path / "a.csv", rows)).report.fingerprints
    assert loaded(source=written(tmp_path / "b.jsonl", rows)).report.fingerprints == before
    changed = [{**row, "label": "good"} for row in rows]
    after = loaded(source=written(tmp_path / "a.csv", changed)).report.fingerprints
    assert all(before[part] != after[part] for part in before)


def test_sources_that_contradict_each_other(tmp_path: Path) -> None:
    a = written(tmp_path / "a.csv", rows_of(9))
    assert message_of(source=a, train=a) == (
        f"`data.source` is `{a}`, whose rows are trained on: leave out it or `data.train`"
    )
    assert message_of(train=a, test=a) == f"`{a}` is given for more than one part of the data, one of them `train`"
    assert message_of(source=a, revision="abc") == (
        "`data.revision` would have no effect on this source (it is for Hub data sets): leave it out"
    )
    assert message_of(source="tweets", column_names=("a",)) == (
        "`data.column_names` would have no effect on this source (it is for files): leave it out"
    )
    assert message_of(train="film-review") == (
        "`film-review` is no file and not in the catalogue. Did you mean `film-reviews`? "
        "A Hub data set is given as `data.source`, and its splits as `data.train` and so on."
    )
    for part in ("source", "train"):
        assert message_of(**{part: "nothere.xlsx"}).endswith("`.iob2`, `.annotated`, or set `data.format`")
        assert message_of(**{part: "nothere.txt", "format": "csv"}) == "nothere.txt does not exist."
    assert message_of(source="no/such/a.csv") == "no/such/a.csv does not exist. There is no folder no/such."
    assert message_of(source="~nobody-here/a.csv").endswith("There is no folder ~nobody-here.")
    assert message_of(source="x" * 300 + ".csv").endswith("x.csv does not exist.")


@pytest.mark.shared
def test_official_sst2() -> None:
    def known(values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values["label"] not in ("0", "1"):
            raise RowFault("label", "unknown")
        return values

    folder = SHARED / "sst2"
    config = Data(
        train=str(folder / "train.tsv"),
        validation=str(folder / "dev.tsv"),
        test=str(folder / "test.tsv"),
        column_names=("text", "label"),
    )
    report = load(config, COLUMNS, INPUTS, known).report
    read = {"train": 6920, "validation": 872, "test": 1821}
    assert {part: report.rows[part] + report.duplicates_removed.get(part, 0) for part in read} == read
    assert report.duplicates_removed == {"train": 3, "validation": 0}  # "no" and "what 's next ?"


def test_a_labelled_file_is_read_whole_and_checked_as_the_recipe_says(tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text("text,score\nfine,2\nmiddling,0\npoor,-2\n", encoding="utf-8")
    bins = {"good": Bin(above=1), "bad": Bin(below=-1)}
    config = Data(source="unused.csv", columns={"label": "score"}, label_bins=bins)
    rows = load_file(str(path), config, ("text", "label"), check)
    assert [(row.values["label"], row.origin) for row in rows] == [("good", "more.csv:2"), ("bad", "more.csv:4")]
    path.write_text("text,score\nmiddling,0\n,2\n", encoding="utf-8")
    config = config.model_copy(update={"max_bad_rows": 1})
    with pytest.raises(DataError, match=r"no row is left: 1 lie in no bin of `data.label_bins`, 1 are broken"):
        load_file(str(path), config, ("text", "label"), check)
