"""One recipe for each combination of values; each method keeps the keys that it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pefttune.errors import RecipeError
from pefttune.recipe import METHOD, read_choices, variants

RECIPE = "task: {type: text-classification}\ndata: {source: a.csv}\noutput: {name: x}\n"
ADAPTER = "adapter: {method: lora, r: 2, lora_alpha: 32, layers: top-3}\n"


@pytest.fixture
def file() -> Path:
    Path("x.yaml").write_text(RECIPE + ADAPTER, encoding="utf-8")
    return Path("x.yaml")


def test_values_stand_as_they_were_written_and_the_method_comes_first() -> None:
    words = ["training.learning_rate=1e-4, 2e-4 ,1e-4", "adapter.target_modules=[q_proj, v_proj],all-linear"]
    assert list(read_choices([*words, "adapter.method='lora'"]).items()) == [
        (METHOD, ["'lora'"]),
        ("training.learning_rate", ["1e-4", "2e-4"]),
        ("adapter.target_modules", ["[q_proj, v_proj]", "all-linear"]),
    ]


def test_each_method_keeps_the_keys_that_it_has(file: Path) -> None:
    words = ["adapter.method=lora,ia3", "adapter.r=4,16", "training.learning_rate=1e-4,1e-3", "seed=3"]
    found = variants(file, read_choices(words))
    assert [str(one) for one in found] == [
        f"adapter.method={method}training.learning_rate={rate}"
        for method in ("lora adapter.r=4 ", "lora adapter.r=16 ", "ia3 ")
        for rate in ("1e-4", "1e-3")
    ]
    assert [one.recipe.seed for one in found] == [3] * 6
    assert [one.recipe.training.learning_rate for one in found] == [1e-4, 1e-3] * 3
    assert (found[0].recipe.adapter.r, found[0].recipe.adapter.lora_alpha) == (4, 32)
    assert found[4].recipe.adapter.model_dump(exclude_defaults=True) == {"method": "ia3", "layers": "top-3"}


def test_values_that_mean_the_same_are_tried_once(file: Path) -> None:
    found = variants(file, read_choices(["training.learning_rate=1e-3,0.001,1.0e-3,2e-3", "adapter.r=4,4"]))
    assert [str(one) for one in found] == ["training.learning_rate=1e-3", "training.learning_rate=2e-3"]


def test_a_list_is_one_value_in_brackets(file: Path) -> None:
    found = variants(file, read_choices(["adapter.layers=[0, 1],top-2"]))
    assert [one.recipe.adapter.layers for one in found] == [(0, 1), "top-2"]


NOTHING = "nothing varies: give a key at least two values, such as training.learning_rate=1e-4,1e-3"
WRONG = {
    "adapter.r=": "'adapter.r=' must look like adapter.r=4,16: a key and its values",
    "=4,8": "'=4,8' must look like adapter.r=4,16: a key and its values",
    "adapter.r=4,,8": "'adapter.r=4,,8': not valid YAML: ",
    "adapter.r=4,8]": "'adapter.r=4,8]': not valid YAML: ",
    "adapter.r=4": NOTHING,
    "adapter.r=4,4": NOTHING,
    "training.learning_rate=1e-3,0.001": NOTHING,
    "adapter.method=ia3,oft adapter.lora_alpha=4": "adapter.lora_alpha: none of ia3, oft has such a key",
    "adapter.method=ia3 adapter.r=1,2": "adapter.r: none of ia3 has such a key",
    "adapter.oft_block_size=4,8": "override 'adapter.oft_block_size=4'  adapter.oft_block_size: unknown key here; it",
    "adapter.r=4 seed=1,2 adapter.r=8": "'adapter.r=8': adapter.r stands twice; give all of its values in one list",
    "adapter.rr=4,8": "override 'adapter.rr=4'  adapter.rr: unknown key; did you mean 'r'?",
    "adapter.method=lora,oft adapter.rr=4,8": "override 'adapter.rr=4'  adapter.rr: unknown key; did you mean 'r'?",
    "adapter.r=4,0": "override 'adapter.r=0'  adapter.r: must be a whole number (above 0 and at most 1024) or null",
    "adapter.method=dora,lora base.quantization=int8": "x.yaml:4  adapter: `method: dora` does not work with",
    "output.name=a,b": "output.name: changes nothing of what is trained, so that there is nothing to choose by",
}


@pytest.mark.parametrize(("words", "told"), WRONG.items())
def test_what_is_wrong_is_told(file: Path, words: str, told: str) -> None:
    with pytest.raises(RecipeError) as raised:
        variants(file, read_choices(words.split()))
    assert str(raised.value).startswith(told)


def test_each_fault_is_told_once(file: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        variants(file, read_choices(["adapter.r=0,4", "training.learning_rate=1,-1", "seed=x"]))
    assert str(raised.value).splitlines() == [
        "override 'adapter.r=0'  adapter.r: must be a whole number (above 0 and at most 1024) or null, not 0",
        "override 'seed=x'  seed: must be a whole number (at least 0 and below 4294967296), not 'x'",
        "override 'training.learning_rate=-1'  training.learning_rate: must be a number (above 0) or null, not -1",
    ]
