"""What `pefttune.json` says of a trained adapter: enough to load it, to repeat it, and to judge it."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pefttune.bases import Base
from pefttune.data import DataReport
from pefttune.evaluation import Comparison
from pefttune.inference import Loaded
from pefttune.publishing.portable import portable
from pefttune.recipe import Recipe, to_mapping

VERSIONED = ("pefttune", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers")


def describe(
    recipe: Recipe,
    base: Base,
    loaded: Loaded,
    report: DataReport,
    comparison: Comparison,
    cost: dict[str, Any],
    lineage: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a trained adapter, JSON-able, without probe rows and file digests. `lineage` says from which
    stored adapters it was made, and how; one that was merged has no `cost` of a training."""
    return {
        "name": recipe.output.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": portable(to_mapping(recipe), base.located),
        "labels": list(loaded.task.labels),
        "inputs": list(loaded.task.inputs),
        "prompt": loaded.encoder.render(),
        "head": _head(recipe, loaded, base),
        "new_tokens": loaded.vocabulary and loaded.vocabulary.new_ids,
        "base": describe_base(base, recipe),
        "data": asdict(report),
        "parameters": sum(parameter.numel() for parameter in loaded.parameters.values()),
        "comparison": comparison.summary(),
        "lineage": lineage,
        "training": {**cost, "dtype": dtype_name(base)},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in VERSIONED},
    }


def _head(recipe: Recipe, loaded: Loaded, base: Base) -> dict[str, Any] | None:
    """What kind of head the adapter has, in PEFT's words, how many outputs, and whether transformers' class for it has
    just this head: so it is for decoders, but for questions, and BERT; RoBERTa and others put more layers before
    theirs, and behind virtual tokens BERT's would read the first of these. None where a decoder's own output layer
    writes, and that of an encoder-decoder without a count. Of a bidirectional decoder also what its `config.is_causal`
    has to be."""
    head = loaded.head
    if head is None:
        apart = base.model.config.is_encoder_decoder
        return {"task_type": "SEQ_2_SEQ_LM", "outputs": None, "plain": True} if apart else None
    decoder = base.model.get_output_embeddings() is not None
    bare_bert = base.model.config.model_type == "bert" and not (loaded.adapter and loaded.adapter.virtual_ids)
    plain = (decoder and head.task_type != "QUESTION_ANS") or bare_bert
    told = {"is_causal": False} if decoder and getattr(recipe.task, "attention", None) == "bidirectional" else {}
    return {"task_type": head.task_type, "outputs": head.linear.out_features, "plain": plain, **told}


def describe_base(base: Base, recipe: Recipe) -> dict[str, Any]:
    """Which base it is and where it came from, without a path of the machine."""
    mapping = portable(to_mapping(recipe), base.located)
    return {
        "source": mapping["base"]["source"],
        "hub_id": base.located.hub_id,
        "revision": base.located.revision,
        "origin": base.located.origin,
        "fingerprint": asdict(base.fingerprint),
        "dtype": dtype_name(base),
    }


def dtype_name(base: Base) -> str:
    """`bfloat16`, `float32`, …"""
    return str(base.dtype).removeprefix("torch.")
