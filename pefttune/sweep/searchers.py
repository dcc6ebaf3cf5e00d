"""Who says which variants are tried: all, some by chance, or those that Optuna expects most of."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pefttune.errors import InputError
from pefttune.pipeline import Failed
from pefttune.recipe import Variant
from pefttune.sweep.halving import MOST_RUNGS, REDUCTION
from pefttune.sweep.trial import Trial

AT_ONCE = 9
"""Trials that Optuna proposes side by side: so many halve down to one, and it learns from them for the next ones."""
FRUITLESS_ASKS = 20
SHORTEST = REDUCTION ** (MOST_RUNGS - 1)


class Searcher(Protocol):
    """Proposes variants, none twice, and is told what came of them."""

    sizes: list[int]
    """How many it will propose side by side, each time."""

    def ask(self, count: int) -> list[Variant]:
        """The next ones to try side by side."""

    def tell(self, trials: Sequence[Trial]) -> None:
        """What came of those."""


def searcher(
    kind: str, variants: Sequence[Variant], choices: Mapping[str, Sequence[str]], trials: int | None, seed: int
) -> Searcher:
    """`grid` tries all variants, `random` and `optuna` so many `trials` of them. Raises InputError."""
    if kind == "grid":
        if trials is not None:
            raise InputError("--trials: a grid tries every combination; take --searcher random or optuna")
        return _Listed(variants)
    if trials is None:
        raise InputError(f"--searcher {kind}: how many of the {len(variants)} combinations? Add --trials")
    if not 2 <= trials <= len(variants):
        raise InputError(f"--trials {trials}: must be 2 to {len(variants)}, as many combinations as there are")
    if kind == "random":
        return _Listed(random.Random(seed).sample(variants, trials))
    return _Optuna(variants, choices, trials, seed)


class _Listed:
    """Variants that are known from the beginning."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        self.sizes = [len(variants)]
        self._variants = list(variants)

    def ask(self, count: int) -> list[Variant]:
        return self._variants

    def tell(self, trials: Sequence[Trial]) -> None:
        pass


class _Optuna:
    """Optuna's tree-structured Parzen estimator over the values of each key; those of a method's own keys once the
    method is chosen. Proposes the same again when it is told the same again."""

    def __init__(
        self, variants: Sequence[Variant], choices: Mapping[str, Sequence[str]], trials: int, seed: int
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise InputError("--searcher optuna: Optuna is not installed; pip install 'pefttune[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sizes = [min(AT_ONCE, trials - done) for done in range(0, trials, AT_ONCE)]
        self._untried, self._choices = list(variants), choices
        self._asked: dict[str, Any] = {}
        self._state = optuna.trial.TrialState
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # proposals side by side are called experimental
            sampler = optuna.samplers.TPESampler(n_startup_trials=AT_ONCE, constant_liar=True, seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self, count: int) -> list[Variant]:
        return [self._next() for _ in range(count)]

    def _next(self) -> Variant:
        for _ in range(FRUITLESS_ASKS):
            proposed = self._study.ask()
            variant = self._chosen(proposed)
            if variant is not None:
                break
            self._study.tell(proposed, state=self._state.FAIL)  # it was tried
        else:
            self._study.enqueue_trial(dict(self._untried[0].settings))
            proposed = self._study.ask()
            variant = self._chosen(proposed)
            assert variant is not None
        self._untried.remove(variant)
        self._asked[str(variant)] = proposed
        return variant

    def _chosen(self, proposed: Any) -> Variant | None:
        """The untried variant with the proposed value of each key that it has."""
        left = self._untried
        for key, values in self._choices.items():
            if any(key in variant.settings for variant in left):
                value = proposed.suggest_categorical(key, list(values))
                left = [variant for variant in left if variant.settings.get(key) == value]
        return left[0] if left else None

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            proposed = self._asked.pop(str(trial.variant))
            for share, result in trial.results.items():
                if not isinstance(result, Failed):
                    proposed.report(result.metric, step=int(share * SHORTEST))
            if isinstance(trial.last, Failed):
                self._study.tell(proposed, state=self._state.FAIL)
            elif trial.share == 1:
                self._study.tell(proposed, trial.last.metric)
            else:
                self._study.tell(proposed, state=self._state.PRUNED)
