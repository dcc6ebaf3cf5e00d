"""The page that tells of a run: one file, no network, no script."""

from pefttune.evaluation.report.findings import Findings
from pefttune.evaluation.report.page import render_report

__all__ = ["Findings", "render_report"]
