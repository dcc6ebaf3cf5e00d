"""What a row must be, the loss and the metrics against plain ones, and whole runs on a tiny decoder and a tiny BERT."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchmetrics.text import SQuAD

from pefttune import doctor, pipeline
from pefttune.data import Row, load
from pefttune.data.faults import RowFault, RowMended
from pefttune.errors import DataError
from pefttune.inference import Session, open_session
from pefttune.recipe import load_recipe, schema
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Lora
from pefttune.tasks import Answer, QuestionAnswering
from pefttune.tasks.passage import UNKNOWN

CONTEXT = "Ada wrote notes in 1843. Ada paid $35."


def task_of(**section: Any) -> QuestionAnswering:
    return QuestionAnswering.from_section(
        sections.QuestionAnswering(**{"type": "question-answering", "stride": 8, **section})
    )


def row(*answers: str, question: str = "who?", context: str = CONTEXT) -> Row:
    starts = [context.index(answer) for answer in answers]
    values = {"question": question, "context": context, "answers": {"text": list(answers), "answer_start": starts}}
    return Row(values, "qa.jsonl:7")


def said(text: str) -> Answer:
    return Answer(text, 0, len(text), 0.5)


def values_with(text: str, start: int) -> dict[str, Any]:
    return {"question": "who?", "context": CONTEXT, "answers": {"text": [text], "answer_start": [start]}}


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        ({"question": "", "context": CONTEXT}, "question", "is empty"),
        ({"question": "\n ", "context": CONTEXT}, "question", "is empty"),
        ({"question": "\u200b", "context": CONTEXT}, "question", "is empty"),
        ({"question": None, "context": CONTEXT}, "question", "is NoneType, not text"),
        ({"question": "who?", "context": " \t"}, "context", "is empty"),
        ({"question": "who?", "context": ["a"]}, "context", "is list, not text"),
        (values_with("Bob", 0), "answers", "'Bob' does not stand at character 0 of the context, but 'Ada'"),
        (values_with("ada", 0), "answers", "'ada' does not stand at character 0 of the context, but 'Ada'"),
        (values_with("notes", 14), "answers", "'notes' does not stand at character 14 of the context, but 's in '"),
        (values_with("1843", 36), "answers", "'1843' at character 36 lies outside of the context, which has 38"),
        (values_with("1843", 99), "answers", "'1843' at character 99 lies outside of the context, which has 38"),
        (values_with("$35.", -4), "answers", "'$35.' at character -4 lies outside of the context, which has 38"),
        (values_with("t", 10), "answers", "'t' does not stand at character 10 of the context, but 'n'"),  # two are near
        (values_with("  ", 3), "answers", "'  ' is nothing but whitespace"),
    ],
)
def test_rows_that_cannot_be_used_are_told(values: dict[str, Any], column: str, message: str) -> None:
    with pytest.raises(RowFault) as raised:
        task_of().check(values)
    assert (raised.value.column, raised.value.message) == (column, message)


@pytest.mark.parametrize(
    ("text", "start", "answer", "there"),
    [("1843", 18, "1843", 19), ("1843", 20, "1843", 19), ("Ada", 2, "Ada", 0), (" 1843", 19, "1843", 19)],
)
def test_an_answer_beside_its_place_is_put_there(text: str, start: int, answer: str, there: int) -> None:
    with pytest.raises(RowMended) as raised:
        task_of().check(values_with(text, start))
    assert raised.value.values["answers"] == {"text": [answer], "answer_start": [there]}
    assert raised.value.message.startswith(f"'{answer}' stands at character {there} of the context, not ")


def test_good_rows_are_cleaned_but_the_passage_keeps_its_places() -> None:
    values = {"question": " who?\n", "context": "  Ada.  ", "answers": {"text": [" Ada"], "answer_start": [1]}}
    assert task_of().check(values) == {
        "question": "who?",
        "context": "  Ada.  ",
        "answers": {"text": ["Ada"], "answer_start": [2]},
    }
    assert task_of().check({"question": "who?", "context": "x"}) == {"question": "who?", "context": "x"}


def test_mended_rows_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    rows = [values_with("1843", 19 + shift) | {"question": f"when {shift}?"} for shift in (0, 1, -2, 3)]
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(values) + "\n" for values in rows), encoding="utf-8")
    task = task_of()
    config = schema.Data(train=str(path), validation=None, split={"validation": 0.3, "test": 0.3})
    report = load(config, task.columns, task.inputs, task.check).report
    assert (report.mended, sum(report.rows.values())) == (3, 4)
    assert str(report.mended_rows[0]) == (
        "qa.jsonl:2, column `answers`: '1843' stands at character 19 of the context, not 20"
    )


def test_whether_there_can_be_no_answer_is_learned_from_the_training_rows() -> None:
    task, answered, unanswered = task_of(), row("Ada"), row()
    assert task.with_labels_of([answered], [answered]).labels == ()
    assert task.with_labels_of([answered, unanswered], [answered]).labels == ("answer", "no answer")
    with pytest.raises(DataError, match="no training row has an answer"):
        task.with_labels_of([unanswered], [answered])
    with pytest.raises(
        DataError, match=r"in the task's column `answers` what no training row has.*\n  'no answer' in qa\.jsonl:7\n"
    ):
        task.with_labels_of([answered], [answered, unanswered])


PAIRS = [
    ("Ada", ("Ada",)),
    ("the  ADA.", ("Ada",)),
    ("in 1843", ("1843", "notes in 1843")),
    ("Ada", ("1843",)),
    ("Ada wrote notes", ("wrote notes in 1843",)),
    ("", ("Ada",)),
    ("", ()),
    ("Ada", ()),
]


def test_metrics_are_those_of_squad() -> None:
    predictions, rows = [said(text) for text, _ in PAIRS], [row(*answers) for _, answers in PAIRS]
    theirs = SQuAD()
    for number, (text, answers) in enumerate(PAIRS):
        reference = {"text": list(answers) or [""], "answer_start": [0] * max(1, len(answers))}
        theirs.update({"prediction_text": text, "id": str(number)}, {"answers": reference, "id": str(number)})
    expected = {key: float(value) / 100 for key, value in theirs.compute().items()}
    ours, task = task_of().metrics(predictions, rows), task_of()
    assert ours["f1"] == pytest.approx(expected["f1"], rel=1e-6)  # theirs are float32 sums
    assert ours["exact_match"] == pytest.approx(expected["exact_match"], rel=1e-6)
    # By hand: 1, 1, 2·(1/2·1)/(3/2) against "1843" and 4/5 against "notes in 1843", 0, 2/3·1/2 → 4/7, 0; then 1 and 0.
    assert ours["has_answer_f1"] == pytest.approx((1 + 1 + 4 / 5 + 0 + 4 / 7 + 0) / 6)
    assert ours["no_answer_accuracy"] == 0.5
    assert float(task.primary_of(task.tallies(predictions, rows).sum(0))) == pytest.approx(ours["f1"])
    assert set(task.shown) <= set(ours)


def test_metrics_of_questions_that_all_have_an_answer_say_nothing_of_others() -> None:
    assert task_of().metrics([said("Ada")], [row("Ada")]) == {"f1": 1.0, "exact_match": 1.0}


def test_the_baseline_is_the_better_of_a_sentence_and_never_an_answer() -> None:
    asked = row("$35", question="What had Ada paid?")
    name, (answer,) = task_of().baseline([asked], [asked])
    assert (name, answer.text) == ("sentence like the question", "Ada paid $35.")
    assert CONTEXT[answer.start : answer.end] == answer.text
    name, (answer,) = task_of().baseline([asked, row(), row()], [asked])
    assert (name, answer.text, str(answer)) == ("always 'no answer'", "", "no answer")


def test_a_prediction_is_drawn_in_its_passage() -> None:
    answer = Answer("1843", 19, 23, 0.5)
    assert [(piece.text, piece.tag) for piece in answer.pieces(row())] == [
        ("who? ", None),
        ("Ada wrote notes in ", None),
        ("1843", "answer"),
        (". Ada paid $35.", None),
    ]
    assert "".join(piece.text for piece in said("").pieces(row())) == f"who? {CONTEXT}"
    assert answer.columns()["prediction"] == "1843" == CONTEXT[answer.columns()["start"] : answer.columns()["end"]]


def session_of(base: Any, task: QuestionAnswering, max_length: int) -> Session:
    session = Session(base)
    torch.manual_seed(1)
    loaded = session.add("qa", session.attach(task, Lora(method="lora", r=4), max_length))
    for parameter in loaded.parameters.values():
        parameter.data.normal_(std=0.2)  # a fresh LoRA does nothing
    return session


def in_windows(session: Session, *rows: Row, name: str = "qa") -> list[Any]:
    return [window for each in rows for window in session[name].encoder(each)]


BY_PEFT_ALONE = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

base, folder, question, context = sys.argv[1:]
# Without types, as the card says: PEFT's model drops them, the merged one would not.
pair = AutoTokenizer.from_pretrained(base)(question, context, return_tensors="pt", return_token_type_ids=False)
model = PeftModel.from_pretrained(AutoModelForQuestionAnswering.from_pretrained(base), folder).eval()
with torch.no_grad():
    for found in (model(**pair), model.merge_and_unload()(**pair)):
        print(json.dumps([found.start_logits[0].tolist(), found.end_logits[0].tolist()]))
"""


def by_peft_alone(base: Path, folder: Path, read: Row, window: Any) -> list[torch.Tensor]:
    """The log-probabilities of a window's marks by transformers' own class for the task, in another process: with the
    adapter on it, and with the adapter merged into it."""
    arguments = [str(base), str(folder), read.values["question"], read.values["context"]]
    done = subprocess.run([sys.executable, "-c", BY_PEFT_ALONE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    both = [torch.tensor(json.loads(line)).T for line in done.stdout.splitlines()]
    return [torch.log_softmax(logits[[place for place, _ in window.marks]], dim=0) for logits in both]


LONG = " ".join(f"In {year} Ada wrote {year - 1800} notes." for year in range(1840, 1852))


@pytest.fixture(params=["decoder", "encoder"])
def source(request: pytest.FixtureRequest, tiny: Path, tiny_encoder: Path) -> Path:
    return tiny if request.param == "decoder" else tiny_encoder


@pytest.mark.parametrize("ragged", [True, False], ids=["ragged", "padded"])
def test_the_loss_is_the_cross_entropy_over_the_marks_of_each_window(base_of: Any, source: Path, ragged: bool) -> None:
    session = session_of(base_of(source), task_of(), 96)
    session.collator.ragged = ragged
    unlabelled = Row({"question": "what?", "context": "Ada."}, "")
    windows = in_windows(session, row("Ada"), row(), row("1847 Ada wrote 47", context=LONG), unlabelled)
    labelled = [any(label != UNKNOWN for _, label in window.marks) for window in windows]
    assert len(windows) > 5

    session.use("qa")
    linear, model = session["qa"].head.linear, session.base.model
    expected = 0.0
    for window in windows:
        hidden = getattr(model, "model", model)(torch.tensor([window.prompt])).last_hidden_state[0]
        logits = linear(hidden[[place for place, _ in window.marks]])
        for mark, (_, label) in enumerate(window.marks):
            if label != UNKNOWN:
                expected += float(cross_entropy(logits[:, 0], torch.tensor(mark)))
                expected += float(cross_entropy(logits[:, 1], torch.tensor(mark + label)))
    batch = session.collator.collate(windows, every_answer=False)
    assert batch.n_scored == sum(labelled)  # examples, not tokens
    # The same float32 sums of up to 160 terms in other batches.
    assert float(session.loss("qa", batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_scores_are_log_probabilities_of_each_windows_marks(base_of: Any, source: Path) -> None:
    session = session_of(base_of(source), task_of(), 160)
    windows = in_windows(session, row("Ada"), row(context=LONG))
    scores = session.scores("qa", windows)
    for window, scored in zip(windows, scores, strict=True):
        assert scored.shape == (len(window.marks), 2)
        assert torch.allclose(scored.exp().sum(0), torch.ones(2), atol=1e-5)  # float32


def test_predicted_answers_stand_in_the_passage_whatever_it_holds(base_of: Any, source: Path) -> None:
    session = session_of(base_of(source), task_of(max_answer_length=12), 96)
    contexts = [CONTEXT, LONG, "  \n🤗🤗  é\u00a0…\t<|end|> [SEP] ", "a", "𝒳" * 30, "1\r\n2", "\u200bx"]
    rows = [{"question": "who?", "context": context} for context in contexts]
    for context, answer in zip(contexts, session.predict(rows, "qa"), strict=True):
        assert answer.text == context[answer.start : answer.end] == answer.text.strip() != ""
        assert 0 < answer.confidence <= 1


def write_questions(path: Path, rows: int) -> Path:
    """Who, when, or what nobody knows, of passages that differ."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            name, year = ("Ada", "Bob", "Eve")[number % 3], str(1800 + number)
            context = f"{name} wrote {number} notes in {year}."
            answer = (name, year, None)[number % 3]
            question = ("who wrote?", "in what year?", "where?")[number % 3]
            answers = {"text": [answer], "answer_start": [context.index(answer)]} if answer else {}
            answers = answers or {"text": [], "answer_start": []}
            file.write(json.dumps({"question": question, "context": context, "answers": answers}) + "\n")
    return path


@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_whole_run_learns_and_gives_the_same_answers_when_opened_again(
    new_recipe: Any, tmp_path: Path, source: Path
) -> None:
    written = write_questions(tmp_path / "qa.jsonl", 90)
    data = f"{{source: {written}, max_length: 128, split: {{validation: 0.2, test: 0.2}}}}"
    training = "{per_device_train_batch_size: 8, learning_rate: 1e-2, num_train_epochs: 8}"
    task = "{type: question-answering, stride: 8, max_answer_length: 8}"
    run = pipeline.run(load_recipe(new_recipe(tmp_path, source, task, data, training, "{method: lora, r: 8}")))
    metrics = run.comparison.adapter
    assert {"has_answer_f1", "no_answer_accuracy"} <= set(metrics)
    assert metrics["f1"] > max(other["f1"] for other in run.comparison.others.values())

    session = open_session("tiny", tmp_path / "adapters")
    if not session.causal:  # transformers reads no Llama into its class for the task: the weights' names differ there
        card = (run.folder / "README.md").read_text()
        assert "`AutoModelForQuestionAnswering`" in card
        assert "`return_token_type_ids=False`" in card
        (window,) = in_windows(session, row("Ada"), name="tiny")
        (ours,) = session.scores("tiny", [window])
        for theirs in by_peft_alone(source, run.folder, row("Ada"), window):
            assert torch.allclose(ours, theirs, atol=1e-5)  # float32 sums in another order
    assert session["tiny"].task.labels == ("answer", "no answer")
    asked = [
        {"question": "who wrote?", "context": "Ada wrote 99 notes in 1899."},
        {"question": "where?", "context": "Eve wrote 98 notes in 1898."},
    ]
    who, where = session.predict(asked, "tiny")
    assert (str(who), who.start) == ("Ada", 0)
    assert (str(where), where.text) == ("no answer", "")


def test_rows_are_counted_by_whether_they_have_an_answer() -> None:
    rows = [row(CONTEXT.split()[0]), row(), row()]
    counts = doctor.classes.count_kinds(task_of(), rows)
    assert counts == {"answer": 1, "no answer": 2}
    assert doctor.classes.kinds_of(task_of().with_labels_of(rows, []), [counts]) == ["answer", "no answer"]
