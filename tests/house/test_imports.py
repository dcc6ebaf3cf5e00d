"""Imports go down the table of rooms, never up and never sideways; and a few names stay in the room they belong to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pefttune"
FLOORS = [
    {"errors", "environment", "without_kernels"},
    {"recipe", "data", "store"},
    {"tasks", "methods", "batching", "bases"},
    {"training", "inference", "doctor"},
    {"evaluation"},
    {"serving", "publishing"},
    {"pipeline"},
    {"sweep"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES_AT_LEAST = 60
IMPORTS_AT_LEAST = 150
# Without torch: these rooms whole, and these files.
LIGHT_ROOMS = {"recipe", "data", "store", "errors", "environment", "without_kernels"}
LIGHT_ROOMS |= {"doctor", "pipeline", "sweep", "cli"}
LIGHT_FILES = {f"tasks/{name}.py" for name in ("__init__", "protocol", "prompt", "text_classification")} | {
    f"tasks/{name}.py"
    for name in ("answering", "chat", "pairs", "rouge", "summarization", "text_generation", "written")
}
HEAVY_ROOMS = {"methods", "batching", "bases", "training", "inference", "evaluation", "serving", "publishing"}
# Also a light room imports these when it has to, in a function.
HEAVY_FILES = {"pefttune.tasks.head"}
HEAVY = {"torch", "transformers", "peft", "datasets", "accelerate", "bitsandbytes", "sklearn", "scipy", "matplotlib"}


class Source(NamedTuple):
    path: Path
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def room(self) -> str:
        """`cli` for `cli/app.py`, `errors` for `errors.py`, empty for `__init__.py`."""
        return room_of(self.name)


class Import(NamedTuple):
    source: Source
    node: ast.stmt
    modules: tuple[str, ...]
    """Each imported name in full: `from pefttune import data, store` gives two."""

    def told(self, module: str) -> str:
        return f"pefttune/{self.source.name}:{self.node.lineno}  imports {module}"


def room_of(file: str) -> str:
    first = file.partition("/")[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def parsed(path: Path, text: str | None = None) -> Source:
    return Source(path, ast.parse(path.read_text(encoding="utf-8") if text is None else text))


def imports_of(source: Source) -> Iterator[Import]:
    """Every import, also those in functions and under TYPE_CHECKING."""
    package = ["pefttune", *source.name.split("/")[:-1]]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield Import(source, node, tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield Import(source, node, tuple(f"{base}.{alias.name}" for alias in node.names))


def at_import_time(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run when the module is imported; what stands under TYPE_CHECKING never does."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.stmt):
            yield node
        waiting += ast.iter_child_nodes(node)


def climbs(found: Import) -> list[str]:
    """What is wrong with an import, by the table."""
    here = found.source.room
    faults = []
    for module in found.modules:
        parts = module.split(".")
        if parts[0] != "pefttune":
            continue
        there = parts[1] if len(parts) > 1 else ""
        if there not in FLOOR_OF:
            faults.append(f"{found.told(module)}: in no room of the table")
        elif there != here and FLOOR_OF[there] >= FLOOR_OF[here]:
            way = "sideways" if FLOOR_OF[there] == FLOOR_OF[here] else "up"
            faults.append(f"{found.told(module)}: {way}, from {here} (floor {FLOOR_OF[here]}) to {there}")
    return faults


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    found = [parsed(path) for path in sorted(PACKAGE.rglob("*.py"))]
    assert len(found) >= FILES_AT_LEAST
    return found


@pytest.fixture(scope="module")
def imports(sources: list[Source]) -> list[Import]:
    found = [each for source in sources for each in imports_of(source)]
    assert len([each for each in found if any(m.startswith("pefttune.") for m in each.modules)]) >= IMPORTS_AT_LEAST
    return found


def test_every_room_is_in_the_table(sources: list[Source]) -> None:
    assert {source.room for source in sources} - {""} <= set(FLOOR_OF)


def test_imports_go_down(imports: list[Import]) -> None:
    faults = [fault for each in imports if each.source.room for fault in climbs(each)]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("data/x.py", "from pefttune.recipe import Recipe", "sideways"),
        ("data/x.py", "from pefttune import tasks", "up"),
        ("data/x.py", "import pefttune.tasks.protocol", "up"),
        ("data/x.py", "from ..tasks import protocol", "up"),
        ("data/x.py", "from .. import store", "sideways"),
        ("data/x.py", "def f():\n    if True:\n        from pefttune.cli.app import main", "up"),
        ("tasks/x.py", "if TYPE_CHECKING:\n    from pefttune.batching import Batch", "sideways"),
        ("pipeline/x.py", "from pefttune import cli", "up"),
        ("tasks/x.py", "from pefttune import Session", "in no room"),
        ("tasks/x.py", "import pefttune", "in no room"),
    ],
)
def test_a_climb_is_seen(file: str, text: str, fault: str) -> None:
    [told] = [fault for each in imports_of(parsed(PACKAGE / file, text)) for fault in climbs(each)]
    assert told.startswith(f"pefttune/{file}:{text.count(chr(10)) + 1}  imports")
    assert fault in told


@pytest.mark.parametrize("text", ["from pefttune.data import Row", "from . import other", "import json, os.path"])
def test_a_descent_is_fine(text: str) -> None:
    assert not [fault for each in imports_of(parsed(PACKAGE / "tasks/x.py", text)) for fault in climbs(each)]


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("peft", {"methods"}),
        ("bitsandbytes", {"bases"}),
        ("huggingface_hub", {"bases", "data", "publishing"}),
        ("datasets", {"data"}),
    ],
)
def test_a_package_is_imported_in_its_rooms_only(imports: list[Import], package: str, rooms: set[str]) -> None:
    faults = [
        each.told(module)
        for each in imports
        for module in each.modules
        if module.partition(".")[0] == package and each.source.room not in rooms
    ]
    assert not faults, "\n".join(faults)


def test_bitsandbytes_is_named_in_bases_only(sources: list[Source]) -> None:
    def names(source: Source) -> bool:
        return any(
            "BitsAndBytes" in ast.unparse(node)
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Attribute | ast.Name | ast.alias)
        )

    assert {source.room for source in sources if names(source)} == {"bases"}


def test_modules_are_not_imported_by_a_string(sources: list[Source]) -> None:
    """Such an import escapes the table. `pefttune/__init__.py` has the one that is needed."""
    calls = {
        source.name
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
    }
    assert calls == {"__init__.py"}


def test_only_the_command_line_prints_and_exits(sources: list[Source]) -> None:
    faults = [
        f"pefttune/{source.name}:{node.lineno}  {ast.unparse(node)}"
        for source in sources
        if source.room != "cli"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "exit", "quit", "os._exit"))
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.exit", "sys.stdout", "sys.stderr"))
        or (isinstance(node, ast.Name) and node.id == "SystemExit")
    ]
    assert not faults, "\n".join(faults)


def test_no_pickle(sources: list[Source], imports: list[Import]) -> None:
    picklers = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    faults = [each.told(m) for each in imports for m in each.modules if m.partition(".")[0] in picklers]
    faults += [each.told(m) for each in imports for m in each.modules if m in ("torch.load", "torch.save")]
    faults += [
        f"pefttune/{source.name}:{node.lineno}  {ast.unparse(node)}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save")
    ]
    assert not faults, "\n".join(faults)


def heavy(source: Source) -> list[str]:
    """What a source imports at import time that is torch or brings it along."""
    running = {id(node) for node in at_import_time(source.tree)}
    return [
        each.told(module)
        for each in imports_of(source)
        if id(each.node) in running
        for module in each.modules
        if module.partition(".")[0] in HEAVY
        or (module.startswith("pefttune.") and module.split(".")[1] in HEAVY_ROOMS)
        or any(f"{module}.".startswith(f"{file}.") for file in HEAVY_FILES)
    ]


def test_no_torch_before_the_data_is_known_to_be_good(sources: list[Source]) -> None:
    light = [source for source in sources if source.room in LIGHT_ROOMS or source.name in LIGHT_FILES]
    assert len(light) >= 42
    assert {source.room for source in light} >= LIGHT_ROOMS
    assert {source.name for source in light} >= LIGHT_FILES
    faults = [fault for source in light for fault in heavy(source)]
    assert not faults, "\n".join(faults)
    by_module = {f"pefttune.{source.name.removesuffix('.py').replace('/', '.')}": source for source in sources}
    assert all(heavy(by_module[file]) for file in HEAVY_FILES), "it imports no torch any more"


@pytest.mark.parametrize(
    "text",
    [
        "import torch",
        "from accelerate.utils import set_seed",
        "from pefttune import data, training",
        "from pefttune.tasks.head import Head",
        "from pefttune.tasks import head",
    ],
)
def test_a_heavy_import_is_seen(text: str) -> None:
    [told] = heavy(parsed(PACKAGE / "pipeline/x.py", text))
    assert told.startswith("pefttune/pipeline/x.py:1  imports ")
    assert not heavy(parsed(PACKAGE / "pipeline/x.py", f"def later():\n    {text}"))


def test_an_import_at_import_time_is_seen() -> None:
    text = "if TYPE_CHECKING:\n    import a\nelse:\n    import b\ntry:\n    import c\nfinally:\n    pass\n"
    text += "def f():\n    import d\nclass C:\n    import e\n"
    seen = {node.names[0].name for node in at_import_time(ast.parse(text)) if isinstance(node, ast.Import)}
    assert seen == {"b", "c", "e"}
