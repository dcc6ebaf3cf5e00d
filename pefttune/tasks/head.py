"""The output layer that a task brings: a linear layer, named and placed as transformers' own class for the task has it,
so that transformers and PEFT alone load it. Shapes: N scored rows of width D, C outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """A linear layer over hidden states, in float32, behind the frozen pooler of an encoder where there is one."""

    def __init__(
        self, model: Any, n_outputs: int, *, key: str, task_type: str, bias: bool = True, pooled: bool = False
    ) -> None:
        """`key` is the layer's name in transformers' class for PEFT's `task_type`."""
        super().__init__()
        config = model.config.get_text_config()
        self.key, self.task_type = key, task_type
        self.linear = nn.Linear(width_of(model), n_outputs, bias=bias, device=model.device, dtype=torch.float32)
        nn.init.normal_(self.linear.weight, std=getattr(config, "initializer_range", 0.02))  # as transformers does
        if bias:
            nn.init.zeros_(self.linear.bias)
        # In a tuple: it is the base's, and no part of what is trained and saved.
        self._pooler = (model.pooler,) if pooled and getattr(model, "pooler", None) is not None else ()

    @classmethod
    def of_text(cls, model: Any, n_outputs: int, *, causal: bool) -> Head:
        """As in transformers' …ForSequenceClassification: on the last token of a decoder, on the pooled first token of
        an encoder."""
        if causal:
            return cls(model, n_outputs, key="score", task_type="SEQ_CLS", bias=False)
        return cls(model, n_outputs, key="classifier", task_type="SEQ_CLS", pooled=True)

    def forward(self, rows_ND: Tensor) -> Tensor:
        """Logits (N, C) in float32."""
        for pooler in self._pooler:
            # ALBERT's is the layer alone, its activation stands beside it; others take the first token of each text.
            bare = isinstance(pooler, nn.Linear)
            rows_ND = torch.tanh(pooler(rows_ND)) if bare else pooler(rows_ND[:, None])
        logits_NC: Tensor = self.linear(rows_ND.float())
        return logits_NC

    def by_key(self) -> dict[str, nn.Parameter]:
        """Its parameters by the names that transformers gives them."""
        return {f"{self.key}.{name}": parameter for name, parameter in self.linear.named_parameters()}


def width_of(model: Any) -> int:
    """Of what a head reads."""
    config = model.config.get_text_config()
    width: int = getattr(config, "word_embed_proj_dim", config.hidden_size)  # OPT's last states may be narrower
    return width
