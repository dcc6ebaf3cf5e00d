"""Examples to batches, batches to logits: padded batches of prompts with their answers, only needed logits."""

from pefttune.batching.collate import Batch, collate
from pefttune.batching.forward import logits_are_linear, row_logits
from pefttune.batching.plan import evaluation_batches, training_steps
from pefttune.batching.sharing import prompts_can_be_shared

__all__ = [
    "Batch",
    "collate",
    "evaluation_batches",
    "logits_are_linear",
    "prompts_can_be_shared",
    "row_logits",
    "training_steps",
]
