"""How a base reads, without its weights: seconds and megabytes, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from pefttune.bases.fingerprint import Fingerprint, take
from pefttune.bases.load import is_encoder, is_encoder_decoder, load_tokenizer, quantization_name
from pefttune.bases.locate import locate
from pefttune.bases.safety import check_configs
from pefttune.errors import BaseError
from pefttune.recipe import schema


@dataclass(frozen=True)
class Reader:
    """A base's tokenizer, whether it is a decoder or has one (`causal`), how many tokens it reads (None: not told),
    and whether it is an encoder-decoder."""

    tokenizer: Any
    causal: bool
    positions: int | None
    encoder_decoder: bool


def open_reader(config: schema.Base) -> Reader:
    """The reader of a recipe's base. Raises BaseError for what cannot be found, trusted or read, FetchError."""
    folder = locate(config.source, config.revision, weights=False).folder
    positions = getattr(open_config(folder).get_text_config(), "max_position_embeddings", None)
    return Reader(load_tokenizer(folder), not is_encoder(folder), positions, is_encoder_decoder(folder))


def open_config(folder: Path) -> Any:
    """transformers' configuration of the model in `folder`, which no weights need to be in. Raises BaseError."""
    if not (folder / "config.json").is_file():
        raise BaseError(f"{folder}: no config.json there, so this is not a model folder of transformers")
    check_configs(folder)
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise BaseError(
            f"{folder}: its config.json cannot be read: {str(error).strip().partition(chr(10))[0]}"
        ) from None


def fingerprint_of(config: schema.Base) -> Fingerprint:
    """The fingerprint that a recipe's base will have, its weights hashed but not loaded. Raises as `open_reader`."""
    folder = locate(config.source, config.revision).folder
    return take(folder, load_tokenizer(folder), quantization_name(config))
