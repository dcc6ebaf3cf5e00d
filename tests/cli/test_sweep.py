"""`pefttune sweep`: one document, one table, and clear words for what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Done = Any


@pytest.fixture
def sweep(command: Callable[..., Done], shop: Any, tmp_path: Path) -> Callable[..., Done]:
    """Sweeps over the shop's recipe, in small, with a store of its own."""

    def run(*arguments: object) -> Done:
        own = {
            "output.store": f"{tmp_path}/adapters",
            "output.runs": f"{tmp_path}/runs",
            "training.max_steps": "6",
            "evaluation.bootstrap_samples": "100",
        }
        given = {str(word).partition("=")[0] for word in arguments}
        return command(
            "sweep", shop.recipe, *(f"{key}={value}" for key, value in own.items() if key not in given), *arguments
        )

    return run


def test_the_table_names_the_winner_and_its_recipe(sweep: Callable[..., Done], tmp_path: Path) -> None:
    done = sweep("adapter.method=lora,ia3", "adapter.r=2,4")
    assert done.code == 0, done.err
    assert "judged on" in done.out
    assert "trained together with others" in done.out
    [folder] = (tmp_path / "runs" / "tiny").iterdir()
    document = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    best = document["trials"][0]
    told = " ".join(f"{key}={value}" for key, value in best["settings"].items())
    assert f"best: trial {best['trial']}: {told}" in done.out
    assert f"train it: pefttune train {folder}/best.yaml" in done.out
    assert "sweep, % 100/100" in done.err
    assert not (tmp_path / "adapters").exists()


def test_the_winner_is_trained_and_stored(
    sweep: Callable[..., Done], command: Callable[..., Done], tmp_path: Path
) -> None:
    document = sweep("adapter.r=2,4", "--train", "--apart", "--json").document
    assert document["stored"] == str(tmp_path / "adapters" / "tiny" / "1")
    assert document["comparison"]["adapter"].keys() >= {"accuracy"}
    [best] = [trial for trial in document["trials"] if trial["trial"] == document["best"]]
    manifest = command("show", "tiny", "--store", tmp_path / "adapters", "--json").document
    assert str(manifest["recipe"]["adapter"]["r"]) == best["settings"]["adapter.r"]
    assert {rung["together"] for trial in document["trials"] for rung in trial["rungs"]} == {1}


WRONG = {
    "nothing varies: give a key at least two values": ["adapter.r=4"],
    "adapter.rr: unknown key; did you mean 'r'?": ["adapter.rr=2,4"],
    "'adapter.r=' must look like adapter.r=4,16": ["adapter.r="],
    "'rank' is no key with values, such as adapter.r=4,16": ["rank"],
    "--trials: a grid tries every combination": ["adapter.r=2,4", "--trials", "2"],
    "--searcher random: how many of the 2 combinations? Add --trials": ["adapter.r=2,4", "--searcher", "random"],
    "--trials 3: must be 2 to 2": ["adapter.r=2,4", "--searcher", "random", "--trials", "3"],
    "the trials would be judged differently, by accuracy on 3 rows and accuracy on 5 rows": [
        "data.max_eval_samples=3,5"
    ],
}


@pytest.mark.parametrize(("told", "arguments"), WRONG.items())
def test_what_is_wrong_is_told_before_any_work(
    sweep: Callable[..., Done], refused: Callable[..., None], tmp_path: Path, told: str, arguments: list[str]
) -> None:
    done = sweep(*arguments, "--json")
    refused(done, 2, done.document["kind"], told)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("package", "arguments"), [("optuna", ["--searcher", "optuna", "--trials", "2"]), ("ray", ["--ray", "local"])]
)
def test_an_extra_that_is_missing_is_named(
    sweep: Callable[..., Done],
    refused: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    arguments: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused(sweep("adapter.r=2,4", *arguments, "--json"), 2, "InputError", f"pip install 'pefttune[{package}]'")


@pytest.mark.parametrize(
    ("address", "told"),
    [("127.0.0.1:9", "no Ray cluster answers there"), ("ray://here:1", "must be `local` or HOST:PORT")],
)
def test_a_cluster_that_is_not_there(
    sweep: Callable[..., Done], refused: Callable[..., None], address: str, told: str
) -> None:
    pytest.importorskip("ray")
    refused(sweep("adapter.r=2,4", "--ray", address, "--json"), 2, "InputError", f"--ray {address}: {told}")


def test_a_folder_that_cannot_be_written_to(
    sweep: Callable[..., Done], refused: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    refused(sweep("adapter.r=2,4", f"output.runs={tmp_path}/file", "--json"), 1, "StorageError", "could not be written")


def test_a_damaged_file_of_results_is_named(
    sweep: Callable[..., Done], refused: Callable[..., None], tmp_path: Path
) -> None:
    assert sweep("adapter.r=2,4").code == 0
    [file] = tmp_path.glob("runs/tiny/*/trials.jsonl")
    file.write_text('{"settings": {}}\n', encoding="utf-8")
    told = f"{file}:1 is no result of a sweep; remove {file.parent} to begin anew"
    refused(sweep("adapter.r=2,4", "--json"), 2, "InputError", told)
