"""What goes out: an adapter's manifest, its card and its exports, nothing of the machine; to the Hub, and back."""

from pefttune.publishing.card import render_card, render_converted_card, render_merged_card
from pefttune.publishing.consumers import CONSUMERS, Objection, Stored, object_to
from pefttune.publishing.llama_cpp import write_gguf
from pefttune.publishing.low_rank import read_updates
from pefttune.publishing.manifest import describe, describe_base, dtype_name
from pefttune.publishing.merged import Into, write_merged
from pefttune.publishing.mlx import write_mlx
from pefttune.publishing.new_folder import check_free, new_folder
from pefttune.publishing.ollama import Modelfile, modelfile
from pefttune.publishing.portable import portable
from pefttune.publishing.publication import File, Publication, prepare
from pefttune.publishing.pulling import Pulled, pull
from pefttune.publishing.signing import check_signature, sign
from pefttune.publishing.stored import copy_stored
from pefttune.publishing.uploading import Published, publish

__all__ = [
    "CONSUMERS",
    "File",
    "Into",
    "Modelfile",
    "Objection",
    "Publication",
    "Published",
    "Pulled",
    "Stored",
    "check_free",
    "check_signature",
    "copy_stored",
    "describe",
    "describe_base",
    "dtype_name",
    "modelfile",
    "new_folder",
    "object_to",
    "portable",
    "prepare",
    "publish",
    "pull",
    "read_updates",
    "render_card",
    "render_converted_card",
    "render_merged_card",
    "sign",
    "write_gguf",
    "write_merged",
    "write_mlx",
]
