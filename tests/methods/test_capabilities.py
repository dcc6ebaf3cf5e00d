"""What docs/capabilities.md says of each method is so: every cell is tried again, on a tiny model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pefttune import methods
from pefttune.errors import RecipeError

SCRIPT = Path(__file__).parents[2] / "docs" / "capabilities.py"


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("capabilities", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


capabilities = module()
TOLD = capabilities.read()


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield capabilities.trainer(tmp_path_factory.mktemp("trials"))


def test_the_page_is_as_it_is_written_and_has_a_cell_for_each_method_and_column() -> None:
    assert capabilities.render(TOLD) == capabilities.PAGE.read_text(encoding="utf-8")
    assert list(TOLD) == [(method, column) for method in capabilities.METHODS for column in capabilities.COLUMNS]
    assert sum(TOLD.values()) >= 50


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize(("method", "column"), TOLD)
def test_the_page_is_true(train: Callable[[str, str], Any], method: str, column: str) -> None:
    if TOLD[method, column]:
        capabilities.attempt(method, column, train)
    else:
        with pytest.raises(Exception, match="2 passes" if column == "mixed batch" else ".") as told:
            capabilities.attempt(method, column, train)
        assert not isinstance(told.value, RecipeError)  # it was tried, not refused


@pytest.mark.parametrize(("method", "column"), [cell for cell in TOLD if cell[1] in capabilities.QUANTIZATIONS])
def test_a_recipe_may_ask_for_what_works_and_for_nothing_else(tmp_path: Path, method: str, column: str) -> None:
    if TOLD[method, column]:
        assert capabilities.recipe(method, column, tmp_path).adapter.method == method
    else:
        able = "|".join(word for word in capabilities.METHODS if TOLD[word, column])
        told = rf"`method: {method}` does not work with .*{column}`; (({able})(, )?)+ do"
        with pytest.raises(RecipeError, match=told):
            capabilities.recipe(method, column, tmp_path)


@pytest.mark.parametrize("method", capabilities.METHODS)
def test_adapters_know_themselves_whether_they_share_a_pass(method: str) -> None:
    assert methods.METHODS[method].mixes == TOLD[method, "mixed batch"]


@pytest.mark.parametrize("method", capabilities.METHODS)
def test_sections_know_themselves_whether_peft_reads_the_adapter(method: str) -> None:
    assert capabilities.METHODS[method].in_peft == TOLD[method, "plain PEFT"]
