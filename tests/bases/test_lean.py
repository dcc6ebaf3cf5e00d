"""Lean norms and gates give the same bits and the same gradients; what is not quite alike is left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pefttune.bases.lean import LeanGatedMLP, LeanRMSNorm, make_lean

# How many norms and MLPs of two layers are replaced.
KINDS = {"Llama": (5, 2), "Mistral": (5, 2), "Qwen2": (5, 2), "Qwen3": (9, 2), "Olmo2": (0, 2), "Gemma2": (0, 0)}
KINDS |= {"Gemma3Text": (0, 0), "Cohere": (0, 2), "GPTNeoX": (0, 0)}


@pytest.fixture
def random_of(model_of: Any) -> Any:
    """`model_of`, norms random too: a weight of 1 hides what is done with it."""

    def make(kind: str, dtype: torch.dtype = torch.float32) -> Any:
        model = model_of(kind, head_dim=8)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
        return model.to(dtype)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lean_model_gives_the_same_bits(random_of: Any, kind: str, dtype: torch.dtype) -> None:
    model = random_of(kind, dtype)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = model(ids).logits
    names = {name for name, _ in model.named_parameters()}
    norms, gates = KINDS[kind]
    if (kind, dtype) == ("Olmo2", torch.float32):
        norms = 9  # its norm rounds after the weight, not before: float32 does not tell the two apart
    assert make_lean(model) == norms + gates
    assert sum(isinstance(module, LeanRMSNorm) for module in model.modules()) == norms
    assert sum(isinstance(module, LeanGatedMLP) for module in model.modules()) == gates
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    assert {name for name, _ in model.named_parameters()} == names
    assert make_lean(copy.deepcopy(model)) <= norms + gates  # harmless a second time


def test_gemmas_norm_which_adds_one_to_its_weight_is_left_alone(random_of: Any) -> None:
    model = random_of("Gemma2")
    kinds = {type(module) for module in model.modules()}
    make_lean(model)
    assert {type(module) for module in model.modules()} == kinds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_autograds(random_of: Any, dtype: torch.dtype) -> None:
    plain, lean = random_of("Llama", dtype), random_of("Llama", dtype)
    make_lean(lean)
    for path in ("model.norm", "model.layers.0.mlp", "model.layers.1.input_layernorm"):
        torch.manual_seed(1)
        x, upon = torch.randn(2, 7, 32).to(dtype), torch.randn(2, 7, 32).to(dtype)
        found = []
        for model in (plain, lean):
            entering = x.clone().requires_grad_()
            out = model.get_submodule(path)(entering)
            found.append((out.detach(), torch.autograd.grad(out, entering, upon)[0]))
        assert torch.equal(found[0][0], found[1][0])
        # float32: the same few terms in another order. bfloat16 rounds each step to 8 bits, here and there others.
        tolerance = 1e-6 if dtype == torch.float32 else 1e-2
        difference, size = (found[0][1] - found[1][1]).float().norm(), found[0][1].float().norm()
        assert difference <= tolerance * size, path


def test_a_whole_models_gradient_is_autograds(random_of: Any) -> None:
    plain, lean = random_of("Llama"), random_of("Llama")
    make_lean(lean)
    gradients = []
    for model in (plain, lean):
        x = model.get_input_embeddings()(torch.arange(3, 20)[None]).requires_grad_()
        gradients.append(torch.autograd.grad(model(inputs_embeds=x).logits.square().sum(), x)[0])
    # float32: two layers of the same sums in another order.
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()


class Almost(nn.Module):
    """Looks like Llama's norm and is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.nn.functional.layer_norm(x, (8,))


class Relu(nn.Module):
    """Looks like a gated MLP of SiLU and is one of ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.act_fn = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return result


class Odd(Relu):
    """A gated MLP whose gate is no linear layer, and does not tell its width."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Sequential(nn.Linear(8, 8))
        self.act_fn = nn.SiLU()


@pytest.mark.parametrize("module", [Almost, Relu, Odd])
def test_what_only_looks_alike_stays(module: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(module())
    assert make_lean(model) == 0
    assert type(model[0]) is module
