"""The adapter's README: what it is, whether it is better than the base, how to use it, what it was trained on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pefttune.data import CATALOGUE
from pefttune.evaluation import Parity
from pefttune.methods.weights import WEIGHTS
from pefttune.publishing.consumers import VLLM_RANKS
from pefttune.publishing.results import hub_dataset, hub_metrics, model_index
from pefttune.recipe.adapters import METHODS

TEMPLATE, MERGED, CONVERTED = "card.md.jinja", "merged.md.jinja", "converted.md.jinja"
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
"""transformers' class for a base with a head, or for an encoder-decoder, by PEFT's name of the task."""


def render_card(
    manifest: dict[str, Any],
    *,
    repo_id: str | None = None,
    license: str | None = None,
    vllm_rank: int | None = None,
) -> str:
    """The card of an adapter from its manifest, as Markdown with the Hub's metadata on top.

    One that is published in `repo_id` says how others get and load it, in vLLM where that takes it with a
    `--max-lora-rank` of `vllm_rank`. `license` is the adapter's, by default its recipe's.
    """
    recipe, base, head = manifest["recipe"], manifest["base"], manifest["head"]
    license = license or recipe["output"]["license"]
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            metadata=_metadata(manifest, license).to_yaml(),
            name=manifest["name"],
            repo_id=repo_id,
            vllm_rank=vllm_rank,
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
            new_tokens=_as_python(manifest.get("new_tokens") or ()),
            parameters=manifest["parameters"],
            version=manifest["versions"]["pefttune"],
            license=license,
            base_id=base["hub_id"] or base["origin"],
            base_revision=base["revision"],
            base_source=base["source"],
            base_origin=base["origin"],
            elsewhere=base["hub_id"] is not None and base["revision"] is None,
            quantization=base["fingerprint"]["quantization"],
            bits=_bits(base["fingerprint"]["quantization"], base["dtype"]),
            dtype=base["dtype"],
            comparison=manifest["comparison"],
            lineage=manifest.get("lineage"),
            confidence=recipe["evaluation"]["confidence_level"],
            data=manifest["data"],
            citation=known.citation if (known := CATALOGUE.get(manifest["data"]["source"])) else None,
            training=manifest["training"],
        )
    )


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
            license=_as_the_hub_has_it(recipe["output"]["license"]),
            base_id=base["hub_id"] or base["origin"],
            base_origin=base["origin"],
            quantization=base["fingerprint"]["quantization"],
            dtype=base["dtype"],
            into=into,
            parity=parity,
        )
    )


def render_converted_card(manifest: dict[str, Any], to: str, model: str | None = None) -> str:
    """The card of an adapter in the files of another program; Ollama is given its base as `model`."""
    recipe, base = manifest["recipe"], manifest["base"]
    return (
        _environment()
        .get_template(CONVERTED)
        .render(
            name=manifest["name"],
            to=to,
            model=model,
            task=recipe["task"]["type"],
            labels=manifest["labels"],
            prompt=manifest["prompt"],
            sha256=manifest["files"][WEIGHTS],
            version=manifest["versions"]["pefttune"],
            license=_as_the_hub_has_it(recipe["output"]["license"]),
            base_id=base["hub_id"] or base["origin"],
            base_origin=base["origin"],
            quantization=base["fingerprint"]["quantization"],
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.globals |= {"pct": _percent, "points": _points}
    environment.filters |= {"cell": _cell, "quote": shlex.quote}
    return environment


def vllm_rank(manifest: dict[str, Any], peft_config: dict[str, Any]) -> int | None:
    """The least `--max-lora-rank` with which vLLM takes the adapter; None where it refuses it, or scales it wrong."""
    patterns = peft_config.get("rank_pattern") or peft_config.get("alpha_pattern")
    if peft_config.get("peft_type") != "LORA" or peft_config.get("use_dora") or patterns or manifest["head"]:
        return None
    r = peft_config.get("r")
    return None if r is None else next((rank for rank in VLLM_RANKS if rank >= r), None)


def _metadata(manifest: dict[str, Any], license: str | None) -> ModelCardData:
    """What the Hub reads of a card (huggingface.co/docs/hub/model-cards)."""
    recipe, base = manifest["recipe"], manifest["base"]
    method = recipe["adapter"]["method"]
    dataset, results = hub_dataset(manifest), model_index(manifest)
    return ModelCardData(
        base_model=base["hub_id"] or base["origin"],
        base_model_revision=base["revision"],
        base_model_relation="adapter",
        library_name="peft" if METHODS[method].in_peft else "pefttune",
        pipeline_tag=recipe["task"]["type"],
        license=_as_the_hub_has_it(license),
        datasets=dataset and [dataset],
        tags=["pefttune", method],
        metrics=hub_metrics(manifest["comparison"]["shown"]) or None,
        model_name=manifest["name"] if results else None,
        eval_results=results or None,
    )


def _as_the_hub_has_it(license: str | None) -> str | None:
    """SPDX's identifier in small letters."""
    return license and license.lower()


def _bits(quantization: str, dtype: str) -> str | None:
    """What transformers' configuration says of a base's quantization; None where it is not quantized."""
    kind, _, double = quantization.partition("+")
    if kind in ("nf4", "fp4"):
        twice = "bnb_4bit_use_double_quant=True, " if double else ""
        return f'load_in_4bit=True, bnb_4bit_quant_type="{kind}", {twice}bnb_4bit_compute_dtype="{dtype}"'
    return "load_in_8bit=True" if kind == "int8" else None


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f} points"


def _cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _as_python(texts: Collection[str]) -> str:
    """Texts as a list in Python; empty where there are none."""
    return json.dumps(list(texts), ensure_ascii=False) if texts else ""


def _example(inputs: Sequence[str]) -> str:
    """Two rows as Python has them."""
    row = '"…"' if len(inputs) == 1 else "{" + ", ".join(f'"{column}": "…"' for column in inputs) + "}"
    return f"{row}, {row}"
