"""Rows: where they come from, how they are read, checked, divided and written. Imports no torch."""

from pefttune.data.archives import extract_member
from pefttune.data.catalogue import CATALOGUE, Entry, locate
from pefttune.data.columns import take_columns
from pefttune.data.dataset import DataReport, Dataset
from pefttune.data.example import Example, Row
from pefttune.data.load import load, load_file
from pefttune.data.package_index import Pin, cache_dir, fetch
from pefttune.data.readers import read_rows
from pefttune.data.writers import write_rows

__all__ = [
    "CATALOGUE",
    "DataReport",
    "Dataset",
    "Entry",
    "Example",
    "Pin",
    "Row",
    "cache_dir",
    "extract_member",
    "fetch",
    "load",
    "load_file",
    "locate",
    "read_rows",
    "take_columns",
    "write_rows",
]
