"""What enters the lowest adapted layer is computed once, and what comes of it is what a whole pass gives."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from pefttune.batching import Batch, Boundary, hidden_rows, open_boundary, ragged
from pefttune.batching.layers import decoder_layers
from pefttune.data import Example
from pefttune.inference import Session, boundary_of

TRUNK, PASSAGE = tuple(range(10, 30)), tuple(range(40, 60))
EXAMPLES = [
    Example((*TRUNK, *PASSAGE, 90, 91), ((7, 1), (8,), (9, 30, 31, 1)), 0, "1"),
    Example((*TRUNK, *PASSAGE, *range(90, 102)), ((7, 1), (8, 12)), 1, "2"),
    Example((*TRUNK, *PASSAGE, *range(90, 102)), ((7, 1), (8, 12)), 0, "the same again"),
    Example((*TRUNK, 91), ((8,),), 0, "one answer of one token"),
    Example((*TRUNK, *range(100, 140)), ((7, 1), (8,), (9,)), 2, "own"),
]
APART = [Example((i, *example.prompt), example.answers, example.target, "") for i, example in enumerate(EXAMPLES, 200)]
# float32: the states are the same sums as in a whole pass, but perhaps in another batch and so in another order.
ORDER_OF_SUMS = 1e-5
CPU = torch.device("cpu")


@pytest.fixture
def session(base_of: Any, adapted: Any) -> Session:
    """An adapter on the upper of two layers."""
    session = Session(base_of())
    adapted(session, "a", layers="top-1")
    session.collator.try_ragged(EXAMPLES)
    assert session["a"].adapter is not None
    assert session["a"].adapter.first_layer == 1
    return session


class Opened:
    """Opens the boundary and counts what it costs."""

    def __init__(self, session: Session) -> None:
        self.session, self.notices, self.done, self.runs = session, [], [], 0
        layers = decoder_layers(session.base.model)
        assert layers is not None
        layers[1][0].register_forward_hook(self._ran)

    def _ran(self, *call: Any) -> None:
        self.runs += 1

    def __call__(self, examples: Any = EXAMPLES, every_answer: bool = True) -> Boundary | None:
        self.runs, self.done, self.notices = 0, [], []
        return boundary_of(
            self.session,
            "a",
            examples,
            every_answer=every_answer,
            notice=self.notices.append,
            progress=self.done.append,
        )


@pytest.fixture
def opened(session: Session) -> Opened:
    return Opened(session)


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["PEFTTUNE_CACHE"]) / "boundaries"


def losses(session: Session, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    loaded = session["a"]
    loaded.train(True)
    loss = session.loss("a", batch)
    loss.backward()
    gradients = {}
    for key, parameter in loaded.parameters.items():
        gradients[key], parameter.grad = parameter.grad, None
    loaded.train(False)
    return loss.detach(), gradients


@pytest.mark.parametrize("examples", [EXAMPLES, APART, EXAMPLES[:1]], ids=["a trunk", "nothing shared", "one example"])
def test_the_same_batch_from_the_boundary_on_is_equal_to_the_bit(opened: Opened, examples: list[Example]) -> None:
    for every in (True, False):
        boundary = opened(examples, every)
        assert boundary is not None
        assert opened.done[-1] == len(examples)
        indices = list(range(len(examples)))
        batch = ragged(examples, every_answer=every, causal=True, device=CPU)
        whole = losses(opened.session, batch)
        opened.runs = 0
        known = losses(opened.session, boundary.enter(batch, indices))
        assert opened.runs == 0, "the frozen layer was run again"
        assert torch.equal(known[0], whole[0])
        assert len(whole[1]) == 14
        assert all(gradient.any() and torch.equal(known[1][key], gradient) for key, gradient in whole[1].items())


@pytest.mark.parametrize("indices", [[3], [1, 4], [4, 2, 0], [2, 1], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("every", [True, False])
def test_any_batch_from_the_boundary_on_is_the_whole_pass(opened: Opened, indices: list[int], every: bool) -> None:
    for examples in (EXAMPLES, APART):
        boundary = opened(examples, every)
        assert boundary is not None
        batch = ragged([examples[i] for i in indices], every_answer=every, causal=True, device=CPU)
        whole, known = losses(opened.session, batch), losses(opened.session, boundary.enter(batch, indices))
        assert float(known[0]) == pytest.approx(float(whole[0]), rel=ORDER_OF_SUMS)
        for key, gradient in whole[1].items():
            assert (known[1][key] - gradient).norm() <= ORDER_OF_SUMS * gradient.norm(), key


def test_filled_in_many_batches_it_is_the_same(opened: Opened) -> None:
    at_once = opened()
    opened.session.max_batch_tokens = 70
    in_parts = opened()
    assert len(opened.done) > 1
    assert opened.done[-1] == len(EXAMPLES)
    assert at_once is not None
    assert in_parts is not None
    assert in_parts.starts == at_once.starts
    # float32: as above
    assert (in_parts.states - at_once.states).norm() < ORDER_OF_SUMS * at_once.states.norm()


def test_scores_are_the_same_from_the_boundary_on(opened: Opened) -> None:
    boundary = opened()
    examples = [Example(e.prompt, ((7, 1), (8,)), 0, e.origin) for e in EXAMPLES]
    boundary = opened(examples)
    whole = opened.session.scores("a", examples)
    assert opened.runs > 0
    opened.runs = 0
    # One batch holds all of them, so that the sums are the same.
    known = opened.session.scores("a", examples, boundary=boundary)
    assert all(torch.equal(*pair) for pair in zip(known, whole, strict=True))
    assert opened.runs == 0


def test_opened_again_nothing_is_run_but_the_trial(opened: Opened, folder: Path) -> None:
    first = opened()
    cost = opened.runs
    again = opened()
    assert opened.done == []
    assert opened.runs < cost
    assert opened.runs <= 2  # whether the model can be cut is tried on two examples
    assert first is not None
    assert again is not None
    assert torch.equal(first.states, again.states)
    assert sorted(path.suffix for path in folder.iterdir()) == [".bin", ".json"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SPOILED = {
    "cut short": cut,
    "a bit flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "without its hash": lambda path: path.with_suffix(".json").unlink(),
    "with another's hash": lambda path: path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64})),
    "with half a hash": lambda path: path.with_suffix(".json").write_text('{"sha2'),
    "with a hash of another kind": lambda path: path.with_suffix(".json").write_text("[]"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_not_whole_is_made_anew(opened: Opened, folder: Path, how: str) -> None:
    first = opened()
    assert first is not None
    before = first.states.clone()
    (path,) = folder.glob("*.bin")
    SPOILED[how](path)
    again = opened()
    assert opened.done[-1] == len(EXAMPLES), "what is spoiled was used"
    assert again is not None
    assert torch.equal(again.states, before)
    opened()
    assert opened.done == []


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.bin")}


def test_whatever_the_states_depend_on_has_a_file_of_its_own(session: Session, folder: Path) -> None:
    def made(
        layer: int = 1, examples: Any = EXAMPLES, every: bool = True, digest: str = "one", tokens: int = 999
    ) -> None:
        before = files(folder)
        result = open_boundary(
            folder, session.base.model, layer, examples, every_answer=every, causal=True, base_digest=digest,
            max_tokens=tokens, notice=pytest.fail, progress=lambda done: None,
        )  # fmt: skip
        assert result is not None
        assert len(files(folder) - before) == 1

    made()
    made(digest="two")
    made(every=False)
    made(examples=EXAMPLES[:4])
    made(tokens=998)


def test_what_a_decoder_is_told_to_see_has_a_file_of_its_own(session: Session, folder: Path) -> None:
    """Though the tokens are the same; and in it nothing is shared."""
    model, kept = session.base.model, {}
    for told in (False, True):
        examples = [replace(example, sees_all=told) for example in MARKED]
        kept[told] = boundary = open_boundary(
            folder, model, 1, examples, every_answer=False, causal=True, base_digest="", max_tokens=999,
            notice=pytest.fail, progress=lambda done: None,
        )  # fmt: skip
        assert boundary is not None
        batch = ragged(examples, every_answer=False, causal=True, device=CPU)
        with torch.no_grad():
            whole, known = hidden_rows(model, batch), hidden_rows(model, boundary.enter(batch, range(5)))
        assert (known - whole).norm() <= ORDER_OF_SUMS * whole.norm()
    assert len(files(folder)) == 2
    assert (kept[False].trunk > 0, kept[True].trunk) == (True, 0)


def test_adapters_on_all_layers_have_nothing_to_keep(session: Session, adapted: Any, folder: Path) -> None:
    adapted(session, "all")
    for name in ("all", "a"):
        session.collator.ragged = name == "all"
        assert boundary_of(session, name, EXAMPLES, every_answer=True, notice=pytest.fail) is None
    session.collator.ragged = True
    assert boundary_of(session, "a", [], every_answer=True, notice=pytest.fail) is None
    assert not folder.exists()


def test_without_room_on_the_disk_there_is_a_notice_and_none(
    opened: Opened, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pefttune.batching.kept.BYTES_LEFT_FREE", 2**60)
    assert opened() is None
    assert len(opened.notices) == 1
    assert opened.notices[0].startswith("the frozen layers are run again in every pass: their states need 0 MiB in ")
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_a_notice_and_leaves_nothing(opened: Opened, folder: Path, disk_full: Any) -> None:
    folder.mkdir(parents=True)
    with disk_full(4096):
        assert opened() is None
    assert "cannot be written: File too large" in opened.notices[0]
    assert list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_a_notice(opened: Opened, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()  # a file where the folder should be
    assert opened() is None
    assert opened.notices[0].startswith("the frozen layers are run again in every pass")


def test_an_interruption_leaves_nothing(opened: Opened, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*call: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Boundary, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened()
    assert list(folder.iterdir()) == []


def test_the_one_not_used_for_longest_goes_first(opened: Opened, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for number, digit in enumerate((1, 2, 3)):
        opened([Example((digit, *e.prompt), e.answers, e.target, "") for e in EXAMPLES])
        (name,) = files(folder) - set(names)
        names.append(name)
        os.utime(folder / name, (number, number))
    size = (folder / names[0]).stat().st_size
    opened([Example((1, *e.prompt), e.answers, e.target, "") for e in EXAMPLES])  # the first is used again
    assert opened.done == []
    monkeypatch.setattr("pefttune.batching.kept.BYTES_AT_MOST", 3 * size)
    assert opened([Example((4, *e.prompt), e.answers, e.target, "") for e in EXAMPLES]) is not None
    kept = files(folder)
    assert len(kept) == 3
    assert names[1] not in kept
    assert {names[0], names[2]} <= kept
    assert {path.stem for path in folder.glob("*.json")} == {name.removesuffix(".bin") for name in kept}
    monkeypatch.setattr("pefttune.batching.kept.BYTES_AT_MOST", size - 1)
    assert opened([Example((5, *e.prompt), e.answers, e.target, "") for e in EXAMPLES]) is None
    assert "their states need" in opened.notices[0]
    assert files(folder) == kept  # nothing goes for what cannot be had anyway


def test_what_a_killed_run_left_goes(opened: Opened, folder: Path) -> None:
    folder.mkdir(parents=True)
    left, young = folder / "a.1234.partial", folder / "b.5678.partial"
    for path in (left, young):
        path.touch()
    os.utime(left, (0, 0))
    assert opened() is not None
    assert not left.exists()
    assert young.exists()  # another run may be writing it


def test_an_evicted_cache_can_be_used_to_its_end(opened: Opened, folder: Path) -> None:
    boundary = opened()
    assert boundary is not None
    before = boundary.states.clone()
    for path in folder.iterdir():
        path.unlink()
    assert torch.equal(boundary.states, before)


MARKED = [Example((2, *e.prompt, 3), (), 0, e.origin, marks=((0, 0), (len(e.prompt), 1))) for e in EXAMPLES]


@pytest.mark.parametrize("indices", [[0, 1, 2, 3, 4], [3], [4, 0]])
def test_where_tokens_see_what_follows_nothing_is_shared(session: Session, folder: Path, indices: list[int]) -> None:
    """All of these begin alike, but each goes on in another way, and so its first token is another one behind a layer.
    (A ragged batch says itself what a token sees, so that any base can be read in both directions.)"""
    model = session.base.model
    boundary = open_boundary(
        folder, model, 1, MARKED, every_answer=False, causal=False, base_digest="", max_tokens=999,
        notice=pytest.fail, progress=lambda done: None,
    )  # fmt: skip
    assert boundary is not None
    batch = ragged([MARKED[i] for i in indices], every_answer=False, causal=False, device=CPU)
    session.use("a")
    with torch.no_grad():
        whole, known = hidden_rows(model, batch), hidden_rows(model, boundary.enter(batch, indices))
    assert (known - whole).norm() <= ORDER_OF_SUMS * whole.norm()


ENCODERS: dict[str, dict[str, Any]] = {"Bert": {}, "ModernBert": {"local_attention": 8}, "EuroBert": {}}


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_is_cut_rightly_or_not_at_all(
    base_of: Any, adapted: Any, new_encoder: Any, tmp_path: Path, kind: str
) -> None:
    """ModernBERT and EuroBERT have their layers where decoders have them, and norms before or behind them."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": 261, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4}
    folder = new_encoder(tmp_path / kind)
    config = getattr(transformers, f"{kind}Config")(**small, **ids, **ENCODERS[kind])
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    session = Session(base_of(folder))
    adapted(session, "a", approach="head", layers="top-1")
    adapter = session["a"].adapter
    assert adapter is not None
    assert adapter.first_layer == 1
    texts = [replace(example, marks=((0, 0),)) for example in MARKED]
    session.collator.try_ragged(texts)
    notices: list[str] = []
    boundary = boundary_of(session, "a", texts, every_answer=False, notice=notices.append)
    whole = session.scores("a", texts)
    assert (boundary is None) == (bool(notices) or not session.collator.ragged)
    assert all(torch.equal(*pair) for pair in zip(session.scores("a", texts, boundary=boundary), whole, strict=True))


@pytest.mark.parametrize("kind", ["Mistral", "Gemma3Text"])
def test_other_bases_are_cut_rightly_or_not_at_all(base_of: Any, folder_of: Any, adapted: Any, kind: str) -> None:
    session = Session(base_of(folder_of(kind)))
    adapted(session, "a", layers="top-1")
    session.collator.try_ragged(EXAMPLES)
    opened = Opened(session)
    boundary = opened()
    assert (boundary is None) == bool(opened.notices)
    if boundary is None:
        assert "cannot be entered at a layer" in opened.notices[0]
        return
    batch = ragged(EXAMPLES, every_answer=True, causal=True, device=CPU)
    session.use("a")
    model = session.base.model
    with torch.no_grad():
        assert torch.equal(hidden_rows(model, boundary.enter(batch, range(5))), hidden_rows(model, batch))
