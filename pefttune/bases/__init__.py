"""Where bases come from and who they are: located, checked, loaded frozen and quantized, fingerprinted."""

from pefttune.bases.catalogue import BASES
from pefttune.bases.dense import weight_of
from pefttune.bases.fingerprint import Fingerprint, Mismatch, config_digest, in_words, tokenizer_digests
from pefttune.bases.known import find as find_known
from pefttune.bases.load import Base, load, load_tokenizer, quantization_name
from pefttune.bases.locate import Located, local_folder, locate
from pefttune.bases.machine import choose_device
from pefttune.bases.originals import Originals
from pefttune.bases.reader import Reader, fingerprint_of, open_config, open_reader
from pefttune.bases.rewriting import rewrite

__all__ = [
    "BASES",
    "Base",
    "Fingerprint",
    "Located",
    "Mismatch",
    "Originals",
    "Reader",
    "choose_device",
    "config_digest",
    "find_known",
    "fingerprint_of",
    "in_words",
    "load",
    "load_tokenizer",
    "local_folder",
    "locate",
    "open_config",
    "open_reader",
    "quantization_name",
    "rewrite",
    "tokenizer_digests",
    "weight_of",
]
