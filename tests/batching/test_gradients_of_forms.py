"""A ragged batch gives the losses and gradients that a padded one does, whatever the texts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pefttune import methods
from pefttune.batching import Batch, hidden_rows, padded, prepare, ragged, target_log_likelihoods
from pefttune.data import Example
from pefttune.recipe.adapters import Lora

CPU = torch.device("cpu")
# float32 keeps 24 bits: the same sums in another order, through two layers and back.
ORDER_OF_SUMS = 1e-5
BASES = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "nf4": {"quantization": "nf4", "dtype": "float32"},
    "nf4 in bfloat16": {"quantization": "nf4", "dtype": "bfloat16"},
    "nf4 that stays 4-bit": {"quantization": "nf4", "dtype": "float32"},
}
TRUNK, PASSAGE, OTHER_PASSAGE = tuple(range(10, 30)), tuple(range(40, 55)), tuple(range(70, 85))
EXAMPLES = [
    Example((*TRUNK, *PASSAGE, 90, 91), ((7, 1), (8,), (9, 30, 31, 1)), 0, "1"),
    Example((*TRUNK, *PASSAGE, *range(90, 102)), ((7, 1), (8, 12)), 1, "2"),
    Example((*TRUNK, *PASSAGE, *range(90, 102)), ((7, 1), (8, 12)), 0, "the same again"),
    Example((*TRUNK, *OTHER_PASSAGE, 91), ((8,),), 0, "one answer of one token"),
    Example((*TRUNK, *OTHER_PASSAGE, 92, 93), ((8,), (7,)), 1, "two of one"),
    Example(TRUNK, ((7, 1), (8,)), 0, "the trunk alone"),
    Example((200,), ((7, 1, 6),), 0, "one token"),
    Example(tuple(range(100, 140)), ((7, 1), (8,), (9,)), 2, "nothing shared"),
]
Found = tuple[Tensor, dict[str, Tensor]]


@pytest.fixture
def on(base_of: Any, folder_of: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A base of some kind, prepared, with an acting adapter that learns."""

    def load(kind: str, held: str) -> tuple[Any, methods.Adapter]:
        if held == "nf4 that stays 4-bit":
            monkeypatch.setattr("pefttune.bases.dense.PART_OF_FREE_MEMORY", 0)
        model = base_of(folder_of(kind), **BASES[held]).model
        prepare(model)
        adapter = methods.attach(model, Lora(method="lora", r=4))
        torch.manual_seed(3)
        for parameter in adapter.parameters.values():
            parameter.data.normal_(std=0.1)
        methods.activate(model, adapter)
        adapter.train(True)
        return model, adapter

    return load


def found(model: Any, adapter: methods.Adapter, batch: Batch, head: nn.Linear | None = None) -> Found:
    """What is scored of each row, and the gradients of a sum in which each row counts differently."""
    if head is None:
        outputs_N = target_log_likelihoods(model, batch)
    else:
        logits_NC = head(hidden_rows(model, batch).float()).log_softmax(-1)
        outputs_N = logits_NC.gather(1, batch.targets_N[:, None])[:, 0]
    (outputs_N * torch.linspace(1, 2, len(outputs_N))).sum().backward()
    learned = adapter.parameters if head is None else {**adapter.parameters, "head": head.weight}
    gradients = {key: parameter.grad for key, parameter in learned.items() if parameter.grad is not None}
    for parameter in learned.values():
        parameter.grad = None
    return outputs_N.detach(), gradients


def both(model: Any, adapter: Any, examples: Sequence[Example], every: bool, head: Any = None) -> tuple[Found, Found]:
    causal = type(model).__name__ != "BertLMHeadModel"
    one = ragged(examples, every_answer=every, causal=causal, device=CPU)
    other = padded(examples, 0, every_answer=every, device=CPU)
    assert torch.equal(one.targets_N, other.targets_N)
    assert torch.equal(one.answers_N, other.answers_N)
    assert (one.n_answers, one.n_examples) == (other.n_answers, other.n_examples)
    return found(model, adapter, one, head), found(model, adapter, other, head)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def far(ours: Found, reference: Found) -> float:
    """The largest relative distance: of what is scored, and of each tensor's gradient."""
    assert ours[1].keys() == reference[1].keys()
    assert ours[1]
    return max(distance(ours[0], reference[0]), *(distance(ours[1][key], reference[1][key]) for key in reference[1]))


@pytest.mark.parametrize("held", ["float32", "nf4", "nf4 that stays 4-bit"])
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma3Text"])
@pytest.mark.parametrize("every", [True, False], ids=["every answer", "the right one"])
def test_ragged_is_padded(on: Any, kind: str, held: str, every: bool) -> None:
    ours, reference = both(*on(kind, held), EXAMPLES, every)
    assert len(reference[1]) == 28
    assert all(gradient.any() for gradient in reference[1].values())
    assert far(ours, reference) < ORDER_OF_SUMS


@pytest.mark.parametrize("held", ["bfloat16", "nf4 in bfloat16"])
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma3Text"])
def test_in_bfloat16_ragged_is_as_near_the_truth_as_padded(on: Any, kind: str, held: str) -> None:
    exact = both(*on(kind, held.replace("nf4 in bfloat16", "nf4").replace("bfloat16", "float32")), EXAMPLES, True)[1]
    ours, reference = both(*on(kind, held), EXAMPLES, True)
    # bfloat16 keeps 8 bits, so each product is off by up to 0.4 %; what comes of it through two layers depends on the
    # order of sums. The truth is float32's: padded batches say how far bfloat16 is from it, and ragged ones may have as
    # much bad luck again.
    assert far(ours, exact) < 2 * far(reference, exact)
    assert far(reference, exact) < 0.5  # the loud weights of these models make much of a rounding


def test_a_window_really_hides_what_lies_before_it(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would pass with no window at all."""
    model, adapter = on("Mistral", "float32")
    windowed = both(model, adapter, EXAMPLES, True)[0]
    monkeypatch.setattr(model.config, "sliding_window", None)
    batch = ragged(EXAMPLES, every_answer=True, causal=True, device=CPU)
    assert distance(found(model, adapter, batch)[0], windowed[0]) > 0.01


@st.composite
def trees(draw: st.DrawFn) -> list[Example]:
    """Prompts of random lengths that begin alike at several depths, some of them twice, with one to three answers."""
    token = st.integers(5, 250)
    texts = st.lists(token, max_size=14).map(tuple)
    trunk = draw(texts)
    passages = draw(st.lists(texts, min_size=1, max_size=3))
    examples = []
    for number in range(draw(st.integers(1, 6))):
        own = draw(st.lists(token, min_size=1, max_size=14).map(tuple))
        prompt = (*trunk, *draw(st.sampled_from(passages)), *own)
        if examples and draw(st.integers(0, 4)) == 0:
            prompt = draw(st.sampled_from(examples)).prompt
        answers = draw(st.lists(st.lists(token, min_size=1, max_size=4).map(tuple), min_size=1, max_size=3))
        examples.append(Example(prompt, tuple(answers), draw(st.integers(0, len(answers) - 1)), f"{number}"))
    return examples


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma3Text"])
def test_any_tree_gives_what_padding_gives(on: Any, kind: str) -> None:
    model, adapter = on(kind, "float32")

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(trees(), st.booleans())
    def check(examples: list[Example], every: bool) -> None:
        ours, reference = both(model, adapter, examples, every)
        # Gradients that nearly cancel out leave rounding: measured against the largest of them.
        largest = max(float(gradient.norm()) for gradient in reference[1].values())
        assert (ours[0] - reference[0]).abs().max() < 1e-5 * reference[0].abs().max()
        for key, gradient in reference[1].items():
            assert (ours[1][key] - gradient).norm() < ORDER_OF_SUMS * largest, key

    check()


# Heads


def marked(*places: Sequence[int]) -> list[Example]:
    prompts = [example.prompt for example in EXAMPLES]
    return [
        Example(prompt, (), None, f"{i}", marks=tuple((place % len(prompt), place % 3) for place in places[i]))
        for i, prompt in enumerate(prompts)
    ]


MARKS = {
    "the last token": marked(*[(-1,)] * 8),
    "the first token": marked(*[(0,)] * 8),
    "every token": marked(*(range(len(example.prompt)) for example in EXAMPLES)),
    "a span, in what is shared and beyond": marked(
        *[range(15, 25), range(30, 37), (3,), (0, 2), (36,), (19,), (0,), (9,)]
    ),
}


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Bert"])
@pytest.mark.parametrize("places", MARKS)
def test_heads_read_the_same_rows(on: Any, kind: str, places: str) -> None:
    torch.manual_seed(5)
    head = nn.Linear(32, 3, bias=False)
    ours, reference = both(*on(kind, "float32"), MARKS[places], True, head)
    assert "head" in reference[1]
    largest = max(float(gradient.norm()) for gradient in reference[1].values())
    assert distance(ours[0], reference[0]) < ORDER_OF_SUMS
    # The first token of a decoder sees itself only, so queries and keys get nothing: 0 on one side, rounding on the
    # other, which is why the largest gradient is the measure.
    assert all((ours[1][key] - reference[1][key]).norm() < ORDER_OF_SUMS * largest for key in reference[1])


def test_a_decoder_that_is_told_to_see_all_reads_the_same_rows(on: Any) -> None:
    torch.manual_seed(5)
    head = nn.Linear(32, 3, bias=False)
    told = [replace(example, sees_all=True) for example in MARKS["every token"]]
    ours, reference = both(*on("Llama", "float32"), told, True, head)
    assert far(ours, reference) < ORDER_OF_SUMS
    assert distance(both(*on("Llama", "float32"), MARKS["every token"], True, head)[0][0], ours[0]) > 0.1


@pytest.mark.parametrize("held", ["bfloat16", "nf4"])
def test_an_encoder_reads_ragged_batches_of_any_dtype(on: Any, held: str) -> None:
    torch.manual_seed(5)
    head = nn.Linear(32, 3, bias=False)
    examples = MARKS["every token"]
    ours, reference = both(*on("Bert", held), examples, True, head)
    if held == "nf4":
        assert far(ours, reference) < ORDER_OF_SUMS
    else:  # as above, with float32 for the truth
        exact = both(*on("Bert", "float32"), examples, True, head)[1]
        assert far(ours, exact) < 2 * far(reference, exact)


def test_an_encoder_shares_nothing_and_sees_all_of_its_own_text(on: Any) -> None:
    batch = ragged(MARKS["the last token"], every_answer=True, causal=False, device=CPU)
    assert batch.n_tokens == sum(len(example.prompt) for example in EXAMPLES)
    model, _ = on("Bert", "float32")
    one, other = (Example((first, *TRUNK), (), None, "", marks=((20, 0),)) for first in (6, 7))
    rows = [hidden_rows(model, ragged([e], every_answer=True, causal=False, device=CPU)) for e in (one, other)]
    assert not torch.equal(*rows)
    backwards = [Example((*TRUNK, last), (), None, "", marks=((0, 0),)) for last in (6, 7)]
    rows = [hidden_rows(model, ragged([e], every_answer=True, causal=False, device=CPU)) for e in backwards]
    assert not torch.equal(*rows)


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma3Text"])
def test_only_scored_rows_in_the_last_layer_give_the_same(on: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapter = on(kind, "float32")
    batch = ragged(EXAMPLES, every_answer=True, causal=True, device=CPU)
    forms = []
    for part in (0.0, 1.0):
        monkeypatch.setattr("pefttune.batching.forward.PART_OF_ROWS_WORTH_CHOOSING", part)
        calls: list[int] = []
        handle = model.model.layers[-1].mlp.register_forward_hook(
            lambda m, x, y, calls=calls: calls.append(x[0].numel())
        )
        forms.append(found(model, adapter, batch))
        handle.remove()
        assert calls[-1] == 32 * (batch.n_tokens if part == 0 else len(batch.rows_N.unique()))
    # float32: products of fewer rows may take another kernel
    assert far(forms[1], forms[0]) < ORDER_OF_SUMS
