"""The run folder and its log: every event as one line of JSON, flushed, so that a killed run leaves its story."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pefttune.errors import StorageError

Notify = Callable[[dict[str, Any]], None]


def new_run_folder(runs: Path, name: str) -> Path:
    """`<runs>/<name>/<time>/`, new. Raises StorageError."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 100):
        folder = runs / name / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run began within the same second
            continue
        except OSError as error:
            raise StorageError(f"the run folder {folder} cannot be made: {error.strerror}") from None
        return folder
    raise StorageError(f"no free run folder for {stamp} in {runs / name}")


def logging_to(folder: Path, notify: Notify) -> Notify:
    """A `notify` that also writes each event to `log.jsonl`, with the seconds since now."""
    started = time.perf_counter()
    path = folder / "log.jsonl"

    def record(event: dict[str, Any]) -> None:
        line = json.dumps({"at_s": round(time.perf_counter() - started, 3), **event}, ensure_ascii=False)
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise StorageError(f"the log {path} cannot be written: {error.strerror}") from None
        notify(event)

    return record
