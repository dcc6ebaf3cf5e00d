"""What a LoRA adds to the weights of its base, measured from its factors alone: no matrix of a weight's size is made.

Shapes: O and I the widths of a layer's output and input, r a rank. B · A = Q_b (R_b · R_aᵀ) Q_aᵀ by the QR
decompositions of both factors, so that the core R_b · R_aᵀ (r, r) has the singular values of the whole update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from pefttune.errors import AdapterError
from pefttune.methods import weights
from pefttune.methods.lora import scale_of
from pefttune.methods.merging import Update
from pefttune.methods.places import FILE_PREFIX
from pefttune.recipe.adapters import Lora
from pefttune.store.strict_json import shown


@dataclass(frozen=True)
class Change:
    """Two updates of the same weight: the Frobenius norm of each and of their difference, and their inner product. An
    adapter that leaves the weight alone has the norm 0."""

    first: float
    second: float
    difference: float
    inner: float

    @property
    def cosine(self) -> float | None:
        """Of the angle between the two; None where one of them is 0."""
        return self.inner / (self.first * self.second) if self.first and self.second else None

    def __add__(self, other: Self) -> Change:
        """Of two weights together, as if they were one."""
        norms = ((self.first, other.first), (self.second, other.second), (self.difference, other.difference))
        first, second, difference = (sqrt(one**2 + another**2) for one, another in norms)
        return Change(first, second, difference, self.inner + other.inner)


@dataclass(frozen=True)
class Parts:
    """What a LoRA adapter's file holds: the updates of modules, by their names as file keys begin, and the other
    tensors, which are a head's, by their keys."""

    updates: dict[str, Update]
    others: dict[str, Tensor]


def parts_of(state: Mapping[str, Tensor], section: Lora, path: Path) -> Parts:
    """Those of the adapter by that recipe section, as it is stored, whose tensors were read from `path`. Raises
    AdapterError where A and B of a module do not fit together."""
    end_a, end_b = weights.LOW_RANK
    names = dict.fromkeys(key.removesuffix(end) for key in state for end in weights.LOW_RANK if key.endswith(end))
    updates: dict[str, Update] = {}
    for name in names:
        a, b = state.get(name + end_a), state.get(name + end_b)
        if a is None or b is None or not _fit_together(a, b):
            raise AdapterError(f"{path}: {shown(name)} has no A and B of one rank")
        updates[name] = (a, b, scale_of(section, module_of(name.removeprefix(FILE_PREFIX), section), len(a)))
    return Parts(updates, {key: each for key, each in state.items() if not key.endswith(weights.LOW_RANK)})


def _fit_together(a: Tensor, b: Tensor) -> bool:
    return a.dim() == b.dim() == 2 and len(a) == b.shape[1] and a.numel() > 0 and b.numel() > 0


def module_of(path: str, section: Lora) -> str:
    """A module's path in the base, as recipes say it: an encoder alone has one name less before it than in files."""
    return path if path in section.alpha_pattern else path.partition(".")[2]


def stored_parts(folder: Path, section: Lora, sha256: str) -> Parts:
    """Those of the adapter saved in `folder`. Raises AdapterError."""
    return parts_of(weights.read_any(folder, sha256), section, folder / weights.WEIGHTS)


@torch.no_grad()
def norms(update: Update) -> tuple[float, float]:
    """The spectral and the Frobenius norm of an update."""
    core_rr = _core(update)
    return float(torch.linalg.matrix_norm(core_rr, 2)), float(torch.linalg.matrix_norm(core_rr))


@torch.no_grad()
def change(first: Update | None, second: Update | None) -> Change:
    """From one update of a weight to another; None where an adapter leaves it alone. At least one is given."""
    one, other = (0.0 if update is None else norms(update)[1] for update in (first, second))
    if first is None or second is None:
        return Change(one, other, one + other, 0.0)
    (a, b, scale), (other_a, other_b, other_scale) = first, second
    if scale == other_scale and torch.equal(a, other_a) and torch.equal(b, other_b):
        return Change(one, other, 0.0, one * other)  # QR would leave the last bits of its rounding
    # As one update of both ranks: from the norms and the inner product a small difference would be lost in rounding.
    both_a = torch.cat([a.double(), other_a.double()])
    both_b = torch.cat([-scale * b.double(), other_scale * other_b.double()], dim=1)
    difference = float(torch.linalg.matrix_norm(_core((both_a, both_b, 1.0))))
    gram = (b.double().t() @ other_b.double()) * (a.double() @ other_a.double().t())
    return Change(one, other, difference, scale * other_scale * float(gram.sum()))


@torch.no_grad()
def change_of_tensor(first: Tensor | None, second: Tensor | None) -> Change:
    """From one tensor to another of its shape, number by number; None where there is none. At least one is given."""
    given = first if first is not None else second
    assert given is not None
    one, other = (torch.zeros_like(given).double() if each is None else each.double() for each in (first, second))
    return Change(float(one.norm()), float(other.norm()), float((other - one).norm()), float((one * other).sum()))


def _core(update: Update) -> Tensor:
    a_rI, b_Or, scale = update
    a_rr = torch.linalg.qr(a_rI.double().t(), mode="r").R
    b_rr = torch.linalg.qr(b_Or.double(), mode="r").R
    core_rr: Tensor = scale * (b_rr @ a_rr.t())
    return core_rr
