"""Writes one page per recipe key, and an index, from the schema: `python docs/generate.py`; `--check` only compares."""

from __future__ import annotations

import argparse
import operator
import shlex
import sys
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import create_model

from pefttune.recipe import Explanation, Recipe, adapters, all_keys, explain
from pefttune.recipe.keys import Slot

FOLDER = Path(__file__).parent / "recipe"
INTRO = """\
# The keys of a recipe

Every key can be overridden when a recipe is loaded: `training.learning_rate=2e-4` passes the same checks as the file.
These pages are written by `python docs/generate.py` from `pefttune/recipe/schema.py`.
"""

METHODS_INTRO = """\
# Methods of adapting

[`adapter.method`](adapter.method.md) of a recipe. Adapters of all methods lie side by side on one base, each with its
task's head where that has one. [What each can do](../capabilities.md) is found by trying: on which `base.quantization`
it works, whether rows of several adapters share a pass, what plain PEFT makes of it.

| method | what it changes | its keys |
|---|---|---|
"""

# The pages speak of our own methods only, whatever other packages are installed.
METHODS = {word: kind for word, kind in adapters.METHODS.items() if kind.__module__ == adapters.__name__}
OWN: Any = (reduce(operator.or_, METHODS.values()), Recipe.model_fields["adapter"])
ROOT = Slot(create_model("OwnRecipe", __base__=Recipe, adapter=OWN))


def pages() -> dict[str, str]:
    """File name → text."""
    explanations = [explain(key, root=ROOT) for key in all_keys(ROOT)]
    own = {"README.md": index(explanations), "methods.md": methods_page()}
    return own | {f"{each.key}.md": page(each) for each in explanations}


def methods_page() -> str:
    """What each method changes, and by which keys."""
    return METHODS_INTRO + "".join(
        f"| `{word}` | {cell(str(kind.model_fields['method'].description))} | {keys_of_method(kind)} |\n"
        for word, kind in METHODS.items()
    )


def keys_of_method(kind: type[adapters.Method]) -> str:
    return ", ".join(f"[`{name}`](adapter.{name}.md)" for name in kind.model_fields if name != "method")


def told(key: Explanation) -> str:
    """What a key means. What methods are has its own page."""
    return "What is learned, by [the method's word](methods.md)." if key.key == "adapter.method" else key.meaning


def page(key: Explanation) -> str:
    facts = {
        "Of": ", ".join(key.kinds),
        "Type": key.type,
        "Bounds": key.bounds,
        "Unit": key.unit,
        "Default": f"`{key.default}`" if key.default else "required",
    }
    rows = "\n".join(line([name, cell(fact)]) for name, fact in facts.items() if fact)
    meaning = told(key).replace("\n", "\n\n")
    override = shlex.quote(f"{key.key}={key.example}")
    return f"""\
# `{key.key}`

{meaning}

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
    """The keys of a section; where it is of several kinds, with those that have each."""
    heading = f"{name}\n\n{explain(name, root=ROOT).meaning}" if keys[0].key != name else name
    by_kind = any(key.kinds for key in keys)
    columns = ["key", *(["of"] if by_kind else []), "meaning", "default"]
    rows = [line(columns), "|" + "---|" * len(columns), *(row(key, by_kind) for key in keys)]
    return f"\n## {heading}\n\n" + "\n".join(rows) + "\n"


def row(key: Explanation, by_kind: bool) -> str:
    of = [", ".join(key.kinds)] if by_kind else []
    default = f"`{key.default}`" if key.default else "required"
    return line([f"[`{key.key}`]({key.key}.md)", *of, cell(told(key)), default])


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def section(key: str) -> str:
    return key.partition(".")[0]


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


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
