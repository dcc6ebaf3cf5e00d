"""A batch computes what each of its examples would alone: side by side, padded, in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pefttune.batching import Batch, collate, row_logits
from pefttune.data import Example

CPU = torch.device("cpu")
# Answers of one, two and four tokens, prompts of one to forty.
EXAMPLES = [
    Example(tuple(range(10, 10 + length)), ((7, 1), (8,), (9, 30, 31, 1)), length % 3, f"row {length}")
    for length in (12, 1, 40, 3, 25)
]
# The same sums, perhaps in another order, as other widths take other kernels. Equal to the bit where this was written,
# but that is no promise: a log-likelihood of about -25 has a last bit of 2e-6 in float32, and up to four are summed.
ROUNDING = 1e-5


@pytest.fixture
def model(base_of: Any) -> Any:
    return base_of().model


def together(examples: list[Example], every_answer: bool = True, dtype: torch.dtype = torch.float32) -> Batch:
    return collate(examples, 0, every_answer=every_answer, device=CPU, dtype=dtype)


@torch.no_grad()
def likelihoods(model: Any, batch: Batch) -> Tensor:
    """The log-likelihood of every answer in a batch."""
    tokens = torch.log_softmax(row_logits(model, batch), -1).gather(1, batch.targets_N[:, None])[:, 0]
    return torch.zeros(batch.n_answers).index_add(0, batch.answers_N, tokens)


@torch.no_grad()
def alone(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """The log-likelihood of one answer by a plain forward over prompt and answer, without mask or padding."""
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0]
    scores = torch.log_softmax(logits, -1)
    return float(sum(scores[len(prompt) - 1 + i, token] for i, token in enumerate(answer)))


def test_answers_side_by_side_are_scored_as_each_alone(model: Any) -> None:
    expected = [alone(model, example.prompt, answer) for example in EXAMPLES for answer in example.answers]
    found = likelihoods(model, together(EXAMPLES))
    assert (found - torch.tensor(expected)).abs().max() < ROUNDING
    # The answers are really different, else a mixed-up order would pass.
    assert found.reshape(5, 3).std(1).min() > 0.5


def test_what_stands_beside_an_answer_does_not_reach_it(model: Any) -> None:
    prompt = (10, 11, 12)
    first = likelihoods(model, together([Example(prompt, ((7, 1), (8, 1)), 0, "")]))
    other = likelihoods(model, together([Example(prompt, ((7, 1), (99, 98)), 0, "")]))
    assert first[0] == other[0]  # same width, same sums: equal to the bit


def test_padding_changes_nothing(model: Any) -> None:
    for example in EXAMPLES:
        single = likelihoods(model, together([example]))
        index = EXAMPLES.index(example)
        among = likelihoods(model, together(EXAMPLES))[3 * index : 3 * index + 3]
        assert (single - among).abs().max() < ROUNDING


def test_the_padding_token_itself_does_not_matter(model: Any) -> None:
    zero, other = (collate(EXAMPLES, pad, every_answer=True, device=CPU, dtype=torch.float32) for pad in (0, 200))
    assert torch.equal(likelihoods(model, zero), likelihoods(model, other))


def test_the_right_answer_alone_scores_as_among_all(model: Any) -> None:
    among = likelihoods(model, together(EXAMPLES)).reshape(5, 3)
    right = likelihoods(model, together(EXAMPLES, every_answer=False))
    targets = torch.tensor([example.target for example in EXAMPLES])
    assert (right - among[torch.arange(5), targets]).abs().max() < ROUNDING


def test_every_scored_row_is_finite_and_counted(model: Any) -> None:
    batch = together(EXAMPLES)
    assert batch.n_scored == len(batch.targets_N) == 5 * (2 + 1 + 4)
    assert (batch.n_examples, batch.n_answers) == (5, 15)
    assert batch.n_tokens == sum(len(e.prompt) + 7 for e in EXAMPLES)
    assert torch.isfinite(row_logits(model, batch)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_additive_mask_has_the_models_dtype_and_no_blind_row(dtype: torch.dtype) -> None:
    mask = together(EXAMPLES, dtype=dtype).mask
    assert mask.dtype == dtype
    assert mask.shape == (5, 1, 47, 47)
    assert (mask.max(dim=-1).values == 0).all(), "a row that sees nothing is NaN after the softmax"
    assert not torch.isnan(torch.softmax(mask.float(), -1)).any()


def test_the_side_by_side_mask_by_hand() -> None:
    # Prompt a b, answers c d and e: e sees the prompt and itself, not c d.
    mask = together([Example((10, 11), ((12, 13), (14,)), 0, "")]).mask[0, 0] == 0
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_positions_go_on_from_the_prompts_end() -> None:
    batch = together([Example((10, 11), ((12, 13), (14,)), 0, "")])
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 2]]
    assert batch.rows_N.tolist() == [1, 2, 1]
    assert batch.targets_N.tolist() == [12, 13, 14]
    assert batch.answers_N.tolist() == [0, 0, 1]


def test_a_head_reads_the_last_token_and_an_unknown_class_is_no_target() -> None:
    batch = together([Example((10, 11, 12), (), 2, ""), Example((13,), (), None, "")])
    assert batch.rows_N.tolist() == [2, 3]
    assert batch.targets_N.tolist() == [2, -100]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_row_without_label_cannot_be_learned() -> None:
    with pytest.raises(ValueError, match="row 9: an example without a label cannot be learned"):
        together([Example((10,), ((7,), (8,)), None, "row 9")], every_answer=False)
