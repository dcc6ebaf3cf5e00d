"""What goes out with an adapter: its manifest and its card, and nothing of the machine; to the Hub, and back."""

from pefttune.publishing.card import render_card
from pefttune.publishing.manifest import describe, describe_base, dtype_name
from pefttune.publishing.portable import portable
from pefttune.publishing.publication import File, Publication, prepare
from pefttune.publishing.pulling import Pulled, pull
from pefttune.publishing.uploading import Published, publish

__all__ = [
    "File",
    "Publication",
    "Published",
    "Pulled",
    "describe",
    "describe_base",
    "dtype_name",
    "portable",
    "prepare",
    "publish",
    "pull",
    "render_card",
]
