"""Probes and their control: what can be learned is found, what cannot is not, and no row is judged by itself."""

from __future__ import annotations

import numpy as np
import pytest

from pefttune import tasks
from pefttune.data import UNKNOWN, Example, Row
from pefttune.evaluation.transfer import Sample, Training, judge
from pefttune.evaluation.transfer.control import control
from pefttune.evaluation.transfer.probes import cross_predicted, linear, nearest, predicted
from pefttune.inference import View
from pefttune.recipe import tasks as sections
from pefttune.tasks.words import Window

TASK = tasks.get(sections.TextClassification(type="text-classification", labels=("a", "b")))
TAGS = tasks.get(sections.TokenClassification(type="token-classification", labels=("PER",)))


def texts(classes: np.ndarray) -> Sample:
    rows = tuple(Row({"text": "x", "label": "ab"[one]}, f"row {i}") for i, one in enumerate(classes))
    encoded = tuple(
        (Example((1,), ((2,), (3,)), int(one), row.origin),) for one, row in zip(classes, rows, strict=True)
    )
    return Sample(TASK, rows, encoded)


def sentences(tags: list[list[str]]) -> Sample:
    classes = {"O": 0, "B-PER": 1, "I-PER": 2}
    rows = tuple(Row({"tokens": ["w"] * len(each), "tags": each}, f"row {i}") for i, each in enumerate(tags))
    encoded = tuple(
        (
            Window(
                (1,) * len(each),
                (),
                None,
                "row",
                marks=tuple((i, classes[tag]) for i, tag in enumerate(each)),
                words=tuple(range(len(each))),
            ),
        )
        for each in tags
    )
    return Sample(TAGS, rows, encoded)


def test_units_of_texts_and_their_metric() -> None:
    sample = texts(np.array([0, 1, 1, 0]))
    assert sample.targets_U.tolist() == [0, 1, 1, 0]
    assert sample.rows_U.tolist() == [0, 1, 2, 3]
    chances = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]]))
    assert sample.metric(chances) == 0.75
    assert sample.tallies(chances)[:, 0].tolist() == [1, 0, 1, 1]


def test_units_of_words_and_their_metric() -> None:
    sample = sentences([["B-PER", "I-PER", "O"], ["B-PER"]])
    assert sample.rows_U.tolist() == [0, 0, 0, 1]
    assert sample.classes == 3
    right = np.log(np.eye(3)[[1, 2, 0, 1]] + 1e-9)
    assert sample.metric(right) == 1
    half = np.log(np.eye(3)[[1, 2, 0, 0]] + 1e-9)
    assert sample.metric(half) == pytest.approx(2 / 3)  # of two entities one is found, none made up


@pytest.mark.parametrize("model", [linear, nearest])
def test_what_can_be_learned_is_found(model: object) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 100)
    features = rng.normal(size=(100, 5)) + 4 * classes[:, None]
    chances = cross_predicted(model, texts(classes), features)  # type: ignore[arg-type]
    assert texts(classes).metric(chances) > 0.9
    np.testing.assert_allclose(np.exp(chances).sum(1), 1, atol=1e-6)


def test_no_row_is_judged_by_itself() -> None:
    """Features that name the row teach nothing of other rows; words of one row are all of one class here, so that a
    fold made of words would know each held-out one."""
    rng = np.random.default_rng(0)
    sample = sentences([["B-PER"] * 4 if rng.integers(2) else ["O"] * 4 for _ in range(60)])
    features = np.repeat(rng.normal(size=(60, 30)), 4, axis=0)
    said = cross_predicted(nearest, sample, features).argmax(1)
    assert abs((said == sample.targets_U).mean() - 0.5) < 0.2
    assert abs((said == sample.targets_U)[sample.targets_U == 1].mean() - 0.5) < 0.25


def test_a_share_learns_from_as_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counting:
        classes_ = np.array([0, 1])

        def fit(self, features: np.ndarray, targets: np.ndarray) -> None:
            seen.append(len(features))

        def predict_proba(self, features: np.ndarray) -> np.ndarray:
            return np.full((len(features), 2), 0.5)

    sample = texts(np.arange(200) % 3 % 2)
    for part in range(4):
        cross_predicted(Counting, sample, np.zeros((200, 2)), 0.25, part)
    assert set(seen) == {40}  # a quarter of 200, less a fifth


def test_a_probe_that_met_one_class_says_that_one() -> None:
    said = predicted(linear, np.zeros((9, 2)), np.ones(9, int), np.zeros((3, 2)), 3)
    assert said.argmax(1).tolist() == [1, 1, 1]


def test_unknown_targets_are_not_learned() -> None:
    sample = texts(np.arange(40) % 2)
    unknown = Sample(sample.task, sample.rows, ((Example((1,), ((2,),), None, "row"),), *sample.encoded[1:]))
    assert unknown.targets_U[0] == UNKNOWN
    assert cross_predicted(linear, unknown, np.random.default_rng(0).normal(size=(40, 3))).shape == (40, 2)


def test_shuffled_labels_do_not_transfer_and_real_ones_do() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 80)
    features = rng.normal(size=(80, 6)) + 1.5 * classes[:, None]
    assert control(texts(classes), features, 0).transfers
    shuffled = [control(texts(rng.permutation(classes)), features, seed).transfers for seed in range(20)]
    assert sum(shuffled) <= 1  # one of 220 is expected; 2 or more of 20 have a chance of 0.4 %


def test_a_rare_class_is_not_found_where_there_is_nothing() -> None:
    """Never to say it would make all shuffles alike, and a single row that is found a wonder."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.arange(200) % 8 == 0).astype(int)
    nothing = rng.normal(size=(200, 8))
    found = [control(texts(rng.permutation(classes)), nothing, seed) for seed in range(20)]
    assert sum(one.transfers for one in found) <= 1
    assert min(one.deviation for one in found) > 0.02
    assert control(texts(classes), nothing + 2 * classes[:, None], 0).transfers


def test_the_view_that_tells_most_is_first() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 120)
    noise = rng.normal(size=(120, 6))
    views = {
        View(1, "head"): noise,
        View(2, "head"): noise + classes[:, None],
        View(2, "mean"): noise + 3 * classes[:, None],
    }
    done: list[int] = []
    judged = judge(texts(classes), views, Training(1000, tuned=True), 0.95, 0, done.append)
    assert [view.view for view in judged.views] == ["layer 2, mean", "layer 2, head", "layer 1, head"]
    assert [view.logme for view in judged.views] == sorted((view.logme for view in judged.views), reverse=True)
    assert done == [1, 2, 3]
    head = judge(texts(classes), views, Training(1000, tuned=False), 0.95, 0)
    assert head.forecast.probe == judged.views[1].linear  # a head alone reads the last layer where heads do
