"""All checks, and the whole examination of a recipe: its data through its base's tokenizer, no weight read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pefttune.data import Dataset
from pefttune.doctor.answers import (
    check_alignment,
    check_end,
    check_label_words,
    check_something_to_learn,
    check_template_end,
)
from pefttune.doctor.case import PARTS, TRAIN, Case
from pefttune.doctor.classes import check_classes, count_kinds, kinds_of
from pefttune.doctor.drawing import show
from pefttune.doctor.finding import LEVELS, ROWS_NAMED, Finding, found
from pefttune.doctor.leaks import check_leaks
from pefttune.doctor.lengths import check_lengths, measure
from pefttune.doctor.prompts import (
    check_begin,
    check_same_prompt,
    check_special_strings,
    check_template,
    check_unknown,
)
from pefttune.doctor.repeats import check_repeats
from pefttune.doctor.report import Part, Report
from pefttune.recipe import Recipe
from pefttune.recipe.adapters import VirtualTokens
from pefttune.tasks import Encoder, Task, encoder_of, vocabulary_of

WITHOUT_LIMIT = 1 << 30  # tokens

CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    check_something_to_learn,
    check_end,
    check_same_prompt,
    check_begin,
    check_special_strings,
    check_alignment,
    check_leaks,
    check_repeats,
    check_classes,
    check_unknown,
    check_template,
    check_template_end,
    check_label_words,
)


def check(case: Case) -> list[Finding]:
    """What all checks find, the worst first."""
    return _worst_first(finding for each in CHECKS for finding in each(case))


def examine(recipe: Recipe, task: Task, rows: Dataset) -> Report:
    """The whole examination of a recipe whose data was read. Raises BaseError, FetchError or DataError when the base
    cannot be found, or task, tokenizer and limit leave nothing to examine."""
    from pefttune import bases

    reader = bases.open_reader(recipe.base)
    tokenizer, limit = vocabulary_of(recipe.adapter, reader.tokenizer).tokenizer, recipe.data.max_length

    def encoder_for(tokens: int) -> Encoder:
        kind = {"causal": reader.causal, "encoder_decoder": reader.encoder_decoder}
        return encoder_of(task, tokenizer, tokens, **kind)

    encoder, unlimited = encoder_for(limit), encoder_for(WITHOUT_LIMIT)
    by_part = {part: getattr(rows, part) for part in PARTS}
    examples = {part: [each for row in own for each in encoder(row)] for part, own in by_part.items()}
    lengths = {
        part: measure(own, examples[part], unlimited, apart=reader.encoder_decoder) for part, own in by_part.items()
    }
    if recipe.data.too_long == "drop":
        examples[TRAIN] = [each for each in examples[TRAIN] if not each.truncated and not each.answer_limit]
    case = Case(task, tokenizer, encoder, by_part, examples)
    counts = {part: count_kinds(task, own) for part, own in by_part.items()}
    kinds = kinds_of(task, [count for count in counts.values() if count is not None])
    virtual = recipe.adapter.num_virtual_tokens if isinstance(recipe.adapter, VirtualTokens) else 0
    findings = [
        *check(case),
        *check_lengths(lengths, recipe.data, reader.positions, virtual),
        *_of_reading(rows),
    ]
    return Report(
        name=recipe.output.name,
        task=task.name,
        base=recipe.base.source,
        source=rows.report.source,
        max_length=limit,
        positions=reader.positions,
        parts={
            part: Part(
                len(own), None if (of := counts[part]) is None else {kind: of[kind] for kind in kinds}, lengths[part]
            )
            for part, own in by_part.items()
        },
        shown=show(case),
        findings=tuple(_worst_first(findings)),
    )


def _of_reading(rows: Dataset) -> Iterator[Finding]:
    """What became of rows while they were read and split."""
    report = rows.report
    if rows.kept_together:
        told = f"rows with the same {' and '.join(rows.kept_together)} stay in one part"
        yield found("kept-together", "note", told, "So parts may be a little larger or smaller than data.split says.")
    if report.bad_rows:
        told = f"{len(report.bad_rows):,} broken rows are skipped (data.max_bad_rows)"
        yield found("broken", "warning", told, "Mend them.", [str(bad) for bad in report.bad_rows])
    if report.mended:
        told = f"{report.mended:,} rows had a fault that could be mended"
        named = tuple(str(row) for row in report.mended_rows[:ROWS_NAMED])
        yield Finding("mended", "note", told, "See whether the right place was taken.", named, report.mended)
    if report.left_out_by_bins:
        yield found(
            "no-bin", "note", f"{report.left_out_by_bins:,} rows lie in no bin of data.label_bins and are left out"
        )
    for part, count in report.duplicates_removed.items():
        if count:
            told = f"{count:,} {PARTS[part]} rows are held out as well and are removed from the {PARTS[part]} rows"
            yield found("duplicates-removed", "note", told)


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
