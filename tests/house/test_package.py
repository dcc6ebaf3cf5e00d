"""What is built and shipped: version, wheel, recipes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
MAX_LINES = 25
DEEP = 30  # layers of the base that the shipped recipes are written for


def test_the_newest_change_is_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == project["version"] == importlib.metadata.version("pefttune")
    assert len(set(versions)) == len(versions)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel of this checkout."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed: no wheel can be built without the network")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(folder)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as bundle:
        return set(bundle.namelist())


def test_the_wheel_holds_code_recipes_and_the_card(wheel: set[str]) -> None:
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pefttune").rglob("*.py")}
    assert len(package) >= 60
    shipped = {f"pefttune/_recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in RECIPES}
    assert package | shipped | {"pefttune/publishing/card.md.jinja"} <= wheel


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    strangers = {name for name in wheel if not re.fullmatch(r"(pefttune|pefttune-[\d.]+\.dist-info)/.*", name)}
    assert not strangers
    assert {Path(name).suffix for name in wheel if name.startswith("pefttune/")} == {".py", ".yaml", ".jinja"}


def test_there_are_recipes() -> None:
    from pefttune.recipe import shipped_recipes

    assert len(RECIPES) >= 4
    assert sorted(shipped_recipes().values()) == RECIPES
    assert len(shipped_recipes()) == len(RECIPES), "two recipes in different folders have the same name"


@pytest.fixture(scope="module")
def deep(new_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with as many layers and positions as the recipes need, and no layer too narrow for their ranks."""
    size = {"num_hidden_layers": DEEP, "num_key_value_heads": 4, "max_position_embeddings": 1024}
    return new_model(tmp_path_factory.mktemp("models") / "deep", **size)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_short_and_runs(path: Path, deep: Path, tmp_path: Path) -> None:
    """Two steps, with nothing of it changed but the base, the rows and where it writes."""
    from pefttune import load_recipe, run

    recipe = load_recipe(path)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert recipe.output.name == path.stem
    rows = write_rows_for(recipe, tmp_path / "rows.jsonl")
    own = {f"data.{part}": rows[part] for part in ("train", "validation", "test") if getattr(recipe.data, part)}
    source = "null" if recipe.data.train else rows["all"]
    changes = {
        **own,
        "data.source": source,
        "data.config_name": "null",
        "data.revision": "null",
        "base.source": deep,
        "base.device": "cpu",
        "training.max_steps": 2,
        **({"task.max_new_tokens": 24} if hasattr(recipe.task, "max_new_tokens") else {}),
        "output.store": tmp_path / "adapters",
        "output.runs": tmp_path / "runs",
    }
    done = run(load_recipe(path, [f"{key}={value}" for key, value in changes.items()]))
    assert done.folder == tmp_path / "adapters" / recipe.output.name / "1"
    assert done.manifest["training"]["steps"] == 2


def write_rows_for(recipe: Any, path: Path, count: int = 45) -> dict[str, Path]:
    """Rows with the recipe's columns, all in one file and in one for each part."""
    renamed = recipe.data.columns
    rows = [{renamed.get(key, key): value for key, value in row_for(recipe, number).items()} for number in range(count)]
    lines = [json.dumps(row) for row in rows]
    parts = {"all": lines, "train": lines[::3], "validation": lines[1::3], "test": lines[2::3]}
    for part, own in parts.items():
        path.with_stem(part).write_text("\n".join(own), encoding="utf-8")
    return {part: path.with_stem(part) for part in parts}


def row_for(recipe: Any, number: int) -> dict[str, Any]:
    """A row that the recipe's task can learn."""
    kind = recipe.task.type
    if kind == "token-classification":
        return {"tokens": ["in", f"Town{number}"], "tags": ["O", f"B-{(recipe.task.labels or ('LOC',))[0]}"]}
    if kind == "question-answering":
        answer = {"text": [f"Town {number}"], "answer_start": [3]}
        return {"question": "Where is it?", "context": f"in Town {number}.", "answers": answer}
    if kind == "summarization":
        return {"document": f"It is in Town {number}, they say.", "summary": f"Town {number}."}
    if kind == "text-generation":
        answer = f"{recipe.task.answer_after or ''} {number}"
        return {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": answer}]}
    values: list[object] = list(recipe.task.labels or ("good", "bad"))
    if bins := recipe.data.label_bins:
        values = [inside(interval) for interval in bins.values()]
    value = values[number % len(values)]
    return {"text": f"text number {number} is {value}", "label": value}


def inside(interval: Any) -> float:
    """A number that lies in the bin."""
    if interval.above is None or interval.below is None:
        return interval.below - 1.0 if interval.above is None else interval.above + 1.0
    return (interval.above + interval.below) / 2
