"""Learned fusion of LoRA adapters (AdapterFusion, arXiv:2005.00247): at each linear layer that some of them change, and
for each token, what they add to its output is weighed by attention.

The query comes from the layer's input, the keys from what each member adds; the value begins as the identity, and is
kept to its diagonal, one factor for each output. Keys begin at zero, so that a fusion begins as the mean of its
members. A full value, query and key, as the paper has them, would take three squares of the width for each layer; here
queries and keys have a width of `r`, and a layer takes what a LoRA of rank `r` takes, and its factors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from pefttune.errors import BaseError
from pefttune.methods import weights
from pefttune.methods.blocks import Place, Reads
from pefttune.methods.hooked import HookedAdapter
from pefttune.methods.lora import LoraAdapter
from pefttune.methods.places import FILE_PREFIX, path_in_class
from pefttune.recipe.adapters import Fusion

Update = tuple[Tensor, Tensor, float]  # A, B and the factor of their product


class FusionLayer(nn.Module):
    """The weighed sum of what members add to one linear layer, frozen, in eval mode; one that leaves this layer alone
    adds zero, and is weighed with the others. Shapes: R rows, I and O the widths of input and output, N members, c the
    ranks of all of them together, k the width of queries and keys."""

    def __init__(self, updates: Sequence[Update | None], width: int) -> None:
        super().__init__()
        members = [(n, *update) for n, update in enumerate(updates) if update is not None]
        self._low_rank = [(a_rI, b_Or) for _, a_rI, b_Or, _ in members]  # the members' own: no part of this module
        ranks = torch.tensor([len(a_rI) for _, a_rI, _, _ in members])
        whose_c = torch.tensor([n for n, *_ in members]).repeat_interleave(ranks)
        a_rI, b_Or = self._low_rank[0]
        self._whose_cN = one_hot(whose_c, len(updates)).to(a_rI)
        self._scale_c = torch.tensor([scale for *_, scale in members]).repeat_interleave(ranks).to(a_rI)
        self.fusion_query = nn.Parameter(a_rI.new_empty(width, a_rI.shape[1]))
        self.fusion_key = nn.Parameter(b_Or.new_zeros(width, len(b_Or)))
        self.fusion_value = nn.Parameter(b_Or.new_ones(len(b_Or)))
        nn.init.kaiming_uniform_(self.fusion_query, a=math.sqrt(5))  # as LoRA's A
        self.eval().requires_grad_(False)

    def forward(self, x_RI: Tensor) -> Tensor:
        """value · Σ softmax(query · key) B A x over the members, (R, O); the members' own products are never made, only
        the c columns between A and B."""
        a_cI = torch.cat([a for a, _ in self._low_rank]) * self._scale_c[:, None]
        b_Oc = torch.cat([b for _, b in self._low_rank], 1)
        inner_Rc = linear(x_RI, a_cI.to(x_RI.dtype))
        query_Rk = linear(x_RI, self.fusion_query.to(x_RI.dtype))
        match_Rc = linear(query_Rk, (self.fusion_key @ b_Oc).t().to(x_RI.dtype)) * inner_Rc
        score_RN = match_Rc.float() @ self._whose_cN / math.sqrt(len(self.fusion_query))
        weight_Rc = score_RN.softmax(-1) @ self._whose_cN.t()
        value_Oc = self.fusion_value[:, None] * b_Oc
        return linear(inner_Rc * weight_Rc.to(x_RI.dtype), value_Oc.to(x_RI.dtype))


class FusionAdapter(HookedAdapter):
    """A fusion on a model, with the frozen adapters that it weighs, which are on the base for themselves and never act
    alone; what it learns is frozen until `train(True)`. See `pefttune.methods.protocol.Adapter`.

    Its hooks are on the layers that LoRA has put around the base's, which stay for as long as the members do.
    """

    def __init__(self, model: Any, config: Fusion) -> None:
        if not config.members:
            raise BaseError("adapter.members: a fusion can be attached only with the sections of its members")
        self._section, self._members = config, _attached(model, config)
        prefix = FILE_PREFIX + path_in_class(model)
        updates = [member.updates for member in self._members]
        layers = {
            Place(key.removeprefix(prefix), Reads.INPUT): FusionLayer([own.get(key) for own in updates], config.r)
            for key in dict.fromkeys(key for own in updates for key in own)
        }
        super().__init__(model, layers)

    def state(self) -> dict[str, Tensor]:
        """What it learns, and the frozen weights of its members: the file refers to no other."""
        members = {f"{_of(n)}{key}": own for n, one in enumerate(self._members) for key, own in one.state().items()}
        return {**self.parameters, **members}

    def begin_with(self, members: Sequence[Mapping[str, Tensor]]) -> None:
        """Take over what the files of its members hold."""
        for adapter, state in zip(self._members, members, strict=True):
            weights.fill(adapter.parameters, state)

    def config(self) -> dict[str, Any]:
        """What a reader needs to rebuild it. PEFT refuses the type, which it does not know."""
        return {
            "peft_type": "FUSION_OF_PEFTTUNE",
            "task_type": self._members[0].config()["task_type"],
            "r": self._section.r,
            "members": {_of(n): one.config() for n, one in enumerate(self._members)},
        }

    def detach(self) -> None:
        """Take it off the base, where no adapter acts, and its members after it."""
        super().detach()
        for member in self._members:
            member.detach()


def _attached(model: Any, config: Fusion) -> list[LoraAdapter]:
    """The members on the model, all of them or none."""
    members: list[LoraAdapter] = []
    try:
        for section in config.members:
            members.append(LoraAdapter(model, section.stored(), lent=True))
    except BaseException:
        for member in members:
            member.detach()
        raise
    return members


def _of(member: int) -> str:
    """What stands in the file before the keys of that member."""
    return f"members.{member}."
