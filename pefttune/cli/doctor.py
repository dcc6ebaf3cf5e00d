"""`pefttune doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from pefttune.cli.output import Json, err, out, print_json
from pefttune.errors import InputError

if TYPE_CHECKING:
    from pefttune.doctor import Report, Shown, ShownToken

LEVEL_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
ROLE_STYLES = {"read": "bright_black", "trained": "bold green", "mark": "underline"}
KINDS_SHOWN = 12
TOKENS_SHOWN = 160  # of a row: its begin and its end


def doctor(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to it, such as data.max_length=256.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Where the report goes as a page of HTML.")] = None,
    as_json: Json = False,
) -> None:
    """Tell whether data and recipe are right, and what exactly will be trained, before any training."""
    from pefttune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if html_file and html_file.is_dir():
        raise InputError(f"--html {html_file} is a folder: name a file")

    from pefttune import doctor as room
    from pefttune import pipeline

    task, rows = pipeline.read_data(loaded)
    with err.status("reading all rows as the base will"):
        report = room.examine(loaded, task, rows)
    if html_file:
        from pefttune.data.storage import replacing

        with replacing(html_file) as file:
            file.write(room.render_page(report).encode())
        err.print(f"written: {html_file}", soft_wrap=True)
    if as_json:
        print_json({**asdict(report), "counts": report.counts})
    else:
        _print(report)
    if report.counts["error"]:
        raise typer.Exit(InputError.exit_code)


def _print(report: Report) -> None:
    out.print(f"{report.name}: {report.task} on {report.base}, rows of {report.source}\n", soft_wrap=True)
    _print_rows(report)
    out.print("what is trained:", Text("read", ROLE_STYLES["read"]), end=" ")
    out.print(Text("trained", ROLE_STYLES["trained"]), Text("read by the head", ROLE_STYLES["mark"]) + Text("→class"))
    for shown in report.shown:
        out.print(Text(f"\n{shown.origin}, {len(shown.tokens)} tokens", "bold"), soft_wrap=True)
        out.print(_drawn(shown), soft_wrap=True)
    out.print()
    for finding in report.findings:
        out.print(Text(f"{finding.level}: ", LEVEL_STYLES[finding.level]) + Text(str(finding)), soft_wrap=True)
    out.print(report.verdict, style="bold")


def _print_rows(report: Report) -> None:
    table = Table()
    for heading in ("", *report.parts):
        table.add_column(heading, justify="left" if not heading else "right", overflow="fold")
    parts = report.parts.values()
    table.add_row("rows", *(f"{part.rows:,}" for part in parts))
    by_frequency = sorted(report.kinds, key=lambda kind: -sum((part.kinds or {})[kind] for part in parts))
    few = len(by_frequency) <= KINDS_SHOWN
    for kind in report.kinds if few else (*by_frequency[: KINDS_SHOWN // 2], *by_frequency[-KINDS_SHOWN // 2 :]):
        table.add_row(f"  {kind}", *(f"{(part.kinds or {})[kind]:,}" for part in parts))
    if not few:
        table.add_row(f"  {len(by_frequency)} classes: the commonest and the rarest are shown")
    table.add_section()
    table.add_row("tokens, uncut")
    for name, values in report.length_rows.items():
        table.add_row(f"  {name}", *values)
    out.print(table)


def _drawn(shown: Shown) -> Text:
    left_out = len(shown.tokens) - TOKENS_SHOWN
    if left_out <= 0:
        return _colored(shown.tokens)
    half = TOKENS_SHOWN // 2
    middle = Text(f" … {left_out} tokens … ", "italic")
    return _colored(shown.tokens[:half]) + middle + _colored(shown.tokens[-half:])


def _colored(tokens: tuple[ShownToken, ...]) -> Text:
    text = Text()
    for token in tokens:
        text.append(token.text.replace("\n", "⏎\n"), ROLE_STYLES[token.role])
        if token.label is not None:
            text.append(f"→{token.label} ", "blue")
    return text
