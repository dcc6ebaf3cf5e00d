"""Tables that several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from pefttune.cli.output import out, percent, points

if TYPE_CHECKING:
    from pefttune.evaluation import Comparison

CHANGED_ROWS_SHOWN = 3
TEXT_WIDTH = 90
JUDGED = {"better": "better", "worse": "worse", "unclear": "not clearly different"}
FEW = ", for too few rows differ"


def print_comparison(comparison: Comparison, rows: str = "held-out rows") -> None:
    """The adapter and those it is compared with, side by side, and how sure the difference is."""
    table = Table(title=f"on {comparison.rows:,} {rows}")
    for heading in ("", *comparison.shown.values()):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, metrics in comparison.everybody.items():
        table.add_row(name, *(percent(metrics[key]) for key in comparison.shown))
    out.print(table)
    level = percent(comparison.confidence_level)
    for difference in comparison.differences:
        few = FEW if difference.judgement == "unclear" and not difference.low <= 0 <= difference.high else ""
        out.print(
            f"against {difference.against}: {points(difference.difference)} points "
            f"({level} interval {points(difference.low)} to {points(difference.high)}, "
            f"sign test p {difference.sign_test_p:.2g}): {JUDGED[difference.judgement]}{few}; "
            f"{difference.fixed} rows better, {difference.broken} worse",
            soft_wrap=True,
        )


def print_changed(comparison: Comparison) -> None:
    """A few of the rows that the adapter predicts better or worse than the one it is compared with first."""
    for title, rows in (("fixed", comparison.fixed), ("broken", comparison.broken)):
        for row in rows[:CHANGED_ROWS_SHOWN]:
            other, adapter, text = map(on_one_line, (row.other, row.adapter, row.text))
            out.print(f"  {title}: {other} → {adapter}: {text}", soft_wrap=True)


def on_one_line(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_WIDTH else line[: TEXT_WIDTH - 1] + "…"
