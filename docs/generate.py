"""Writes one page per recipe key, and an index, from the schema: `python docs/generate.py`; `--check` only compares."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from pefttune.recipe import Explanation, all_keys, explain
from pefttune.recipe.adapters import METHODS

FOLDER = Path(__file__).parent / "recipe"
INTRO = """\
# The keys of a recipe

Every key can be overridden when a recipe is loaded: `training.learning_rate=2e-4` passes the same checks as the file.
These pages are written by `python docs/generate.py` from `pefttune/recipe/schema.py`.
"""

METHODS_INTRO = """\
# Methods of adapting

`adapter.method` of a recipe. Adapters of all methods lie side by side on one base, each with its task's head where that
has one. [What each can do](../capabilities.md) is found by trying: on which `base.quantization` it works, whether rows
of several adapters share a pass, what plain PEFT makes of it.

| method | what it changes |
|---|---|
"""


def pages() -> dict[str, str]:
    """File name → text."""
    explanations = [explain(key) for key in all_keys()]
    own = {"README.md": index(explanations), "methods.md": methods_page()}
    return own | {f"{each.key}.md": page(each) for each in explanations}


def methods_page() -> str:
    """What each method changes."""
    described = {word: str(kind.model_fields["method"].description) for word, kind in METHODS.items()}
    return METHODS_INTRO + "".join(f"| `{word}` | {cell(told)} |\n" for word, told in described.items())


def page(key: Explanation) -> str:
    facts = {
        "Type": key.type,
        "Bounds": key.bounds,
        "Unit": key.unit,
        "Default": f"`{key.default}`" if key.default else "required",
    }
    rows = "\n".join(f"| {name} | {cell(fact)} |" for name, fact in facts.items() if fact)
    override = shlex.quote(f"{key.key}={key.example}")
    return f"""\
# `{key.key}`

{key.meaning}

| | |
|---|---|
{rows}

In a recipe:

```yaml
{nested(key.key.split("."), key.example or "")}
```

As an override: `{override}`

[All keys](README.md#{section(key.key)})
"""


def nested(parts: list[str], value: str) -> str:
    """`a.b=1` as lines of YAML."""
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    return "\n".join(lines) + f" {value}"


def index(keys: list[Explanation]) -> str:
    tables: dict[str, list[Explanation]] = {}
    for key in keys:
        tables.setdefault(section(key.key), []).append(key)
    return INTRO + "".join(table(name, group) for name, group in tables.items())


def table(name: str, keys: list[Explanation]) -> str:
    heading = f"{name}\n\n{explain(name).meaning}" if keys[0].key != name else name
    rows = "\n".join(
        f"| [`{key.key}`]({key.key}.md) | {cell(key.meaning)} | {f'`{key.default}`' if key.default else 'required'} |"
        for key in keys
    )
    return f"\n## {heading}\n\n| key | meaning | default |\n|---|---|---|\n{rows}\n"


def section(key: str) -> str:
    return key.partition(".")[0]


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def differences(folder: Path) -> list[str]:
    """What is wrong with the pages in `folder`, one line each."""
    wanted = pages()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    missing = [f"{folder / name}: missing" for name in wanted.keys() - found.keys()]
    stale = [f"{folder / name}: stale" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    left_over = [f"{folder / name}: left over" for name in found.keys() - wanted.keys()]
    return sorted(missing + stale + left_over)


def write(folder: Path) -> None:
    wanted = pages()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not what it should be")
    if not parser.parse_args(arguments).check:
        write(folder)
        return 0
    wrong = differences(folder)
    for line in wrong:
        print(line)
    if wrong:
        print("run: python docs/generate.py")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
