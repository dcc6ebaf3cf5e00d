"""A stored LoRA adapter in the files of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pefttune import store
from pefttune.errors import AdapterError, VerificationError
from pefttune.pipeline.checking import stored
from pefttune.pipeline.exporting import Exported
from pefttune.pipeline.parents import Parent, read_parent
from pefttune.recipe.adapters import Lora

if TYPE_CHECKING:
    from pefttune.bases import Located
    from pefttune.publishing import Stored

Program = Literal["gguf", "ollama", "mlx"]
CONSUMER: dict[Program, str] = {"gguf": "llama.cpp", "ollama": "llama.cpp", "mlx": "mlx"}
"""Who loads what is written, as `pefttune check` calls it."""


def export_converted(
    name: str,
    to: Program,
    output: Path,
    store_folder: Path | str = "adapters",
    base_source: str | None = None,
    model: str | None = None,
) -> Exported:
    """Write the stored adapter as llama.cpp, Ollama or mlx-lm load it, beside the base that it was trained on; Ollama
    has that under the name `model`. What was written is read back and compared.

    Raises AdapterError for what the program could not compute, InputError, BaseError, FetchError, VerificationError or
    StorageError; nothing is left then.
    """
    from pefttune import bases, methods, publishing

    adapter = read_parent(Path(store_folder), name)
    held = store.Hold(adapter.folder)
    publishing.check_free(output)
    _check(adapter, to, None)  # before a base is looked for
    located = _base_of(adapter, base_source)
    base = bases.open_config(located.folder)
    seen = _check(adapter, to, base.model_type)
    section, sha256 = adapter.recipe.adapter, adapter.manifest["files"][methods.weights.WEIGHTS]
    assert isinstance(section, Lora)  # else there was an objection
    told = publishing.modelfile(adapter.manifest, _tokenizer_of(adapter, located), model) if to == "ollama" else None
    updates, notes = publishing.read_updates(adapter.folder, section.stored(), sha256), [_note(adapter)]
    with publishing.new_folder(output) as folder:
        if to == "mlx":
            publishing.write_mlx(folder, updates, base, adapter.manifest)
        else:
            publishing.write_gguf(folder, updates, base, seen.config["lora_alpha"], adapter.manifest)
        if told is not None:
            _write(folder / "Modelfile", told.text)
            notes += [f"no TEMPLATE in the Modelfile: {told.without_template}"] if told.without_template else []
        _write(folder / "README.md", publishing.render_converted_card(adapter.manifest, to, model))
    held.release()
    return Exported(output, notes=tuple(notes))


def _check(adapter: Parent, to: Program, model_type: str | None) -> Stored:
    """What the program sees of the adapter, with a base of that type, if it is known. Raises AdapterError for what the
    program refuses, or would compute otherwise."""
    from pefttune import publishing

    seen = stored(adapter, model_type)
    for objection in publishing.object_to(CONSUMER[to], seen):
        if objection.harms:
            raise AdapterError(f"{adapter.called} cannot be exported --to {to}: {objection.cause}; {objection.mend}")
    return seen


def _base_of(adapter: Parent, base_source: str | None) -> Located:
    """Where its base lies, perhaps without weights. Raises AdapterError where that is another one."""
    from pefttune import bases
    from pefttune.inference import base_section_of

    section, origin = base_section_of(adapter.manifest, adapter.recipe.base, base_source)
    located = bases.locate(section.source, section.revision, origin, weights=False)
    told = adapter.manifest["base"]
    if bases.config_digest(located.folder) != told["fingerprint"]["config"]:
        raise _of_another_base(adapter, "their config.json differs")
    return located


def _tokenizer_of(adapter: Parent, located: Located) -> Any:
    """Its base's. Raises AdapterError where it is another one than that of the training."""
    from pefttune import bases

    tokenizer, told = bases.load_tokenizer(located.folder), adapter.manifest["base"]["fingerprint"]
    if wrong := [field for field, digest in bases.tokenizer_digests(tokenizer).items() if digest != told[field]]:
        raise _of_another_base(adapter, f"they differ in: {', '.join(wrong).replace('_', ' ')}")
    return tokenizer


def _of_another_base(adapter: Parent, how: str) -> AdapterError:
    told = adapter.manifest["base"]
    return AdapterError(
        f"{adapter.called} was trained on another base ({told['source']}, {told['origin']}) than the one here: {how}"
    )


def _note(adapter: Parent) -> str:
    base = adapter.manifest["base"]
    quantization = base["fingerprint"]["quantization"]
    return (
        f"its base is {base['hub_id'] or base['origin']} (from {base['origin']}; "
        f"{'not quantized' if quantization == 'none' else f'quantized to {quantization}'} in training): on another "
        "base its answers are erratic, and on other weights of this one they differ"
    )


def _write(path: Path, text: str) -> None:
    """Write a text, and read it back. Raises OSError, VerificationError."""
    path.write_text(text, encoding="utf-8")
    if path.read_text(encoding="utf-8") != text:
        raise VerificationError(f"{path.name} was read back otherwise than it was written; nothing was kept")
