"""What every test stands on: no network, an own cache, fixed seeds, and a tiny random model with its tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with a reason that the summary counts, what this machine lacks."""
    import importlib.util

    has_gpu = False
    if any("gpu" in item.keywords for item in items) and importlib.util.find_spec("torch"):
        import torch

        has_gpu = torch.cuda.is_available()
    for item in items:
        if "gpu" in item.keywords and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if "shared" in item.keywords and not (SHARED / "data").is_dir():
            item.add_marker(pytest.mark.skip(reason="no ../shared/data beside the project"))


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    """Tests never see the user's cache; those of the real tier share it, since a base is 90 MB to fetch."""
    if "real" not in request.keywords:
        monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _fresh_accelerate() -> Iterator[None]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def write_tokenizer(folder: Path, template: str | None = TEMPLATE) -> int:
    """A byte-level tokenizer with chat tokens, saved into `folder`; gives the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=specials[2:],
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return len(vocabulary)


def write_model(folder: Path, template: str | None = TEMPLATE, seed: int = 0, **changes: Any) -> Path:
    """A tiny random Llama with a tokenizer, saved into `folder` as transformers does."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder, template)
    torch.manual_seed(seed)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **ids, **{**TINY, **changes}))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny random model; do not write into it."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def write_reviews(path: Path, rows: int = 60) -> Path:
    """A small labelled file whose label can be learned from its text: good or bad."""
    words = {"good": ["fine", "bright", "warm"], "bad": ["poor", "dull", "cold"]}
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            label = "good" if number % 2 else "bad"
            text = f"{words[label][number % 3]} film number {number}"
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    return path


@pytest.fixture
def recipe_of(tiny: Path, tmp_path: Path) -> Any:
    """Makes recipes over the tiny model and the small file: `recipe_of({"training.max_steps": 3})`."""
    from pefttune.recipe import load_recipe

    write_reviews(tmp_path / "reviews.jsonl")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "task: {type: text-classification}\n"
        f"base: {{source: {tiny}, quantization: none, dtype: float32, device: cpu}}\n"
        f"data: {{source: {tmp_path}/reviews.jsonl, split: {{validation: 0.2, test: 0.3}}}}\n"
        "adapter: {method: lora, r: 4}\n"
        "training: {per_device_train_batch_size: 8, learning_rate: 1e-2, num_train_epochs: 1}\n"
        f"output: {{name: tiny, store: {tmp_path}/adapters, runs: {tmp_path}/runs}}\n",
        encoding="utf-8",
    )

    def make(changes: dict[str, Any] | None = None) -> Any:
        return load_recipe(path, [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()])

    make.path = path  # type: ignore[attr-defined]
    return make
