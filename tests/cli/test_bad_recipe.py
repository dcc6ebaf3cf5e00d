"""Wrong recipes and overrides: the place and the way out, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pefttune.recipe.adapters import METHODS


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.lerning_rate=1e-4", "training.lerning_rate: unknown key; did you mean 'learning_rate'?"),
        (
            "adapter.method=lroa",
            f"adapter.method: 'lroa' is not one of: {', '.join(METHODS)}; did you mean 'lora'?",
        ),
        ("training.max_steps=many", "training.max_steps: must be a whole number (above 0) or null, not 'many'"),
        ("training.max_steps=0", "training.max_steps: must be a whole number (above 0) or null, not 0"),
        ("data.too_long=cut", "data.too_long: 'cut' is not one of: truncate, drop, error"),
        ("output.name=../../etc", "output.name: '../../etc' is not a safe name"),
        ("output.name=a..b", "output.name: 'a..b' is not a safe name"),
        ("output.name=base", "output.name: 'base' is reserved"),
    ],
)
def test_an_override(refuses: Any, override: str, told: str) -> None:
    refuses([override], "RecipeError", f"override '{override}'", told)


def test_an_override_without_a_value(refuses: Any) -> None:
    refuses(["learning_rate"], "InputError", "'learning_rate' is no override key=value", "add --together")


def test_all_faults_of_a_recipe_at_once(refused: Any, command: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "task: {type: text-classifcation}\ndata: {sauce: x.csv}\nadapter: {method: lroa}\n"
    )
    done = command("train", "r.yaml", "seed=x", "--json")
    refused(done, 2, "RecipeError", "r.yaml:1  task.type", "r.yaml:2  data.sauce", "r.yaml:3  adapter.method", "seed=x")
    assert len(done.document["error"].splitlines()) >= 5  # and `output` is missing


def test_a_number_that_yaml_takes_for_text(command: Any, shop: Any, tmp_path: Path) -> None:
    for number in ("1e-4", '"1e-4"'):
        path = tmp_path / "r.yaml"
        path.write_text(shop.recipe.read_text().replace("1e-2", number))
        found = command("explain", "training.learning_rate", "--recipe", path, "--json").document
        assert (found["value"], found["origin"]) == ("0.0001", f"{path}:5")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.yaml", None, "none.yaml: no such file"),
        ("film-sentimnt", None, "did you mean 'film-sentiment'"),
        (".", None, "is a folder, not a recipe"),
        ("r.yaml", "", "r.yaml:1  is empty"),
        ("r.yaml", "task: [", "r.yaml:1:8  not valid YAML"),
        ("r.yaml", b"task: \xff", "r.yaml:1: is not UTF-8"),
    ],
)
def test_a_recipe_file(
    refused: Any, command: Any, tmp_path: Path, name: str, content: str | bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(command("train", name, "--json"), 2, "RecipeError", told)
