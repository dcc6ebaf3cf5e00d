"""Save, read back into a fresh base, compare: only what scores exactly as it did when trained becomes a version."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pefttune import store
from pefttune.pipeline.beginning import Line

if TYPE_CHECKING:
    from torch import Tensor

    from pefttune.evaluation import Comparison


@dataclass(frozen=True)
class Trained:
    """What is left of a line when base and session are gone."""

    line: Line
    manifest: dict[str, Any]
    comparison: Comparison
    state: Mapping[str, Tensor]
    peft_config: Mapping[str, Any]


def save(trained: Sequence[Trained]) -> list[Path]:
    """Stage the adapters' folders, read them back into a fresh base, compare, and only then make them versions."""
    from pefttune import bases, evaluation
    from pefttune.inference import Session

    recipe, base = trained[0].line.recipe, trained[0].manifest["base"]
    with ExitStack() as stack:
        stagings = [stack.enter_context(_staged(one)) for one in trained]
        # In the dtype it was trained in: measured anew, another one may win on a busy machine.
        again = recipe.base.model_copy(update={"dtype": base["dtype"]})
        session = Session(bases.load(again, origin=base["origin"]))
        for one, staging in zip(trained, stagings, strict=True):
            one.line.notify({"event": "verifying", "rows": len(one.manifest["probe"]["rows"])})
            session.load(staging, name=one.line.name)
            evaluation.verify(session, one.line.name, one.manifest["probe"])
        return _commit_all(stagings)


def _commit_all(stagings: Sequence[Path]) -> list[Path]:
    """All become versions, or none."""
    versions: list[Path] = []
    try:
        for staging in stagings:
            versions.append(store.commit(staging))
    except BaseException:
        for version in versions:
            shutil.rmtree(version, ignore_errors=True)
        raise
    return versions


@contextmanager
def _staged(one: Trained) -> Iterator[Path]:
    """The adapter's folder beside its versions, whole but for the proof; gone when the block ends."""
    from pefttune import methods, publishing

    name, base = one.line.name, one.manifest["base"]
    with store.staged(Path(one.line.recipe.output.store), name) as staging:
        methods.weights.write(staging, one.peft_config, one.state, base["hub_id"] or base["origin"], base["revision"])
        shutil.copyfile(one.line.run_folder / "figure.png", staging / "figure.png")
        (staging / "README.md").write_text(publishing.render_card(one.manifest), encoding="utf-8")
        store.write_manifest(staging, one.manifest)
        yield staging
