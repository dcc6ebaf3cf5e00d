"""The report as one page of HTML that needs no other file."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pefttune.doctor.case import PARTS
from pefttune.doctor.report import Report

TEMPLATE = "page.html.jinja"


def render_page(report: Report) -> str:
    """The page; texts of rows stand in it as text, whatever they hold."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(report=report, parts=PARTS)
