"""On the real base: ragged batches give the loss and gradients of padded ones, a dense base is its 4-bit self."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pefttune import bases, batching, methods, pipeline
from pefttune.data import Example
from pefttune.inference import Loaded, Session
from pefttune.recipe import load_recipe, schema
from pefttune.recipe.adapters import Lora

pytestmark = pytest.mark.real
FILM = str(Path(__file__).parents[2] / "recipes" / "film-sentiment.yaml")
ROWS = 8
IDS = torch.tensor([[504, 2365, 282, 4649, 314, 42, 30, 198, 28, 338, 905, 281]])


def base_as(quantization: str, dtype: str) -> bases.Base:
    return bases.load(schema.Base(quantization=quantization, dtype=dtype, device="cpu"))


def learning(base: bases.Base) -> tuple[Session, Loaded, list[Example]]:
    """A session with an adapter that does something, and examples of the film recipe."""
    recipe = load_recipe(FILM, ["data.max_train_samples=64"])
    task, rows = pipeline.read_data(recipe)
    session = Session(base)
    encoder = task.encoder(base.tokenizer, 512, causal=True)
    adapter = methods.attach(base.model, Lora(method="lora", r=4))
    torch.manual_seed(0)
    for key, parameter in adapter.parameters.items():
        if "lora_B" in key:
            parameter.data.normal_(std=0.01)
    loaded = session.add("film", Loaded(task, encoder, 512, adapter))
    loaded.train(True)
    return session, loaded, [example for row in rows.train[:ROWS] for example in encoder(row)]


def loss_and_gradients(session: Session, loaded: Loaded, batch: batching.Batch) -> tuple[float, dict[str, Tensor]]:
    loss = session.loss("film", batch) / batch.n_scored
    loss.backward()
    gradients = {key: parameter.grad.clone() for key, parameter in loaded.parameters.items()}
    for parameter in loaded.parameters.values():
        parameter.grad = None
    return loss.item(), gradients


def test_loss_and_every_gradient_are_those_of_padded_batches() -> None:
    session, loaded, examples = learning(base_as("nf4", "float32"))
    assert session.collator.try_ragged(examples) is None
    ragged = session.collator.collate(examples, every_answer=False)
    ours, gradients = loss_and_gradients(session, loaded, ragged)
    padded = batching.padded(examples, 2, every_answer=False, device=session.base.device)
    assert ragged.n_tokens < padded.n_tokens / 1.5  # the instruction stands once
    theirs, reference = loss_and_gradients(session, loaded, padded)
    # float32 through 30 layers, sums in another order.
    assert ours == pytest.approx(theirs, rel=1e-5)
    whole = torch.cat([gradient.flatten() for gradient in reference.values()]).norm()
    for key, gradient in reference.items():
        assert gradient.any(), key
        assert (gradients[key] - gradient).norm() <= 1e-5 * whole, key


def test_what_is_entered_at_a_layer_is_what_the_whole_base_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path))
    session, loaded, examples = learning(base_as("nf4", "bfloat16"))
    session.collator.try_ragged(examples)
    base = session.base
    refused: Callable[[str], None] = pytest.fail
    boundary = batching.open_boundary(
        tmp_path, base.model, 20, examples, every_answer=False, causal=True, base_digest="", max_tokens=4096,
        notice=refused, progress=lambda done: None,
    )  # fmt: skip
    assert boundary is not None
    whole = session.collator.collate(examples, every_answer=False)
    cut = boundary.enter(whole, range(ROWS))
    with torch.no_grad():
        for parameter in loaded.parameters.values():
            parameter.zero_()  # what adapters below layer 20 would do is not in the cache
        assert torch.equal(session.loss("film", cut), session.loss("film", whole))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dense_base_computes_the_very_numbers_of_the_4_bit_one(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def logits(base: Any) -> Tensor:
        with torch.no_grad():
            result: Tensor = base.model(IDS).logits
        return result

    dense = logits(base_as("nf4", dtype))
    monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0.0)
    assert torch.equal(logits(base_as("nf4", dtype)), dense)
