"""The layer that LoRA puts around a frozen linear layer. Shapes: R rows (all tokens of the batch), I and O the widths
of input and output, r the rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad


@dataclass(frozen=True, slots=True)
class Acting:
    """An adapter that acts, and the rows of the batch that are its own."""

    slot: str
    rows: slice


class LoraLinear(nn.Module):
    """A frozen linear layer, quantized or not, and the LoRA updates of any number of adapters, each in a slot.

    `acting` is shared by all layers of a model, so that another adapter is a pointer, not a walk over modules.
    """

    def __init__(self, base_layer: nn.Linear, acting: list[Acting]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self.lora_dropout = nn.ModuleDict()
        self._scale: dict[str, float] = {}
        self._start: dict[str, tuple[Tensor, Tensor]] = {}
        self._lent: set[str] = set()
        self._acting = acting
        self._tables: Tables | None = None

    @property
    def weight(self) -> Tensor:
        """The frozen weight, which some architectures ask for its dtype."""
        return self.base_layer.weight

    def add(
        self,
        slot: str,
        a_rI: Tensor,
        b_Or: Tensor,
        scale: float,
        dropout: float,
        *,
        taken_back: bool = False,
        lent: bool = False,
    ) -> None:
        """A new update in `slot`, frozen, in eval mode. If it is `taken_back`, what it does at first is subtracted by a
        frozen half of the same rank, so that it begins without effect also where B is not zero. One that is `lent` is
        read by others and never acts, so that no table holds it."""
        self.lora_A[slot] = nn.Parameter(a_rI, requires_grad=False)
        self.lora_B[slot] = nn.Parameter(b_Or, requires_grad=False)
        self.lora_dropout[slot] = nn.Dropout(dropout).eval()
        self._scale[slot] = scale
        if taken_back:
            self._start[slot] = (a_rI.clone(), -b_Or)
        if lent:
            self._lent.add(slot)

    def begin(self, slot: str, a_rI: Tensor, b_Or: Tensor) -> None:
        """Other first values of the update in `slot`, also of its frozen half, if it has one."""
        self.lora_A[slot].copy_(a_rI)
        self.lora_B[slot].copy_(b_Or)
        if slot in self._start:
            self._start[slot] = (a_rI, -b_Or)

    def update(self, slot: str) -> tuple[Tensor, Tensor, float]:
        """A, B and scale of the update in `slot`."""
        return *self.low_rank(slot), self._scale[slot]

    def remove(self, slot: str) -> None:
        """Forget the update in `slot`."""
        del self.lora_A[slot], self.lora_B[slot], self.lora_dropout[slot], self._scale[slot]
        self._start.pop(slot, None)
        self._lent.discard(slot)
        self._tables = None

    def low_rank(self, slot: str) -> tuple[Tensor, Tensor]:
        """A and B as they act: behind those that learn the frozen half, if there is one. In one product with them, what
        is to cancel out does so before anything is rounded."""
        a, b = self.lora_A[slot], self.lora_B[slot]
        if slot not in self._start:
            return a, b
        start_a, start_b = self._start[slot]
        return torch.cat([a, start_a]), torch.cat([b, start_b], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """The base's output plus, on each acting adapter's rows, `scale · B · A · dropout(x)`."""
        here = [one for one in self._acting if one.slot in self._scale]
        if not here:
            output: Tensor = self.base_layer(x)
            return output
        weights = [weight for one in here for weight in self.low_rank(one.slot)]
        updates = [(one.rows, self._scale[one.slot]) for one in here]
        base, rows = self.base_layer, x.flatten(0, -2)
        if torch.is_grad_enabled():
            self._tables = None  # an optimizer may write to the weights where no count of versions sees it
        elif _are_alike([one.rows for one in here]):
            updated: Tensor = base(x).flatten(0, -2)
            self._stacked(x.dtype).add(updated, rows, here)
            return updated.view(*x.shape[:-1], -1)
        if type(base) is nn.Linear and not any(self._drops(one) for one in here):
            updated = _low_rank_linear(rows, base.weight, base.bias, updates, *weights)
        else:
            inputs = [self.lora_dropout[one.slot](rows[one.rows]) for one in here]
            updated = _low_rank_update(base(x).flatten(0, -2), updates, *inputs, *weights)
        return updated.view(*x.shape[:-1], -1)

    def _stacked(self, dtype: torch.dtype) -> Tables:
        """The tables of all updates here that can act, made again when one has changed."""
        slots = self._that_act()
        state = (dtype, *((slot, self.lora_A[slot]._version, self.lora_B[slot]._version) for slot in slots))
        if self._tables is None or self._tables.state != state:
            self._tables = None  # before there are others, for their memory
            weights = {slot: self.update(slot) for slot in slots}
            self._tables = Tables.of(weights, dtype, state)
        return self._tables

    def tables_nbytes(self, dtype: torch.dtype) -> int:
        """Memory of the tables of all updates here that can act, once several adapters act at once."""
        slots = self._that_act()
        if len(slots) < WORTH_STACKING:
            return 0
        r = max(len(self.lora_A[slot]) * (2 if slot in self._start else 1) for slot in slots)
        return len(slots) * r * (self.base_layer.in_features + self.base_layer.out_features) * dtype.itemsize

    def _that_act(self) -> list[str]:
        return [slot for slot in self._scale if slot not in self._lent]

    def _drops(self, acting: Acting) -> bool:
        dropout = self.lora_dropout[acting.slot]
        return bool(dropout.training and dropout.p)


Update = tuple[slice, float]  # the rows of an adapter, and the factor of its update


# Fewer adapters than this are faster one after the other.
WORTH_STACKING = 4
# Rows that padding may add to each one that an adapter has.
PADDING_WORTH_STACKING = 1.0


def _are_alike(rows: Sequence[slice]) -> bool:
    """Whether so many adapters act on so similar numbers of rows that their updates are best computed at once."""
    if len(rows) < WORTH_STACKING or any(one.start is None for one in rows):
        return False
    lengths: list[int] = [one.stop - one.start for one in rows]
    return max(lengths) * len(lengths) <= (1 + PADDING_WORTH_STACKING) * sum(lengths)


@dataclass(frozen=True)
class Tables:
    """The low-rank weights of n adapters in the compute dtype, A scaled (n, r, I) and B (n, O, r), smaller ranks padded
    with zeros; `state` says what they were made of."""

    state: tuple[Any, ...]
    places: dict[str, int]
    a_nrI: Tensor
    b_nOr: Tensor

    @classmethod
    def of(
        cls, weights: Mapping[str, tuple[Tensor, Tensor, float]], dtype: torch.dtype, state: tuple[Any, ...]
    ) -> Tables:
        """Those of A, B and scale of each slot."""
        r = max(len(a) for a, _, _ in weights.values())
        a_nrI = torch.stack([pad(a * scale, (0, 0, 0, r - len(a))).to(dtype) for a, _, scale in weights.values()])
        b_nOr = torch.stack([pad(b, (0, r - b.shape[1])).to(dtype) for _, b, _ in weights.values()])
        return cls(state, {slot: i for i, slot in enumerate(weights)}, a_nrI, b_nOr)

    def add(self, y_RO: Tensor, x_RI: Tensor, acting: Sequence[Acting]) -> None:
        """Add the updates of the adapters that act, in place, by two products for all of them: the rows of each are
        padded to m."""
        own_nm, rows_R, places_R = _padding(tuple((one.rows.start, one.rows.stop) for one in acting), x_RI.device)
        which = torch.tensor([self.places[one.slot] for one in acting], device=x_RI.device)
        x_nmI = x_RI.index_select(0, own_nm.flatten()).view(*own_nm.shape, -1)
        h_nmr = torch.bmm(x_nmI, self.a_nrI.index_select(0, which).transpose(1, 2))
        update = torch.bmm(h_nmr, self.b_nOr.index_select(0, which).transpose(1, 2)).flatten(0, 1)
        y_RO.index_add_(0, rows_R, update.index_select(0, places_R))


@lru_cache(maxsize=4)
def _padding(bounds: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each adapter m rows, the last of its own repeated; all rows that some adapter has; and where in (n·m) each of
    these stands."""
    m = max(stop - start for start, stop in bounds)
    own = [[min(start + j, stop - 1) for j in range(m)] for start, stop in bounds]
    rows = [row for start, stop in bounds for row in range(start, stop)]
    places = [i * m + j for i, (start, stop) in enumerate(bounds) for j in range(stop - start)]
    return torch.tensor(own, device=device), torch.tensor(rows, device=device), torch.tensor(places, device=device)


class LowRankLinear(torch.autograd.Function):
    """x Wᵀ + b + scale · x Aᵀ Bᵀ, each update on the rows of its adapter, for a dense frozen W.

    Computed in the dtype of x from float32 masters, in place of the base's own product in both passes. Only x and the r
    columns of x Aᵀ are kept for the backward pass; gradients of A and B are computed so too and summed in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x_RI: Tensor, weight: Tensor, bias: Tensor | None, updates: Sequence[Update], *low_rank: Tensor
    ) -> Tensor:
        """`low_rank` are A and B of each update."""
        y_RO = linear(x_RI, weight, bias)
        kept = _add_updates(y_RO, updates, [x_RI[rows] for rows, _ in updates], low_rank)
        ctx.save_for_backward(x_RI, weight, *kept)
        ctx.updates = updates
        return y_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, and of each A and B."""
        x_RI, weight, *kept = ctx.saved_tensors
        dx_RI = grad_RO @ weight if ctx.needs_input_grad[0] else None
        grads: list[Tensor] = []
        for i, (rows, scale) in enumerate(ctx.updates):
            h, a, b = kept[3 * i : 3 * i + 3]
            g, *both = _low_rank_grads(grad_RO[rows], x_RI[rows], h, b, scale)
            grads += both
            if dx_RI is not None:
                dx_RI[rows].addmm_(g, a)
        return (dx_RI, None, None, None, *grads)


class LowRankUpdate(torch.autograd.Function):
    """y + scale · x Aᵀ Bᵀ, where y comes from a quantized base that has its own backward pass, or x was dropped from.

    As `LowRankLinear` otherwise.
    """

    @staticmethod
    def forward(ctx: Any, y_RO: Tensor, updates: Sequence[Update], *tensors: Tensor) -> Tensor:
        """`tensors` are one x for each update, then A and B of each."""
        inputs, low_rank = tensors[: len(updates)], tensors[len(updates) :]
        out_RO = y_RO.clone()
        ctx.save_for_backward(*inputs, *_add_updates(out_RO, updates, inputs, low_rank))
        ctx.updates = updates
        return out_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, of each x, and of each A and B."""
        inputs, kept = ctx.saved_tensors[: len(ctx.updates)], ctx.saved_tensors[len(ctx.updates) :]
        dxs: list[Tensor] = []
        grads: list[Tensor] = []
        for i, (rows, scale) in enumerate(ctx.updates):
            h, a, b = kept[3 * i : 3 * i + 3]
            g, *both = _low_rank_grads(grad_RO[rows], inputs[i], h, b, scale)
            dxs.append(g @ a)
            grads += both
        return (grad_RO, None, *dxs, *grads)


# torch gives `apply` no types.
_low_rank_linear: Callable[[Tensor, Tensor, Tensor | None, Sequence[Update], *tuple[Tensor, ...]], Tensor]
_low_rank_linear = LowRankLinear.apply
_low_rank_update: Callable[[Tensor, Sequence[Update], *tuple[Tensor, ...]], Tensor] = LowRankUpdate.apply


def _add_updates(
    y_RO: Tensor, updates: Sequence[Update], inputs: Sequence[Tensor], low_rank: Sequence[Tensor]
) -> list[Tensor]:
    """Add each update to its rows of y, in place. Gives scale · x Aᵀ, A and B of each, in the dtype of y."""
    kept = []
    for i, (rows, scale) in enumerate(updates):
        a, b = (weight.to(y_RO.dtype) for weight in low_rank[2 * i : 2 * i + 2])
        h = (inputs[i] @ a.t()).mul_(scale)
        y_RO[rows].addmm_(h, b.t())
        kept += [h, a, b]
    return kept


def _low_rank_grads(grad: Tensor, x: Tensor, h: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """What flows back into A's columns, and the gradients of A and of B."""
    g = (grad @ b).mul_(scale)
    return g, (g.t() @ x).float(), (h.t() @ grad).t().float()
