"""The adapter's README: what it is, whether it is better than the base, how to use it, what it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pefttune.data import CATALOGUE
from pefttune.evaluation import Parity
from pefttune.methods.weights import WEIGHTS
from pefttune.recipe.adapters import METHODS

TEMPLATE, MERGED = "card.md.jinja", "merged.md.jinja"
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
"""transformers' class for a base with a head, or for an encoder-decoder, by PEFT's name of the task."""
HUB_METRICS = {
    **{name: name for name in ("accuracy", "f1", "precision", "recall", "exact_match")},
    "macro_f1": "f1",
    "micro_f1": "f1",
    "word_accuracy": "accuracy",
    "rouge_l": "rouge",
    "rouge_1": "rouge",
    "rouge_2": "rouge",
    "r2": "r_squared",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Our names, and those of the Hub (huggingface.co/evaluate-metric). Others stand in the card's tables only."""


def render_merged_card(manifest: dict[str, Any], into: str, parity: Parity) -> str:
    """The card of the model that an adapter was merged into, with how alike the two are."""
    recipe, base = manifest["recipe"], manifest["base"]
    return (
        _environment()
        .get_template(MERGED)
        .render(
            name=manifest["name"],
            task=recipe["task"]["type"],
            labels=manifest["labels"],
            prompt=manifest["prompt"],
            auto_class=AUTO_CLASSES[head["task_type"]] if (head := manifest["head"]) else "AutoModelForCausalLM",
            sha256=manifest["files"][WEIGHTS],
            version=manifest["versions"]["pefttune"],
            license=recipe["output"]["license"],
            base_id=base["hub_id"] or base["origin"],
            base_origin=base["origin"],
            quantization=base["fingerprint"]["quantization"],
            dtype=base["dtype"],
            into=into,
            parity=parity,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.globals |= {"pct": _percent, "points": _points}
    environment.filters["cell"] = _cell
    return environment


def render_card(manifest: dict[str, Any]) -> str:
    """The card of an adapter from its manifest, as Markdown with the Hub's metadata on top."""
    recipe, base, head = manifest["recipe"], manifest["base"], manifest["head"]
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            name=manifest["name"],
            task=recipe["task"]["type"],
            labels=manifest["labels"],
            prompt=manifest["prompt"],
            example=_example(manifest["inputs"]),
            auto_class=AUTO_CLASSES[head["task_type"]] if head and head["plain"] else None,
            own_head=bool(head) and not head["plain"],
            outputs=head and head["outputs"],
            both_ways=bool(head) and head.get("is_causal") is False,
            pairs=bool(head) and head["task_type"] == "QUESTION_ANS",
            method=recipe["adapter"]["method"],
            in_peft=METHODS[recipe["adapter"]["method"]].in_peft,
            parameters=manifest["parameters"],
            version=manifest["versions"]["pefttune"],
            license=recipe["output"]["license"],
            base_id=base["hub_id"] or base["origin"],
            base_revision=base["revision"],
            base_source=base["source"],
            base_origin=base["origin"],
            quantization=base["fingerprint"]["quantization"],
            comparison=manifest["comparison"],
            lineage=manifest.get("lineage"),
            metrics=_hub_metrics(manifest["comparison"]["shown"]),
            confidence=recipe["evaluation"]["confidence_level"],
            data=manifest["data"],
            citation=known.citation if (known := CATALOGUE.get(manifest["data"]["source"])) else None,
            training=manifest["training"],
        )
    )


def _hub_metrics(shown: Iterable[str]) -> dict[str, list[str]]:
    """The Hub's name of each metric that it knows, and ours where they are called otherwise."""
    result: dict[str, list[str]] = {}
    for ours in filter(HUB_METRICS.__contains__, shown):
        own = result.setdefault(HUB_METRICS[ours], [])
        own += [ours] if ours != HUB_METRICS[ours] else []
    return result


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f} points"


def _cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _example(inputs: Sequence[str]) -> str:
    """Two rows as Python has them."""
    row = '"…"' if len(inputs) == 1 else "{" + ", ".join(f'"{column}": "…"' for column in inputs) + "}"
    return f"{row}, {row}"
