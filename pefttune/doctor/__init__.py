"""Is this data and this recipe right, and what exactly will be trained? Asked before any weight is read.

`examine` is the whole answer, `pefttune doctor`; `check` the part of it that every run asks itself. A check is a
function from a `Case` to findings and one line of `CHECKS`. Imports no torch.
"""

from pefttune.doctor.case import Aligns, Case, Counts
from pefttune.doctor.drawing import Shown, ShownToken
from pefttune.doctor.examine import CHECKS, check, examine
from pefttune.doctor.finding import Finding
from pefttune.doctor.lengths import Lengths
from pefttune.doctor.page import render_page
from pefttune.doctor.report import Part, Report

__all__ = [
    "CHECKS",
    "Aligns",
    "Case",
    "Counts",
    "Finding",
    "Lengths",
    "Part",
    "Report",
    "Shown",
    "ShownToken",
    "check",
    "examine",
    "render_page",
]
