"""Which variant of a recipe is best? Successive halving on validation rows. Imports no torch."""

from pefttune.sweep.on_ray import on_ray
from pefttune.sweep.searchers import Searcher, searcher
from pefttune.sweep.sweeping import Sweep, sweep
from pefttune.sweep.table import NOTE, is_shared, reasons, table
from pefttune.sweep.trial import Trial

__all__ = ["NOTE", "Searcher", "Sweep", "Trial", "is_shared", "on_ray", "reasons", "searcher", "sweep", "table"]
