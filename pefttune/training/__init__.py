"""The one training loop, its guards, and what it costs."""

from pefttune.training.cost import cost
from pefttune.training.learner import TrainingLog, Work
from pefttune.training.loop import fit
from pefttune.training.memory import MIB, MemorySplit, peak_mib, reset_peak, resident_mib
from pefttune.training.runlog import Notify, logging_to, new_run_folder

__all__ = [
    "MIB",
    "MemorySplit",
    "Notify",
    "TrainingLog",
    "Work",
    "cost",
    "fit",
    "logging_to",
    "new_run_folder",
    "peak_mib",
    "reset_peak",
    "resident_mib",
]
