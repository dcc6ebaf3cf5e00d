"""Every command as it is typed: exit code, stdout, stderr, and the files it leaves."""

from __future__ import annotations

import csv
import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LABELS = {"good", "bad"}
ROWS = [
    {"id": 1, "text": "a fine film", "note": "ünïcode"},
    {"id": 2, "text": "dull, and :smile: [bold]not[/] 100 %", "note": ""},
    {"id": 3, "text": 'she said "no"', "note": "x"},
]
FORMATS = ["jsonl", "json", "csv", "tsv", "parquet"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format of the file's ending, by other code than the one under test."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            quoted = {"delimiter": ","} if path.suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
            writer = csv.DictWriter(file, list(rows[0]), **quoted, quotechar=None if path.suffix == ".tsv" else '"')
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


# The real command, in processes of its own


def test_train(processes: Any) -> None:
    """One document on stdout, progress on stderr, and the folders it names."""
    own, job = processes["train"]
    done = job.result()
    assert done.code == 0, done.err
    folder = own / "adapters" / "tiny" / "1"
    document = done.document
    assert (document["name"], document["version"], document["folder"]) == ("tiny", 1, str(folder))
    assert document["comparison"]["rows"] == 16
    assert document["training"]["steps"] == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "figure.png",
        "pefttune.json",
    ]
    assert Path(document["run_folder"]).parent == own / "runs" / "tiny"
    told = [
        "data: reviews.jsonl: ",
        "base: tiny from tiny, none, float32 (asked for)",
        "training 2/2 loss",
        "verifying",
    ]
    assert [line for line in told if line not in done.err] == []


def test_a_reader_that_stops_reading_is_no_failure(processes: Any) -> None:
    first, done = processes["stream"][1].result()
    assert json.loads(first)["text"] == "a film 0"
    assert (done.code, done.err) == (0, "")


def test_a_pipe_that_is_closed_at_once(process: Any, run_to_end: Any, shop: Any) -> None:
    started = process("explain", cwd=shop.folder)
    started.stdout.close()
    done = run_to_end(started)
    assert (done.code, done.err) == (0, "")


def test_the_installed_command(tmp_path: Path) -> None:
    installed = Path(sys.executable).with_name("pefttune")
    if not installed.exists():
        pytest.skip("pefttune is not installed beside this Python")
    done = subprocess.run([installed, "recipes"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "train one: pefttune train NAME" in done.stdout


def test_what_stdout_cannot_show_is_escaped(process: Any, run_to_end: Any, shop: Any) -> None:
    arguments = ["explain", "adapter.lora_alpha"]
    done = run_to_end(process(*arguments, cwd=shop.folder, PYTHONIOENCODING="ascii"))
    assert (done.code, "By default 2 \\xb7 r" in done.out) == (0, True)
    done = run_to_end(process(*arguments, "--json", cwd=shop.folder, PYTHONIOENCODING="ascii"))
    assert (done.code, "2 · r" in done.document["meaning"]) == (0, True)


# --json and exit codes, for every command


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["list"], {"adapters", "damaged"}),
        (["show", "tiny"], {"folder", "stored_versions", "versions", "name", "recipe", "base", "comparison", "files"}),
        (["recipes"], {"recipes"}),
        (["explain"], {"keys"}),
        (["explain", "training.learning_rate"], {"key", "meaning", "default", "origin"}),
        (
            ["evaluate", "tiny"],
            {"name", "rows", "primary", "shown", "adapter", "others", "differences", "fixed", "broken"},
        ),
        (["predict", "tiny", "a fine film"], {"name", "predictions"}),
    ],
)
def test_json(
    command: Any, shop: Any, known_bases: Path, monkeypatch: Any, arguments: list[str], keys: set[str]
) -> None:
    monkeypatch.chdir(shop.folder)
    done = command(*arguments, "--json")
    assert done.code == 0, done.err
    assert keys <= set(done.document)
    plain = command(*arguments)
    assert (plain.code, plain.out[:1] in "{[") == (0, False)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["train", "no-such-recipe"], "RecipeError"),
        (["list", "--no-such-option"], "InputError"),
        (["show", "no-such-adapter"], "AdapterError"),
        (["recipes", "too", "many"], "InputError"),
        (["explain", "no.such.key"], "RecipeError"),
        (["evaluate", "no-such-adapter"], "AdapterError"),
        (["predict", "no-such-adapter", "text"], "AdapterError"),
        (["predict"], "InputError"),
        (["no-such-command"], "InputError"),
        ([], "InputError"),
    ],
)
def test_json_of_a_failure(command: Any, arguments: list[str], kind: str) -> None:
    done = command(*arguments, "--json")
    assert done.code == 2
    assert done.document["kind"] == kind
    assert done.err == f"error: {done.document['error']}\n"
    plain = command(*arguments)
    assert (plain.code, bool(plain.err) or not arguments) == (2, True)
    assert plain.out == "" or not arguments  # `pefttune` alone shows its help


def test_json_as_a_text(command: Any, shop: Any, known_bases: Path) -> None:
    done = command("predict", "tiny", "--store", shop.store, "--", "--json")
    assert done.out.endswith("  --json\n")
    failed = command("predict", "tinny", "--store", shop.store, "--", "--json")
    assert (failed.code, failed.out) == (2, "")


# predict


def test_texts(command: Any, shop: Any, known_bases: Path) -> None:
    texts = [row["text"] for row in ROWS]
    done = command("predict", "tiny", *texts, "--store", shop.store)
    assert done.code == 0, done.err
    for line, text in zip(done.out.splitlines(), texts, strict=True):
        label, confidence, rest = line.split(maxsplit=2)
        assert label in LABELS
        assert 0.5 <= float(confidence) <= 1
        assert rest == text
    document = command("predict", "tiny@1", *texts, "--store", shop.store, "--json").document
    assert document["name"] == "tiny@1"
    assert [each["text"] for each in document["predictions"]] == texts
    assert {tuple(each) for each in document["predictions"]} == {("text", "prediction", "confidence", "truncated")}


def test_a_text_that_is_too_long_says_so(command: Any, shop: Any, known_bases: Path) -> None:
    long = "dull " * 200
    done = command("predict", "tiny", long, "fine", "--store", shop.store)
    assert [line.endswith("(too long: its end was not read)") for line in done.out.splitlines()] == [True, False]
    document = command("predict", "tiny", long, "fine", "--store", shop.store, "--json").document
    assert [each["truncated"] for each in document["predictions"]] == [True, False]


@pytest.mark.parametrize(("source", "target"), list(zip(FORMATS, [*FORMATS[1:], FORMATS[0]], strict=True)))
def test_files(command: Any, shop: Any, known_bases: Path, tmp_path: Path, source: str, target: str) -> None:
    given, written = write(tmp_path / f"in.{source}", ROWS), tmp_path / "new" / f"out.{target}"
    done = command("predict", "tiny", "--input", given, "--output", written, "--store", shop.store)
    assert (done.code, done.out) == (0, ""), done.err
    assert f"written: {written}" in done.err
    rows = read(written)
    assert [list(row) for row in rows] == [["id", "text", "note", "prediction", "confidence", "truncated"]] * 3
    assert [{key: str(row[key]) for key in ROWS[0]} for row in rows] == [
        {key: str(value) for key, value in row.items()} for row in ROWS
    ]
    assert {row["prediction"] for row in rows} <= LABELS
    assert all(0.5 <= float(row["confidence"]) <= 1 for row in rows)
    assert {str(row["truncated"]).lower() for row in rows} == {"false"}
    assert os.listdir(written.parent) == [written.name]


def test_a_page(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    """Every row once, as text whatever it holds; a row that fails leaves what stood there."""
    given = write(tmp_path / "in.jsonl", [{"text": "<b>fine</b> & dull"}, {"text": "a warm film"}])
    page = tmp_path / "out.html"
    assert command("predict", "tiny", "--input", given, "--output", page, "--store", shop.store).code == 0
    told = page.read_text()
    assert (told[:15], told.rstrip()[-7:]) == ("<!DOCTYPE html>", "</html>")
    assert [told.count(text) for text in ("&lt;b&gt;fine&lt;/b&gt; &amp; dull", "a warm film", "<li>")] == [1, 1, 2]
    assert [f"in.jsonl:{number}" in told for number in (1, 2, 3)] == [True, True, False]
    given.write_text('{"text": "fine"}\n{"text": " "}\n')
    assert command("predict", "tiny", "--input", given, "--output", page, "--store", shop.store).code == 2
    assert page.read_text() == told


def test_without_output_rows_are_lines_of_json(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "in.csv", ROWS)
    done = command("predict", "tiny", "--input", given, "--store", shop.store)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert command("predict", "tiny", "--input", given, "--store", shop.store, "--json").document == {
        "name": "tiny",
        "predictions": rows,
    }


def test_rows_are_streamed(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    """A fault in row 601 is met when hundreds of rows are already out; an output file appears whole or not at all."""
    given = write(tmp_path / "in.jsonl", [{"text": f"a film {number}"} for number in range(600)])
    with given.open("a") as file:
        file.write('{"text": " "}\n')
    done = command("predict", "tiny", "--input", given, "--store", shop.store)
    assert done.code == 2
    assert done.err == "error: in.jsonl:601: text is empty\n"
    lines = done.out.splitlines()
    assert len(lines) >= 500
    assert [json.loads(line)["text"] for line in lines] == [f"a film {number}" for number in range(len(lines))]
    written = tmp_path / "out.csv"
    written.write_text("old")
    failed = command("predict", "tiny", "--input", given, "--output", written, "--store", shop.store)
    assert (failed.code, written.read_text()) == (2, "old")
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".jsonl", ".csv"}


def test_dates_of_a_parquet_file(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    day = datetime.datetime(2024, 2, 29, 12, 30)
    given = write(tmp_path / "in.parquet", [{"text": "fine", "day": day, "raw": b"\x01\xff"}])
    arguments = ["predict", "tiny", "--input", given, "--store", shop.store]
    plain = {"text": "fine", "day": "2024-02-29 12:30:00", "raw": "01ff"}
    assert plain.items() <= json.loads(command(*arguments).out).items()
    assert plain.items() <= command(*arguments, "--json").document["predictions"][0].items()
    for ending in ("jsonl", "parquet"):
        written = tmp_path / f"out.{ending}"
        assert command(*arguments, "--output", written).code == 0
        assert (plain if ending == "jsonl" else {"day": day, "raw": b"\x01\xff"}).items() <= read(written)[0].items()


def test_text_column(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", [{"body": "fine", "id": 1}])
    done = command("predict", "tiny", "--input", given, "--text-column", "body", "--store", shop.store)
    assert json.loads(done.out).items() >= {"body": "fine", "id": 1, "truncated": False}.items()


def test_the_recipe_names_the_text_column(
    command: Any, train: Any, shop: Any, tmp_path: Path, known_bases: Path
) -> None:
    rows = [json.loads(line) for line in shop.reviews.read_text().splitlines()]
    write(tmp_path / "other.csv", [{"body": row["text"], "stars": row["label"]} for row in rows])
    changes = [f"data.source={tmp_path}/other.csv", "data.columns={text: body, label: stars}"]
    done = train(*changes, "--json")
    assert done.code == 0, done.err
    given = write(tmp_path / "in.jsonl", [{"body": "fine"}])
    assert json.loads(command("predict", "tiny", "--input", given).out)["body"] == "fine"
    done = command("evaluate", "tiny", "--json")
    assert (done.code, done.document["rows"]) == (0, 16), done.err


# list, show, evaluate, recipes, explain


def test_list(command: Any, shop: Any, tmp_path: Path) -> None:
    [row] = command("list", "--store", shop.store, "--json").document["adapters"]
    assert row.items() >= {"name": "tiny", "version": 1, "labels": ["bad", "good"], "base": "tiny"}.items()
    assert row["bytes"] == sum(path.stat().st_size for path in (shop.store / "tiny" / "1").iterdir())
    comparison = json.loads((shop.store / "tiny" / "1" / "pefttune.json").read_text())["comparison"]
    assert row["metric"] == "accuracy"
    assert row["with_adapter"] == comparison["adapter"]["accuracy"]
    assert row["without"] == comparison["others"]["base, zero-shot"]["accuracy"]
    assert "tiny" in command("list", "--store", shop.store).out
    done = command("list", "--store", tmp_path / "none")
    assert (done.code, done.out.startswith("no adapters in ")) == (0, True)


def test_list_cuts_nothing_off(command: Any, shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels stand as they are, brackets too, and a narrow terminal folds them."""
    monkeypatch.setenv("COLUMNS", "60")
    manifest = json.loads((shop.store / "tiny" / "1" / "pefttune.json").read_text())
    folder = tmp_path / "adapters" / "tiny" / "1"
    shutil.copytree(shop.store / "tiny" / "1", folder)
    (folder / "pefttune.json").write_text(json.dumps({**manifest, "labels": ["[/good]", "[red]", ":smile:"]}))
    lines = command("list").out.splitlines()
    assert not [line for line in lines if "…" in line]
    told = "".join(line.split("│")[4].strip() for line in lines if line.count("│") > 4)
    assert told == "[/good][red]:smile:"


def test_a_damaged_adapter_does_not_hide_the_others(command: Any, shop: Any, tmp_path: Path) -> None:
    for name in ("tiny", "broken"):
        shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / name / "1")
    (tmp_path / "adapters" / "broken" / "1" / "pefttune.json").write_text('{"format": 2, "labels": 7')
    document = command("list", "--json").document
    assert [row["name"] for row in document["adapters"]] == ["tiny"]
    assert "broken/1/pefttune.json is damaged: " in document["damaged"][0]
    plain = command("list")
    assert (plain.code, "tiny" in plain.out, "is damaged" in plain.err) == (0, True, True)


def test_show(command: Any, shop: Any) -> None:
    document = command("show", "tiny@1", "--store", shop.store, "--json").document
    assert (document["folder"], document["stored_versions"]) == (str(shop.store / "tiny" / "1"), [1])
    card = command("show", "tiny", "--store", shop.store).out
    assert "tiny" in card.splitlines()[0] + card.splitlines()[1]
    assert "base_model:" not in card  # the Hub's metadata
    assert f"folder: {shop.store}/tiny/1" in card.replace("\n", "")


def test_evaluate(command: Any, shop: Any, known_bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the very rows of the run, so the very numbers; or any labelled file."""
    monkeypatch.chdir(shop.folder)
    done = command("evaluate", "tiny", "--json")
    manifest = json.loads((shop.store / "tiny" / "1" / "pefttune.json").read_text())
    assert done.code == 0, done.err
    assert done.document["name"] == "tiny"
    assert {key: done.document[key] for key in manifest["comparison"]} == manifest["comparison"]
    assert "have changed" not in done.err
    every = command("evaluate", "tiny", "--data", shop.reviews, "--json")
    assert (every.code, every.document["rows"]) == (0, 60), every.err
    assert "scoring with adapter 60/60" in every.err


def test_evaluate_on_changed_data_says_so(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    lines = shop.reviews.read_text().splitlines()
    (tmp_path / "reviews.jsonl").write_text("\n".join([*lines, *(line.replace("film", "play") for line in lines)]))
    done = command("evaluate", "tiny", "--store", shop.store)
    assert (done.code, "the data has changed: these are not the test rows" in done.err) == (0, True)


def test_recipes(command: Any) -> None:
    found = command("recipes", "--json").document["recipes"]
    assert len(found) >= 4
    assert all(found.values()), "a recipe says in its first line what it is for"
    plain = command("recipes").out
    assert all(f"{name} " in plain for name in found)


def test_explain(command: Any, shop: Any) -> None:
    assert "unit     tokens" in command("explain", "data.max_length").out
    assert command("explain", "adapter.r", "--recipe", shop.recipe, "--json").document["origin"].endswith(":4")
    assert "here     4, from" in command("explain", "adapter.r", "--recipe", shop.recipe).out
    every = command("explain", "--json").document["keys"]
    assert len(every) == len(command("explain").out.splitlines()) >= 50
    own = [line.split()[0] for line in command("explain", "--recipe", shop.recipe).out.splitlines()]
    assert {each["key"] for each in every} - set(own) >= {"task.stride", "task.num_beams"}, "it has another task"
    assert {"task.labels", "training.learning_rate"} <= set(own)


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "list", "show", "recipes", "explain"])
def test_help(command: Callable[..., Any], name: str) -> None:
    done = command(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: pefttune {name} " in done.out
