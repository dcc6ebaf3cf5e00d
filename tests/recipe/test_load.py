"""Where a recipe comes from: files, shipped recipes, overrides; and no torch for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pefttune.errors import RecipeError
from pefttune.recipe import load_recipe, read_recipe, shipped, shipped_recipes


def test_overrides_are_checked_set_and_remembered(minimal: str) -> None:
    Path("x.yaml").write_text(minimal + "training: {max_steps: 10}\n", encoding="utf-8")
    loaded = read_recipe("x.yaml", ["training.max_steps=null", " data.split.test = 0.2", "seed=1", "seed=2"])
    assert (loaded.recipe.training.max_steps, loaded.recipe.data.split.test, loaded.recipe.seed) == (None, 0.2, 2)
    origins = loaded.origins
    assert origins["task.type"] == "x.yaml:1"
    assert origins["training.max_steps"] == "override 'training.max_steps=null'"
    assert origins["data.split.test"] == "override ' data.split.test = 0.2'"
    assert origins["seed"] == "override 'seed=2'"
    assert origins["data.split.validation"] == origins["base.source"] == "default"


def test_an_override_of_a_section_replaces_all_of_it(minimal: str) -> None:
    Path("x.yaml").write_text(minimal + "training: {max_steps: 10, eval_steps: 5}\n", encoding="utf-8")
    loaded = read_recipe("x.yaml", ["training={max_steps: 20}"])
    assert (loaded.recipe.training.max_steps, loaded.recipe.training.eval_steps) == (20, None)
    assert loaded.origins["training.max_steps"] == "override 'training={max_steps: 20}'"
    assert loaded.origins["training.eval_steps"] == "default"


WRONG_OVERRIDES = {
    "task.stride=8": "task.stride: unknown key here; it belongs to `type: token-classification` or `type: question",
    "training.x=1": "training.x: unknown key; known here: per_device_train_batch_size, ",
    "trainig.max_steps=1": "trainig: unknown key; did you mean 'training'?",
    "training.max_steps=0": "training.max_steps: must be a whole number (above 0) or null, not 0",
    "training.max_steps.x=1": "training.max_steps: must be a whole number (above 0) or null, not {x: 1}",
    "output.license=7": "output.license: must be text or null, not 7; put it in quotes",
    "data={source: a, source: b}": "data.source: duplicate key; given before at override 'data={source: a, source: b}'",
    "data.columns={'': text}": "data.columns.'': must not be empty",
    "training.max_steps=": "must look like training.learning_rate=2e-4",
    "training..max_steps=1": "must look like training.learning_rate=2e-4",
    "base.source=*a": "not valid YAML: a recipe has no & * or ! before a value",
}


@pytest.mark.parametrize(("override", "message"), WRONG_OVERRIDES.items())
def test_wrong_override_is_named_in_place_of_the_line(faults: Any, minimal: str, override: str, message: str) -> None:
    (line,) = faults(minimal, [override])
    assert line.startswith(f"override {override!r}  {message}")


def test_a_file_that_cannot_be_a_recipe(tmp_path: Path) -> None:
    Path("folder").mkdir()
    Path("latin.yaml").write_bytes(b"task:\n  type: caf\xe9\n")
    Path("big.yaml").write_bytes(b"#" * 1_000_001)
    wrong = {
        "folder": "folder: is a folder, not a recipe",
        "latin.yaml": "latin.yaml:2: is not UTF-8 text (byte 0xe9); save it as UTF-8",
        "big.yaml": "big.yaml: is larger than 1000000 bytes; a recipe has a few dozen lines",
        "latin.yaml/x": "latin.yaml/x: cannot be read: Not a directory",
        "a\0b": "a\0b: cannot be read: embedded null byte",
    }
    for path, message in wrong.items():
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert str(caught.value) == message


@pytest.fixture
def checkout(minimal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one recipe, one folder down."""
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "pefttune")
    (tmp_path / "recipes" / "sentiment").mkdir(parents=True)
    (tmp_path / "recipes" / "sentiment" / "film-sentiment.yaml").write_text(minimal, encoding="utf-8")
    return tmp_path


def test_shipped_recipes_are_found_in_a_checkout_and_in_a_wheel(checkout: Path) -> None:
    assert shipped_recipes() == {"film-sentiment": checkout / "recipes" / "sentiment" / "film-sentiment.yaml"}
    in_wheel = checkout / "pefttune" / "_recipes" / "tweets.yaml"
    in_wheel.parent.mkdir(parents=True)
    in_wheel.touch()
    assert shipped_recipes() == {"tweets": in_wheel}


def test_a_shipped_recipe_is_loaded_by_name_unless_a_file_has_that_name(minimal: str, checkout: Path) -> None:
    assert load_recipe("film-sentiment").output.name == "film"
    assert load_recipe("film-sentiment.yaml").output.name == "film"
    Path("film-sentiment").write_text(minimal.replace("name: film", "name: mine"), encoding="utf-8")
    assert load_recipe("film-sentiment").output.name == "mine"


def test_a_missing_file_lists_close_names(checkout: Path) -> None:
    Path("mine.yaml").touch()
    wrong = {
        "flim-sentiment": "flim-sentiment: no such file; did you mean 'film-sentiment'?",
        "elsewhere/film-sentiment.yaml": "elsewhere/film-sentiment.yaml: no such file; did you mean 'film-sentiment'?",
        "mien.yaml": "mien.yaml: no such file; did you mean 'mine.yaml'?",
        "qqq": "qqq: no such file; shipped recipes: film-sentiment",
    }
    for path, message in wrong.items():
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert str(caught.value) == message


def test_loading_a_right_and_a_wrong_recipe_imports_no_torch(minimal: str) -> None:
    Path("x.yaml").write_text(minimal, encoding="utf-8")
    code = """
import sys
from pefttune.recipe import explain, load_recipe, read_recipe
explain("training", read_recipe("x.yaml"))
try:
    load_recipe("x.yaml", ["training.x=1"])
except Exception as error:
    assert type(error).__name__ == "RecipeError", error
else:
    raise SystemExit("the wrong recipe was loaded")
heavy = {"torch", "numpy", "transformers", "peft", "datasets", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
