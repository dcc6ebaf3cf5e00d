"""What a recipe leaves open, settled when base and rows are known: values by rule, and ranks by what enters the layers.

The resolved recipe takes the place of the given one in the run folder and in the manifest, so that an adapter is
attached again without any data.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from pefttune.data import UNKNOWN, Example
from pefttune.data.storage import storage_errors
from pefttune.errors import RecipeError
from pefttune.pipeline.beginning import Line
from pefttune.pipeline.encoding import try_ragged
from pefttune.pipeline.telling import counter, tell
from pefttune.recipe import BaseShape, Workload, applied, choose, resolved_yaml
from pefttune.recipe.adapters import OF_THE_INPUTS, Lora, LowRank
from pefttune.recipe.defaults import RHO

if TYPE_CHECKING:
    from torch import nn

    from pefttune.inference import Session
    from pefttune.methods import Beginning, Sketch

ROWS_SAMPLED = 1000
TOKENS_MEASURED = 16_384

Linears = Mapping[str, "nn.Linear"]


def settle(session: Session, line: Line) -> tuple[Line, Beginning | None]:
    """The line with nothing left open in its recipe, and where its adapter begins when the layers alone do not tell.
    Raises RecipeError for a budget that cannot be spent."""
    from pefttune import methods
    from pefttune.pipeline.initial_values import beginning

    section, config = line.recipe.adapter, session.base.model.config.get_text_config()
    examples: list[Example] = []
    linears: Linears = {}
    work = None
    if isinstance(section, LowRank) and (section.r is None or _is_measured(section)):
        examples = _sample(session, line)
        linears = methods.lora_targets(session.base.model, section)
        work = _workload(section, linears, examples, len(line.rows.train))
        _check_ranks(section, linears)
    choices = choose(line.recipe, BaseShape(config.model_type, config.hidden_size), work)
    recipe = applied(line.recipe, choices)
    sketches: Mapping[str, Sketch] = {}
    if isinstance(recipe.adapter, Lora) and _is_measured(recipe.adapter):
        try_ragged(session, examples, line.notify)
        adapter, sketches = _measured(session, line, recipe.adapter, linears, examples)
        recipe = recipe.model_copy(update={"adapter": adapter})
    if choices:
        line.notify({"event": "chosen", "choices": [asdict(choice) for choice in choices]})
    if recipe != line.recipe:
        resolved = line.run_folder / "recipe.yaml"
        with storage_errors(resolved):
            resolved.write_text(resolved_yaml(recipe), encoding="utf-8")
    word = getattr(section, "init_lora_weights", "")
    return replace(line, recipe=recipe), beginning(session.base, word, sketches)


def _is_measured(section: LowRank) -> bool:
    return isinstance(section, Lora) and (section.budget is not None or section.init_lora_weights in OF_THE_INPUTS)


def _sample(session: Session, line: Line) -> list[Example]:
    """Some of the training rows as examples."""
    rows = line.rows.train
    chosen = random.Random(line.recipe.seed).sample(range(len(rows)), min(ROWS_SAMPLED, len(rows)))
    encoder = session.encoder(line.task, line.recipe.data.max_length)
    return list(chain.from_iterable(encoder(rows[i]) for i in chosen))


def _workload(section: LowRank, linears: Linears, examples: Sequence[Example], rows: int) -> Workload:
    from pefttune import methods

    sizes = _sizes(linears)
    tokens = sum(map(_labelled, examples)) * rows / min(ROWS_SAMPLED, rows)
    largest = min(methods.full_ranks(sizes, section.times).values())
    return Workload(rows, round(tokens), sum(map(sum, sizes.values())), largest)


def _labelled(example: Example) -> int:
    answer = () if example.target is None or not example.answers else example.answers[example.target]
    return len(answer) + sum(target != UNKNOWN for _, target in example.marks)


def _sizes(linears: Linears) -> dict[str, tuple[int, int]]:
    return {name: (linear.in_features, linear.out_features) for name, linear in linears.items()}


def _check_ranks(section: LowRank, linears: Linears) -> None:
    """Raise RecipeError for ranks to spend that are too few or more than the layers have."""
    from pefttune import methods

    if not isinstance(section, Lora):
        return
    sizes = _sizes(linears)
    full = methods.full_ranks(sizes, section.times)
    shared = section.init_lora_weights == "eva"  # what one layer has no room for another gets
    most = sum(full.values()) // len(full) if shared else min(full.values())
    if section.budget is not None:
        _check_budget(section.budget, sizes, full)
    elif section.r is not None and not section.rank_pattern and section.r > most:
        raise RecipeError(
            f"adapter.r: {section.r} ranks for each of the {len(full)} layers to adapt are more than these have; take "
            f"{most} or less, or name other adapter.target_modules"
        )


def _check_budget(budget: int, sizes: Mapping[str, tuple[int, int]], full: Mapping[str, int]) -> None:
    name, least = min(((name, sum(size)) for name, size in sizes.items()), key=lambda item: item[1])
    if budget < least:
        raise RecipeError(
            f"adapter.budget: {budget:,} parameters are too few: one rank of the smallest layer, {name}, takes "
            f"{least:,}"
        )
    largest = sum(rank * sum(sizes[name]) for name, rank in full.items())
    if budget > largest:
        raise RecipeError(
            f"adapter.budget: {budget:,} parameters are too many: with every rank they can have, the "
            f"{len(sizes)} layers to adapt take {largest:,}"
        )


def _measured(
    session: Session, line: Line, section: Lora, linears: Linears, examples: Sequence[Example]
) -> tuple[Lora, Mapping[str, Sketch]]:
    """The section with explicit ranks, and sketches of what enters the layers."""
    from pefttune import inference, methods

    sizes, rho = _sizes(linears), RHO if section.rho is None else section.rho
    costs, budget = dict.fromkeys(sizes, 1), section.rank * len(sizes)
    if section.budget is not None:
        costs, budget = {name: sum(size) for name, size in sizes.items()}, section.budget
        most = methods.most_ranks(sizes, budget, rho, section.times)
    elif section.init_lora_weights == "eva":
        most = {name: min(round(rho * section.rank), rank) for name, rank in methods.full_ranks(sizes).items()}
    else:
        most = dict.fromkeys(sizes, section.rank)
    read = _some(examples, TOKENS_MEASURED)
    progress = counter(line.notify, "activations", "training", len(read))
    sketches = inference.input_sketches(session, linears, {**most, **section.rank_pattern}, read, progress)
    if section.init_lora_weights != "eva" and section.budget is None:
        return section, sketches
    decomposed, spectra = counter(line.notify, "decomposed", "inputs", len(sketches)), {}
    for done, (name, sketch) in enumerate(sketches.items(), start=1):
        spectra[name] = sketch.spectrum().explained_k
        decomposed(done)
    ranks = section.rank_pattern or methods.spend(spectra, costs, budget)
    if left_alone := [name for name in section.alpha_pattern if not ranks.get(name, section.rank)]:
        tell(
            line.notify, f"adapter.alpha_pattern: {', '.join(left_alone)} got no rank, so that nothing is scaled there"
        )
    settled: dict[str, Any] = {
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != section.rank},
        "alpha_pattern": {name: alpha for name, alpha in section.alpha_pattern.items() if name not in left_alone},
        "budget": None,
        "rho": None,
    }
    if section.init_lora_weights == "eva":  # nothing of it is left to settle when it is attached again
        settled["init_lora_weights"] = "default"
    return section.model_copy(update=settled), sketches


def _some(examples: Sequence[Example], tokens: int) -> list[Example]:
    """The first of them, until there are so many tokens."""
    chosen: list[Example] = []
    for example in examples:
        if tokens <= 0:
            break
        chosen.append(example)
        tokens -= len(example)
    return chosen
