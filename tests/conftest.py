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
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
# What an architecture needs told besides.
WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
KINDS: dict[str, dict[str, Any]] = {
    "Mistral": {"sliding_window": 5},
    "Gemma3Text": {"head_dim": 8, **WINDOWS},
    "Bert": {"num_key_value_heads": 4},
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
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **{**TINY, **changes}))
    model.save_pretrained(folder)
    return folder


def write_encoder_tokenizer(folder: Path) -> int:
    """BERT's kind of tokenizer, `[CLS] … [SEP]`, that knows single characters, saved; gives its vocabulary's size."""
    import string

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary = {token: i for i, token in enumerate([*specials, *characters, *(f"##{c}" for c in characters)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    names = {f"{token.strip('[]').lower()}_token": token for token in specials}
    read = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=read, **names).save_pretrained(folder)
    return len(vocabulary)


def write_encoder(folder: Path, seed: int = 0, pooler: bool = True, **changes: Any) -> Path:
    """A tiny random BERT with a tokenizer, saved into `folder` as MiniLM and its kin are: without an output layer."""
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in TINY.items() if "token" not in key and "key_value" not in key}
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=write_encoder_tokenizer(folder), **{**own, "initializer_range": 0.2, **changes})
    BertModel(config, add_pooling_layer=pooler).save_pretrained(folder)
    return folder


def write_pair_tokenizer(folder: Path, kind: str) -> int:
    """A tokenizer that knows single characters, saved; gives its vocabulary's size. T5's kind marks where a word begins
    and makes `text </s>` of a text, others make `<s> text </s>` of its bytes."""
    import string

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if kind == "T5":
        specials = ["<pad>", "</s>", "<unk>"]
        pieces = [*specials, "\u2581", *string.ascii_letters, *string.digits, *string.punctuation]
        tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
        tokenizer.normalizer = normalizers.Nmt()  # a line break is a space
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
        names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return len(pieces)


def write_encoder_decoder(folder: Path, kind: str, seed: int = 0, **changes: Any) -> Path:
    """A tiny random T5, Bart, Marian or Pegasus with a tokenizer, saved into `folder`."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    size = {"vocab_size": write_pair_tokenizer(folder, kind), "d_model": 32}
    if kind == "T5":
        own = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
        config = transformers.T5Config(**{**size, **own, "feed_forward_proj": "gated-gelu", **changes})
        kind_of = transformers.T5ForConditionalGeneration
    else:
        each = {"layers": 2, "ffn_dim": 64, "attention_heads": 4}
        own = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in each.items()}
        ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2}
        ids["decoder_start_token_id"] = 1 if kind == "Marian" else 2
        config = getattr(transformers, f"{kind}Config")(
            **{**size, **own, **ids, "max_position_embeddings": 128, **changes}
        )
        name = "MarianMTModel" if kind == "Marian" else f"{kind}ForConditionalGeneration"
        kind_of = getattr(transformers, name)
    torch.manual_seed(seed)
    model = kind_of(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # fresh weights are so small that every text looks alike
            parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def new_encoder_decoder() -> Any:
    """`write_encoder_decoder`."""
    return write_encoder_decoder


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of the tiny random encoder-decoder of a kind, `tiny_pair("T5")` or `tiny_pair("Bart")`; do not write into
    it."""
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = write_encoder_decoder(tmp_path_factory.mktemp("models") / f"tiny-{kind.lower()}", kind)
        return folders[kind]

    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny random model; do not write into it."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny random encoder; do not write into it."""
    return write_encoder(tmp_path_factory.mktemp("models") / "tiny-encoder")


def write_reviews(path: Path, rows: int = 60) -> Path:
    """A small labelled file whose label can be learned from its text: good or bad."""
    words = {"good": ["fine", "bright", "warm"], "bad": ["poor", "dull", "cold"]}
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            label = "good" if number % 2 else "bad"
            text = f"{words[label][number % 3]} film number {number}"
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    return path


def write_recipe(
    folder: Path,
    base: Path,
    task: str,
    data: str,
    training: str = "{per_device_train_batch_size: 8, learning_rate: 1e-2, num_train_epochs: 1}",
    adapter: str = "{method: lora, r: 4}",
    name: str = "tiny",
) -> Path:
    """A recipe over a tiny base, whose store and runs are in `folder`, where it is saved; its sections as in YAML."""
    path = folder / "recipe.yaml"
    path.write_text(
        f"task: {task}\n"
        f"base: {{source: {base}, quantization: none, dtype: float32, device: cpu}}\n"
        f"data: {data}\n"
        f"adapter: {adapter}\n"
        f"training: {training}\n"
        f"output: {{name: {name}, store: {folder}/adapters, runs: {folder}/runs}}\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def new_recipe() -> Any:
    """`write_recipe`."""
    return write_recipe


@pytest.fixture
def recipe_of(tiny: Path, tmp_path: Path) -> Any:
    """Makes recipes over the tiny model and the small file: `recipe_of({"training.max_steps": 3})`."""
    from pefttune.recipe import load_recipe

    data = f"{{source: {write_reviews(tmp_path / 'reviews.jsonl')}, split: {{validation: 0.2, test: 0.3}}}}"
    path = write_recipe(tmp_path, tiny, "{type: text-classification}", data)

    def make(changes: dict[str, Any] | None = None) -> Any:
        return load_recipe(path, [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()])

    make.path = path
    return make


# For the rooms that need torch: the helpers above as fixtures (pytest's importlib mode has no `import conftest`),
# bases, and sessions with adapters that do something.


@pytest.fixture(scope="session")
def new_model() -> Any:
    """`write_model`."""
    return write_model


@pytest.fixture(scope="session")
def new_encoder() -> Any:
    """`write_encoder`."""
    return write_encoder


@pytest.fixture(scope="session")
def new_tokenizer() -> Any:
    """`write_tokenizer`."""
    return write_tokenizer


@pytest.fixture(scope="session")
def new_reviews() -> Any:
    """`write_reviews`."""
    return write_reviews


@pytest.fixture(scope="session")
def model_of() -> Any:
    """A frozen random model: `model_of("Qwen3")`, `model_of("Mistral", sliding_window=4)`."""
    import torch
    import transformers

    def make(kind: str, **changes: Any) -> Any:
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**{"vocab_size": 261, **TINY, **KINDS.get(kind, {}), **changes})
        model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() > 1:  # fresh weights are so small that every model looks alike
                parameter.data.normal_(std=0.2)
        return model

    return make


@pytest.fixture
def base_of(tiny: Path) -> Any:
    """Loads a base: `base_of()`, `base_of(folder, quantization="nf4")`; float32, not quantized, unless told."""

    def load(source: Path | str = tiny, **changes: Any) -> Any:
        from pefttune import bases
        from pefttune.recipe import schema

        plain = {"source": str(source), "quantization": "none", "dtype": "float32", "device": "cpu"}
        return bases.load(schema.Base(**{**plain, **changes}))

    return load


@pytest.fixture
def adapted() -> Any:
    """Puts an adapter into a session: `adapted(session, "a", labels=("x", "y"), approach="head", seed=3, r=2)`.

    Its weights are random, B too, as after training: a new LoRA does nothing, so no test could tell it from the base.
    """

    def add(
        session: Any,
        name: str,
        labels: Any = ("bad", "good"),
        approach: str = "label-words",
        seed: int = 1,
        std: float = 0.2,
        **lora: Any,
    ) -> Any:
        import torch

        from pefttune import tasks
        from pefttune.recipe import tasks as sections
        from pefttune.recipe.adapters import Lora

        section = sections.TextClassification(type="text-classification", approach=approach, labels=labels)
        config = Lora(**{"method": "lora", "r": 4, **lora})
        torch.manual_seed(seed)
        loaded = session.add(name, session.attach(tasks.get(section), config, 256))
        for parameter in loaded.parameters.values():
            parameter.data.normal_(std=std)
        return loaded

    return add


@pytest.fixture
def examples_of() -> Any:
    """Texts to labelled examples by an adapter of a session: `examples_of(loaded, [("fine film", "good"), …])`."""

    def encode(loaded: Any, pairs: Any) -> list[Any]:
        from pefttune.data import Row

        return [
            example
            for number, (text, label) in enumerate(pairs, start=1)
            for example in loaded.encoder(Row({"text": text, "label": label}, f"row {number}"))
        ]

    return encode


RAGGED = [
    ("a", "good"),
    ("bright and warm", "good"),
    ("dull", "bad"),
    ("cold, poor, dull, and far too long for what it is", "bad"),
    ("fine film", "good"),
    ("no", "bad"),
    ("warm", "good"),
    ("a poor film number seventeen", "bad"),
]


@pytest.fixture(scope="session")
def ragged() -> list[tuple[str, str]]:
    """Eight labelled texts of very different length."""
    return list(RAGGED)


@pytest.fixture(scope="session")
def finished(tiny: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run on the tiny model, made once for each approach: `finished("head")` gives the `Run`, its recipe, its
    events and its cache; `finished("encoder")` is a head on the tiny encoder, and with `alone` the head is all there
    is. Read only."""
    runs: dict[str, Any] = {}

    def run(kind: str = "label-words") -> Any:
        if kind not in runs:
            base, approach = (tiny_encoder if "encoder" in kind else tiny), kind if kind == "label-words" else "head"
            method = "{method: head}" if "alone" in kind else "{method: lora, r: 4}"
            runs[kind] = _finish(base, tmp_path_factory.mktemp(kind), approach, method)
        return runs[kind]

    return run


def _finish(base: Path, folder: Path, approach: str, method: str) -> Any:
    from types import SimpleNamespace

    from pefttune import pipeline
    from pefttune.recipe import load_recipe

    data = f"{{source: {write_reviews(folder / 'reviews.jsonl')}, split: {{validation: 0.2, test: 0.3}}}}"
    training = "{per_device_train_batch_size: 8, learning_rate: 1e-2, num_train_epochs: 2}"
    task = f"{{type: text-classification, approach: {approach}}}"
    recipe, events = load_recipe(write_recipe(folder, base, task, data, training, method)), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTTUNE_CACHE", str(folder / "cache"))
        run = pipeline.run(recipe, events.append)
    return SimpleNamespace(run=run, recipe=recipe, events=events, cache=folder / "cache", store=folder / "adapters")


@pytest.fixture
def disk_full() -> Any:
    """`with disk_full(after_bytes):` no file grows beyond that. The kernel refuses, as on a full disk (EFBIG for
    ENOSPC); Python ignores the signal that comes with it."""
    import contextlib
    import resource

    @contextlib.contextmanager
    def limited(after_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
