"""The straight line from a recipe to a stored adapter. Start reading at `line.run_together`. Imports no torch."""

from pefttune.pipeline.beginning import read_data
from pefttune.pipeline.evaluating import evaluate
from pefttune.pipeline.line import Run, run, run_together
from pefttune.pipeline.verifying import Verification, verify

__all__ = ["Run", "Verification", "evaluate", "read_data", "run", "run_together", "verify"]
