"""What goes out with an adapter: its manifest and its card, and nothing of the machine."""

from pefttune.publishing.card import render_card
from pefttune.publishing.manifest import describe, describe_base, dtype_name
from pefttune.publishing.portable import portable

__all__ = ["describe", "describe_base", "dtype_name", "portable", "render_card"]
