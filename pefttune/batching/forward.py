"""From a batch to what is scored of it, and nothing else.

Shapes: N scored rows, D the width of the hidden states, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear

from pefttune.batching.attention import NO_MASK
from pefttune.batching.batch import Batch
from pefttune.batching.layers import from_layer, with_rows_of_last

# Each row has a logit for every token of the vocabulary: 12 MB in float32 for 64 rows of 49,152.
ROWS_AT_ONCE = 64

# Fewer scored rows than this are computed alone in the last layer.
PART_OF_ROWS_WORTH_CHOOSING = 0.5

_LINEAR: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def hidden_rows(model: Any, batch: Batch) -> Tensor:
    """Last hidden states (N, D) of the batch's scored rows."""
    if batch.known_ND is not None:
        return batch.known_ND
    base = model.base_model if batch.entering is None else from_layer(model, batch.entering.layer)
    if batch.layout is not None and batch.parts == 1:  # joined, rows belong to adapters by their place
        rows = torch.unique(batch.rows_N)
        if len(rows) <= PART_OF_ROWS_WORTH_CHOOSING * batch.n_tokens:
            base = with_rows_of_last(model, base, rows)
    hidden_BTD: Tensor = base(**inputs_of(batch)).last_hidden_state
    return hidden_BTD.flatten(0, 1)[batch.rows_N]


def target_log_likelihoods(model: Any, batch: Batch) -> Tensor:
    """Log-likelihood (N,) in float32 of each scored row's target token, by whatever the model makes of its logits."""
    if logits_are_linear(model):
        return log_likelihoods(model, hidden_rows(model, batch), batch.targets_N)
    logits_NV = model(**inputs_of(batch)).logits.flatten(0, 1)[batch.rows_N]
    return -cross_entropy(logits_NV.float(), batch.targets_N, reduction="none")


def log_likelihoods(model: Any, rows_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Log-likelihood (N,) in float32 of target tokens after hidden states, for a model whose logits are linear.

    Only scored rows go through the output layer, a few at a time: no logits of the whole batch ever exist.
    """
    output = model.get_output_embeddings()
    if type(output) is not nn.Linear:  # an adapter's, around the base's, whose rows may be learned
        return -cross_entropy(output(rows_ND).float(), targets_N, reduction="none")
    return _target_log_likelihood(rows_ND, output.weight, output.bias, targets_N)


def likeliest_tokens(model: Any, batch: Batch) -> Tensor:
    """The token (N,) that the model finds likeliest at each scored row."""
    if not logits_are_linear(model):
        likeliest: Tensor = model(**inputs_of(batch)).logits.flatten(0, 1)[batch.rows_N].argmax(-1)
        return likeliest
    output = model.get_output_embeddings()
    return torch.cat([output(rows_ND).argmax(-1) for rows_ND in hidden_rows(model, batch).split(ROWS_AT_ONCE)])


class TargetLogLikelihood(torch.autograd.Function):
    """log softmax(h Wᵀ + b)[target] by chunks of rows, for a frozen output layer.

    A row's log-likelihood depends on its own hidden state only, so the gradient is known up to the factor that comes
    from above: it is computed with the logits, which are then let go.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
        """Log-likelihoods (N,)."""
        needs_gradient = ctx.needs_input_grad[0]
        values_N = torch.empty(len(hidden_ND), device=hidden_ND.device)
        slopes_ND = torch.empty_like(hidden_ND) if needs_gradient else None
        for start in range(0, len(hidden_ND), ROWS_AT_ONCE):
            chunk = slice(start, start + ROWS_AT_ONCE)
            targets = targets_N[chunk, None]
            logits = linear(hidden_ND[chunk], weight_VD, bias_V).float()
            log_chances = logits.sub_(logits.logsumexp(-1, keepdim=True))
            values_N[chunk] = log_chances.gather(1, targets)[:, 0]
            if slopes_ND is not None:
                ones = torch.ones_like(targets, dtype=torch.float32)
                slopes = log_chances.exp_().neg_().scatter_add_(1, targets, ones)
                slopes_ND[chunk] = slopes.to(weight_VD.dtype) @ weight_VD
        ctx.save_for_backward(slopes_ND)
        return values_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the hidden states."""
        (slopes_ND,) = ctx.saved_tensors
        return (grad_N[:, None] * slopes_ND).to(slopes_ND.dtype), None, None, None


# torch gives `apply` no types.
_target_log_likelihood: Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor] = TargetLogLikelihood.apply


def logits_are_linear(model: Any) -> bool:
    """Whether the model's logits are just its output layer applied to its last hidden state.

    Gemma caps them, Cohere and Granite scale them; those models keep their own forward. Found out by running four
    tokens both ways, once for each model. An encoder-decoder keeps its own, too: T5 scales, Marian has a bias.
    """
    if model not in _LINEAR:
        _LINEAR[model] = _compare(model)
    return _LINEAR[model]


@torch.no_grad()
def _compare(model: Any) -> bool:
    ids = torch.arange(4, device=model.device)[None]
    output = model.get_output_embeddings()
    if type(getattr(output, "base_layer", output)) is not nn.Linear or model.config.is_encoder_decoder:
        return False
    ours = output(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    return torch.equal(ours, model(input_ids=ids, use_cache=False).logits)


def inputs_of(batch: Batch) -> dict[str, Any]:
    """What the model's forward is called with."""
    if batch.layout is None:
        answers = {} if batch.decoder_ids_BU is None else {"decoder_input_ids": batch.decoder_ids_BU}
        told = {"is_causal": False} if batch.sees_all else {}  # transformers puts it into the config for this pass
        given = {"input_ids": batch.ids_BT, "attention_mask": batch.padding_mask_BT}
        return {**given, **answers, **told, "use_cache": False}
    known = batch.entering
    return {
        **({"input_ids": batch.ids_BT} if known is None else {"inputs_embeds": known.hidden_TD[None]}),
        "position_ids": batch.positions_BT,
        "attention_mask": NO_MASK,
        "layout": batch.layout,
        "use_cache": False,
    }
