"""Every command as it is typed: exit code, stdout, stderr, and the files it leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    assert (done.code, "\\xb7 r" in done.out) == (0, True)
    done = run_to_end(process(*arguments, "--json", cwd=shop.folder, PYTHONIOENCODING="ascii"))
    assert (done.code, "2 · r" in done.document["meaning"]) == (0, True)


# --json and exit codes, for every command


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["list"], {"adapters", "damaged"}),
        (
            ["show", "tiny"],
            {"folder", "stored_versions", "versions", "name", "recipe", "base", "comparison", "files", "weights"},
        ),
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
    weights = document["weights"]
    assert f"{weights['tensors']} tensors, {weights['parameters']:,} parameters in float32" in card
    own = {name: one for name, one in weights["modules"].items() if name.startswith("model.layers.0.")}
    greatest = max(own, key=lambda name: own[name]["spectral"])
    [line] = [line for line in card.splitlines() if "model.layers.0 " in line]
    told = [cell.strip() for cell in line.strip("│").split("│")]
    norms = [f"{own[name]['spectral']:.4g}" for name in (min(own, key=lambda n: own[n]["spectral"]), greatest)]
    assert told == ["model.layers.0", "7", "4", "2", *norms, greatest.removeprefix("model.layers.0.")]


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
    assert "leaves nothing to rules" in command("explain", shop.recipe).out
    assert command("explain", "wnut17", "--json").document == {"choices": []}
    open_one = shop.folder / "open.yaml"
    open_one.write_text("task: {type: text-classification}\ndata: {source: x.csv}\noutput: {name: x}\n")
    found = command("explain", open_one, "--json").document["choices"]
    assert [choice["key"] for choice in found] == ["adapter.r", "adapter.lora_alpha", "training.learning_rate"]
    told = command("explain", open_one).out
    assert "adapter.r: chosen when it runs" in told
    assert "adapter.lora_alpha: 32" in told
    assert command("explain", "adapter.r", "--recipe", shop.recipe, "--json").document["origin"].endswith(":4")
    assert "here     4, from" in command("explain", "adapter.r", "--recipe", shop.recipe).out
    of_methods = command("explain", "adapter").out.splitlines()
    assert max(map(len, of_methods)) <= 80
    assert ["adapter.use_rslora", "lora,", "dora"] in [line.split() for line in of_methods]
    every = command("explain", "--json").document["keys"]
    assert len(every) == len(command("explain").out.splitlines()) >= 50
    own = [line.split()[0] for line in command("explain", "--recipe", shop.recipe).out.splitlines()]
    assert {each["key"] for each in every} - set(own) >= {"task.stride", "task.num_beams"}, "it has another task"
    assert {"task.labels", "training.learning_rate"} <= set(own)


@pytest.mark.parametrize(
    "name", ["probe", "train", "merge", "evaluate", "predict", "list", "show", "recipes", "explain"]
)
def test_help(command: Callable[..., Any], name: str) -> None:
    done = command(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: pefttune {name} " in done.out
