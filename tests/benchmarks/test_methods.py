"""The benchmark of methods: what a cell is, that finished ones are not run again, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks import method_report, methods, settings
from benchmarks.errors import BenchmarkError
from pefttune.recipe import adapters as sections
from pefttune.recipe import load_recipe

DATA = Path("no-folder")


def found(cell: dict[str, Any], score: float = 0.5, parameters: int = 1000) -> dict[str, Any]:
    return cell | {
        "metric": "accuracy",
        "data": {"train": 64, "test": 32},
        "score": score,
        "others": {"base, zero-shot": 0.25},
        "parameters": parameters,
        "steps": 8,
        "seconds": 2.0,
        "peak_mib": 700.0,
        "file_bytes": 2048,
        "threads": 1,
    }


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that were run, by their names; those of ia3 fail."""
    names: list[str] = []

    def run(cell: dict[str, Any], data: Path | None, threads: int) -> dict[str, Any]:
        names.append(methods.named(cell))
        if cell["method"] == "ia3":
            raise BenchmarkError("no room left")
        return found(cell, 0.5 + cell["seed"] / 10)

    monkeypatch.setattr(methods, "run", run)
    return names


@pytest.mark.parametrize("task", settings.TASKS)
@pytest.mark.parametrize("method", sorted(sections.METHODS.keys() - {"fusion"}))  # which needs adapters trained before
def test_every_method_has_a_recipe_for_every_task(monkeypatch: pytest.MonkeyPatch, task: str, method: str) -> None:
    monkeypatch.setattr(settings, "data_file", lambda folder, name: folder / name)
    overrides = {**settings.overrides_of(task, method, None), **settings.TASKS[task].data(DATA)}
    recipe = load_recipe(
        settings.TASKS[task].recipe, [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    )
    assert recipe.adapter.method == method
    assert recipe.training.learning_rate == settings.SETTINGS[method].learning_rate
    assert (recipe.data.max_train_samples, recipe.data.max_test_samples) == (
        settings.TASKS[task].rows,
        settings.TASKS[task].test_rows,
    )


def test_few_rows_are_judged_by_as_few() -> None:
    overrides = settings.overrides_of("film", "lora", 64)
    assert overrides["data.max_train_samples"] == overrides["data.max_test_samples"] == 64


def test_finished_cells_are_not_run_again(ran: list[str], tmp_path: Path) -> None:
    results = tmp_path / "found.jsonl"
    methods.main(results, ["lora", "dora"], ["film"], seeds=1)
    assert ran == ["film, lora, seed 0", "film, dora, seed 0"]
    methods.main(results, ["lora", "dora"], ["film"], seeds=2)
    assert ran[2:] == ["film, lora, seed 1", "film, dora, seed 1"]
    assert "| `lora` | 55.0 ± 7.1 | 2 | 1,000 | 2 | 700 | 2 |" in results.with_suffix(".md").read_text(encoding="utf-8")
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_of_other_settings_is_another(ran: list[str], tmp_path: Path) -> None:
    results = tmp_path / "found.jsonl"
    methods.main(results, ["lora"], ["film"], seeds=1)
    methods.main(results, ["lora"], ["film"], seeds=1, rows=32)
    assert len(ran) == 2


def test_a_line_that_was_cut_off_is_run_again(ran: list[str], tmp_path: Path) -> None:
    results = tmp_path / "found.jsonl"
    methods.main(results, ["lora", "dora"], ["film"], seeds=1)
    whole = results.read_text(encoding="utf-8")
    results.write_text(whole[:-20], encoding="utf-8")
    methods.main(results, ["lora", "dora"], ["film"], seeds=1)
    assert ran[2:] == ["film, dora, seed 0"]
    assert results.read_text(encoding="utf-8") == whole


def test_the_others_go_on_when_one_fails(ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "found.jsonl"
    with pytest.raises(typer.Exit):
        methods.main(results, ["ia3", "lora"], ["film"], seeds=1)
    assert "no room left" in capsys.readouterr().err
    assert [cell["method"] for cell in methods.read(results)] == ["lora"]


def test_a_method_is_left_out_where_it_does_not_work(
    ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "data_file", lambda folder, name: folder / name)
    methods.main(tmp_path / "found.jsonl", ["prefix_tuning", "lora"], ["tweets"], seeds=1, data=tmp_path)
    assert ran == ["tweets, lora, seed 0"]


@pytest.mark.parametrize(
    ("chosen", "told"), [(["lorra"], "no method 'lorra'; there are lora, "), (None, "btc/a.conll")]
)
def test_what_is_missing_is_told_before_anything_runs(
    ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], chosen: list[str] | None, told: str
) -> None:
    with pytest.raises(typer.Exit):
        methods.main(tmp_path / "found.jsonl", chosen, None, seeds=1)
    assert told in capsys.readouterr().err
    assert not ran


def test_what_a_manifest_says_is_told(finished: Any, tmp_path: Path) -> None:
    run = finished().run
    told = methods.measured(run.folder)
    assert told["score"] == run.comparison.adapter["accuracy"]
    assert told["parameters"] == run.manifest["parameters"]
    assert told["file_bytes"] == (run.folder / "adapter_model.safetensors").stat().st_size
    assert told["others"].keys() == run.comparison.others.keys()


def test_a_run_that_fails_shows_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = methods.asked("film", "lora", 0, None)
    cell["overrides"]["adapter"] = {"method": "lora", "r": 0}
    with pytest.raises(BenchmarkError, match=r"film, lora, seed 0 ended with 2:[^$]*adapter\.r"):
        methods.run(cell, None, 1)


def test_the_best_method_stands_first_and_the_title_says_what_a_cell_is() -> None:
    cells = [
        found(methods.asked("film", method, seed, None), score)
        for method, score in (("ia3", 0.6), ("lora", 0.8))
        for seed in (0, 1)
    ]
    title, _, *table = method_report.table("film", cells).splitlines()
    assert "64 training rows, 8 steps, 32 test rows, 1 thread (base, zero-shot 25.0%)" in title
    assert [line.split("|")[1].strip() for line in table[2:]] == ["`lora`", "`ia3`"]
