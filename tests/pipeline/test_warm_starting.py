"""Training that begins with a stored adapter: its weights to the bit, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune import pipeline, store
from pefttune.errors import AdapterError
from pefttune.inference import Session
from pefttune.pipeline import beginning, fitting
from pefttune.recipe import load_recipe

UP = "model.layers.1.mlp.up_proj"


@pytest.fixture
def begun(family: Any, finished: Any, base_of: Any, tmp_path: Path) -> Any:
    """Begins a training from `one`, with these changes to its recipe: the parent, the new adapter, what was told."""

    def begin(kind: str, *changes: str) -> tuple[Any, Any, list[str]]:
        folder = tmp_path / "adapters" if (tmp_path / "adapters").exists() else family(kind, "one", "two")
        own = [f"output.store={folder}", "adapter.warm_start=one", "output.name=new", *changes]
        path = Path(finished(kind).store).parent / "recipe.yaml"
        recipe, told = load_recipe(path, own), []
        line = beginning.begin(recipe, lambda event: told.append(event.get("message", "")), named=False)
        session = Session(base_of(recipe.base.source))
        parent = session.load(folder / "one" / "1", name="one")
        fitting.attach(session, line)
        assert session.names == ("one", "new")
        return parent, session["new"], told

    return begin


@pytest.mark.parametrize("kind", ["label-words", "head"])
def test_it_begins_with_the_weights_of_its_parent(begun: Any, kind: str) -> None:
    parent, new, told = begun(kind)
    theirs, ours = parent.state(), new.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not any("its head is new" in each for each in told)


def test_a_head_of_other_labels_is_new_and_said_to_be(begun: Any) -> None:
    parent, new, told = begun("head", "task.labels=[good, bad]")
    assert any(
        each == "training begins with the weights of one@1, but its head is new: its labels are bad, good"
        for each in told
    )
    for key, tensor in new.state().items():
        assert torch.equal(tensor, parent.state()[key]) == ("lora" in key)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("adapter.warm_start=three", "no adapter 'three' in the store"),
        ("adapter.warm_start=one@4", "one has no version '4'; it has 1"),
        ("adapter.r=2", "one@1 has another shape than this recipe asks for: its r is 4, here 2; set adapter.r"),
        ("adapter.lora_alpha=4", "its updates are multiplied by 2, here by 1; set adapter.lora_alpha"),
        (f"adapter.rank_pattern={{{UP}: 2}}", f"its r of {UP} is 4, here 2; set adapter.rank_pattern"),
        (
            f"adapter.alpha_pattern={{{UP}: 2}}",
            f"its updates of {UP} are multiplied by 2, here by 0.5; set adapter.alpha_pattern",
        ),
        ("adapter.layers=top-1", "is adapted by only one@1; set adapter.layers"),
        ("adapter.target_modules=[q_proj]", "is adapted by only one@1; set adapter.layers and adapter.target_modules"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused(begun: Any, change: str, told: str) -> None:
    with pytest.raises(AdapterError, match=told):
        begun("label-words", change)


def test_a_parent_of_another_method_is_refused(begun: Any, family: Any) -> None:
    folder = family("label-words", "one")
    manifest = store.read_manifest(folder / "one" / "1")
    family.change(folder / "one" / "1", recipe={**manifest["recipe"], "adapter": {"method": "dora", "r": 4}})
    with pytest.raises(AdapterError, match=r"adapter\.warm_start: one@1 is a dora, and a lora cannot begin with it"):
        begun("label-words")


def test_a_parent_of_another_base_is_refused(begun: Any, new_model: Any, tmp_path: Path) -> None:
    other = new_model(tmp_path / "other", seed=5)
    with pytest.raises(AdapterError, match="one was trained on another base"):
        begun("label-words", f"base.source={other}")


def test_its_lineage_is_stored(family: Any, finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    folder = family("label-words", "one", "two")
    own = [f"output.store={folder}", "adapter.warm_start=two@1", "training.max_steps=2", "output.name=new"]
    run = pipeline.run(load_recipe(Path(finished("label-words").store).parent / "recipe.yaml", own))
    lineage = run.manifest["lineage"]
    assert lineage["how"] == "warm_start"
    [parent] = lineage["parents"]
    assert (parent["name"], parent["version"], len(parent["sha256"])) == ("two", 1, 64)
    assert (
        f"Training began with the weights of `two`, version 1 (sha256 `{parent['sha256'][:16]}…`)"
        in (run.folder / "README.md").read_text()
    )
