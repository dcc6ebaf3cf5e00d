"""What the report works out itself: calibration, curves, confused pairs, the rows it shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pefttune.data import Row
from pefttune.evaluation.report.calibration import calibration
from pefttune.evaluation.report.chart import Scale
from pefttune.evaluation.report.confusion import confusion
from pefttune.evaluation.report.curves import MOST_POINTS, curves
from pefttune.evaluation.report.examples import KEPT_CHARACTERS, SHOWN_CHARACTERS, galleries, passage
from pefttune.evaluation.report.predictions import predictions_page
from pefttune.tasks.protocol import Piece
from pefttune.tasks.text_classification import Classified
from pefttune.tasks.text_regression import Number
from pefttune.training import TrainingLog

TEXTS = [f"text number {i}" for i in range(200)]


def test_the_calibration_error_is_that_of_the_task(findings_of: Any) -> None:
    findings = findings_of(TEXTS)
    found = calibration(findings)
    assert found.rows == sum(each.rows for each in found.bins) == 200
    # The task computes in float32.
    assert found.error == pytest.approx(findings.comparison.adapter["calibration_error"], abs=1e-6)
    assert all(each.low <= each.confidence < each.high for each in found.bins)


def test_who_is_entirely_sure_is_in_the_last_bin(findings_of: Any) -> None:
    findings = findings_of(TEXTS)
    sure = tuple(Classified(said.label, {said.label: 1.0}, False) for said in findings.adapter.predictions)
    [only] = calibration(replace(findings, adapter=replace(findings.adapter, predictions=sure))).bins
    assert (only.high, only.rows, only.confidence, only.accuracy) == (1.0, 200, 1.0, 0.9)


def test_the_histogram_stacks_right_on_wrong(findings_of: Any) -> None:
    _, histogram = calibration(findings_of(TEXTS)).charts()
    rows = sum(int(bar.title.split(": ")[1].split()[0]) for bar in histogram.bars)
    assert rows == 200
    for right, wrong in zip(histogram.bars[::2], histogram.bars[1::2], strict=True):
        assert right.y + right.height == pytest.approx(wrong.y, abs=0.02)
        assert wrong.y + wrong.height == pytest.approx(100)


def test_rows_that_are_partly_right_have_no_calibration(findings_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = findings_of(TEXTS)
    monkeypatch.setattr(type(findings.task), "primary_of", lambda self, tallies: tallies[..., 0] / 2)
    assert calibration(findings) is None


def test_confused_pairs_come_worst_first() -> None:
    found = confusion("x", [[5, 3, 0], [1, 9, 0], [0, 3, 1]], ("a", "b", "c"))
    assert [(cell.i, cell.j, cell.count) for cell in found.pairs] == [(2, 1, 3), (0, 1, 3), (1, 0, 1)]
    assert found.pairs[0].share == 0.75


def test_galleries_hold_the_rows_they_say(findings_of: Any) -> None:
    findings = findings_of(TEXTS)
    fixed, broken, sure, long = galleries(findings)
    assert (fixed.count, broken.count) == (len(findings.comparison.fixed), len(findings.comparison.broken))
    for gallery, scores in ((fixed, (0, 1)), (broken, (1, 0))):
        assert len(gallery.rows) == 10
        assert {(row.answers[0].score, row.answers[1].score) for row in gallery.rows} == {scores}
    confidences = [row.answers[1].confidence for row in sure.rows]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] == max(p.confidence for i, p in enumerate(findings.adapter.predictions) if i % 10 == 0)
    assert sure.count == long.count == 20
    assert [row.answers[1].text.characters for row in long.rows] == [15] * 10  # the texts 100 to 199


def test_a_passage_is_cut_within_its_pieces() -> None:
    found = passage([Piece("a" * 300, "A"), Piece("b" * 300), Piece("c" * 30_000, "C")])
    assert [(len(piece.text), piece.tag) for piece in found.short] == [(300, "A"), (SHOWN_CHARACTERS - 300, None)]
    assert sum(len(piece.text) for piece in found.whole) == KEPT_CHARACTERS
    assert (found.characters, found.cut, found.clipped) == (30_600, True, True)
    assert not passage([Piece("a" * SHOWN_CHARACTERS)]).cut


def test_a_mark_far_on_is_seen_with_what_stands_before_it() -> None:
    before, after = "b" * 1000 + "c" * 150, "d" * 500
    answered = passage([Piece("who? "), Piece(before), Piece("Ada", "answer"), Piece(after)])
    shown = [("who? ", None), ("… ", None), ("c" * 150, None), ("Ada", "answer"), ("d" * 247, None)]
    assert [(piece.text, piece.tag) for piece in answered.short] == shown
    assert "".join(piece.text for piece in answered.whole) == f"who? {before}Ada{after}"
    found = passage([Piece(before), Piece("Ada", "PER")])
    assert [piece.text for piece in found.short] == ["… ", "c" * 150, "Ada"]
    near = passage([Piece("b" * 390), Piece("Ada", "PER"), Piece(after)])
    assert near.short[0].text == "b" * 390


def test_a_long_curve_is_thinned_and_keeps_its_ends(findings_of: Any) -> None:
    loss, watched, rate = curves(findings_of(TEXTS, steps=5000).log, "accuracy")
    for line in (*loss.lines, *rate.lines):
        assert line.points.count(",") == MOST_POINTS
    assert rate.lines[0].points.endswith(f"100,{100 - Scale(0, 1e-3)(1e-3 / 5000):g}")
    assert loss.bars[0].title.startswith("step 1 to 25: loss 0.15")
    assert [dot.look for dot in watched.dots].count("best") == 1


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_a_run_of_one_step_and_a_metric_that_stands_still_can_be_drawn(value: float) -> None:
    record = {"step": 1, "loss": 0.0, "learning_rate": 0.0}
    log = TrainingLog([record], [{"step": 1, "watched": "m", "m": value}] * 2, best_step=1)
    for chart in curves(log, "m"):
        shapes = [float(part) for line in chart.lines for pair in line.points.split() for part in pair.split(",")]
        assert all(0 <= number <= 100 for number in shapes)
        assert all(0 <= tick.at <= 100 for tick in (*chart.x_ticks, *chart.y_ticks))


def test_ticks_are_round() -> None:
    assert [(tick.at, tick.label) for tick in Scale(0, 0.5).ticks()] == [
        (0, "0"),
        (20, "0.1"),
        (40, "0.2"),
        (60, "0.3"),
        (80, "0.4"),
        (100, "0.5"),
    ]


def test_a_prediction_without_a_confidence_shows_none() -> None:
    row = Row({"text": "a fine day"}, "rows.csv:2")
    page = "".join(predictions_page("rating", [(row, Number(4.5, False)), (row, Number(2.0, True))]))
    assert page.count("rows.csv:2") == 2
    assert "confidence" not in page.partition("<main")[2]
