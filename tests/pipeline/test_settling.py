"""Runs that leave ranks and rates open: what is chosen is told, resolved before training, read back without data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pefttune import bases, pipeline
from pefttune.errors import RecipeError
from pefttune.inference import Session
from pefttune.pipeline import beginning, fitting
from pefttune.recipe import load_recipe

QUICK = {"training.max_steps": 2, "evaluation.bootstrap_samples": 100}
# A rank of each of the tiny model's 2 · 7 layers.
PER_RANK = 2 * (64 + 48 + 48 + 64 + 3 * 96)


@pytest.fixture(autouse=True)
def _no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))


def run(recipe: Any) -> tuple[Any, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return pipeline.run(recipe, events.append), events


def ranks_of(folder: Any) -> dict[str, int]:
    state = load_file(folder / "adapter_model.safetensors")
    return {key.removesuffix(".lora_A.weight"): len(a) for key, a in state.items() if "lora_A" in key}


def test_what_is_left_open_is_told_and_resolved(recipe_of: Any) -> None:
    recipe = recipe_of({**QUICK, "adapter": {"method": "lora"}, "training.learning_rate": None})
    done, events = run(recipe)
    (chosen,) = [event["choices"] for event in events if event["event"] == "chosen"]
    assert {choice["key"]: choice["value"] for choice in chosen} == {
        "adapter.r": 8,
        "adapter.lora_alpha": 32,
        "training.learning_rate": 0.013,
    }
    stored = done.manifest["recipe"]
    assert (stored["adapter"]["r"], stored["adapter"]["lora_alpha"]) == (8, 32)
    assert stored["training"]["learning_rate"] == 0.013
    resolved = load_recipe(done.run_folder / "recipe.yaml")
    assert (resolved.adapter.r, resolved.training.learning_rate) == (8, 0.013)
    rates = [event["learning_rate"] for event in events if event["event"] == "step"]
    assert max(rates) <= 0.013


def test_a_budget_is_spent_and_kept_to(recipe_of: Any) -> None:
    budget = 5 * PER_RANK + 7
    done, events = run(recipe_of({**QUICK, "adapter": {"method": "lora", "budget": budget}}))
    assert budget - 96 < done.manifest["parameters"] <= budget  # what is left pays for no rank of the largest
    section, ranks = done.manifest["recipe"]["adapter"], ranks_of(done.folder)
    assert (section["r"], section["budget"], section["rho"]) == (5, None, None)
    assert section["rank_pattern"]
    assert len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 10
    measured = [event for event in events if event["event"] == "activations"]
    assert measured[-1]["done"] == measured[-1]["of"] > 0


def test_eva_begins_along_what_enters_and_is_attached_again_without_data(
    recipe_of: Any, base_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[Any] = []
    fit = pipeline.line.fit

    def watching(session: Session, lines: Any) -> Any:
        began.append(session[lines[0].name].state())
        return fit(session, lines)

    monkeypatch.setattr("pefttune.pipeline.line.fit", watching)
    done, events = run(recipe_of({**QUICK, "adapter": {"method": "lora", "r": 4, "init_lora_weights": "eva"}}))
    assert decomposed(events) == [
        *[("inputs", n, 14) for n in range(1, 15)],
        *[("weights", n, 14) for n in range(1, 15)],
    ]
    for key, weight in began[0].items():
        if "lora_A" in key:  # orthonormal rows
            torch.testing.assert_close(weight @ weight.t(), torch.eye(len(weight)), rtol=0, atol=1e-5)
        else:
            assert not weight.any()
    ranks = ranks_of(done.folder)
    assert sum(ranks.values()) == 4 * 14
    assert len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 8
    section = done.manifest["recipe"]["adapter"]
    assert (section["r"], section["init_lora_weights"]) == (4, "default")
    config = json.loads((done.folder / "adapter_config.json").read_text())
    of_peft = {name: config["rank_pattern"].get(name, 4) for name in (key[len("base_model.model.") :] for key in ranks)}
    assert sorted(of_peft.values()) == sorted(ranks.values())
    monkeypatch.setattr("pefttune.inference.input_sketches", None)  # nothing is measured again
    session = Session(base_of())
    loaded = session.load(done.folder)
    assert {key: tuple(p.shape) for key, p in loaded.parameters.items()} == {
        key: tuple(p.shape) for key, p in load_file(done.folder / "adapter_model.safetensors").items()
    }


def decomposed(events: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return [(event["what"], event["done"], event["of"]) for event in events if event["event"] == "decomposed"]


def test_eva_with_rho_1_or_with_stated_ranks_leaves_them(recipe_of: Any) -> None:
    alike, _ = run(recipe_of({**QUICK, "adapter": {"method": "lora", "r": 4, "init_lora_weights": "eva", "rho": 1}}))
    assert set(ranks_of(alike.folder).values()) == {4}
    pattern = {"model.layers.0.mlp.up_proj": 9, "model.layers.1.mlp.up_proj": 0}
    stated = {"method": "lora", "r": 4, "init_lora_weights": "eva", "rank_pattern": pattern}
    done, _ = run(recipe_of({**QUICK, "adapter": stated}))
    assert sorted(ranks_of(done.folder).values()) == [*[4] * 12, 9]


def test_what_gets_no_rank_has_no_alpha_any_more(recipe_of: Any) -> None:
    names = ("self_attn.q_proj", "mlp.gate_proj", "self_attn.k_proj", "mlp.down_proj")
    alphas = {f"model.layers.1.{name}": 4.0 for name in names}
    spent = {"method": "lora", "budget": PER_RANK, "rho": 8, "alpha_pattern": alphas}
    recipe, told = recipe_of({"adapter": spent}), []
    session = Session(bases.load(recipe.base))
    line = beginning.begin(recipe, lambda event: told.append(event.get("message", "")), named=False)
    section = fitting.attach(session, line).recipe.adapter
    left_alone = [name for name in alphas if section.rank_pattern.get(name) == 0]
    assert 0 < len(left_alone) < len(alphas)
    assert section.alpha_pattern == {name: 4 for name in alphas if name not in left_alone}
    assert [one for one in told if f"adapter.alpha_pattern: {', '.join(left_alone)} got no rank" in one]
    assert load_recipe(line.run_folder / "recipe.yaml").adapter == section


def test_a_budget_leaves_where_the_adapter_begins(recipe_of: Any) -> None:
    adapter = {"method": "lora", "budget": 5 * PER_RANK, "rho": 1, "init_lora_weights": "pissa"}
    done, _ = run(recipe_of({**QUICK, "adapter": adapter}))
    assert done.manifest["recipe"]["adapter"]["init_lora_weights"] == "pissa"
    assert set(ranks_of(done.folder).values()) == {2 * 5}


@pytest.mark.parametrize("init", ["pissa", "olora", "corda"])
def test_no_rank_is_chosen_for_which_a_frozen_half_leaves_no_room(
    recipe_of: Any, new_model: Any, tmp_path: Path, init: str
) -> None:
    """Keys and values have 16 outputs in the tiny model, and 8 in one of fewer heads."""
    spent = {"method": "lora", "budget": 12 * PER_RANK, "init_lora_weights": init}
    section, ranks = settled(recipe_of({"adapter": spent}))
    assert (section.r, section.budget) == (12, None)
    assert max(ranks.values()) == 16
    assert {rank for name, rank in ranks.items() if "k_proj" in name or "v_proj" in name} == {8}
    source = str(new_model(tmp_path / "narrow", num_key_value_heads=1))
    section, ranks = settled(recipe_of({"base.source": source, "adapter": {**spent, "budget": None}}))
    assert section.r == 4
    assert set(ranks.values()) == {4}


def settled(recipe: Any) -> tuple[Any, dict[str, int]]:
    """The `adapter` section of a recipe when its adapter is attached, and the rank of each layer."""
    session = Session(bases.load(recipe.base))
    line = fitting.attach(session, beginning.begin(recipe, lambda event: None, named=False))
    state = session[line.name].parameters
    return line.recipe.adapter, {key: len(weight) for key, weight in state.items() if "lora_A" in key}


@pytest.mark.parametrize(
    ("spent", "told"),
    [
        (
            {"budget": 47},
            r"47 parameters are too few: one rank of the smallest layer, model\.layers\.0\..*k_proj, takes 48",
        ),
        (
            {"budget": "2M"},
            r"2,000,000 parameters are too many: with every rank they can have, the 14 layers to adapt take 29,696",
        ),
        (
            {"budget": "2M", "init_lora_weights": "corda"},
            r"2,000,000 parameters are too many: with every rank they can have, the 14 layers to adapt take 14,848",
        ),
        (
            {"r": 9, "init_lora_weights": "corda"},
            r"adapter\.r: 9 ranks for each of the 14 layers to adapt are more than these have; take 8 or less",
        ),
        (
            {"r": 28, "init_lora_weights": "eva"},
            r"adapter\.r: 28 ranks for each of the 14 layers to adapt are more than these have; take 27 or less",
        ),
    ],
)
def test_ranks_that_cannot_be_spent_are_refused(recipe_of: Any, spent: dict[str, Any], told: str) -> None:
    recipe = recipe_of({**QUICK, "adapter": {"method": "lora", **spent}})
    with pytest.raises(RecipeError, match=told):
        run(recipe)
    assert not list(Path(recipe.output.store).rglob("*"))


def test_padded_batches_and_encoders_are_measured_too(
    base_of: Any, tiny_encoder: Any, adapted: Any, examples_of: Any, ragged: Any
) -> None:
    from pefttune import methods
    from pefttune.inference import input_sketches
    from pefttune.recipe.adapters import Lora

    session = Session(base_of(tiny_encoder))
    examples = examples_of(adapted(session, "a", approach="head"), ragged)
    linears = methods.lora_targets(session.base.model, Lora(method="lora", r=4))
    most = dict.fromkeys(linears, 4)
    found = input_sketches(session, linears, most, examples)
    session.collator.ragged = False
    padded = input_sketches(session, linears, most, examples)
    assert len(found) == 12
    for name, sketch in found.items():
        # The same tokens in another order of sums, in float32 up to here.
        explained = padded[name].spectrum().explained_k
        assert explained == pytest.approx(sketch.spectrum().explained_k, rel=1e-3), name
