"""GGUF files: converted once into a folder that transformers loads fast."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pefttune.bases.quiet import without_bars
from pefttune.bases.safety import check_complete
from pefttune.data import cache_dir
from pefttune.errors import BaseError, StorageError


def converted(gguf: Path) -> Path:
    """The folder made of a user's GGUF file, converted once for each content. Raises BaseError or StorageError."""
    if not gguf.is_file():
        raise BaseError(f"base.source: there is no file {gguf}")
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_dir() / "bases" / f"gguf-{digest[:32]}"
    return folder if folder.is_dir() else convert(gguf, folder)


def convert(gguf: Path, folder: Path) -> Path:
    """Dequantise a GGUF file into a bfloat16 folder of transformers, renamed into place when complete.

    Reading GGUF takes 20 s for 135M parameters, the folder 1 s. bfloat16 rounds by 2⁻⁹, a tenth of a 4-bit step.
    Raises BaseError or StorageError.
    """
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BaseError(f"{gguf}: not a GGUF file (its first four bytes are not 'GGUF')")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        # Alone in a folder: transformers would also read the configs beside it, and the code that these name.
        alone = staging / "alone"
        alone.mkdir()
        (alone / "model.gguf").symlink_to(gguf.resolve())
        with without_bars():
            tokenizer, model = _read(alone, gguf)
        shutil.rmtree(alone)
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        os.replace(staging, folder)
    except OSError as error:
        if folder.is_dir():  # another process converted it meanwhile
            return folder
        if error.errno is None:  # transformers raises bare OSError for files it cannot read
            raise _unreadable(gguf, error) from None
        raise StorageError(f"{gguf.name} could not be converted into {folder}: {error}") from None
    except BaseError:
        raise
    except Exception as error:
        raise _unreadable(gguf, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _read(folder: Path, gguf: Path) -> tuple[Any, Any]:
    import torch
    import transformers

    # transformers ≥ 5.20 keeps GGUF weights packed unless told otherwise; before, it always unpacked them.
    keep = getattr(transformers, "GgufConfig", None)
    unpack = {"quantization_config": keep(dequantize=True)} if keep else {}
    where = {"gguf_file": "model.gguf", "trust_remote_code": False}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **where, **unpack
    )
    check_complete(gguf, model, info)
    # transformers 5.17 takes the first special token for all of them; the model's own ids are right in every version.
    for name in ("eos_token", "pad_token"):
        if isinstance(token_id := getattr(model.config, f"{name}_id"), int):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
    return tokenizer, model.to(torch.bfloat16)


def _unreadable(gguf: Path, error: Exception) -> BaseError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BaseError(f"{gguf}: not readable as GGUF (truncated, or an unknown architecture?): {reason[:200]}")
