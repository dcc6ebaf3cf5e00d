"""Several labels for a text, and a number for one: data, loss, metrics, and the whole line on a tiny model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, r2_score

from pefttune import doctor, pipeline, tasks
from pefttune.data import Row
from pefttune.data.faults import RowFault
from pefttune.errors import DataError, RecipeError
from pefttune.inference import Session
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Lora
from pefttune.tasks.multi_label import Labelled
from pefttune.tasks.text_regression import Number

COLOURS = ("blue", "green", "red")


def task_of(problem_type: str, **keys: Any) -> tasks.Task:
    return tasks.get(
        sections.TextClassification(type="text-classification", approach="head", problem_type=problem_type, **keys)
    )


@pytest.fixture
def many() -> tasks.Task:
    return task_of("multi_label_classification", labels=COLOURS)


@pytest.fixture
def number() -> tasks.Task:
    return task_of("regression")


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("red, blue", ["blue", "red"]),
        (["red", "red"], ["red"]),
        ("", []),
        ([], []),
        ('["red", "blue"]', ["blue", "red"]),  # as a list is written in CSV
        ("[]", []),
    ],
)
def test_labels_come_as_a_list_or_joined_by_commas(many: tasks.Task, value: Any, labels: list[str]) -> None:
    assert many.check({"text": " x ", "label": value}) == {"text": "x", "label": labels}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("red,pink", "'pink' is not one of blue, green, red"),
        (3, "is int, not a list of labels or words"),
        (None, "is NoneType, not a list"),
        ([None], "is empty"),
        ([["red"]], r"must be text or a number, not \['red'\]"),
        ([{"red": 1}], r"must be text or a number, not \{'red': 1\}"),
        ("['red', 'blue']", "is no list in JSON"),
        ([1, 0, 1], r"is \[1, 0, 1\], a flag for each label: name those that the row has"),
        ([0.0, 0.0], "a flag for each label"),
        ([True, False, False], "a flag for each label"),
        ("0,0,1", "a flag for each label"),
    ],
)
def test_wrong_labels_are_told(many: tasks.Task, value: Any, message: str) -> None:
    with pytest.raises(RowFault, match=message):
        many.check({"text": "x", "label": value})


@pytest.mark.parametrize("value", ["much", None, True, float("nan"), "inf", 10**400, -100])
def test_what_is_no_number_is_told(number: tasks.Task, value: Any) -> None:
    with pytest.raises(RowFault, match=r"not a number|not known"):
        number.check({"text": "x", "label": value})


def test_labels_may_be_numbers_and_are_counted() -> None:
    task = task_of("multi_label_classification")
    rows = [Row(task.check({"text": "x", "label": label}), "") for label in ([0], [0, 1], [3, 1.0])]
    assert task.check({"text": "x", "label": "[red],[blue]"})["label"] == ["[blue]", "[red]"]
    assert doctor.classes.count_kinds(task, rows) == {"0": 2, "1": 2, "3": 1}


@pytest.mark.parametrize("value", [1e300, "-1e19", 2 * 10**18])
def test_numbers_whose_squares_overflow_are_told(number: tasks.Task, value: Any) -> None:
    with pytest.raises(RowFault, match="the squared error has no place in float32; scale the labels"):
        number.check({"text": "x", "label": value})


def test_numbers_may_be_text(number: tasks.Task) -> None:
    assert number.check({"text": "x", "label": "-3.5"})["label"] == -3.5


def test_nothing_to_learn_is_told(many: tasks.Task, number: tasks.Task) -> None:
    with pytest.raises(DataError, match="no training row has a label"):
        many.with_labels_of([Row({"text": "x", "label": []}, "1")], [])
    with pytest.raises(DataError, match=r"column `label` what no training row has.*\n  'red' in f:2\n"):
        many.with_labels_of([Row({"label": ["blue"]}, "f:1")], [Row({"label": ["red"]}, "f:2")])
    with pytest.raises(DataError, match="there is only the label 'blue'"):
        task_of("multi_label_classification").with_labels_of([Row({"label": ["blue"]}, "f:1")], [])
    free = task_of("multi_label_classification")
    flags = [Row(free.check({"text": "x", "label": label}), "f:1") for label in ([1, 0], [0, 1])]
    with pytest.raises(DataError, match=r"every training row has all labels \(0, 1\): .*write their names instead of"):
        free.with_labels_of(flags, [])
    with pytest.raises(DataError, match="every training row has the label 2: there is nothing to learn"):
        number.with_labels_of([Row({"label": 2.0}, "1")] * 3, [])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"approach": "label-words", "problem_type": "regression"}, "regression needs `approach: head`"),
        ({"approach": "head", "problem_type": "regression", "labels": ["a", "b"]}, "has no labels: leave them out"),
    ],
)
def test_keys_that_do_not_fit_together_are_told(recipe_of: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_of({f"task.{key}": value for key, value in keys.items()})


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_loss_is_that_of_transformers(base_of: Any, many: tasks.Task, number: tasks.Task, problem_type: str) -> None:
    session = Session(base_of())
    task, right = (many, [["red"], [], ["blue", "green"]]) if "label" in problem_type else (number, [0.5, -2.0, 7.25])
    loaded = session.add("a", session.attach(task, Lora(method="lora", r=2), 64))
    rows = [Row({"text": f"text {i}", "label": label}, "") for i, label in enumerate(right)]
    examples = [example for row in rows for example in loaded.encoder(row)]
    batch = session.collator.collate(examples, every_answer=False)
    ours = session.loss("a", batch) / batch.n_scored
    with torch.no_grad():
        ids = [torch.tensor([example.prompt]) for example in examples]
        logits = loaded.head(torch.stack([session.base.model.base_model(i).last_hidden_state[0, -1] for i in ids]))
    if task is many:
        targets = torch.tensor([[float(label in own) for label in COLOURS] for own in right])
        theirs = torch.nn.BCEWithLogitsLoss()(logits, targets)
    else:
        theirs = torch.nn.MSELoss()(logits[:, 0], torch.tensor(right))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # float32, sums in another order


def test_metrics_of_labels_are_those_of_scikit_learn(many: tasks.Task) -> None:
    rng = random.Random(0)
    found, right = ([[label for label in COLOURS if rng.random() < 0.4] for _ in range(50)] for _ in range(2))
    predictions = [Labelled(tuple(own), dict.fromkeys(COLOURS, 0.5), False) for own in found]
    metrics = many.metrics(predictions, [Row({"text": "x", "label": own}, "") for own in right])
    tables = [[[int(label in own) for label in COLOURS] for own in side] for side in (right, found)]
    assert metrics["micro_f1"] == pytest.approx(f1_score(*tables, average="micro"))
    assert metrics["macro_f1"] == pytest.approx(f1_score(*tables, average="macro"))


def test_r_squared_is_that_of_scikit_learn(number: tasks.Task) -> None:
    rng = np.random.default_rng(0)
    right = rng.normal(3, 2, 50)
    guesses = [Number(float(value), False) for value in right + rng.normal(0, 1, 50)]
    metrics = number.metrics(guesses, [Row({"label": value}, "") for value in right])
    assert metrics["r2"] == pytest.approx(r2_score(right, [guess.value for guess in guesses]))


@pytest.mark.parametrize(("offset", "scale"), [(1e8, 1), (-1e12, 1), (0, 1e-6)])
def test_r2_is_as_sure_of_large_and_of_small_numbers(number: tasks.Task, offset: float, scale: float) -> None:
    right = [offset + scale * value for value in (1, 2, 3, 4, 6)]
    rows = [Row({"text": "x", "label": value}, "") for value in right]
    guesses = [Number(value + scale * error, False) for value, error in zip(right, (0.5, -1, 0, 1, 0), strict=True)]
    centred = [guess.value - offset for guess in guesses]
    # The float nearest to a number may be half a unit of its last place off: 1e-4 at 1e12.
    expected = pytest.approx(r2_score([value - offset for value in right], centred), abs=1e-3)
    assert number.metrics(guesses, rows)["r2"] == expected
    assert number.primary_of(number.tallies(guesses, rows).sum(0)) == expected


@pytest.mark.parametrize(
    ("problem_type", "primary"), [("multi_label_classification", "micro_f1"), ("regression", "r2")]
)
def test_the_whole_line_learns_saves_and_reads_back(
    recipe_of: Any, tmp_path: Path, problem_type: str, primary: str
) -> None:
    rng = random.Random(1)
    with (tmp_path / "colours.jsonl").open("w") as file:
        for count in range(120):
            own = [label for label in COLOURS if rng.random() < 0.5]
            label = 2.0 * ("red" in own) - 1 if problem_type == "regression" else own
            file.write(json.dumps({"text": f"{' '.join(own)} thing {count}", "label": label}) + "\n")
    changes = {
        "task.approach": "head",
        "task.problem_type": problem_type,
        "data.source": str(tmp_path / "colours.jsonl"),
        "training.num_train_epochs": 6,
        "training.learning_rate": 3e-2,
    }
    comparison = pipeline.run(recipe_of(changes)).comparison
    assert comparison.primary == primary
    (baseline,) = comparison.others.values()  # a head cannot be asked zero-shot
    assert comparison.adapter[primary] > baseline[primary]
    assert pipeline.evaluate("tiny", tmp_path / "adapters").adapter == comparison.adapter
