"""A run, as it is seen: a progress bar on a terminal, a line now and then elsewhere; all on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pefttune.cli.output import err, percent

SECONDS_BETWEEN_LINES = 10.0


class Display:
    """Shows the events of a run. A context manager, and the `notify` that a run wants."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._run = ""
        """Whose events they are, where several run together."""

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event; those without a method of their own are only in the log."""
        self._run = f"{event['run']}: " if "run" in event else ""
        if show := getattr(self, f"_show_{event['event']}", None):
            show(event)

    def _say(self, text: str) -> None:
        self._progress.console.print(self._run + text, soft_wrap=True)

    def _bar(self, what: str, done: float, total: float, told: str) -> None:
        name = self._run + what
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total, told="")
        self._progress.update(self._bars[name], completed=done, total=total, told=told)
        if not err.is_terminal and (time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES or done >= total):
            self._last_line = time.monotonic()
            self._say(f"{what} {done:g}/{total:g} {told}")

    def _show_data(self, event: dict[str, Any]) -> None:
        rows = event["rows"]
        counts = ", ".join(f"{count:,} {part}" for part, count in rows.items())
        self._say(f"data: {event['source']}: {counts} rows")
        if event["left_out_by_bins"]:
            self._say(f"data: {event['left_out_by_bins']} rows lie in no bin of data.label_bins and are left out")
        for part, count in event["duplicates_removed"].items():
            if count:
                self._say(f"data: {count} rows of {part} are also held out and were removed from it")
        for row in event["bad_rows"]:
            self._say(f"data: skipped {row['origin']}: {row['column'] or 'row'} {row['message']}")
        for row in event["mended_rows"][:1]:
            told = f"{row['origin']}: {row['column']} {row['message']}"
            self._say(f"data: {event['mended']} rows had a fault that could be mended, the first {told}")

    def _show_base(self, event: dict[str, Any]) -> None:
        self._say(
            f"base: {event['source']} from {event['origin']}, {event['fingerprint']['quantization']}, "
            f"{event['dtype']} ({event['dtype_reason']})" + (", dequantized once" if event["dense"] else "")
        )

    def _show_notice(self, event: dict[str, Any]) -> None:
        self._say(f"notice: {event['message']}")

    def _show_chosen(self, event: dict[str, Any]) -> None:
        for choice in event["choices"]:
            self._say(f"chosen: {choice['key']} = {choice['value']}: {choice['why']}")

    def _show_activations(self, event: dict[str, Any]) -> None:
        self._bar("what enters the layers, training rows", event["done"], event["of"], "")

    def _show_decomposed(self, event: dict[str, Any]) -> None:
        self._bar(f"decomposing {event['what']}, layers", event["done"], event["of"], "")

    def _show_step(self, event: dict[str, Any]) -> None:
        rate = event["examples"] / event["seconds"]
        self._bar("training", event["step"], event["of"], f"loss {event['loss']:.3f}  {rate:.1f} examples/s")

    def _show_evaluation(self, event: dict[str, Any]) -> None:
        told = _metric(event[event["watched"]])
        self._say(f"validation after step {event['step']}: {event['watched']} {told}")

    def _show_sweep(self, event: dict[str, Any]) -> None:
        what = "all steps" if event["share"] == "1" else f"{event['share']} of the steps"
        rate = event["examples_a_second"]  # Ray's workers tell no steps
        told = f"{event['trials']} trials for {what}" + (f"  {rate:.1f} examples/s" if rate else "")
        self._bar("sweep, %", round(100 * event["done"] / event["of"], 1), 100, told)

    def _show_trial(self, event: dict[str, Any]) -> None:
        name = f"trial {event['trial']}: {event['settings']}"
        if "failed" in event:
            self._say(f"{name}: failed and dropped: {event['failed']}")
        else:
            what = "all steps" if event["share"] == "1" else f"{event['share']} of the steps"
            self._say(f"{name}: validation {event['watched']} {_metric(event[event['watched']])} after {what}")

    def _show_frozen(self, event: dict[str, Any]) -> None:
        self._bar(f"frozen layers, {event['what']} rows", event["done"], event["of"], "")

    def _show_scoring(self, event: dict[str, Any]) -> None:
        self._bar(f"scoring {event['what']}", event["done"], event["of"], "")

    def _show_writing(self, event: dict[str, Any]) -> None:
        self._bar(f"writing {event['what']}", event["done"], event["of"], "")

    def _show_searching(self, event: dict[str, Any]) -> None:
        self._bar(f"trying {event['what']}", event["done"], event["of"], "")

    def _show_verifying(self, event: dict[str, Any]) -> None:
        self._say(f"verifying: reading the saved adapter into a fresh base, comparing {event['rows']} probe rows")


def _metric(value: float) -> str:
    """A likelihood's logarithm is no share."""
    return percent(value) if 0 <= value <= 1 else f"{value:.3f}"
