"""bitsandbytes repacks 4-bit weights at the first evaluation on AVX512-BF16 CPUs, and then gives no input gradient, so
every adapter but the top one stops learning. The guard stands in `bases.load`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from torch import Tensor

from pefttune.inference import Session


@pytest.fixture(scope="module")
def wide(new_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of 64 and more inputs: bitsandbytes repacks whole blocks of 64."""
    return Path(new_model(tmp_path_factory.mktemp("wide") / "wide", hidden_size=64, intermediate_size=128))


@pytest.mark.skipif(not has_avx512bf16(), reason="this CPU has no AVX512-BF16, so bitsandbytes repacks nothing here")
def test_the_trap_exists_in_bitsandbytes_itself() -> None:
    # Should this fail after an upgrade of bitsandbytes, the guard in bases/load.py may no longer be needed.
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.load_state_dict({"weight": torch.randn(64, 64)})
    layer = layer.to("cpu")
    x = torch.randn(4, 64, dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.any()
    before = layer.weight.data.clone()
    layer.eval()
    with torch.no_grad():
        layer(x.detach())
    assert not torch.equal(before.flatten(), layer.weight.data.flatten()), "not repacked"
    x.grad = None
    layer.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its only sign of life
        layer(x).sum().backward()
    assert x.grad is None


def second_gradients(session: Session, batch: Any, evaluate: Any) -> dict[str, Tensor]:
    """The gradients of a second training step, with `evaluate` between the first and it."""
    loaded = session["a"]
    for step in (1, 2):
        loaded.train(True)
        session.loss("a", batch).backward()
        if step == 1:
            for parameter in loaded.parameters.values():
                parameter.data -= 0.1 * parameter.grad
                parameter.grad = None
            loaded.train(False)
            evaluate(session)
    return {key: parameter.grad for key, parameter in loaded.parameters.items()}


@pytest.fixture(params=["nf4", "fp4"])
def quantization(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


@pytest.fixture(params=["dense", "4-bit"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Dequantized once, as where memory allows, or bitsandbytes' own layers."""
    if request.param == "4-bit":
        monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0)
    return str(request.param)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation_between_two_steps_changes_no_gradient(
    wide: Path, base_of: Any, adapted: Any, examples_of: Any, ragged: Any, quantization: str, dtype: str, held: str
) -> None:
    gradients, digests = [], set()
    for evaluates in (False, True):
        session = Session(base_of(wide, quantization=quantization, dtype=dtype))
        four_bit = [module for module in session.base.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
        assert len(four_bit) == (14 if held == "4-bit" else 0)
        examples = examples_of(adapted(session, "a"), ragged)
        batch = session.collator.collate(examples, every_answer=False)

        def evaluate(session: Session, evaluates: bool = evaluates, examples: Any = examples) -> None:
            if evaluates:
                session.scores("a", examples)

        gradients.append(second_gradients(session, batch, evaluate))
        digests.add(session.base.digest())
    never, once = gradients
    assert len(digests) == 1, "the evaluation changed the base"
    assert len(never) == 28  # A and B of seven linear layers in two blocks
    for key, gradient in never.items():
        assert gradient is not None, key
        assert gradient.any(), f"{key} gets no gradient"
        assert torch.equal(gradient, once[key]), f"{key} has another gradient after an evaluation"
