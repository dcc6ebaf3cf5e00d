"""Two stored adapters side by side: what differs is told, what cannot be compared is refused in a sentence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pefttune import data, pipeline, store, tasks
from pefttune.errors import AdapterError, DataError
from pefttune.inference import open_session
from pefttune.recipe import recipe_from_mapping


def stored(folder: Path) -> Any:
    return json.loads((folder / store.MANIFEST).read_text())


def test_layers_that_changed(family: Any) -> None:
    folder = family("label-words", "one", "two")
    found = pipeline.diff(("one", "two@1"), folder, max_rows=0)
    assert (found.first, found.second) == ("one@1", "two@1")
    states = [load_file(folder / name / "1" / "adapter_model.safetensors") for name in ("one", "two")]
    assert len(found.changes) == 14
    for name, change in found.changes.items():
        key = f"base_model.model.{name}"
        one, two = (2.0 * s[f"{key}.lora_B.weight"].double() @ s[f"{key}.lora_A.weight"].double() for s in states)
        assert change.difference == pytest.approx(float((two - one).norm()), rel=1e-10)
        assert change.cosine == pytest.approx(float((one * two).sum() / (one.norm() * two.norm())), rel=1e-8)
    assert list(found.layers) == ["model.layers.0", "model.layers.1"]
    own = [change for name, change in found.changes.items() if name.startswith("model.layers.1.")]
    whole = torch.tensor([change.difference for change in own], dtype=torch.float64).norm()
    assert found.layers["model.layers.1"].difference == pytest.approx(float(whole))
    assert (found.rows, found.settings) == (None, {})
    assert found.refused == ("Their answers are not compared: no rows were asked for.",)


@pytest.fixture
def opposed(family: Any) -> Path:
    """A store with `one`, and `two`, the same with its head turned round, so that it always answers the other label."""
    folder: Path = family("head", "one", "two")
    weights = folder / "two" / "1" / "adapter_model.safetensors"
    state = load_file(folder / "one" / "1" / "adapter_model.safetensors")
    save_file({key: -each if "score" in key else each for key, each in state.items()}, weights)
    family.change(folder / "two" / "1")
    return folder


def test_rows_that_are_answered_differently(opposed: Path) -> None:
    folder = opposed
    found = pipeline.diff(("one", "two"), folder)
    assert found.refused == ()
    manifest = stored(folder / "one" / "1")
    assert found.rows.rows == manifest["comparison"]["rows"]
    called = manifest["comparison"]["shown"]["accuracy"]
    assert found.rows.metrics[called][0] == manifest["comparison"]["adapter"]["accuracy"]
    before, after = found.rows.metrics[called]
    assert found.rows.difference.difference == pytest.approx(after - before)
    assert len(found.rows.changed) == found.rows.rows
    assert {change.difference for name, change in found.changes.items() if name != "score.weight"} == {0.0}
    assert found.changes["score.weight"].cosine == pytest.approx(-1.0)
    assert list(found.layers)[-1] == "score.weight"
    session = open_session(["one", "two"], folder)
    for row in found.rows.changed:
        one, two = next(session.parallel([row.text], ["one", "two"])).values()
        assert (row.first, row.second) == (one.label, two.label)
        assert row.reference in ("good", "bad")
        assert row.first != row.second


def test_unlabelled_rows_are_compared_without_metrics(opposed: Path, tmp_path: Path) -> None:
    texts = [f"{word} film number {number}" for number, word in enumerate(["fine", "poor", "warm", "cold"] * 8)]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = pipeline.diff(("one", "two"), opposed, "plain.jsonl", max_rows=30)
    assert (found.rows.rows, found.rows.metrics, found.rows.difference) == (30, None, None)
    session = open_session(["one", "two"], opposed)
    answers = list(session.parallel(texts[:30], ["one", "two"]))
    differing = [text for text, each in zip(texts, answers, strict=False) if each["one"].label != each["two"].label]
    assert [row.text for row in found.rows.changed] == differing
    assert differing
    assert found.rows.changed[0].reference is None


def test_labelled_rows_of_a_file(family: Any) -> None:
    found = pipeline.diff(("one", "two"), family("label-words", "one", "two"), "reviews.jsonl", max_rows=20)
    assert found.rows.rows == 20
    assert found.rows.metrics


def test_a_column_that_is_missing_is_told(family: Any, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"review": "fine"}\n')
    with pytest.raises(DataError, match=r"other.jsonl:1 has no column `text`"):
        pipeline.diff(("one", "two"), family("label-words", "one", "two"), "other.jsonl")


def test_settings_and_metrics(family: Any) -> None:
    folder = family("label-words", "one", "two")
    manifest = stored(folder / "two" / "1")
    manifest["recipe"]["training"]["learning_rate"] = 0.5
    manifest["comparison"]["adapter"]["accuracy"] = 0.125
    family.change(folder / "two" / "1", recipe=manifest["recipe"], comparison=manifest["comparison"])
    found = pipeline.diff(("one", "two"), folder, max_rows=0)
    assert found.settings == {"training.learning_rate": (0.01, 0.5)}
    own = stored(folder / "one" / "1")["comparison"]
    assert found.metrics[own["shown"]["accuracy"]] == (own["adapter"]["accuracy"], 0.125)


def test_layers_that_only_one_has(family: Any) -> None:
    folder = family("label-words", "one", "two")
    left = "model.layers.0.self_attn.q_proj"
    weights = folder / "two" / "1" / "adapter_model.safetensors"
    save_file({key: each for key, each in load_file(weights).items() if left not in key}, weights)
    family.change(folder / "two" / "1")
    change = pipeline.diff(("one", "two"), folder, max_rows=0).changes[left]
    assert (change.second, change.difference, change.cosine) == (0.0, change.first, None)


def test_another_base(family: Any) -> None:
    folder = family("label-words", "one", "two", "three")
    for name, field in (("two", "tensors"), ("three", "chat_template")):
        base = stored(folder / name / "1")["base"]
        base["fingerprint"][field] = "other"
        family.change(folder / name / "1", base=base)
    found = pipeline.diff(("one", "two"), folder)
    assert (found.changes, found.rows) == (None, None)
    assert found.layers == {}
    assert found.refused == (
        "Their updates are not compared: they belong to the weights of different bases, which differ in tensors.",
        "Their answers are not compared: they were trained on different bases, which differ in tensors, and a session "
        "has one.",
    )
    assert found.settings["base.fingerprint.tensors"][1] == "other"
    found = pipeline.diff(("one", "three"), folder)
    assert found.changes, "updates of the same weights can be compared, whatever reads the texts"
    assert len(found.refused) == 1
    assert "differ in chat template" in found.refused[0]


def test_other_labels_or_another_task(family: Any) -> None:
    folder = family("label-words", "one", "two", "three")
    family.change(folder / "two" / "1", labels=["no", "yes"])
    found = pipeline.diff(("one", "two"), folder)
    assert found.refused == ("Their answers are not compared: their labels differ (bad, good | no, yes).",)
    recipe = stored(folder / "three" / "1")["recipe"]
    recipe["task"] = {"type": "summarization"}
    family.change(folder / "three" / "1", recipe=recipe)
    found = pipeline.diff(("one", "three"), folder)
    assert "one@1 does text-classification and three@1 summarization" in found.refused[0]
    assert found.changes


def test_heads_of_other_labels_are_not_compared(opposed: Path, family: Any) -> None:
    family.change(opposed / "two" / "1", labels=["no", "yes"])
    found = pipeline.diff(("one", "two"), opposed)
    assert "score.weight" not in found.changes
    assert len(found.changes) == 14


def test_another_method(family: Any) -> None:
    folder = family("head", "one", "two")
    recipe = stored(folder / "two" / "1")["recipe"]
    recipe["adapter"] = {"method": "ia3"}
    family.change(folder / "two" / "1", recipe=recipe)
    found = pipeline.diff(("one", "two"), folder, max_rows=0)
    assert found.refused[0].startswith("Their updates are not compared: two@1 is a ia3, and only what a lora adds")


def test_rows_that_are_elsewhere(family: Any, tmp_path: Path) -> None:
    folder = family("label-words", "one", "two")
    (tmp_path / "reviews.jsonl").unlink()
    found = pipeline.diff(("one", "two"), folder)
    assert "reviews.jsonl does not exist" in found.refused[0]
    assert found.refused[0].endswith("Labelled rows can be given with --data FILE.")
    with pytest.raises(DataError, match=r"nowhere.jsonl does not exist"):
        pipeline.diff(("one", "two"), folder, "nowhere.jsonl")


def test_the_same_version(family: Any) -> None:
    folder = family("label-words", "one")
    with pytest.raises(AdapterError, match=r"one and one@1 are the same version, one@1: name two"):
        pipeline.diff(("one", "one@1"), folder)


def test_rows_that_one_was_trained_on_are_told(family: Any) -> None:
    """Another division of the same rows: what the first was tested on, the second has learned."""
    folder = family("label-words", "one", "two")
    assert pipeline.diff(("one", "two"), folder, max_rows=4).rows.notes == ()
    manifest = stored(folder / "two" / "1")
    manifest["recipe"]["data"]["split"] = {"validation": 0.1, "test": 0.1}
    family.change(folder / "two" / "1", recipe=manifest["recipe"])
    [note] = pipeline.diff(("one", "two"), folder).rows.notes
    assert note == "whether two@1 was trained on these rows is not known: its training rows have changed since"
    recipe = recipe_from_mapping(manifest["recipe"], "test")
    task = tasks.get(recipe.task).with_labels(manifest["labels"])
    own = data.load(recipe.data, task.columns, task.inputs, task.check)
    family.change(folder / "two" / "1", data=manifest["data"] | {"fingerprints": own.report.fingerprints})
    found = pipeline.diff(("one", "two"), folder)
    asked = [row["text"] for row in stored(folder / "one" / "1")["probe"]["rows"]]
    train, chosen_by = (sum(row.values["text"] in asked for row in part) for part in (own.train, own.validation))
    assert train
    assert found.rows.notes == (
        f"two@1 was trained on {train} of these {found.rows.rows} rows, and its best weights were chosen by "
        f"{chosen_by}: its answers to those say little of others",
    )


def test_rows_that_may_have_been_trained_on(family: Any, tmp_path: Path) -> None:
    folder = family("label-words", "one", "two")
    lineage = {"how": "import", "sha256": "0" * 64, "base": None, "peft_version": None}
    family.change(folder / "two" / "1", lineage=lineage)
    first, second = pipeline.diff(("one", "two"), folder, "reviews.jsonl").rows.notes
    assert re.fullmatch(
        r"one@1 was trained on \d+ of these 60 rows, and its best weights were chosen by \d+: .*", first
    )
    assert second.endswith("is not known: it was taken in from a folder, and its recipe is that of the import")
    shutil.move(tmp_path / "reviews.jsonl", tmp_path / "rows.jsonl")
    first, _ = pipeline.diff(("one", "two"), folder, "rows.jsonl").rows.notes
    assert first.startswith("whether one@1 was trained on these rows is not known: ")
    assert "reviews.jsonl does not exist" in first
