"""The page itself: findings into templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pefttune.evaluation.report import wording
from pefttune.evaluation.report.calibration import calibration
from pefttune.evaluation.report.chart import Scale
from pefttune.evaluation.report.confusion import Confusion, confusion
from pefttune.evaluation.report.curves import curves
from pefttune.evaluation.report.examples import galleries
from pefttune.evaluation.report.findings import Findings
from pefttune.evaluation.report.spending import spending
from pefttune.evaluation.report.verdict import verdict
from pefttune.recipe.document import dump

TEMPLATE = "report.html.jinja"
HARDEST = 12  # classes that are shown at once, where there are more
TAG_COLOURS = 8


def render_report(findings: Findings) -> str:
    """One HTML page that needs nothing else: no network, no script, no font, and no path of the machine in it."""
    comparison, manifest, task = findings.comparison, findings.manifest, findings.task
    intervals, shown = findings.intervals(), galleries(findings)
    tags = sorted({tag for gallery in shown for tag in gallery.tags})
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            comparison=comparison,
            manifest=manifest,
            log=findings.log,
            level=wording.level(comparison.confidence_level),
            metric=comparison.shown[comparison.primary],
            intervals=intervals,
            verdict=verdict(comparison, intervals),
            reach=_reach([bound for each in comparison.differences for bound in (each.low, each.high)]),
            curves=curves(findings.log, comparison.shown.get(task.watched, task.watched.replace("_", " "))),
            evaluated={key: name for key, name in comparison.shown.items() if key in findings.log.evaluations[0]},
            classes=_classes(comparison.adapter),
            classes_before=next(iter(comparison.others.values())).get("per_class", {}) if findings.others[1:] else {},
            hardest=HARDEST,
            confusions=_confusions(findings),
            calibration=calibration(findings),
            galleries=shown,
            tag_colour={tag: i % TAG_COLOURS for i, tag in enumerate(tags)},
            truncated=sum(prediction.truncated for prediction in findings.adapter.predictions),
            spending=spending(findings),
            recipe=dump(manifest["recipe"]),
            version=manifest["versions"]["pefttune"],
        )
    )


@cache
def environment() -> Environment:
    """The templates, and how numbers are said in them."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=wording.showable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (wording.percent, wording.points, wording.amount, wording.size, wording.duration)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals["bounds"] = wording.bounds
    return environment


def _reach(bounds: Sequence[float]) -> Scale:
    """A scale that holds the bounds and zero, with some air."""
    low, high = min(0.0, *bounds), max(0.0, *bounds)
    air = max(0.06 * (high - low), 0.001)
    return Scale(low - air, high + air)


def _classes(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    """The metrics of each class, the hardest first where there are many."""
    classes = list(metrics.get("per_class", {}).items())
    return classes if len(classes) <= HARDEST else sorted(classes, key=lambda each: each[1].get("f1", 0.0))


def _confusions(findings: Findings) -> list[Confusion]:
    """The adapter's, and before it that of the base where it was asked; the baseline's says nothing."""
    comparison = findings.comparison
    named = {**dict(list(comparison.others.items())[:-1][:1]), findings.adapter.name: comparison.adapter}
    return [
        confusion(name, metrics["confusion"], findings.task.labels)
        for name, metrics in named.items()
        if "confusion" in metrics
    ]
