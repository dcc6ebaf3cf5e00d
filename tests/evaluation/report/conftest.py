"""Findings made up by hand, and a page taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch

from pefttune.data import Row
from pefttune.evaluation import Findings, compare, judge
from pefttune.recipe.schema import Recipe
from pefttune.tasks.protocol import Piece
from pefttune.tasks.text_classification import Classified, TextClassification
from pefttune.training import TrainingLog

VOID = {"meta"}


@dataclass(frozen=True)
class Marked(Classified):
    """A classification that marks the first word of its text by its label."""

    def pieces(self, row: Row) -> tuple[Piece, ...]:
        first, _, rest = row.values["text"].partition(" ")
        return Piece(first, self.label), Piece(" " + rest)


@dataclass
class Page(HTMLParser):
    """What a page holds, and whether each of its elements is closed where it should be."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) < len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} closes nothing")
        if tag in ("td", "th", "caption"):
            self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        (self.styles if self.open[-1:] == ["style"] else self.texts).append(data)

    @property
    def text(self) -> str:
        """All that is written on it, with plain spaces between words."""
        return " ".join("".join(self.texts).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each such element."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="session")
def page_of() -> Any:
    """Takes a page apart: `page_of(html)`."""

    def parse(html: str) -> Page:
        page = Page()
        page.feed(html)
        page.close()
        page.faults += [f"<{tag}> is not closed" for tag in page.open]
        return page

    return parse


@pytest.fixture(scope="session")
def findings_of() -> Any:
    """A run in which the base is right on the first half of the rows and the adapter on nine of ten:
    `findings_of(["some text", …], labels=("a", "b"), marked=True, name="mine")`."""

    def make(
        texts: Sequence[str],
        labels: Sequence[str] = ("bad", "good"),
        marked: bool = False,
        zero_shot: bool = True,
        steps: int = 40,
        **manifest: Any,
    ) -> Findings:
        task = TextClassification("head", tuple(labels), "")
        rows = [
            Row({"text": text, "label": labels[i % len(labels)]}, f"rows.csv:{i + 2}") for i, text in enumerate(texts)
        ]
        rng = np.random.default_rng(0)

        def said(by: Any, right: Any) -> list[Classified]:
            found = []
            for i in range(len(rows)):
                label = labels[(i if right(i) else i + 1) % len(labels)]
                sure = 0.5 + 0.5 * rng.random()
                rest = {other: (1 - sure) / (len(labels) - 1) for other in labels}
                found.append(by(label, {**rest, label: sure}, i % 7 == 0))
            return found

        kind = Marked if marked else Classified
        adapter = judge("with adapter", task, rows, said(kind, lambda i: i % 10))
        base = judge("base, zero-shot", task, rows, said(kind, lambda i: i < len(rows) / 2))
        baseline = judge(f"always {labels[0]!r}", task, rows, said(Classified, lambda i: i % len(labels) == 0))
        others = [base, baseline] if zero_shot else [baseline]
        return Findings(
            task=task,
            log=log_of(steps, adapter.metrics),
            comparison=compare(task, adapter, others, 200, 0.95, 0),
            adapter=adapter,
            others=others,
            manifest={**manifest_of(task, len(rows)), **manifest},
            state={"base_model.model.classifier.weight": torch.zeros(2, 384)},
        )

    return make


def log_of(steps: int, metrics: dict[str, Any]) -> TrainingLog:
    records = [
        {"step": i, "loss": 1 / i, "learning_rate": 1e-3 / i, "examples": 8, "tokens": 100, "seconds": 0.5}
        for i in range(1, steps + 1)
    ]
    evaluations = [{**metrics, "step": i, "watched": "accuracy"} for i in range(1, steps + 1, max(1, steps // 4))]
    return TrainingLog(records, evaluations, seconds=12.0, best_step=1)


def manifest_of(task: TextClassification, rows: int) -> dict[str, Any]:
    """As `publishing.describe` makes it; that the two are alike is what the test of a whole run is for."""
    recipe = {
        "task": {"type": "text-classification"},
        "base": {"source": "minilm-l6"},
        "data": {"source": "rows.csv"},
        "adapter": {"method": "lora"},
        "training": {"learning_rate": 1e-3},
        "output": {"name": "mine"},
    }
    memory = {"libraries_mib": 500.0, "weights_mib": 40.0, "adapter_and_optimizer_mib": 10.0, "activations_mib": 250.0}
    parts = ("train", "validation", "test")
    return {
        "name": "mine",
        "created": "2026-01-02T03:04:05+00:00",
        "recipe": Recipe.model_validate(recipe).model_dump(mode="json"),
        "labels": list(task.labels),
        "inputs": ["text"],
        "prompt": "",
        "head": {"task_type": "SEQ_CLS", "outputs": len(task.labels)},
        "base": {
            "source": "minilm-l6",
            "hub_id": "sentence-transformers/all-MiniLM-L6-v2",
            "revision": None,
            "origin": "package index: x 0.1.0",
            "fingerprint": {"tensors": "c0ffee" * 10, "quantization": "nf4"},
            "dtype": "float32",
        },
        "data": {
            "source": "rows.csv",
            "title": None,
            "licence": None,
            "rows": dict(zip(parts, (900, 100, rows), strict=True)),
            "left_out_by_bins": 3,
            "bad_rows": [{"origin": "rows.csv:7", "column": "text", "message": "is empty"}],
            "duplicates_removed": {"train": 5, "validation": 2},
            "duplicates_inside": {"train": 4, "validation": 0, "test": 1},
            "fingerprints": {part: f"{i}" * 64 for i, part in enumerate(parts)},
        },
        "parameters": 12_345,
        "training": {
            "steps": 40,
            "seconds": 12.0,
            "device": "cpu",
            "dtype": "float32",
            "memory": {**memory, "device": "cpu", "peak_mib": 800.0},
        },
        "versions": {"python": "3.11.7", "pefttune": "0.1.0"},
    }
