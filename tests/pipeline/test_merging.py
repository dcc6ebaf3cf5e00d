"""Adapters become one that goes the way of a trained one: judged on all tasks, proven, stored with its lineage."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from safetensors.torch import load_file

from pefttune import evaluation, pipeline, store
from pefttune.cli import merge as cli_merge
from pefttune.errors import AdapterError, InputError
from pefttune.inference import open_session
from pefttune.methods import merging, weights
from pefttune.pipeline import Search, Way, joining


@pytest.fixture(autouse=True)
def _no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))


def test_the_ways_are_those_that_there_are() -> None:
    assert {"linear", *merging.WAYS} == set(joining.WAYS)
    assert get_args(get_args(get_type_hints(cli_merge.merge, include_extras=True)["method"])[0]) == joining.WAYS


def sha256(store_folder: Path, name: str) -> str:
    files: dict[str, str] = store.read_manifest(store_folder / name / "1")["files"]
    return files[weights.WEIGHTS]


def test_a_merged_adapter_is_stored_whole_with_its_lineage(family: Any, tmp_path: Path) -> None:
    folder = family("label-words", "one", "two")
    events: list[dict[str, Any]] = []
    merged = pipeline.merge(["one", "two@1"], "both", Way(weights=(0.75, 0.25)), notify=events.append)
    assert merged.folder.resolve() == (folder / "both" / "1").resolve()
    manifest = store.read_manifest(merged.folder)
    lineage = manifest["lineage"]
    assert (lineage["how"], lineage["r"], lineage["kept"], lineage["search"]) == ("linear", 8, 1.0, None)
    assert lineage["parents"] == [
        {"name": "one", "version": 1, "sha256": sha256(folder, "one"), "weight": 0.75},
        {"name": "two", "version": 1, "sha256": sha256(folder, "two"), "weight": 0.25},
    ]
    assert [row["adapter"] for row in lineage["tasks"]] == ["one@1", "two@1"]
    assert all(0 <= row[who] <= 1 for row in lineage["tasks"] for who in ("alone", "merged"))
    assert manifest["name"] == "both"
    assert (manifest["recipe"]["adapter"]["r"], manifest["recipe"]["adapter"]["lora_alpha"]) == (8, 8)
    assert list(manifest["comparison"]["others"]) == ["base, zero-shot", "always 'bad'", "one@1"]
    card = (merged.folder / "README.md").read_text()
    assert f"| two | 1 | 0.25 | `{sha256(folder, 'two')[:16]}…` |" in card
    assert "s of training on" not in card
    session = open_session("both", folder)
    evaluation.verify(session, "both", manifest["probe"])
    assert str(tmp_path) not in (merged.folder / store.MANIFEST).read_text()
    assert events[-1]["event"] == "stored"


def test_its_update_is_that_of_its_parents_and_of_one_parent_alone_that_one(family: Any) -> None:
    folder = family("label-words", "one", "two")
    pipeline.merge(["one", "two"], "first", Way(weights=(1.0, 0.0)))
    session = open_session(["one", "two", "first"], folder)
    updates = {name: session[name].adapter.updates for name in session.names}
    layer = next(iter(updates["one"]))
    a, b, scale = updates["first"][layer]
    assert (len(a), scale) == (8, 1.0)
    own_a, own_b, own_scale = updates["one"][layer]
    torch.testing.assert_close(b @ a, own_scale * own_b @ own_a, rtol=1e-5, atol=1e-6)  # sums in another order
    one, first = (next(session.predict(["a fine film"], name)).probabilities for name in ("one", "first"))
    assert first == pytest.approx(one, rel=1e-4)


def test_heads_are_averaged_by_the_shares_of_the_weights(family: Any) -> None:
    folder = family("head", "one", "two")
    pipeline.merge(["one", "two"], "both", Way("ties", weights=(3.0, 1.0), density=0.3))
    heads = [
        next(tensor for key, tensor in load_file(folder / name / "1" / weights.WEIGHTS).items() if "score" in key)
        for name in ("one", "two", "both")
    ]
    torch.testing.assert_close(heads[2], 0.75 * heads[0] + 0.25 * heads[1])


def test_modules_that_a_pattern_leaves_alone_are_left_alone(family: Any) -> None:
    folder, left = family("label-words", "one", "two"), "model.layers.0.self_attn.q_proj"
    for name in ("one", "two"):
        own = folder / name / "1"
        save_without(own, left)
        recipe = json.loads((own / store.MANIFEST).read_text())["recipe"]
        recipe["adapter"]["rank_pattern"] = {left: 0}
        family.change(own, recipe=recipe)
    merged = pipeline.merge(["one", "two"], "both")
    keys = load_file(merged.folder / weights.WEIGHTS).keys()
    assert keys == load_file(folder / "one" / "1" / weights.WEIGHTS).keys()
    assert not any(left in key for key in keys)


def test_rows_that_cannot_be_read_are_told_and_left_out(family: Any, tmp_path: Path) -> None:
    folder = family("label-words", "one", "two")
    recipe = json.loads((folder / "two" / "1" / store.MANIFEST).read_text())["recipe"]
    recipe["data"]["source"] = "gone.jsonl"
    family.change(folder / "two" / "1", recipe=recipe)
    told: list[str] = []
    merged = pipeline.merge(
        ["one", "two"], "both", max_rows=5, notify=lambda event: told.append(event.get("message", ""))
    )
    assert any(
        "the rows of two@1 cannot be read, so nothing is judged on its task: gone.jsonl" in each for each in told
    )
    assert [(row["adapter"], row["rows"]) for row in merged.manifest["lineage"]["tasks"]] == [("one@1", 5)]
    with pytest.raises(AdapterError, match=r"there are no validation rows of two@1 to seek weights by"):
        pipeline.merge(["one", "two"], "other", Way(search=Search()))
    assert store.names(folder) == ["both", "one", "two"]


def test_weights_are_sought_on_validation_rows_or_refused(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = family("label-words", "one", "two")
    merged = pipeline.merge(["one", "two"], "both", Way("svd", search=Search(steps=3, max_drop=1.0)))
    sought = merged.manifest["lineage"]["search"]
    assert sought["tried"] == 3
    assert [row["adapter"] for row in sought["tasks"]] == ["one@1", "two@1"]
    assert [row["rows"] for row in sought["tasks"]] == [16, 16]
    session = open_session(["both"], folder)
    evaluation.verify(session, "both", merged.manifest["probe"])  # stored with the best weights, not the last

    real = evaluation.watch
    worse = lambda session, name, *rest: {"accuracy": real(session, name, *rest)["accuracy"] - (name[:5] == "third")}  # noqa: E731
    monkeypatch.setattr("pefttune.evaluation.watch", worse)
    with pytest.raises(AdapterError, match=r"of 2 weights tried none keeps every task within 0\.02 .* --max-drop"):
        pipeline.merge(["one", "two"], "third", Way(search=Search(steps=2)))
    assert store.names(folder) == ["both", "one", "two"]


FINGERPRINT = dict.fromkeys(("config", "tensors", "quantization", "tokenizer", "chat_template"), "0" * 32)


@pytest.mark.parametrize(
    ("names", "to", "told"),
    [
        (["one"], "both", "to merge, name two adapters at least"),
        (["one", "one@1"], "both", "one@1 is named twice; to give it more weight, use --weights"),
        (["one", "tow"], "both", "no adapter 'tow' in the store adapters; did you mean 'two'?"),
        (["one", "two"], "two", "the store already holds an adapter 'two': a merged one gets a name of its own"),
        (["one", "two"], "../x", "'../x' cannot name an adapter"),
        (["one", "elsewhere"], "both", "trained on different bases, .* They differ in: config .* tensors"),
        (["one", "dora"], "both", "dora@1 is a dora: only lora adapters can be merged"),
        (["one", "few"], "both", "one@1 and few@1 adapt different layers, base_model.model.model.layers"),
    ],
)
def test_adapters_that_do_not_fit_are_refused_before_a_base_is_read(
    family: Any, monkeypatch: pytest.MonkeyPatch, names: list[str], to: str, told: str
) -> None:
    folder = family("label-words", "one", "two", "elsewhere", "dora", "few")
    manifest = json.loads((folder / "one" / "1" / store.MANIFEST).read_text())
    family.change(folder / "elsewhere" / "1", base={**manifest["base"], "fingerprint": FINGERPRINT})
    family.change(folder / "dora" / "1", recipe={**manifest["recipe"], "adapter": {"method": "dora"}})
    save_without(folder / "few" / "1", "q_proj")
    family.change(folder / "few" / "1")
    monkeypatch.setattr("pefttune.bases.load", lambda *about, **more: pytest.fail("a base was read"))
    with pytest.raises(AdapterError, match=told):
        pipeline.merge(names, to)
    assert store.names(folder) == ["dora", "elsewhere", "few", "one", "two"]


def save_without(folder: Path, module: str) -> None:
    from safetensors.torch import save_file

    state = load_file(folder / weights.WEIGHTS)
    save_file({key: tensor for key, tensor in state.items() if module not in key}, folder / weights.WEIGHTS)
    config = json.loads((folder / weights.CONFIG).read_text())
    (folder / weights.CONFIG).write_text(json.dumps(config | {"exclude_modules": [module]}))


@pytest.mark.parametrize(
    ("way", "told"),
    [
        (Way("ties", r=40), "a merged adapter of rank 40 is over 16, .*k_proj or .*: take --method ties --r 16"),
        (Way(), "a merged adapter of rank 20 is over 16, .*k_proj or .*: take --method svd --r 16, or less"),
    ],
)
def test_a_rank_over_the_narrowest_layer_is_refused(family: Any, way: Way, told: str) -> None:
    family("label-words", "one", "two", "three", "four", "five")
    with pytest.raises(AdapterError, match=told):
        pipeline.merge(["one", "two", "three", "four", "five"], "both", way)


def test_heads_of_other_labels_are_refused(family: Any) -> None:
    folder = family("head", "one", "two")
    family.change(folder / "two" / "1", labels=["dull", "fine"])
    with pytest.raises(AdapterError, match=r"one@1 and two@1 differ in labels, and heads can be merged only where"):
        pipeline.merge(["one", "two"], "both")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"how": "mean"}, "--method mean is not a way of merging; take one of linear, svd, ties"),
        ({"weights": (1.0,)}, "--weights 1: there are 2 adapters, so give 2 weights"),
        ({"weights": (1.0, -1.0)}, "--weights 1,-1 sum to 0"),
        ({"weights": (0.5, float("nan"))}, "--weights 0.5,nan: each must be a number from -1000 to 1000"),
        ({"weights": (0.5, float("inf"))}, "--weights 0.5,inf: each must be a number from -1000 to 1000"),
        ({"weights": (0.5, 1e30)}, r"--weights 0.5,1e\+30: each must be a number from -1000 to 1000"),
        ({"how": "ties", "density": 0.0}, r"--density 0 is not a share of the numbers to keep: it must be in \(0, 1\]"),
        ({"how": "ties", "density": 1.5}, "--density 1.5 is not a share"),
        ({"how": "ties", "density": float("nan")}, "--density nan is not a share"),
        ({"density": 0.5}, "--density goes with ties, .*; linear prunes nothing"),
        ({"r": 4}, "--r goes with the other methods: linear keeps the ranks of all adapters; take --method svd"),
        ({"how": "svd", "r": 0}, "--r 0 is not a rank between 1 and 1024"),
        ({"how": "svd", "r": 2000}, "--r 2000 is not a rank"),
        ({"seed": -1}, "--seed -1 is not a number"),
        ({"weights": (0.5, 0.5), "search": Search()}, "--weights and --search are two ways to the weights"),
        ({"search": Search(steps=0)}, "--steps 0: a search tries"),
        ({"search": Search(max_drop=-0.1)}, "--max-drop -0.1 is not a drop"),
        ({"search": Search(max_drop=float("nan"))}, "--max-drop nan is not a drop"),
    ],
)
def test_a_way_that_is_none_is_refused_at_once(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        pipeline.merge(["one", "two"], "both", dataclasses.replace(Way(), **changes))
