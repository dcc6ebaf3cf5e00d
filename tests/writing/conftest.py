"""Rows and recipes of tasks whose answer is written, and encoder-decoders to run them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

WORDS = ["sun", "cat", "dog", "sea", "tree", "moon"]
DOCUMENTS = [
    ("About the sun. More of it, and much more than that.", "sun 1"),
    ("x", "a longer one"),
    ("The cat sat there.", "cat"),
]


def write_rows(folder: Path, task: str) -> Path:
    path = folder / f"{task}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            word = WORDS[number % 6]
            long = f"About the {word}, number {number}. More of it."
            rows = {
                "summarization": {"document": long, "summary": [word, f"{word} {number}"]},
                "text-generation": {
                    "messages": [
                        {"role": "user", "content": f"Hello {number}"},
                        {"role": "assistant", "content": "Hi"},
                        {"role": "user", "content": long},
                        {"role": "assistant", "content": f"#### {word}"},
                    ]
                },
                "text-classification": {"text": long, "label": word},
                "token-classification": {"tokens": [str(number), word], "tags": ["O", "B-X"]},
                "question-answering": {
                    "question": "What?",
                    "context": long,
                    "answers": {"text": [word], "answer_start": [long.index(word)]},
                },
            }
            file.write(json.dumps(rows[task]) + "\n")
    return path


@pytest.fixture
def rows_of() -> Any:
    """`write_rows`."""
    return write_rows


def write_recipe(folder: Path, base: Path, task: str, changes: dict[str, Any], new_recipe: Any) -> Any:
    from pefttune.recipe import load_recipe

    own = "" if "classification" in task or "question" in task else ", max_new_tokens: 8"
    data = f"{{source: {write_rows(folder, task)}, split: {{validation: 0.2, test: 0.3}}, max_length: 96}}"
    training = "{per_device_train_batch_size: 8, learning_rate: 2e-2, max_steps: 20, eval_steps: 10}"
    path = new_recipe(folder, base, f"{{type: {task}{own}}}", data, training, name="pairs")
    own_changes = {"evaluation.bootstrap_samples": 100, **changes}
    return load_recipe(path, [f"{key}={json.dumps(value)}" for key, value in own_changes.items()])


@pytest.fixture
def recipe_for(new_recipe: Any, tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Recipes on a tiny encoder-decoder, without the figure: `recipe_for("T5", {"adapter.layers": "top-1"})`."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))

    def make(kind: str, changes: dict[str, Any] | None = None, task: str = "summarization") -> Any:
        return write_recipe(tmp_path, tiny_pair(kind), task, changes or {}, new_recipe)

    return make


@pytest.fixture(scope="session")
def done(new_recipe: Any, tiny_pair: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run of summarization on the tiny T5 or BART, made once: the `Run`, its events, its store and cache."""
    from types import SimpleNamespace

    from pefttune import run as run_whole

    runs: dict[str, Any] = {}

    def run(kind: str) -> Any:
        if kind not in runs:
            folder, events = tmp_path_factory.mktemp(kind), []
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PEFTTUNE_CACHE", str(folder / "cache"))
                one = run_whole(write_recipe(folder, tiny_pair(kind), "summarization", {}, new_recipe), events.append)
            runs[kind] = SimpleNamespace(run=one, events=events, store=folder / "adapters", cache=folder / "cache")
        return runs[kind]

    return run


@pytest.fixture
def pairs_of(base_of: Any, tiny_pair: Any) -> Any:
    """A session on a tiny encoder-decoder with the adapter `a` of random weights, as after training."""
    import torch

    from pefttune import tasks
    from pefttune.inference import Session
    from pefttune.recipe import tasks as sections
    from pefttune.recipe.adapters import Lora

    def open_(kind: str, names: str = "a", **changes: Any) -> Any:
        session = Session(base_of(tiny_pair(kind), **changes))
        for name in names:
            section = sections.Summarization(type="summarization", instruction="summarize:", max_new_tokens=20)
            loaded = session.add(name, session.attach(tasks.get(section), Lora(method="lora", r=4), 96))
            torch.manual_seed(ord(name))
            for parameter in loaded.parameters.values():
                parameter.data.normal_(std=0.2)
        return session

    return open_


@pytest.fixture(scope="session")
def summarized() -> list[tuple[str, str]]:
    """Texts of different length, each with a summary."""
    return list(DOCUMENTS)


@pytest.fixture(scope="session")
def examples() -> Any:
    """The documents as an adapter of a session reads them: `examples(session, "a")`."""
    from pefttune.data import Row

    rows = [Row({"document": document, "summary": [summary]}, "row") for document, summary in DOCUMENTS]
    return lambda session, name="a": [example for row in rows for example in session[name].encoder(row)]
