"""The command line, run in this process (fast) or in one of its own (signals, pipes), beside a store with adapters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; anything else there fails."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Shop:
    """A folder with `recipe.yaml`, `reviews.jsonl`, and `adapters/tiny/1` trained by them; read only."""

    folder: Path
    store: Path
    cache: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def reviews(self) -> Path:
        return self.folder / "reviews.jsonl"


@pytest.fixture(scope="session")
def shop(finished: Callable[[], Any]) -> Shop:
    done = finished()
    return Shop(done.store.parent, done.store, done.cache)


@pytest.fixture
def known_bases(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that knows where the adapter's base lies."""
    cache = tmp_path / "cache"
    shutil.copytree(shop.cache, cache)
    monkeypatch.setenv("PEFTTUNE_CACHE", str(cache))
    return cache


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Runs a command in this process: `command("list", "--json")`."""
    from pefttune.cli import main

    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")  # as `main` sets it; here it is taken back
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["pefttune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Done(int(stop.value.code or 0), out, err)

    yield run
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def train(command: Callable[..., Done], shop: Shop, tmp_path: Path) -> Callable[..., Done]:
    """Trains two steps by the shop's recipe, with a store of its own: `train("data.max_length=9")`."""

    def run(*arguments: object) -> Done:
        own = [f"output.store={tmp_path}/adapters", f"output.runs={tmp_path}/runs", "training.max_steps=2"]
        return command("train", shop.recipe, *own, *arguments)

    return run


@pytest.fixture(scope="session")
def process(shop: Shop) -> Callable[..., subprocess.Popen[str]]:
    """Starts the real command, offline and on one core: `process("list", cwd=folder)`."""

    def start(*arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
        own = {"PEFTTUNE_CACHE": str(shop.cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen(
            [sys.executable, "-m", "pefttune", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, **own},
        )

    return start
