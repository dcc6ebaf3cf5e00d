"""What keys of a recipe hold: numbers that are no booleans, lists without doubles, sections that know their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

T = TypeVar("T", bound=Hashable)


def _not_boolean(value: Any) -> Any:
    """Pydantic alone reads `true` as the number 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "not a number")
    return value


def _some_and_distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("must not be empty")
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{value!r} stands here {times} times")
    return values


def _without_blanks_around(labels: tuple[str, ...]) -> tuple[str, ...]:
    for label in labels:
        if label != label.strip():
            raise ValueError(f"{label!r} begins or ends with a blank, and no row's label does: write {label.strip()!r}")
    return labels


Whole = Annotated[int, BeforeValidator(_not_boolean)]
Number = Annotated[float, BeforeValidator(_not_boolean)]
Switch = Annotated[bool, Strict()]
NonNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Texts = Annotated[tuple[str, ...], AfterValidator(_some_and_distinct)]
Labels = Annotated[Texts, AfterValidator(_without_blanks_around)]
Indices = Annotated[tuple[Annotated[Whole, Field(ge=0)], ...], AfterValidator(_some_and_distinct)]


class Section(BaseModel):
    """A frozen part of a recipe that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_min_length=1)
