"""The command line, run in this process (fast) or in one of its own (signals, pipes), beside a store with adapters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
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
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], processes: object
) -> Iterator[Callable[..., Done]]:
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


@pytest.fixture
def trained(command: Callable[..., Done], new_recipe: Any, tiny: Path, tmp_path: Path) -> Callable[..., Done]:
    """Trains one step of any task on rows of one's own, as `mine` in the store here: `trained("{type: …}", rows)`."""

    def run(task: str, rows: list[dict[str, Any]]) -> Done:
        written = tmp_path / "train.jsonl"
        written.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        data = f"{{source: {written}, split: {{validation: 0.2, test: 0.3}}}}"
        done = command("train", new_recipe(tmp_path, tiny, task, data, "{max_steps: 1}", name="mine"))
        assert done.code == 0, done.err
        return done

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


def ended(started: subprocess.Popen[str]) -> Done:
    """Waits; stdout is empty when it was closed before."""
    with started:
        out = "" if started.stdout.closed else started.stdout.read()
        err = started.stderr.read()
    return Done(started.returncode, out, err)


@pytest.fixture(scope="session")
def run_to_end() -> Callable[[subprocess.Popen[str]], Done]:
    return ended


@pytest.fixture(scope="session")
def processes(
    shop: Shop, process: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Path, Future[Any]]]]:
    """Commands that take seconds to import torch: each with its folder and what will have come of it. They are started
    with the first test of this folder and run beside the others."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("train", "stream", "ctrl-c")}
    own = {name: [f"output.store={folder}/adapters", f"output.runs={folder}/runs"] for name, folder in folders.items()}
    many = folders["stream"] / "many.jsonl"
    many.write_text("".join(json.dumps({"text": f"a film {number}"}) + "\n" for number in range(1200)))
    shutil.copytree(shop.store, folders["ctrl-c"] / "adapters")
    long = ["training.max_steps=100000", "training.eval_steps=5"]
    started = {
        "train": process("train", shop.recipe, *own["train"], "training.max_steps=2", "--json", cwd=folders["train"]),
        "stream": process("predict", "tiny", "--input", many, "--store", shop.store, cwd=folders["stream"]),
        "ctrl-c": process("train", shop.recipe, *own["ctrl-c"], *long, cwd=folders["ctrl-c"]),
    }

    def stream() -> tuple[str, Done]:
        first = started["stream"].stdout.readline()
        started["stream"].stdout.close()  # the reader has seen enough
        return first, ended(started["stream"])

    def ctrl_c() -> tuple[str, Done]:
        run = started["ctrl-c"]
        before = "".join(takewhile(lambda line: "validation after step 5" not in line, run.stderr))
        run.send_signal(signal.SIGINT)
        return before, ended(run)

    with ThreadPoolExecutor(3) as pool:
        jobs = {
            "train": pool.submit(ended, started["train"]),
            "stream": pool.submit(stream),
            "ctrl-c": pool.submit(ctrl_c),
        }
        yield {name: (folders[name], job) for name, job in jobs.items()}


# Everything a user can get wrong: one clear sentence, the right exit code, no traceback, nothing lost or left behind.


@pytest.fixture(scope="session")
def refused() -> Callable[..., None]:
    """The command, run under --json, told the same sentence in the document and on stderr. A traceback would leave
    `main` as an exception, which the `command` fixture does not take for an exit."""

    def check(done: Done, code: int, kind: str, *told: str) -> None:
        assert done.code == code, done.err
        assert set(done.document) == {"error", "kind"}
        assert done.document["kind"] == kind
        for words in told:
            assert words in done.document["error"]
        assert done.err.endswith(f"error: {done.document['error']}\n")

    return check


@pytest.fixture
def refuses(train: Callable[..., Done], refused: Callable[..., None], tmp_path: Path) -> Callable[..., None]:
    """Training with these overrides is bad input, stores nothing, and says all of the words."""

    def check(overrides: list[str], kind: str, *told: str, code: int = 2) -> None:
        refused(train(*overrides, "--json"), code, kind, *told)
        assert not list((tmp_path / "adapters").rglob("*"))

    return check


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes | None]]:
    """Every file below a folder, with its content."""

    def read(folder: Path) -> dict[str, bytes | None]:
        paths = folder.rglob("*")
        return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}

    return read


@pytest.fixture
def copied(shop: Shop, tmp_path: Path) -> Path:
    """An adapter of one's own, to be damaged."""
    return Path(shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / "tiny" / "1"))
