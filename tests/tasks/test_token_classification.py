"""Named entities: what a row must be, numbers against seqeval's, and whole runs on a decoder and an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from torch.nn.functional import cross_entropy

from pefttune import doctor, pipeline
from pefttune.data import Row
from pefttune.data.faults import RowFault
from pefttune.errors import DataError
from pefttune.inference import Session, open_session
from pefttune.recipe import load_recipe
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Lora
from pefttune.tasks import Piece, Tagged, TokenClassification
from pefttune.tasks.tags import as_iob2
from pefttune.tasks.words import UNKNOWN


def task_of(labels: tuple[str, ...] | None = None, stride: int = 8) -> TokenClassification:
    return TokenClassification.from_section(
        sections.TokenClassification(type="token-classification", labels=labels, stride=stride)
    )


def row(words: str, tags: str | None = None, number: int = 1) -> Row:
    values: dict[str, Any] = {"tokens": words.split()}
    return Row(task_of().check(values | ({} if tags is None else {"tags": tags.split()})), f"f.conll:{number}")


def said(words: str, tags: str, probabilities: list[float] | None = None) -> Tagged:
    """What the baseline predicts that has learned just this; then with other probabilities."""
    (found,) = task_of().baseline([row(words, tags)], [row(words)])[1]
    return Tagged(found.text, found.words, tuple(tags.split()), tuple(probabilities or found.probabilities))


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        ({"tokens": 7, "tags": []}, "tokens", "is int, not a list of words"),
        ({"tokens": None}, "tokens", "is NoneType, not a list of words"),
        ({"tokens": [], "tags": []}, "tokens", "is empty"),
        ({"tokens": " \n"}, "tokens", "is empty"),
        ({"tokens": ["a", 7], "tags": ["O", "O"]}, "tokens", "word 2 is 7, not text"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens", "word 2 is empty"),
        ({"tokens": ["a", " \u00a0"], "tags": ["O", "O"]}, "tokens", "word 2 is empty"),
        ({"tokens": "Ada", "tags": ["O"]}, "tokens", "is text; tags need a list of words"),
        ({"tokens": "Ada", "tags": None}, "tokens", "is text; tags need a list of words"),
        ({"tokens": ["a"], "tags": None}, "tags", "is NoneType, not a list of tags"),
        ({"tokens": ["a"], "tags": "O"}, "tags", "is str, not a list of tags"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags", "has 1 tags for 2 words"),
        ({"tokens": ["a"], "tags": [0]}, "tags", "word 1 has the tag 0; a tag is O, or"),
        ({"tokens": ["a", "b"], "tags": ["O", "B-LCO"]}, "tags", "word 2: 'LCO' is not one of LOC, PER; did you mean"),
        ({"tokens": ["a"], "tags": ["U-x"]}, "tags", "word 1: 'x' is not one of LOC, PER"),
    ],
)
def test_rows_that_cannot_be_used_are_told(values: dict[str, Any], column: str, message: str) -> None:
    with pytest.raises(RowFault) as raised:
        task_of(("LOC", "PER")).check(values)
    assert raised.value.column == column
    assert raised.value.message.startswith(message)


def test_good_rows_are_kept_as_they_are_with_tags_in_iob2() -> None:
    values = {"tokens": (" Ada", "Byron", "in", "Rome"), "tags": ("B-PER", "L-PER", "O", "U-LOC")}
    assert task_of().check(values) == {
        "tokens": [" Ada", "Byron", "in", "Rome"],
        "tags": ["B-PER", "I-PER", "O", "B-LOC"],
    }
    assert task_of().check({"tokens": ["Ada"]}) == {"tokens": ["Ada"]}  # to predict, no tags are needed
    assert task_of().check({"tokens": "Ada's "}) == {
        "tokens": ["Ada", "'s"],
        "text": "Ada's ",
        "words": [(0, 3), (3, 5)],
    }


def test_kinds_are_those_of_the_training_rows_sorted_or_as_given() -> None:
    train = [row("Ada in Rome", "B-PER O B-LOC"), row("a", "O")]
    assert task_of().with_labels_of(train, [row("Rome", "B-LOC")]).labels == ("LOC", "PER")
    assert task_of(("PER", "LOC")).with_labels_of(train, []).labels == ("PER", "LOC")
    with pytest.raises(DataError, match=r"^no training row has an entity, so there is nothing to learn"):
        task_of().with_labels_of([row("a", "O")], train)
    with pytest.raises(DataError, match=r"^1 held-out row has in the task's column `tags` .*\n  'ORG' in f\.conll:7\n"):
        task_of().with_labels_of(train, [row("UNO", "B-ORG", 7)])


TAGS = st.lists(st.sampled_from(["O", "O", "B-a", "I-a", "B-b", "I-b"]), min_size=1, max_size=7)


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(TAGS, st.randoms(use_true_random=False)), min_size=1, max_size=6))
def test_metrics_are_seqevals_and_the_tallies_sum_to_them(drawn: list[Any]) -> None:
    task = task_of(("a", "b", "never"))
    rows, predictions = [], []
    for tags, random in drawn:
        words, others = " ".join(["w"] * len(tags)), list(tags)
        random.shuffle(others)
        rows.append(row(words, " ".join(tags)))
        predictions.append(said(words, " ".join(as_iob2(others))))
    true, found = [each.values["tags"] for each in rows], [list(each.tags) for each in predictions]
    metrics, tallies = task.metrics(predictions, rows), task.tallies(predictions, rows)
    assert set(task.shown) <= set(metrics)
    strict: dict[str, Any] = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    if any(tag != "O" for tags in (*true, *found) for tag in tags):
        assert metrics["f1"] == float(task.primary_of(tallies.sum(0)))
        assert metrics["f1"] == pytest.approx(f1_score(true, found, **strict), rel=1e-12)  # of precision and recall
        assert metrics["precision"] == precision_score(true, found, **strict)
        assert metrics["recall"] == recall_score(true, found, **strict)
    else:
        assert metrics["f1"] == 1
    assert (tallies[:, 0] + tallies[:, 2]).sum() == sum(each["rows"] for each in metrics["per_class"].values())
    assert metrics["per_class"]["never"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 0}


def test_metrics_against_hand_worked_ones() -> None:
    task = task_of(("LOC", "PER"))
    rows = [row("Ada Byron in Rome", "B-PER I-PER O B-LOC"), row("Oslo wins", "B-LOC O"), row("so so", "O O")]
    predictions = [
        said("Ada Byron in Rome", "B-PER O O B-LOC", [0.9, 0.9, 0.9, 0.9]),  # half a name is none
        said("Oslo wins", "B-PER O", [0.9, 0.9]),
        said("so so", "O O", [0.9, 0.9]),
    ]
    found = task.metrics(predictions, rows)
    assert task.tallies(predictions, rows).tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 0]]
    assert (found["precision"], found["recall"], found["f1"]) == (1 / 3, 1 / 3, 1 / 3)
    assert found["per_class"]["LOC"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2}
    assert found["per_class"]["PER"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 1}
    assert found["word_accuracy"] == 6 / 8
    assert found["calibration_error"] == pytest.approx(abs(6 / 8 - 0.9), abs=1e-6)  # one bin; float32 sums
    assert found["unread_words"] == 0
    # A row with nothing to find is right when nothing is found in it.
    assert task.primary_of(task.tallies(predictions, rows)).tolist() == [0.5, 0.0, 1.0]


def test_the_baseline_knows_each_words_commonest_tag() -> None:
    train = [row("Rome is Rome", "B-LOC O B-LOC"), row("New York Rome", "B-LOC I-LOC B-ORG")]
    name, (one, other) = task_of().baseline(train, [row("York is rome"), row("New York Rome")])
    assert name == "each word its commonest tag"
    assert one.tags == ("B-LOC", "O", "O")  # what goes on with nothing begins
    assert other.tags == ("B-LOC", "I-LOC", "B-LOC")
    assert other.probabilities == (1.0, 1.0, 2 / 3)


def test_a_prediction_says_what_it_found_and_where() -> None:
    found = said("Ada Byron is in Rome", "B-PER I-PER O O B-LOC", [0.9, 0.8, 1.0, 1.0, 0.5])
    assert str(found) == "Ada Byron (PER), Rome (LOC)" == task_of().reference(row(found.text, " ".join(found.tags)))
    assert found.columns() == {
        "prediction": [
            {
                "kind": "PER",
                "text": "Ada Byron",
                "start": 0,
                "end": 9,
                "first_word": 0,
                "end_word": 2,
                "confidence": pytest.approx(0.72),
            },
            {
                "kind": "LOC",
                "text": "Rome",
                "start": 16,
                "end": 20,
                "first_word": 4,
                "end_word": 5,
                "confidence": 0.5,
            },
        ],
        "predicted_tags": ["B-PER", "I-PER", "O", "O", "B-LOC"],
        "confidence": pytest.approx(0.36),
        "truncated": False,
    }
    assert found.pieces(row("x")) == (Piece("Ada Byron", "PER"), Piece(" is in "), Piece("Rome", "LOC"))
    assert str(said("so", "O")) == "nothing"
    assert said("so", "O").pieces(row("x")) == (Piece("so"),)


@pytest.fixture(params=["decoder", "encoder"])
def source(request: pytest.FixtureRequest, tiny: Path, tiny_encoder: Path) -> Path:
    return tiny if request.param == "decoder" else tiny_encoder


def session_of(base: Any, max_length: int = 64) -> Session:
    session = Session(base)
    torch.manual_seed(1)
    task = task_of(("LOC", "PER"))
    loaded = session.add("ner", session.attach(task, Lora(method="lora", r=4), max_length))
    for parameter in loaded.parameters.values():
        parameter.data.normal_(std=0.2)  # a fresh LoRA does nothing
    return session


LONG = row("Ada came from Oslo to Rome " * 6, "B-PER O O B-LOC O B-LOC " * 6)


@pytest.mark.parametrize("ragged", [True, False], ids=["ragged", "padded"])
def test_the_loss_is_the_cross_entropy_over_all_words_of_all_windows(base_of: Any, source: Path, ragged: bool) -> None:
    session = session_of(base_of(source))
    session.collator.ragged = ragged
    rows = [row("Ada left", "B-PER O"), LONG, row("Rome")]
    windows = [window for each in rows for window in session["ner"].encoder(each)]
    session.use("ner")
    model, linear, expected, marked = session.base.model, session["ner"].head.linear, 0.0, 0
    for window in windows:
        hidden = getattr(model, "model", model)(torch.tensor([window.prompt])).last_hidden_state[0]
        for place, target in window.marks:
            if target != UNKNOWN:
                expected += float(cross_entropy(linear(hidden[place]), torch.tensor(target)))
                marked += 1
    assert marked == 2 + 36
    batch = session.collator.collate(windows, every_answer=False)
    assert batch.n_scored == marked
    # The same float32 sums in other batches.
    assert float(session.loss("ner", batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_windows_of_a_long_sentence_are_put_together_again(base_of: Any, source: Path) -> None:
    """Where every word is tagged right in its window, the whole sentence is, also an entity that lies across two."""
    session = session_of(base_of(source))
    cut = row("Ada Byron " * 9, "B-PER" + " I-PER" * 17)
    for one in (LONG, cut):
        windows = session["ner"].encoder(one)
        classes = [[target for _, target in window.marks] for window in windows]
        scores = [torch.log_softmax(9.0 * torch.nn.functional.one_hot(torch.tensor(each), 5), 1) for each in classes]
        found = session["ner"].task.decode(one, windows, scores)
        assert len(windows) > 1
        assert list(found.tags) == one.values["tags"]


def test_any_words_and_any_text_are_tagged(base_of: Any, source: Path) -> None:
    """Each word has a tag, what is found stands in the text, and what cannot be read is nothing."""
    session = session_of(base_of(source))
    hard = ["Ada", "<|end|>", "[SEP]", "\u200b", "👨‍👩‍👧", "New York", "\u0301", "𝒳" * 90, "हिन्दी", "\ufffd", "\x00"]
    texts = [" ".join(hard), "\u200b", "x", "Ada\r\n\tByron  ", "a" * 500]
    for given_, found in zip(
        [hard, *texts], session.predict([{"tokens": x} for x in [hard, *texts]], "ner"), strict=True
    ):
        assert len(found.tags) == len(found.words) == len(found.probabilities)
        assert as_iob2(found.tags) == list(found.tags)
        assert "".join(piece.text for piece in found.pieces(row("x"))) == found.text
        assert found.text == (given_ if isinstance(given_, str) else " ".join(given_))
        for entity in found.entities:
            assert found.text[entity.start : entity.end] == entity.text
            assert entity.start == found.words[entity.first_word][0]
            assert entity.end == found.words[entity.end_word - 1][1]
            assert 0 < found.confidence <= entity.confidence * (1 + 1e-9) <= 1 + 1e-9


def test_a_word_in_which_there_is_nothing_to_read_is_outside(base_of: Any, tiny_encoder: Path) -> None:
    session = session_of(base_of(tiny_encoder))
    (alone, among) = session.predict([{"tokens": ["\u200b"]}, {"tokens": ["Ada", "\u200b", "Rome"]}], "ner")
    assert (alone.tags, alone.unread, alone.confidence) == (("O",), 1, 1.0)
    assert (among.tags[1], among.unread, among.probabilities[1]) == ("O", 1, 1.0)
    rows = [row("Ada \u200b Rome", "B-PER O B-LOC")]
    assert session["ner"].task.metrics([among], rows)["unread_words"] == 1


NAMES = {"PER": ["Ada", "Bob", "Eve", "Kim"], "LOC": ["Rome", "Oslo", "Lima", "New York"]}


def sentence(number: int) -> tuple[list[str], list[str]]:
    """Someone goes somewhere; words and tags."""
    person, place = NAMES["PER"][number % 4], NAMES["LOC"][number // 4 % 4].split()
    words = [person, "goes", "to", *place, "on", "day", str(number)]
    return words, ["B-PER", "O", "O", *["B-LOC", "I-LOC"][: len(place)], "O", "O", "O"]


def by_peft_alone(base: Path, folder: Path, prompt: tuple[int, ...]) -> torch.Tensor:
    """The logits of every token by transformers' own class for the task."""
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification

    bare = AutoModelForTokenClassification.from_pretrained(base, num_labels=5)
    model = PeftModel.from_pretrained(bare, folder).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([prompt])).logits[0]
    return logits


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_whole_run_learns_and_its_adapter_is_pefts_own(new_recipe: Any, tmp_path: Path, source: Path) -> None:
    lines = ["\n".join(f"{word}\t{tag}" for word, tag in zip(*sentence(number), strict=True)) for number in range(80)]
    (tmp_path / "ner.conll").write_text("\n\n".join(lines), encoding="utf-8")
    data = f"{{source: {tmp_path}/ner.conll, max_length: 128, split: {{validation: 0.2, test: 0.3}}}}"
    training = "{per_device_train_batch_size: 8, learning_rate: 1e-2, num_train_epochs: 12}"
    task = "{type: token-classification, stride: 4}"
    run = pipeline.run(load_recipe(new_recipe(tmp_path, source, task, data, training, "{method: lora, r: 8}")))
    assert run.comparison.adapter["f1"] > 0.95
    assert set(run.comparison.others) == {"each word its commonest tag"}

    session = open_session("tiny", tmp_path / "adapters")
    loaded = session["tiny"]
    assert loaded.task.labels == ("LOC", "PER")
    found, plain = session.predict([{"tokens": sentence(12)[0]}, "Ada goes to New York on day 12"], "tiny")
    assert str(found) == str(plain) == "Ada (PER), New York (LOC)"
    assert found.tags == plain.tags

    (window,) = loaded.encoder(row("Ada goes to New York"))
    (ours,) = session.scores("tiny", [window])
    theirs = torch.log_softmax(by_peft_alone(source, run.folder, window.prompt), dim=-1)
    assert torch.allclose(ours, theirs[[place for place, _ in window.marks]], atol=1e-5)  # float32, other kernels


def test_rows_are_counted_by_their_entities() -> None:
    task = task_of(("PER", "LOC"))
    rows = [row("Ada Byron met Bob in Rome", "B-PER I-PER O B-PER O B-LOC"), row("it rains", "O O")]
    assert doctor.classes.count_kinds(task, rows) == {"PER": 2, "LOC": 1}
