"""The straight line from a recipe to a stored adapter. Start reading at `line.run_together`. Imports no torch."""

from pefttune.pipeline.beginning import read_data
from pefttune.pipeline.checking import check
from pefttune.pipeline.converting import export_converted
from pefttune.pipeline.differing import Diff, diff
from pefttune.pipeline.evaluating import evaluate
from pefttune.pipeline.exporting import Exported, Gate, export_merged, export_peft
from pefttune.pipeline.importing import Import, take_in
from pefttune.pipeline.joining import Search, Way
from pefttune.pipeline.line import Run, run, run_together
from pefttune.pipeline.looking import Weights, by_layer, look
from pefttune.pipeline.merging import Merge, merge
from pefttune.pipeline.probing import Probed, probe
from pefttune.pipeline.trying import Bench, Failed, Tried, check_comparable
from pefttune.pipeline.verifying import Verification, verify, verify_signed

__all__ = [
    "Bench",
    "Diff",
    "Exported",
    "Failed",
    "Gate",
    "Import",
    "Merge",
    "Probed",
    "Run",
    "Search",
    "Tried",
    "Verification",
    "Way",
    "Weights",
    "by_layer",
    "check",
    "check_comparable",
    "diff",
    "evaluate",
    "export_converted",
    "export_merged",
    "export_peft",
    "look",
    "merge",
    "probe",
    "read_data",
    "run",
    "run_together",
    "take_in",
    "verify",
    "verify_signed",
]
