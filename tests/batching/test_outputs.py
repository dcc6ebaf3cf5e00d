"""The outputs of a frozen base are kept once for each example, and a head makes the same of them as of a whole pass."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pefttune import tasks
from pefttune.batching import Batch, Outputs, evaluation_batches
from pefttune.batching.layers import decoder_layers
from pefttune.data import Example, Row
from pefttune.inference import Session, boundary_of
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Head

TEXTS = ["fine film", "a dull, cold and much too long film, as poor as any", "warm", "bright and warm"]
CONTEXT = "the film was made in paris by ann"


def classified(**section: Any) -> Any:
    return sections.TextClassification(type="text-classification", approach="head", **section)


CASES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "one label": (
        classified(labels=("bad", "good")),
        [{"text": text, "label": ("bad", "good")[i % 2]} for i, text in enumerate(TEXTS)],
    ),
    "many labels": (
        classified(labels=("a", "b", "c"), problem_type="multi_label_classification"),
        [{"text": text, "label": ["a", "b", "c"][:i]} for i, text in enumerate(TEXTS)],
    ),
    "a number": (
        classified(problem_type="regression"),
        [{"text": text, "label": float(i)} for i, text in enumerate(TEXTS)],
    ),
    "words": (
        sections.TokenClassification(type="token-classification", labels=("X",)),
        [{"tokens": text.split(), "tags": ["B-X", *["O"] * (len(text.split()) - 1)]} for text in TEXTS],
    ),
    "a span": (
        sections.QuestionAnswering(type="question-answering", stride=16),
        [
            {"question": f"who {text}?", "context": CONTEXT, "answers": {"text": ["ann"], "answer_start": [30]}}
            for text in TEXTS
        ],
    ),
}


@pytest.fixture(params=["decoder", "encoder"])
def session(request: pytest.FixtureRequest, base_of: Any, tiny: Path, tiny_encoder: Path) -> Session:
    return Session(base_of(tiny_encoder if request.param == "encoder" else tiny), max_batch_tokens=10_000)


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["PEFTTUNE_CACHE"]) / "boundaries"


def attached(session: Session, case: str) -> list[Example]:
    """A head alone, random as after training, in the session as `a`; and its examples."""
    section, values = CASES[case]
    task = tasks.get(section)
    rows = [Row(task.check(row), f"row {i}") for i, row in enumerate(values, start=1)]
    torch.manual_seed(3)
    loaded = session.add("a", session.attach(task.with_labels_of(rows, []), Head(method="head"), 256))
    for parameter in loaded.parameters.values():
        parameter.data.normal_(std=0.2)
    examples = [example for row in rows for example in loaded.encoder(row)]
    session.collator.try_ragged(examples)
    return examples


def opened(session: Session, examples: list[Example], done: list[int] | None = None) -> Outputs:
    progress = (lambda count: None) if done is None else done.append
    outputs = boundary_of(session, "a", examples, every_answer=False, notice=pytest.fail, progress=progress)
    assert isinstance(outputs, Outputs)
    return outputs


def learned(session: Session, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradient of each parameter."""
    loaded = session["a"]
    loaded.train(True)
    loss = session.loss("a", batch)
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in loaded.parameters.items()}
    for parameter in loaded.parameters.values():
        parameter.grad = None
    loaded.train(False)
    return loss.detach(), {key: gradient for key, gradient in gradients.items() if gradient is not None}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_same_batch_gives_the_same_loss_gradients_and_scores_to_the_bit(
    session: Session, case: str, padded: bool
) -> None:
    examples = attached(session, case)
    session.collator.ragged = not padded
    digest = session.base.digest()
    outputs = opened(session, examples)
    (indices,) = evaluation_batches(examples, session.max_batch_tokens, ragged=not padded)
    whole = learned(session, session.collator.batch(examples, indices, None, every_answer=False))
    known = learned(session, session.collator.batch(examples, indices, outputs, every_answer=False))
    assert torch.equal(known[0], whole[0])
    assert known[0] > 0
    assert whole[1].keys() == known[1].keys() == session["a"].parameters.keys()
    assert all(gradient.any() and torch.equal(known[1][key], gradient) for key, gradient in whole[1].items())
    scores = session.scores("a", examples), session.scores("a", examples, boundary=outputs)
    assert all(torch.equal(*pair) for pair in zip(*scores, strict=True))
    assert session.base.digest() == digest


def test_last_states_narrower_than_the_layers_are_kept_as_they_are(
    base_of: Any, model_of: Any, new_tokenizer: Any, tmp_path: Path
) -> None:
    new_tokenizer(tmp_path)
    model_of("OPT", ffn_dim=64, word_embed_proj_dim=16).save_pretrained(tmp_path)
    session = Session(base_of(tmp_path))
    examples = attached(session, "words")
    outputs = opened(session, examples)
    assert outputs.states.shape[1] == 16
    scores = session.scores("a", examples), session.scores("a", examples, boundary=outputs)
    assert all(torch.equal(*pair) for pair in zip(*scores, strict=True))


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("base", ["tiny", "tiny_encoder"])
def test_nothing_is_rounded_in_half_precision(
    base_of: Any, request: pytest.FixtureRequest, base: str, quantization: str
) -> None:
    folder = request.getfixturevalue(base)
    session = Session(base_of(folder, dtype="bfloat16", quantization=quantization), max_batch_tokens=10_000)
    examples = attached(session, "words")
    outputs = opened(session, examples)
    assert outputs.states.dtype == torch.bfloat16
    scores = session.scores("a", examples), session.scores("a", examples, boundary=outputs)
    assert all(torch.equal(*pair) for pair in zip(*scores, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_only_what_is_read_is_kept_and_each_state_once(session: Session, case: str) -> None:
    examples = attached(session, case)
    read = sum(len({position for position, _ in example.marks}) for example in examples)
    assert opened(session, examples).states.shape == (read, 32)
    assert read < sum(len(example.prompt) for example in examples)


def test_no_layer_is_run_once_the_outputs_are_known(session: Session) -> None:
    examples = attached(session, "one label")
    layers: Any = decoder_layers(session.base.model) or ("", session.base.model.encoder.layer)
    runs: list[int] = []
    layers[1][0].register_forward_hook(lambda *call: runs.append(1))
    done: list[int] = []
    first = opened(session, examples, done)
    assert runs
    assert done[-1] == len(examples)
    runs.clear()
    again = opened(session, examples, done := [])
    for indices in ([0], [3, 1], [2, 0, 1, 3]):
        learned(session, session.collator.batch(examples, indices, again, every_answer=False))
    session.scores("a", examples, boundary=again)
    assert (runs, done) == ([], [])
    assert torch.equal(first.states, again.states)


def test_other_targets_need_no_other_states(session: Session, folder: Path) -> None:
    """Labels may be mended: what the base makes of the texts is the same."""
    examples = attached(session, "one label")
    opened(session, examples)
    others = [Example(e.prompt, (), None, e.origin, marks=((e.marks[0][0], 1),)) for e in examples]
    outputs = opened(session, others, done := [])
    assert done == []
    assert outputs.batch([0, 1], session.base.device).targets_N.tolist() == [1, 1]


def test_whatever_the_states_depend_on_has_a_file_of_its_own(session: Session, folder: Path) -> None:
    examples = attached(session, "one label")
    other_places = [Example(e.prompt, (), None, e.origin, marks=((1, 0),)) for e in examples]

    def made(examples: list[Example]) -> int:
        opened(session, examples)
        return len(list(folder.glob("*.bin")))

    assert [made(examples), made(examples[:3]), made(other_places)] == [1, 2, 3]
    session.max_batch_tokens = 9_999
    assert made(examples) == 4
    session.collator.ragged = False
    assert made(examples) == 5


def test_without_room_there_is_a_notice_and_none(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    examples, notices = attached(session, "words"), list[str]()
    monkeypatch.setattr("pefttune.batching.kept.BYTES_LEFT_FREE", 2**60)
    assert boundary_of(session, "a", examples, every_answer=False, notice=notices.append) is None
    assert notices[0].startswith("the frozen layers are run again in every pass: their states need 0 MiB in ")
