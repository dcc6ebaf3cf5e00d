"""What the base reads: the same in training and at inference, with one begin, and no row can break out of its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pefttune.data import Example, Row
from pefttune.doctor.case import TRAIN, Case, share, text_of
from pefttune.doctor.finding import Finding, found
from pefttune.tasks import PairEncoder

TRIED = 20  # rows that are encoded a second time
UNKNOWN = 0.01  # of the tokens, from where too much of the text is not read


def check_begin(case: Case) -> Iterator[Finding]:
    """A begin token twice: once by the chat template, once by the tokenizer."""
    begins = {case.tokenizer.bos_token_id, case.tokenizer.cls_token_id} - {None}
    twice = [each for each in case.train if len(each.prompt) > 1 and each.prompt[0] == each.prompt[1] in begins]
    if twice:
        token = case.tokenizer.convert_ids_to_tokens(twice[0].prompt[0])
        told = f"{share(len(twice), len(case.train))} prompts begin with {token} twice, which no base was trained on"
        mend = "Take it out of the base's chat template, or out of what its tokenizer adds."
        yield found("double-begin", "error", told, mend, _origins(twice))


def check_same_prompt(case: Case) -> Iterator[Finding]:
    """Whether a row is read in training as it will be at inference, where its answer is not there."""
    task = case.task
    if set(task.inputs) == set(task.columns):  # the answer is a part of the input, as in a conversation
        return
    rows = case.rows[TRAIN][:TRIED]
    differ = [
        row.origin for row in rows if not _prompts(case.encoder(row)) <= _prompts(case.encoder(_asked(case, row)))
    ]
    if differ:
        told = f"{share(len(differ), len(rows))} rows tried are read otherwise in training than at inference"
        mend = "Does the answer stand in the prompt? Please report this with the recipe."
        yield found("prompt-differs", "error", told, mend, differ)


def _asked(case: Case, row: Row) -> Row:
    """The row as it is at inference, without its answer."""
    return Row({column: row.values[column] for column in case.task.inputs}, row.origin)


def _prompts(encoded: Sequence[Example]) -> set[tuple[int, ...]]:
    return {example.prompt for example in encoded}


def check_template(case: Case) -> Iterator[Finding]:
    """A chat template that is missing where the base is asked in words, or that does not open the answer's turn."""
    if isinstance(case.encoder, PairEncoder) or not any(example.answers for example in case.train):
        return
    tokenizer = case.tokenizer
    if not tokenizer.chat_template:
        mend = "For a plain base this is right; to an instruct base give the tokenizer that has its chat_template."
        yield found("no-template", "warning", "the base has no chat template, so the prompt is plain text", mend)
        return
    turn = [{"role": "user", "content": "x"}]
    opened, plain = (rendered(tokenizer, turn, add_generation_prompt=opening) for opening in (True, False))
    if opened == plain:
        told = "the base's chat template writes nothing where an answer begins (no generation prompt)"
        yield found("no-generation-prompt", "note", told)


def rendered(tokenizer: Any, turns: Sequence[Mapping[str, str]], **options: bool) -> str:
    """The conversation in the base's chat template; nothing where it refuses such a conversation."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except TemplateError:
        return ""


def check_special_strings(case: Case) -> Iterator[Finding]:
    """Texts that spell a special token: read as plain text, which is tried; or else they could end their own turn."""
    rows = [row for rows in case.rows.values() for row in rows]
    specials = re.compile("|".join(map(re.escape, case.tokenizer.all_special_tokens)) or r"(?!)")
    spelled = [row for row in rows if any(specials.search(text_of(row.values[column])) for column in case.task.inputs)]
    broken = [row.origin for row in spelled[:TRIED] if _breaks_out(case, row, specials)]
    if broken:
        told = f"{share(len(broken), len(spelled[:TRIED]))} rows tried that spell a special token are read as having it"
        yield found("breaks-out", "error", told, "Take it out of these rows. Please report this.", broken)
    elif spelled:
        told = f"{len(spelled):,} rows spell a special token, such as {specials.search(_whole(case, spelled[0]))[0]!r}"  # type: ignore[index]
        mend = "They are read as plain text, so nothing needs mending unless it is left over from another program."
        yield found("special-strings", "note", told, mend, [row.origin for row in spelled])


def _whole(case: Case, row: Row) -> str:
    return " ".join(text_of(row.values[column]) for column in case.task.inputs)


def _breaks_out(case: Case, row: Row, specials: re.Pattern[str]) -> bool:
    """Whether the row's prompts have other special tokens than those of the row without the words for them."""
    asked = _asked(case, row)
    plain = Row({column: _without(value, specials) for column, value in asked.values.items()}, row.origin)
    ids = set(case.tokenizer.all_special_ids) - {case.tokenizer.unk_token_id}

    def special_tokens(one: Row) -> set[tuple[int, ...]]:
        return {tuple(token for token in example.prompt if token in ids) for example in case.encoder(one)}

    return special_tokens(asked) != special_tokens(plain)


def _without(value: Any, specials: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return specials.sub("x", value)
    if isinstance(value, Mapping):
        return {key: _without(each, specials) for key, each in value.items()}
    return type(value)(_without(each, specials) for each in value) if isinstance(value, list | tuple) else value


def check_unknown(case: Case) -> Iterator[Finding]:
    """Tokens of the text that the tokenizer does not know, and the rows that have most of them."""
    tokenizer = case.tokenizer
    unknown = tokenizer.unk_token_id
    if unknown in (None, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return
    examples = [each for part in case.examples.values() for each in part]
    counts = [each.prompt.count(unknown) for each in examples]
    of = sum(len(each.prompt) for each in examples)
    if sum(counts) > UNKNOWN * of:
        worst = sorted(range(len(examples)), key=lambda i: -counts[i] / max(1, len(examples[i].prompt)))
        told = f"{share(sum(counts), of)} tokens are unknown to the base's tokenizer ({sum(counts) / of:.1%})"
        mend = "A base of the texts' language or alphabet would read them."
        yield found("unknown-tokens", "warning", told, mend, [examples[i].origin for i in worst if counts[i]])


def _origins(examples: Sequence[Example]) -> list[str]:
    return list(dict.fromkeys(example.origin for example in examples))
