"""The weights of a merge, sought on the validation rows of all parents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pefttune.errors import AdapterError
from pefttune.pipeline.comparing import encoded_for
from pefttune.pipeline.duties import Duty
from pefttune.pipeline.encoding import flat
from pefttune.pipeline.joining import Search
from pefttune.pipeline.searching import Tried, Weights, search
from pefttune.pipeline.telling import counter, tell

if TYPE_CHECKING:
    from pefttune.inference import Session
    from pefttune.training import Notify


def sought(
    session: Session, duties: Sequence[Duty], asked: Search, remerge: Callable[[Weights], float], notify: Notify
) -> tuple[Weights, dict[str, Any]]:
    """The best weights found, and what is told of the search: how many were tried, and each task's metric.

    `remerge` gives the merged adapter of the session other weights. Raises AdapterError where some parent has no
    validation rows, or even the best weights cost a task more than is allowed.
    """
    metrics = [_metric(session, duty, notify) for duty in duties]
    own = [metric(duty.parent.called) for metric, duty in zip(metrics, duties, strict=True)]
    done = counter(notify, "searching", "weights", asked.steps)
    tried: list[Weights] = []

    def measure(weights: Weights) -> list[float]:
        remerge(weights)
        tried.append(weights)
        done(len(tried))
        return [metric(duty.merged) for metric, duty in zip(metrics, duties, strict=True)]

    best = search(measure, own, asked.max_drop, asked.steps)
    table = [
        {
            "adapter": duty.parent.called,
            "metric": session.purpose(duty.merged).task.watched,
            "rows": len(duty.validation),
            "alone": alone,
            "merged": merged,
        }
        for duty, alone, merged in zip(duties, own, best.metrics, strict=True)
    ]
    told = {"tried": len(tried), "max_drop": asked.max_drop, "tasks": table}
    _refuse_drop(best, own, told)
    return best.weights, told


def _metric(session: Session, duty: Duty, notify: Notify) -> Callable[[str], float]:
    """The metric by which adapters of the session are watched that do this task, on its validation rows. Frozen layers
    run once for all of them: the merged adapter changes those that its parents change."""
    from pefttune import evaluation
    from pefttune.inference import boundary_of

    called = duty.parent.called
    if not duty.validation:
        raise AdapterError(f"there are no validation rows of {called} to seek weights by; give them with --weights")
    encoded = encoded_for(session, called, duty.parent.recipe, duty.validation, "validation", notify)
    boundary = boundary_of(
        session,
        called,
        flat(encoded),
        every_answer=True,
        notice=lambda message: tell(notify, message),
        progress=counter(notify, "frozen", f"validation, {called}", len(flat(encoded))),
    )
    watched = session.purpose(called).task.watched
    return lambda name: float(evaluation.watch(session, name, duty.validation, encoded, boundary)[watched])


def _refuse_drop(best: Tried, own: Sequence[float], told: dict[str, Any]) -> None:
    """Raise AdapterError where even the best weights cost a task more than is allowed."""
    if best.is_within(own, told["max_drop"]):
        return
    each = (
        f"{row['adapter']} {row['metric']} {row['alone']:.3f} alone, {row['merged']:.3f} merged"
        for row in told["tasks"]
    )
    weights = ",".join(f"{weight:g}" for weight in best.weights)
    raise AdapterError(
        f"of {told['tried']} weights tried none keeps every task within {told['max_drop']:g} of its own adapter on its "
        f"validation rows; the best, {weights}, cost one {best.largest_drop(own):.3f} ({'; '.join(each)}). Nothing is "
        "stored; allow more with --max-drop, or merge others"
    )
