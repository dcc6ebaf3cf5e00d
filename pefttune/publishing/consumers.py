"""What those who load adapters make of one: what they refuse, what they compute otherwise, and how that is mended.

Read off vLLM, PEFT 0.21, llama.cpp's loader and its convert_lora_to_gguf.py, and mlx-lm, in 2026. The two last load
what `pefttune export` writes, which therefore refuses what they have an objection to here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pefttune.publishing.architectures import LLAMA_CPP, MLX
from pefttune.recipe.adapters import METHODS

VLLM_DEFAULT_RANK = 16
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be."""
AS_LORA = "train it by adapter.method: lora"


@dataclass(frozen=True)
class Objection:
    """What a consumer does to the adapter: it `refuses` it, computes something `else`, or there is to `know` a thing,
    which harms nothing once it is known. And how that is mended."""

    kind: Literal["refuses", "else", "know"]
    cause: str
    mend: str

    @property
    def harms(self) -> bool:
        """Whether the adapter cannot be used as it is."""
        return self.kind != "know"


@dataclass(frozen=True)
class Stored:
    """What a consumer sees of a stored adapter: `adapter_config.json`, the shapes of its tensors by key; what only its
    manifest tells; and its base's `model_type`, None where the base is not at hand."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    manifest: Mapping[str, Any]
    model_type: str | None = None

    @property
    def method(self) -> str:
        """As the recipe calls it."""
        return str(self.manifest["recipe"]["adapter"]["method"])

    @property
    def is_lora(self) -> bool:
        """Whether it is low-rank updates, and perhaps a head."""
        return bool(self.config["peft_type"] == "LORA")

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer that a LoRA adapts."""
        end = ".lora_A.weight"
        return {key.removesuffix(end): shape[0] for key, shape in self.shapes.items() if key.endswith(end)}

    @property
    def heads(self) -> list[str]:
        """Modules of the task's own that it brings whole."""
        return list(self.config.get("modules_to_save") or ())

    @property
    def as_weights(self) -> str | None:
        """How it becomes a model that needs no adapter, if it can."""
        if not self.is_lora or self.config["use_dora"] or self.heads:
            return None
        return f"pefttune export {self.manifest['name']} --to merged makes a model of it that needs no adapter"

    def scale(self, layer: str) -> float:
        """What PEFT multiplies B · A of a layer by."""
        r, alpha = self.ranks[layer], self.config["alpha_pattern"].get(_path(layer), self.config["lora_alpha"])
        return float(alpha / (math.sqrt(r) if self.config["use_rslora"] else r))


def object_to(target: str, adapter: Stored) -> list[Objection]:
    """What `target`, one of `CONSUMERS`, has against the adapter; what harms comes first."""
    return sorted(CONSUMERS[target](adapter), key=lambda objection: not objection.harms)


def _vllm(adapter: Stored) -> Iterator[Objection]:
    if not adapter.is_lora:
        yield Objection("refuses", f"vLLM serves LoRA adapters, and this is {adapter.method}", AS_LORA)
        return
    yield from _dora("vLLM", adapter)
    heads = adapter.heads
    if heads and adapter.config.get("task_type") == "SEQ_CLS":
        cause = f"its head ({heads[0]}) is a module to save, which vLLM knows of classifiers only since August 2026"
        yield Objection("know", cause, "serve it by a vLLM of August 2026 or newer, or train approach: label-words")
    elif heads:
        cause = f"vLLM refuses modules_to_save, and its head ({heads[0]}) is one"
        yield Objection("refuses", cause, "serve it by pefttune, or transformers and PEFT")
    if (most := max(adapter.ranks.values(), default=0)) > VLLM_DEFAULT_RANK:
        enough = next((rank for rank in VLLM_RANKS if rank >= most), None)
        mend = f"start vLLM with --max-lora-rank {enough}" if enough else "train it with adapter.r=512 or less"
        yield Objection("refuses", f"its rank is {most}, and vLLM takes {VLLM_DEFAULT_RANK} unless it is told", mend)
    r, root = adapter.config["r"], adapter.config["use_rslora"]
    taken = adapter.config["lora_alpha"] / (math.sqrt(r) if root else r)
    why, mend = "vLLM reads neither rank_pattern nor alpha_pattern", adapter.as_weights or "train it with one rank"
    yield from _mis_scaled(why, adapter, lambda layer: taken, mend)
    yield from _quantized(adapter, "start vLLM with --quantization bitsandbytes, or judge it on what is served")


def _peft(adapter: Stored) -> Iterator[Objection]:
    if not METHODS[adapter.method].in_peft:
        yield Objection("refuses", f"PEFT has no method {adapter.method}", "load it with pefttune")
        return
    head = adapter.manifest["head"] or {}
    if not head.get("plain", True):
        cause = "its head is not the one of transformers' class for this base, which would have another between"
        yield Objection("else", cause, "load it with pefttune")
    if head.get("is_causal") is False:
        cause = "its tokens were trained to see those that follow them, and transformers hides these"
        yield Objection("know", cause, "set base.config.is_causal = False before PeftModel.from_pretrained")
    if tokens := list(adapter.manifest.get("new_tokens") or ()):
        cause = f"it reads by new tokens, {', '.join(map(repr, tokens))}, which the base lacks"
        mend = "add them to its tokenizer and table before PeftModel.from_pretrained, as its card says"
        yield Objection("know", cause, mend)
    if head.get("task_type") == "QUESTION_ANS":
        cause = "it was trained without token types, which PEFT's class for questions does not pass on"
        yield Objection("know", cause, "tokenize with return_token_type_ids=False")
    yield from _quantized(adapter, "load the base with transformers' BitsAndBytesConfig of the same kind")


def _llama_cpp(adapter: Stored) -> Iterator[Objection]:
    if not adapter.is_lora:
        yield Objection("refuses", f"llama.cpp applies LoRA adapters, and this is {adapter.method}", AS_LORA)
        return
    yield from _dora("llama.cpp", adapter)
    if heads := adapter.heads:
        cause = f"llama.cpp takes low-rank updates only, and its head ({heads[0]}) is none"
        yield Objection("refuses", cause, "train it with approach: label-words, where the task has that")
    yield from _architecture("llama.cpp", tuple(LLAMA_CPP), adapter)
    alpha = adapter.config["lora_alpha"]
    mend = "pefttune export --to gguf writes them into its numbers"
    why = "convert_lora_to_gguf.py reads neither use_rslora nor alpha_pattern: llama.cpp scales by lora_alpha / rank"
    for wrong in _mis_scaled(why, adapter, lambda layer: alpha / adapter.ranks[layer], mend):
        yield replace(wrong, kind="know")
    yield from _quantized(
        adapter, "judge it on the GGUF base that is served, which is quantized otherwise or not at all"
    )


def _mlx(adapter: Stored) -> Iterator[Objection]:
    if not adapter.is_lora:
        yield Objection("refuses", f"mlx-lm loads LoRA adapters, and this is {adapter.method}", AS_LORA)
        return
    yield from _dora("pefttune export --to mlx", adapter)
    if heads := adapter.heads:
        yield Objection("refuses", f"mlx-lm has no place for its head ({heads[0]})", "train approach: label-words")
    yield from _architecture("mlx-lm", MLX, adapter)
    if adapter.as_weights:
        cause = "mlx-lm reads adapters.safetensors of its own, with A and B the other way round, and no folder of PEFT"
        yield Objection("know", cause, "pefttune export --to mlx writes that")
    yield from _quantized(adapter, "judge it on the base that is served, which is quantized otherwise or not at all")


def _architecture(who: str, known: Collection[str], adapter: Stored) -> Iterator[Objection]:
    if adapter.model_type is None:
        cause = f"its base is not on this machine, so that it is not known whether {who} can be told its layers"
        yield Objection("know", cause, "pefttune export reads the base's configuration, and tells")
    elif adapter.model_type not in known:
        cause = f"its base is a {adapter.model_type}, of which it has not been tried what {who} calls the layers"
        yield Objection("refuses", cause, adapter.as_weights or f"train it on one of {', '.join(known)}")


def _quantized(adapter: Stored, mend: str) -> Iterator[Objection]:
    if (quantization := adapter.manifest["base"]["fingerprint"]["quantization"]) != "none":
        yield Objection("know", f"it was trained on {quantization} weights, and on others it answers otherwise", mend)


def _dora(who: str, adapter: Stored) -> Iterator[Objection]:
    if adapter.config["use_dora"]:
        yield Objection("refuses", f"{who} has no DoRA, and would leave out its magnitudes", AS_LORA)


def _mis_scaled(why: str, adapter: Stored, taken: Callable[[str], float], mend: str) -> Iterator[Objection]:
    """Where the scale that a consumer takes of a layer is not PEFT's."""
    wrong = [layer for layer in adapter.ranks if not math.isclose(taken(layer), adapter.scale(layer), rel_tol=1e-6)]
    if wrong:
        first = wrong[0]
        cause = (
            f"{why}; so {len(wrong)} of {len(adapter.ranks)} layers are scaled wrong, {_path(first)} by "
            f"{taken(first):g} instead of {adapter.scale(first):g}"
        )
        yield Objection("else", cause, mend)


def _path(layer: str) -> str:
    return layer.removeprefix("base_model.model.")


CONSUMERS: dict[str, Callable[[Stored], Iterator[Objection]]] = {
    "vllm": _vllm,
    "peft": _peft,
    "llama.cpp": _llama_cpp,
    "mlx": _mlx,
}
