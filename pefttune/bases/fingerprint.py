"""Who a base is: config, tensor content, quantization, tokenizer, chat template. Each a digest, so that a mismatch
can be explained field by field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pefttune.bases.safety import read_json

# Keys of config.json that say how or by whom it was written, not what the model computes.
VOLATILE_KEYS = frozenset(
    {
        "_model_name_or_path",
        "_name_or_path",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
SAMPLED_ROWS = 16
PROBE_TEXTS = (
    "The quick brown fox isn't quick: it's 3.14159 times slower!",
    " leading space\n\ttabs\r\nand  double  spaces",
    "Zażółć gęślą jaźń — 漢字 かな 한국어 🙂",
    "<|im_start|>user<|im_end|><s></s>[INST]",
)


Mismatch = dict[str, dict[str, str]]
"""Fields of two fingerprints that differ, each with what it is `here` and `there`; JSON-able."""


@dataclass(frozen=True)
class Fingerprint:
    """Digests (hexadecimal, 32 digits) of what a base is, and the words for its quantization."""

    config: str
    tensors: str
    quantization: str
    tokenizer: str
    chat_template: str

    @property
    def digest(self) -> str:
        """One digest over all fields."""
        return _digest(json.dumps(asdict(self), sort_keys=True).encode())

    def mismatch(self, other: Fingerprint) -> Mismatch:
        """Of each field that differs what it is here and there; empty when the two are the same base."""
        return {
            field: {"here": mine, "there": theirs}
            for (field, mine), theirs in zip(asdict(self).items(), asdict(other).values(), strict=True)
            if mine != theirs
        }

    def differences(self, other: Fingerprint) -> list[str]:
        """Which fields differ, in words; empty when the two are the same base."""
        return in_words(self.mismatch(other))


def in_words(mismatch: Mismatch) -> list[str]:
    """`tokenizer (… here, … there)` for each field that differs."""
    return [f"{field.replace('_', ' ')} ({of['here']} here, {of['there']} there)" for field, of in mismatch.items()]


def take(folder: Path, tokenizer: Any, quantization: str) -> Fingerprint:
    """The fingerprint of the model folder `folder` as it is loaded with `quantization`."""
    return Fingerprint(
        config=config_digest(folder),
        tensors=_tensor_digest(folder),
        quantization=quantization,
        **tokenizer_digests(tokenizer),
    )


def tokenizer_digests(tokenizer: Any) -> dict[str, str]:
    """What a tokenizer tells of a fingerprint."""
    return {
        "tokenizer": _tokenizer_digest(tokenizer),
        "chat_template": _chat_template_digest(tokenizer.chat_template),
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def config_digest(folder: Path) -> str:
    """What of a fingerprint is known of a model folder without its weights. Raises BaseError."""
    config: Mapping[str, Any] = read_json(folder / "config.json")
    kept = {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
    return _digest(json.dumps(kept, sort_keys=True).encode())


def _tensor_digest(folder: Path) -> str:
    """Name, shape, dtype and sampled rows of every tensor: seconds for any size, and training of whole layers shows.

    A change of single rows of a large tensor can pass; the probe rows are there for that. The file layout (shards)
    does not count.
    """
    parts: dict[str, bytes] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is not a mapping)
                parts[name] = _tensor_sample(tensors, name)
    total = hashlib.sha256()
    for name in sorted(parts):
        total.update(name.encode() + parts[name])
    return total.hexdigest()[:32]


def _tensor_sample(file: Any, name: str) -> bytes:
    import torch

    tensor = file.get_slice(name)
    shape = tensor.get_shape()
    head = f"{shape}{tensor.get_dtype()}".encode()
    if not shape:
        rows = file.get_tensor(name).reshape(1)
    else:
        step = max(1, shape[0] // SAMPLED_ROWS)
        rows = tensor[::step] if step == 1 else torch.stack([tensor[i] for i in range(0, shape[0], step)])
    return head + hashlib.sha256(rows.contiguous().view(torch.uint8).numpy().tobytes()).digest()


def _chat_template_digest(template: str | dict[str, str] | None) -> str:
    if isinstance(template, dict):  # some tokenizers have several, by name
        template = json.dumps(template, sort_keys=True)
    return _digest((template or "").encode())


def _tokenizer_digest(tokenizer: Any) -> str:
    """What the tokenizer does, not how its files are written: vocabulary, special tokens, and a few hard texts."""
    probe = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "encoded": [tokenizer(text)["input_ids"] for text in PROBE_TEXTS],
    }
    return _digest(json.dumps(probe, sort_keys=True).encode())
