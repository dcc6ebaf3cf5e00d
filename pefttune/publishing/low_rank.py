"""A stored LoRA adapter as plain numbers, for the files of other programs. Shapes: I and O the widths of a layer's
input and output, r its rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pefttune.errors import AdapterError, VerificationError
from pefttune.methods import FILE_PREFIX, stored_parts, weights
from pefttune.recipe.adapters import Lora
from pefttune.store.strict_json import shown

# Numbers that a scale was folded into are rounded to float32 once, by 2⁻²⁴, and so are the products of both sides.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Update:
    """What a layer's weight gains: `scale` · B · A."""

    a_rI: Tensor
    b_Or: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """r."""
        return len(self.a_rI)


def read_updates(folder: Path, section: Lora, sha256: str) -> dict[str, Update]:
    """The update of each layer that the adapter by that recipe section, as it is stored, adapts, by the layer's path in
    the base, float32. Raises AdapterError for weights that are damaged, or more than pairs of A and B."""
    parts = stored_parts(folder, section, sha256)
    if parts.others or not parts.updates:
        told = f"{shown(next(iter(parts.others)))} is no half of an update" if parts.others else "it has no update"
        raise AdapterError(f"{folder / weights.WEIGHTS}: {told}")
    return {
        layer.removeprefix(FILE_PREFIX): Update(a_rI.float(), b_Or.float(), scale)
        for layer, (a_rI, b_Or, scale) in parts.updates.items()
    }


def check_alike(where: str, read: dict[str, Update], wanted: dict[str, Update]) -> None:
    """Raise VerificationError unless what was read back of a written file adds to each layer what it should."""
    if read.keys() != wanted.keys():
        raise VerificationError(f"{where}: other layers were read back than were written; nothing was kept")
    for layer, update in wanted.items():
        found = read[layer]
        right = update.scale * (update.b_Or @ update.a_rI)
        wrong = (found.scale * (found.b_Or @ found.a_rI) - right).abs().max()
        if not float(wrong) <= ROUNDING * float(right.abs().max()):
            raise VerificationError(f"{where}: {layer} was read back otherwise than it was written; nothing was kept")
