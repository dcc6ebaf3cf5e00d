"""A padded batch computes what each of its examples would alone: it is what ragged batches are measured by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pefttune.batching import Batch, padded, ragged, target_log_likelihoods
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


def together(examples: list[Example], every_answer: bool = True, pad_id: int = 0) -> Batch:
    return padded(examples, pad_id, every_answer=every_answer, device=CPU)


@torch.no_grad()
def likelihoods(model: Any, batch: Batch) -> Tensor:
    """The log-likelihood of every answer in a batch."""
    return torch.zeros(batch.n_answers).index_add(0, batch.answers_N, target_log_likelihoods(model, batch))


@torch.no_grad()
def alone(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """The log-likelihood of one answer by a plain forward over prompt and answer, without mask or padding."""
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0]
    scores = torch.log_softmax(logits, -1)
    return float(sum(scores[len(prompt) - 1 + i, token] for i, token in enumerate(answer)))


@pytest.mark.parametrize("kind", [None, "Llama", "Mistral", "Gemma3Text"])
@pytest.mark.parametrize("form", ["padded", "ragged"])
def test_each_answer_is_scored_as_it_would_be_alone(base_of: Any, folder_of: Any, kind: str | None, form: str) -> None:
    from pefttune.batching import prepare

    model = base_of(folder_of(kind)).model if kind else base_of().model
    expected = [alone(model, example.prompt, answer) for example in EXAMPLES for answer in example.answers]
    prepare(model)
    batch = together(EXAMPLES) if form == "padded" else ragged(EXAMPLES, every_answer=True, causal=True, device=CPU)
    found = likelihoods(model, batch)
    assert (found - torch.tensor(expected)).abs().max() < 3 * ROUNDING  # the louder weights of some give up to -40
    # The answers are really different, else a mixed-up order would pass.
    assert found.reshape(5, 3).std(1).min() > 0.5


def test_padding_changes_nothing(model: Any) -> None:
    among = likelihoods(model, together(EXAMPLES))
    for index, example in enumerate(EXAMPLES):
        single = likelihoods(model, together([example]))
        assert (single - among[3 * index : 3 * index + 3]).abs().max() < ROUNDING


def test_the_padding_token_itself_does_not_matter(model: Any) -> None:
    zero, other = (together(EXAMPLES, pad_id=pad) for pad in (0, 200))
    assert torch.equal(likelihoods(model, zero), likelihoods(model, other))


@pytest.mark.parametrize("form", ["padded", "ragged"])
def test_the_right_answer_alone_scores_as_among_all(model: Any, form: str) -> None:
    from pefttune.batching import prepare

    prepare(model)

    def made(every: bool) -> Batch:
        if form == "padded":
            return together(EXAMPLES, every_answer=every)
        return ragged(EXAMPLES, every_answer=every, causal=True, device=CPU)

    among = likelihoods(model, made(True)).reshape(5, 3)
    targets = torch.tensor([example.target for example in EXAMPLES])
    assert (likelihoods(model, made(False)) - among[torch.arange(5), targets]).abs().max() < ROUNDING


def test_every_scored_row_is_finite_and_counted(model: Any) -> None:
    batch = together(EXAMPLES)
    assert batch.n_scored == len(batch.targets_N) == 5 * (2 + 1 + 4)
    assert (batch.n_examples, batch.n_answers) == (5, 15)
    assert batch.n_tokens == sum(3 * len(e.prompt) + 7 for e in EXAMPLES)
    assert torch.isfinite(target_log_likelihoods(model, batch)).all()


def test_by_hand() -> None:
    batch = together([Example((10, 11), ((12, 13), (14,)), 0, ""), Example((20,), ((21,), (22, 23)), 1, "")], pad_id=9)
    assert batch.ids_BT.tolist() == [[10, 11, 12, 13], [10, 11, 14, 9], [20, 21, 9, 9], [20, 22, 23, 9]]
    assert batch.padding_mask_BT is not None
    assert batch.padding_mask_BT.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.rows_N.tolist() == [1, 2, 5, 8, 12, 13]
    assert batch.targets_N.tolist() == [12, 13, 14, 21, 22, 23]
    assert batch.answers_N.tolist() == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("form", ["padded", "ragged"])
def test_a_head_reads_its_marks_and_an_unknown_class_is_no_target(form: str) -> None:
    examples = [
        Example((10, 11, 12), (), 2, "", marks=((2, 2), (0, 1))),
        Example((13,), (), None, "", marks=((0, -100),)),
    ]
    batch = together(examples) if form == "padded" else ragged(examples, every_answer=True, causal=True, device=CPU)
    assert batch.rows_N.tolist() == [2, 0, 3]
    assert batch.targets_N.tolist() == [2, 1, -100]
    assert batch.answers_N.tolist() == [0, 0, 1]


def test_marks_without_a_class_are_no_labelled_positions() -> None:
    batch = together([Example((10, 11, 12), (), None, "", marks=((0, -100), (1, 1), (2, -100)))])
    assert batch.n_scored == 1


def test_a_row_without_label_cannot_be_learned() -> None:
    examples = [Example((10,), ((7,), (8,)), None, "row 9")]
    with pytest.raises(ValueError, match="row 9: an example without a label cannot be learned"):
        together(examples, every_answer=False)
    with pytest.raises(ValueError, match="row 9: an example without a label cannot be learned"):
        ragged(examples, every_answer=False, causal=True, device=CPU)
