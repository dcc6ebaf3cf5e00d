"""The trials as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from pefttune.pipeline import Failed
from pefttune.sweep.trial import Trial

SHARED = "*"
NOTE = (
    f"{SHARED} trained together with others: seconds are an equal share of what the passes took, memory is the peak of "
    "them all. `--apart` measures each alone."
)


def is_shared(trials: Sequence[Trial]) -> bool:
    """Whether any cost in the table is that of several trials, so that `NOTE` belongs under it."""
    return any(trial.shared for trial in trials)


def table(metric: str, trials: Sequence[Trial]) -> list[list[str]]:
    """The heading and a row for each trial: its settings, how far it came, how good it is, what it cost."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.variant.settings))
    names = [key.rpartition(".")[2] for key in keys]
    short = [name if names.count(name) == 1 else key for name, key in zip(names, keys, strict=True)]
    heading = ["trial", *short, "steps", metric.replace("_", " "), "parameters", "seconds", "peak MiB"]
    return [heading, *([*_settings(trial, keys), *_costs(trial)] for trial in trials)]


def _settings(trial: Trial, keys: Sequence[str]) -> list[str]:
    return [str(trial.number), *(trial.variant.settings.get(key, "") for key in keys)]


def _costs(trial: Trial) -> list[str]:
    last, share = trial.last, "all" if trial.share == 1 else str(trial.share)
    if isinstance(last, Failed):
        return [share, "failed", "", "", ""]
    metric = f"{last.metric:.1%}" if 0 <= last.metric <= 1 else f"{last.metric:.3f}"
    seconds = f"{trial.seconds:,.1f}{SHARED if trial.shared else ''}"
    memory = f"{last.peak_mib:,.0f}{SHARED if last.together > 1 else ''}"
    return [share, metric, f"{last.parameters:,}", seconds, memory]


def reasons(trials: Sequence[Trial]) -> list[str]:
    """Why those that failed have failed."""
    return [f"trial {one.number} failed: {one.last.reason}" for one in trials if isinstance(one.last, Failed)]


def markdown(metric: str, trials: Sequence[Trial]) -> str:
    """The table, why trials have failed, and what its marks mean."""
    heading, *rows = table(metric, trials)
    lines = [heading, ["---"] * len(heading), *rows]
    text = "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)
    failed = "".join(f"\n{reason}\n" for reason in reasons(trials))
    return text + failed + (f"\n{NOTE}\n" if is_shared(trials) else "")
