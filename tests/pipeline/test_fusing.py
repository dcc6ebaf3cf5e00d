"""Stored adapters are fused by a training: frozen to the bit, whole in the new file, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pefttune import evaluation, pipeline, store
from pefttune.errors import AdapterError, RecipeError
from pefttune.inference import open_session
from pefttune.methods.weights import WEIGHTS
from pefttune.pipeline import Bench, Tried
from pefttune.pipeline.fusing import with_members
from pefttune.recipe import load_recipe, resolved_yaml

ADAPTER = "{method: fusion, adapters: [one, two@1]}"


@pytest.fixture(autouse=True)
def _no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))


@pytest.fixture
def fusing(family: Any, finished: Any) -> Any:
    """Recipes of a fusion of `one` and `two`, which are in the store: `fusing("head", "training.max_steps=3")`."""

    def make(kind: str, *changes: str) -> Any:
        if not Path("adapters").exists():
            family(kind, "one", "two")
        own = [f"adapter={ADAPTER}", "output.store=adapters", "output.runs=runs", "output.name=new"]
        quick = ["training.num_train_epochs=1", "evaluation.bootstrap_samples=100"]
        return load_recipe(Path(finished(kind).store).parent / "recipe.yaml", [*own, *quick, *changes])

    return make


def scores(session: Any, name: str) -> list[Any]:
    return [prediction.probabilities for prediction in session.predict(["a fine film", "dull"], name)]


@pytest.mark.parametrize("kind", ["label-words", "head", "encoder"])
def test_a_fusion_is_stored_whole_and_needs_its_members_no_more(fusing: Any, kind: str) -> None:
    events: list[dict[str, Any]] = []
    run = pipeline.run(fusing(kind), events.append)
    manifest, folders = run.manifest, {name: Path("adapters", name, "1") for name in ("one", "two")}
    digests = {name: store.read_manifest(folder)["files"][WEIGHTS] for name, folder in folders.items()}
    assert manifest["lineage"] == {
        "how": "fusion",
        "parents": [{"name": name, "version": 1, "sha256": digest} for name, digest in digests.items()],
    }
    assert manifest["recipe"]["adapter"]["adapters"] == ["one@1", "two@1"]
    assert f"| two | 1 | `{digests['two'][:16]}…` |" in (run.folder / "README.md").read_text()
    state = load_file(run.folder / WEIGHTS)
    for number, folder in enumerate(folders.values()):
        members = {key: tensor for key, tensor in load_file(folder / WEIGHTS).items() if ".lora_" in key}
        assert members
        assert all(torch.equal(state[f"members.{number}.{key}"], tensor) for key, tensor in members.items())
    learned = {key: tensor for key, tensor in state.items() if not key.startswith("members.")}
    assert manifest["parameters"] == sum(tensor.numel() for tensor in learned.values())
    assert all(tensor.any() for key, tensor in learned.items() if ".fusion_" in key)
    session = open_session(["one", "new", "two"], "adapters")
    first = {name: scores(session, name) for name in session.names}
    assert len({str(each) for each in first.values()}) == 3
    for name in ("two", "new", "one", "new"):
        assert scores(session, name) == first[name]
    for name in folders:
        session.remove(name)
        shutil.rmtree(folders[name].parent)
    assert scores(session, "new") == first["new"]
    evaluation.verify(open_session("new", "adapters"), "new", manifest["probe"])


def test_its_resolved_recipe_gives_it_again_until_a_member_is_another(fusing: Any, family: Any) -> None:
    run = pipeline.run(fusing("label-words", "training.max_steps=2"))
    resolved = run.run_folder / "recipe.yaml"
    again = pipeline.run(load_recipe(resolved, ["output.name=again"]))
    assert (again.folder / WEIGHTS).read_bytes() == (run.folder / WEIGHTS).read_bytes()
    manifest = store.read_manifest(Path("adapters/two/1"))
    family.change(Path("adapters/two/1"), recipe={**manifest["recipe"], "adapter": {"method": "lora", "r": 2}})
    with pytest.raises(AdapterError, match=r"adapter.members: one@1, two@1 in adapters have other `adapter` sections"):
        pipeline.run(load_recipe(resolved))


def test_it_leaves_the_base_and_comes_back_where_memory_is_short(fusing: Any) -> None:
    pipeline.run(fusing("label-words", "training.max_steps=2"))
    session = open_session(["one", "new"], "adapters")
    first = {name: scores(session, name) for name in session.names}
    size = session["new"].nbytes
    assert size > 2 * session["one"].nbytes  # with both members
    short = open_session(["one", "new"], "adapters", max_adapter_mib=(size + 1) / 2**20)
    for name in ("one", "new", "one"):
        assert scores(short, name) == first[name]
        assert short.resident == (name,)


def test_a_trial_begins_with_the_members_too(fusing: Any) -> None:
    recipe = fusing("label-words", "training.max_steps=2")
    [done] = Bench().train([recipe], lambda event: None)
    assert isinstance(done["new"], Tried)
    assert done["new"].parameters == pipeline.run(recipe).manifest["parameters"]


def test_members_keep_their_own_sections_and_are_attached_as_they_were_saved(fusing: Any, family: Any) -> None:
    """One of rank 600 and a frozen half is saved as a LoRA of rank 1200, more than a recipe may ask for."""
    recipe = fusing("label-words")
    pissa = {"method": "lora", "r": 600, "lora_alpha": 65536, "init_lora_weights": "pissa"}
    manifest = store.read_manifest(Path("adapters/two/1"))
    family.change(Path("adapters/two/1"), recipe={**manifest["recipe"], "adapter": pissa})
    settled, _ = with_members(recipe, recipe.adapter)
    Path("resolved.yaml").write_text(resolved_yaml(settled))
    assert load_recipe(Path("resolved.yaml")) == settled
    assert with_members(settled, settled.adapter)[0] == settled
    assert settled.adapter.members[1].stored().r == 1200


def test_a_member_with_a_frozen_half_is_fused_as_a_whole(fusing: Any) -> None:
    pissa = ("adapter={method: lora, r: 2, init_lora_weights: pissa}", "output.name=pissa")
    run = pipeline.run(fusing("label-words", "training.max_steps=2", *pissa))
    fused = pipeline.run(fusing("label-words", "training.max_steps=2", "adapter.adapters=[one, pissa]"))
    saved, member = load_file(fused.folder / WEIGHTS), load_file(run.folder / WEIGHTS)
    assert {min(tensor.shape) for tensor in member.values()} == {4}
    assert all(torch.equal(saved[f"members.1.{key}"], tensor) for key, tensor in member.items())
    assert fused.manifest["recipe"]["adapter"]["members"][1]["init_lora_weights"] == "pissa"
    evaluation.verify(open_session("new", "adapters"), "new", fused.manifest["probe"])


@pytest.mark.parametrize(
    ("adapters", "told"),
    [
        ("[one, three]", "no adapter 'three' in the store"),
        ("[one, two@4]", "two has no version '4'; it has 1"),
        ("[one, one@1]", "adapter.adapters: one@1 is named twice"),
    ],
)
def test_adapters_that_are_not_there_are_told_before_a_base_is_read(
    fusing: Any, adapters: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pefttune.bases.load", lambda *given: pytest.fail("a base was read"))
    with pytest.raises(AdapterError, match=told):
        pipeline.run(fusing("label-words", f"adapter.adapters={adapters}"))
    assert not Path("runs").exists()


@pytest.mark.parametrize("adapters", ["[one]", "[one, one]", "[]"])
def test_two_different_ones_at_least(fusing: Any, adapters: str) -> None:
    told = "must not be empty|'one' stands here 2 times|a fusion weighs two adapters at least: name another one"
    with pytest.raises(RecipeError, match=rf"adapter.adapters: .*({told})"):
        fusing("label-words", f"adapter.adapters={adapters}")


def test_a_method_that_does_not_fit(fusing: Any, family: Any) -> None:
    recipe = fusing("label-words")
    manifest = store.read_manifest(Path("adapters/two/1"))
    family.change(Path("adapters/two/1"), recipe={**manifest["recipe"], "adapter": {"method": "dora"}})
    with pytest.raises(AdapterError, match=r"adapter.adapters: two@1 is a dora: only lora adapters can be fused"):
        pipeline.run(recipe)


def test_members_of_different_bases(fusing: Any, family: Any) -> None:
    recipe = fusing("label-words")
    base = store.read_manifest(Path("adapters/two/1"))["base"]
    family.change(Path("adapters/two/1"), base={**base, "fingerprint": {**base["fingerprint"], "tensors": "other"}})
    with pytest.raises(AdapterError, match=r"one@1 and two@1 were trained on different bases.*They differ in: tensors"):
        pipeline.run(recipe)


def test_members_of_another_base_than_the_recipe_has(fusing: Any, new_model: Any, tmp_path: Path) -> None:
    other = new_model(tmp_path / "other", seed=5, num_hidden_layers=1)
    with pytest.raises(AdapterError, match="one was trained on another base"):
        pipeline.run(fusing("label-words", f"base.source={other}"))


def test_a_member_that_was_changed_since(fusing: Any) -> None:
    recipe = fusing("label-words")
    weights = Path("adapters/two/1") / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(AdapterError, match="has been changed or damaged"):
        pipeline.run(recipe)
