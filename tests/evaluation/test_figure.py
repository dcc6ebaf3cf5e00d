"""The figure is a picture, whatever the labels are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from pefttune.evaluation import Comparison, Difference, draw

STEPS = [{"step": step, "loss": 3.0 / step} for step in range(1, 21)]
EVALUATIONS = [{"step": step, "watched": "accuracy", "accuracy": step / 25} for step in (5, 10, 15, 20)]


def comparison(classes: int) -> Comparison:
    confusion = [[9 if i == j else 1 for j in range(classes)] for i in range(classes)]
    return compared({"accuracy": 0.6, "confusion": confusion}, "base, zero-shot", "always 'a'")


def compared(metrics: dict[str, Any], *others: str) -> Comparison:
    """A comparison with others, all as good."""
    shown = {"accuracy": "accuracy"} if "accuracy" in metrics else {key: key for key in metrics}
    differences = tuple(Difference(name, 0.5, 0.1, 0.0, 0.2, 0.5, 2, 1) for name in others)
    return Comparison(20, 0.95, next(iter(shown)), shown, metrics, dict.fromkeys(others, metrics), differences, (), ())


def drawn(path: Path, labels: list[str], steps: Any = STEPS, evaluations: Any = EVALUATIONS) -> np.ndarray:
    draw(path, "film-sentiment", steps, evaluations, comparison(len(labels)), labels)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_the_figure_is_a_png_with_something_on_it(tmp_path: Path) -> None:
    pixels = drawn(tmp_path / "figure.png", ["negative", "positive"])
    assert pixels.shape == (440, 1320, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize(
    "labels",
    [
        ["$\\frac{", "$x_$"],  # read as a formula, this would stop the run
        ["a" * 60, "b"],
        ["zażółć", "jaźń", "ü"],
        [str(i) for i in range(12)],
        [str(i) for i in range(40)],
    ],
)
def test_any_label_can_be_drawn(tmp_path: Path, labels: list[str]) -> None:
    drawn(tmp_path / "figure.png", labels)


def test_an_adapter_that_is_compared_with_a_baseline_alone_can_be_drawn(tmp_path: Path) -> None:
    only = compared({"accuracy": 0.6, "confusion": [[9, 1], [1, 9]]}, "always 'a'")
    draw(tmp_path / "figure.png", "topics", STEPS, EVALUATIONS, only, ["a", "b"])
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_task_without_confusions_has_its_metrics_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []
    barh = Axes.barh
    monkeypatch.setattr(Axes, "barh", lambda self, *a, **k: bars.append((k["label"], a[1])) or barh(self, *a, **k))
    evaluations = [{"step": 20, "watched": "negative_loss", "negative_loss": -2.5}]
    comparison = compared({"rouge1": 0.4, "rougeL": 0.3}, "base, zero-shot", "the first sentence")
    draw(tmp_path / "figure.png", "summaries", STEPS, evaluations, comparison, [])
    assert bars == [(name, [0.4, 0.3]) for name in ("base, zero-shot", "the first sentence", "with adapter")]


def test_a_run_of_one_step_can_be_drawn(tmp_path: Path) -> None:
    drawn(tmp_path / "figure.png", ["a", "b"], STEPS[:1], EVALUATIONS[:1])


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        drawn(tmp_path / name, ["a", "b"])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert b"Software" not in (tmp_path / "one.png").read_bytes()
