"""Examples to batches, batches to what is scored: ragged batches, their attention, and only the logits needed."""

from pefttune.batching.agreement import RUNS_NOT, agrees, check_sees_all, disagreement, is_causal
from pefttune.batching.attention import prepare
from pefttune.batching.batch import Batch, see_all
from pefttune.batching.between import stack_of, states_behind
from pefttune.batching.boundary import Boundary, open_boundary
from pefttune.batching.forward import (
    hidden_rows,
    inputs_of,
    likeliest_tokens,
    log_likelihoods,
    logits_are_linear,
    target_log_likelihoods,
)
from pefttune.batching.outputs import Outputs, open_outputs
from pefttune.batching.padded import padded
from pefttune.batching.paired import paired
from pefttune.batching.plan import evaluation_batches, n_fed, steps_of, training_steps
from pefttune.batching.ragged import join, ragged

__all__ = [
    "RUNS_NOT",
    "Batch",
    "Boundary",
    "Outputs",
    "agrees",
    "check_sees_all",
    "disagreement",
    "evaluation_batches",
    "hidden_rows",
    "inputs_of",
    "is_causal",
    "join",
    "likeliest_tokens",
    "log_likelihoods",
    "logits_are_linear",
    "n_fed",
    "open_boundary",
    "open_outputs",
    "padded",
    "paired",
    "prepare",
    "ragged",
    "see_all",
    "stack_of",
    "states_behind",
    "steps_of",
    "target_log_likelihoods",
    "training_steps",
]
