"""What is trained: an answer for each row, whole, with its end; and answers that a base can tell apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pefttune.data import UNKNOWN, Example
from pefttune.doctor.case import PARTS, Aligns, Case, share
from pefttune.doctor.finding import Finding, found
from pefttune.doctor.prompts import rendered

LONG_LABEL = 6  # tokens, from where words for labels cost more than they are worth
ALIGNED = 1000  # rows of a part whose spans are tried, for each is tokenized once more
END_WITHIN = 2  # tokens: some chat templates write a line break after the end of a turn


def trained_answer(example: Example) -> tuple[int, ...]:
    """The tokens that are trained, without marks; none where the right answer is not known."""
    return () if example.target is None or not example.answers else example.answers[example.target]


def trained_marks(example: Example) -> dict[int, float]:
    """Position → class of the marks that are trained."""
    return {position: label for position, label in example.marks if label != UNKNOWN}


def check_something_to_learn(case: Case) -> Iterator[Finding]:
    """Rows of which not one token is scored: the loss of a batch of them is 0."""
    teach = {each.origin for each in case.train if trained_answer(each) or trained_marks(each)}
    idle = [origin for origin in dict.fromkeys(each.origin for each in case.train) if origin not in teach]
    if idle:
        told = f"{share(len(idle), len(idle) + len(teach))} training rows have no token to learn"
        mend = "Is the answer cut off by data.max_length, or empty?"
        yield found("nothing-to-learn", "warning" if teach else "error", told, mend, idle)


def check_end(case: Case) -> Iterator[Finding]:
    """Whether each answer is trained with its end, or the model never learns to stop."""
    answered = [(each, answer) for each in case.train if (answer := trained_answer(each))]
    end = case.tokenizer.eos_token_id
    endless = {each.origin: each.answer_limit for each, answer in answered if end not in answer[-END_WITHIN:]}
    if not endless:
        return
    name = case.tokenizer.convert_ids_to_tokens(end) if end is not None else "an end token, which the base lacks"
    if len(endless) == len(answered):
        told = f"no answer is trained with its end ({name}), so the model would not learn to stop"
        yield found("no-end", "error", told, "The answers must end with it. Please report this.")
    else:
        told = f"{share(len(endless), len(answered))} training answers are cut: they go without their end ({name})"
        limits = " and ".join(sorted({*endless.values()} - {""})) or "data.max_length"
        mend = f"Raise {limits}, or set data.too_long: drop."
        yield found("cut-answer", "error", told, mend, list(endless))


def check_template_end(case: Case) -> Iterator[Finding]:
    """Whether answers end as the chat template ends a turn: other programs stop there."""
    tokenizer, answer = case.tokenizer, next(filter(None, map(trained_answer, case.train)), ())
    if not answer or not tokenizer.chat_template:
        return
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "ANSWER"}]
    _, there, after = rendered(tokenizer, turns).rpartition("ANSWER")
    after = after.strip() if there else ""
    first = tokenizer(after, add_special_tokens=False)["input_ids"][:1]
    if first and first[0] not in answer[-END_WITHIN:]:
        ours, theirs = tokenizer.convert_ids_to_tokens([answer[-1], first[0]])
        told = f"answers are trained to end with {ours}, but the base's chat template ends a turn with {theirs}"
        yield found("other-end", "note", told, f"Other programs must be told to stop at {ours} as well.")


def check_label_words(case: Case) -> Iterator[Finding]:
    """Labels that begin alike, and long ones: each text is scored with every label's words."""
    labels = case.task.labels
    answers = next((each.answers for each in case.train if 1 < len(each.answers) == len(labels)), ())
    begins = Counter(answer[0] for answer in answers)
    if alike := [label for label, answer in zip(labels, answers, strict=False) if begins[answer[0]] > 1]:
        named = ", ".join(alike[:4]) + (" …" if len(alike) > 4 else "")
        told = f"{len(alike)} labels begin with the same token as another one ({named})"
        yield found("labels-begin-alike", "note", told, "They are compared as a whole, so this is slower, not wrong.")
    if answers and all(label.isdigit() for label in labels):
        told = (
            f"the labels are numbers ({', '.join(labels[:4])}), which say nothing to the language model asked for them"
        )
        mend = "Name them by data.label_bins, or set task.approach: head."
        yield found("number-labels", "warning", told, mend)
    if answers and (longest := max(map(len, answers))) > LONG_LABEL:
        label = labels[max(range(len(labels)), key=lambda i: len(answers[i]))]
        told = f"the label {label!r} is {longest} tokens, and each text is scored with all {len(labels)} labels"
        yield found("long-labels", "warning", told, "Shorter names (data.columns, task.labels) or `approach: head`.")


def check_alignment(case: Case) -> Iterator[Finding]:
    """Spans that begin or end inside a token."""
    if not isinstance(case.encoder, Aligns):
        return
    for part, rows in case.rows.items():
        tried = rows[:ALIGNED]
        spans = [(row.origin, span) for row in tried for span in case.encoder.misaligned(row)]
        if spans:
            told = f"{len(spans):,} spans in {len(tried):,} {PARTS[part]} rows tried begin or end inside a token and "
            told += "cannot be hit exactly"
            mend = "Do they stand a character off? Else it is the tokenizer, and a limit of this base."
            yield found("misaligned", "warning", told, mend, [f"{origin} {span!r}" for origin, span in spans])
