"""A stored LoRA adapter as plain numbers, for the files of other programs. Shapes: I and O the widths of a layer's
input and output, r its rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pefttune.errors import AdapterError, VerificationError
from pefttune.methods import FILE_PREFIX, weights
from pefttune.publishing.consumers import Stored
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


def read_updates(folder: Path, stored: Stored) -> dict[str, Update]:
    """The update of each adapted layer, by its path in the base, float32. Raises AdapterError for weights that are
    damaged, or no pairs of A and B."""
    tensors = weights.read_any(folder, stored.manifest["files"][weights.WEIGHTS])
    updates: dict[str, Update] = {}
    for layer in stored.ranks:
        a_rI, b_Or = (tensors.pop(f"{layer}.lora_{half}.weight", None) for half in "AB")
        if a_rI is None or b_Or is None or a_rI.dim() != 2 or b_Or.dim() != 2 or len(a_rI) != b_Or.shape[1]:
            raise AdapterError(f"{folder / weights.WEIGHTS}: {layer} has no A and B that can be multiplied")
        updates[layer.removeprefix(FILE_PREFIX)] = Update(a_rI.float(), b_Or.float(), stored.scale(layer))
    if tensors or not updates:
        told = f"{shown(next(iter(tensors)))} is no half of an update" if tensors else "it has no update"
        raise AdapterError(f"{folder / weights.WEIGHTS}: {told}")
    return updates


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
