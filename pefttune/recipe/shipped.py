"""The recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_recipes() -> dict[str, Path]:
    """Name → file. A wheel carries them inside the package, a checkout beside it."""
    installed = _PACKAGE / "_recipes"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "recipes"
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}
