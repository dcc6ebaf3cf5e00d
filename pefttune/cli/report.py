"""Tables that several commands print."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from pefttune.cli.output import out, percent, points

CHANGED_ROWS_SHOWN = 3
TEXT_WIDTH = 90


def print_comparison(comparison: dict[str, Any], rows: str = "held-out rows") -> None:
    """Base and adapter side by side, and how sure the difference is."""
    table = Table(title=f"on {comparison['rows']:,} {rows}")
    for heading in ("", "accuracy", "macro-F1", "calibration error"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in ("base", "adapter"):
        metrics = comparison[name]
        label = "base, zero-shot" if name == "base" else "with adapter"
        table.add_row(label, *(percent(metrics[key]) for key in ("accuracy", "macro_f1", "calibration_error")))
    majority = comparison["against_majority"]
    table.add_row(majority["against"], percent(majority["accuracy_there"]), "", "")
    out.print(table)
    level = percent(comparison["confidence_level"])
    for difference in (comparison["against_base"], majority):
        verdict = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "not clearly different"
        out.print(
            f"against {difference['against']}: {points(difference['difference'])} points "
            f"({level} interval {points(difference['low'])} to {points(difference['high'])}, "
            f"McNemar p {difference['mcnemar_p']:.2g}): {verdict}; "
            f"{difference['fixed']} rows fixed, {difference['broken']} broken",
            soft_wrap=True,
        )


def print_changed(fixed: Any, broken: Any) -> None:
    """A few of the rows on which base and adapter disagree."""
    for title, rows in (("fixed", fixed), ("broken", broken)):
        for row in rows[:CHANGED_ROWS_SHOWN]:
            text = row.text if len(row.text) <= TEXT_WIDTH else row.text[: TEXT_WIDTH - 1] + "…"
            out.print(f"  {title}: {row.base} → {row.adapter}: {text}", soft_wrap=True)
