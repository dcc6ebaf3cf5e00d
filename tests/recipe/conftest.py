"""Recipes as text: loaded, or the sentences that refuse them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pefttune.errors import RecipeError
from pefttune.recipe import Recipe, load_recipe


@pytest.fixture(scope="session")
def minimal() -> str:
    """The least that a recipe must say, in three lines."""
    return """\
task: {type: text-classification}
data: {source: reviews.csv}
output: {name: film}
"""


@pytest.fixture(scope="session")
def load() -> Callable[..., Recipe]:
    """Loads a text as `x.yaml`: `load(text, ["seed=1"])`."""

    def written(text: str, overrides: Sequence[str] = ()) -> Recipe:
        Path("x.yaml").write_text(text, encoding="utf-8")
        return load_recipe("x.yaml", overrides)

    return written


@pytest.fixture(scope="session")
def faults(load: Callable[..., Recipe]) -> Callable[..., list[str]]:
    """The sentences by which a text is refused."""

    def told(text: str, overrides: Sequence[str] = ()) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(text, overrides)
        return str(caught.value).splitlines()

    return told
