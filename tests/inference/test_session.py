"""One resident base, many adapters: each answers as if it were alone, and the base stays what it was."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pefttune import store
from pefttune.data import Row
from pefttune.errors import AdapterError, DataError
from pefttune.inference import Session
from pefttune.methods.lora_layer import LoraLinear

TEXTS = [
    "a film",
    "poor, dull, cold and rather longer than the others are",
    "x",
    "bright and warm",
    "no",
    "fine film 7",
]


@pytest.fixture
def session(base_of: Any) -> Session:
    return Session(base_of())


def scores(session: Session, name: str, texts: list[str] = TEXTS) -> torch.Tensor:
    encoder = session[name].encoder
    examples = [example for text in texts for example in encoder(Row({"text": text}, text))]
    return torch.stack(session.scores(name, examples))


def rewritten(folder: Path, to: Path, **weights: torch.Tensor) -> Path:
    """A copy of a stored adapter with other weights and a manifest that agrees."""
    shutil.copytree(folder, to)
    file = to / "adapter_model.safetensors"
    save_file({**load_file(file), **weights}, file, metadata={"format": "pt"})
    manifest = json.loads((to / store.MANIFEST).read_text())
    store.write_manifest(to, {key: value for key, value in manifest.items() if key not in ("format", "files")})
    return to


def test_predictions_come_in_the_order_of_the_rows(session: Session, adapted: Any) -> None:
    adapted(session, "a", labels=("x", "y", "z"))
    alone = [next(iter(session.predict([text], "a"))) for text in TEXTS]
    assert len({prediction.confidence for prediction in alone}) == len(TEXTS)
    for session.max_batch_tokens in (1, 300, 10_000):
        together = list(session.predict(TEXTS, "a"))
        assert [prediction.label for prediction in together] == [prediction.label for prediction in alone]
        for one, other in zip(together, alone, strict=True):
            # Batches of other width sum in another order: scores near -10 have a last bit of 1e-6.
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_rows_are_streamed(session: Session, adapted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttune.inference.predicting.ROWS_AT_ONCE", 4)
    adapted(session, "a")
    taken: list[int] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield TEXTS[number % len(TEXTS)]

    predictions = session.predict(endless(), "a")
    assert taken == [], "rows were read before a prediction was asked for"
    first = [next(predictions) for _ in range(4)]
    assert taken == [0, 1, 2, 3]
    rest = list(itertools.islice(predictions, 8))
    assert len(taken) == 12
    assert [p.label for p in first + rest][6:12] == [p.label for p in first + rest][:6]  # the texts repeat after six


def test_as_many_predictions_as_rows_whatever_the_chunk(
    session: Session, adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pefttune.inference.predicting.ROWS_AT_ONCE", 3)
    adapted(session, "a")
    for rows in (0, 1, 3, 4, 6):
        assert len(list(session.predict(TEXTS[:rows], "a"))) == rows


def test_two_streams_of_two_adapters_do_not_mix(
    session: Session, adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pefttune.inference.predicting.ROWS_AT_ONCE", 2)
    adapted(session, "a", seed=1)
    adapted(session, "b", seed=2)
    apart = {name: list(session.predict(TEXTS, name)) for name in "ab"}
    assert apart["a"] != apart["b"]
    mixed = list(zip(session.predict(TEXTS, "a"), session.predict(TEXTS, "b"), strict=True))
    assert [one for one, _ in mixed] == apart["a"]
    assert [other for _, other in mixed] == apart["b"]


def test_the_adapter_in_use_predicts_where_none_is_named(session: Session, adapted: Any) -> None:
    adapted(session, "a", seed=1)
    adapted(session, "b", seed=2)
    with pytest.raises(AdapterError, match=r"no adapter is in use; call use\(\) with one of a, b"):
        next(session.predict(["x"]))
    session.use("b")
    assert list(session.predict(TEXTS)) == list(session.predict(TEXTS, "b"))


def test_an_unknown_adapter_is_told_with_those_there_are(session: Session, adapted: Any) -> None:
    with pytest.raises(AdapterError, match="no adapter 'a' in this session; it holds none"):
        session.use("a")
    adapted(session, "a")
    for ask in (session.use, session.remove, session.__getitem__, lambda name: next(session.predict(["x"], name))):
        with pytest.raises(AdapterError, match="no adapter 'b' in this session; it holds a"):
            ask("b")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("  ", "text 2: text is empty"),
        (Row({"text": None}, "f.csv:9"), "f.csv:9: text is NoneType, not text"),
        (Row({"review": "x"}, "f.csv:9"), "f.csv:9: there is no column 'text', but review"),
        (5, "text 2: a row is int; give a text or a mapping with text"),
        (None, "text 2: a row is NoneType; give a text or a mapping with text"),
        (["fine"], "text 2: a row is list; give a text or a mapping with text"),
        ({5: "fine"}, "text 2: there is no column 'text', but 5"),
        ({}, "text 2: there is no column 'text', but none"),
    ],
)
def test_a_row_that_cannot_be_read_is_told(session: Session, adapted: Any, row: Any, message: str) -> None:
    adapted(session, "a")
    with pytest.raises(DataError) as raised:
        list(session.predict(["fine", row], "a"))
    assert str(raised.value) == message


def test_a_row_may_have_its_column_in_any_form_that_files_have(session: Session) -> None:
    from pefttune import tasks
    from pefttune.recipe import tasks as sections
    from pefttune.recipe.adapters import Lora

    section = sections.Summarization(type="summarization", min_new_tokens=0, max_new_tokens=3)
    session.add("short", session.attach(tasks.get(section), Lora(method="lora"), 128))
    [whole, parts] = session.predict([{"document": "One. Two."}, {"document": ["One.", "Two."]}], "short")
    assert parts == whole


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_adapters_with_other_tasks_live_side_by_side(base_of: Any, adapted: Any, quantization: str) -> None:
    session = Session(base_of(quantization=quantization))
    digest = session.base.digest()
    adapted(session, "two", labels=("x", "y"), seed=1)
    adapted(session, "five", labels=tuple("abcde"), approach="head", seed=2)
    adapted(session, "three", labels=tuple("pqr"), approach="head", seed=3, r=2, target_modules=["v_proj"])
    first = {name: scores(session, name) for name in session.names}
    assert [tuple(table.shape) for table in first.values()] == [(6, 2), (6, 5), (6, 3)]
    for name in ("five", "two", "three", "five", "three", "two"):
        assert torch.equal(scores(session, name), first[name])
    assert session.base.digest() == digest


def test_the_loss_of_an_adapter_is_its_own(session: Session, adapted: Any, examples_of: Any, ragged: Any) -> None:
    losses = {}
    for seed, name in enumerate("ab"):
        loaded = adapted(session, name, seed=seed)
        batch = session.collator.collate(examples_of(loaded, ragged), every_answer=False)
        session.use(name)
        losses[name] = session.loss(name, batch).item()
    assert losses["a"] != losses["b"]
    session.use("b")
    assert session.loss("a", batch).item() == losses["a"]


def test_a_removed_adapter_is_gone_and_the_others_stay(session: Session, adapted: Any) -> None:
    modules = dict(session.base.model.named_modules())
    adapted(session, "a", seed=1)
    adapted(session, "b", seed=2)
    before = scores(session, "b")
    session.use("a")
    session.remove("a")
    assert session.names == ("b",)
    with pytest.raises(AdapterError, match="no adapter is in use"):
        next(session.predict(["x"]))
    assert torch.equal(scores(session, "b"), before)
    assert not any(parameter.requires_grad for parameter in session.base.model.parameters())
    session.remove("b")
    assert dict(session.base.model.named_modules()) == modules
    adapted(session, "a")  # the name is free again


def test_a_name_is_taken_once(session: Session, adapted: Any, finished: Any) -> None:
    adapted(session, "a")
    with pytest.raises(AdapterError, match="already holds another adapter 'a'; remove it first"):
        session.load(finished().run.folder, name="a")
    layers = [module for module in session.base.model.modules() if isinstance(module, LoraLinear)]
    assert {len(layer.lora_A) for layer in layers} == {1}, "the refused adapter is still on the base"


@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_a_stored_adapter_scores_as_the_trained_one_did(session: Session, finished: Any, approach: str) -> None:
    run, digest = finished(approach).run, session.base.digest()
    session.load(run.folder)
    assert session.names == ("tiny",)
    probe = run.manifest["probe"]
    assert [scores(session, "tiny", [row["text"]]).tolist() for row in probe["rows"]] == probe["scores"]
    assert session.base.digest() == digest
    assert not any(parameter.requires_grad for parameter in session["tiny"].parameters.values())


def test_another_base_is_refused_with_what_differs(
    base_of: Any, adapted: Any, new_model: Any, finished: Any, tmp_path: Path
) -> None:
    other = Session(base_of(new_model(tmp_path / "other", seed=1), quantization="nf4"))
    adapted(other, "mine")
    before, digest = scores(other, "mine"), other.base.digest()
    with pytest.raises(AdapterError) as raised:
        other.load(finished().run.folder)
    told = str(raised.value)
    assert told.startswith("tiny was trained on another base (tiny, tiny). They differ in: tensors (")
    assert "; quantization (nf4+double here, none there)" in told
    assert "config" not in told
    assert "tokenizer" not in told
    assert other.names == ("mine",)
    assert torch.equal(scores(other, "mine"), before)
    assert other.base.digest() == digest
    adapted(other, "tiny")  # the name is free


STRANGERS = {
    "an output layer": {"lm_head.weight": torch.zeros(261, 32)},
    "a base layer": {"base_model.model.model.layers.0.mlp.up_proj.base_layer.weight": torch.zeros(64, 32)},
    "a head": {"base_model.model.score.weight": torch.zeros(2, 32)},
    "another shape": {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(2, 32)},
    "NaN": {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.full((4, 32), torch.nan)},
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_failed_load_leaves_nothing_behind(session: Session, finished: Any, tmp_path: Path, stranger: str) -> None:
    good = finished().run.folder
    modules, digest = dict(session.base.model.named_modules()), session.base.digest()
    with pytest.raises(AdapterError):
        session.load(rewritten(good, tmp_path / "bad", **STRANGERS[stranger]))
    assert session.names == ()
    assert dict(session.base.model.named_modules()) == modules
    assert session.base.digest() == digest
    session.load(good)  # and the good one goes in under the name


def test_a_changed_file_is_refused_before_anything_is_attached(session: Session, finished: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished().run.folder, tmp_path / "changed"))
    file = folder / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors has been changed or damaged"):
        session.load(folder)
    assert not any(isinstance(module, LoraLinear) for module in session.base.model.modules())


@pytest.mark.parametrize("rows", ["superb", b"superb", {"text": "superb"}, Row({"text": "superb"}, "f.csv:9"), 5, None])
def test_what_is_no_list_of_rows_is_told_at_once(session: Session, adapted: Any, rows: Any) -> None:
    """A text would be taken for a list of its letters, a row for one of its columns' names."""
    adapted(session, "a")
    for ask in (lambda: session.predict(rows, "a"), lambda: session.parallel(rows, ["a"])):
        with pytest.raises(DataError, match="give a list"):
            ask()


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_a_table_is_not_taken_for_the_names_of_its_columns(session: Session, adapted: Any, package: str) -> None:
    module = pytest.importorskip(package)
    columns = {"text": ["superb", "dull"]}
    table = module.DataFrame(columns) if package == "pandas" else module.table(columns)
    rows = table.to_dict("records") if package == "pandas" else table.to_pylist()
    adapted(session, "a")
    for ask in (lambda: session.predict(table, "a"), lambda: session.parallel(table, ["a"])):
        with pytest.raises(DataError, match=r"a (DataFrame|Table) gives its columns instead: give a list of its rows"):
            ask()
    assert len(list(session.predict(rows, "a"))) == 2


def test_a_wrong_name_is_told_when_predict_is_called(session: Session) -> None:
    with pytest.raises(AdapterError, match="no adapter 'nobody'"):
        session.predict(["superb"], "nobody")


def test_batches_hold_as_many_rows_as_their_tokens_allow(
    session: Session, adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(session, "a", labels=("one", "two", "three"))
    at_once = scores(session, "a")
    sizes: list[int] = []
    collate = session.collator.collate
    tokens: list[int] = []

    def noting(some: Any, **how: Any) -> Any:
        batch = collate(some, **how)
        sizes.append(len(some))
        tokens.append(batch.n_tokens)
        return batch

    monkeypatch.setattr(session.collator, "collate", noting)
    session.max_batch_tokens = 220
    # float32: in other batches the same sums come in another order.
    torch.testing.assert_close(scores(session, "a"), at_once, rtol=1e-5, atol=1e-5)
    assert sum(sizes) == len(TEXTS)
    assert 1 < max(sizes) < len(TEXTS)
    assert max(tokens) <= 220
