"""YAML text ↔ plain values, and where each value stands in the text.

The loader and the dumper are our own; PyYAML's are left as they are. YAML 1.1 reads `1e-4` as text, `no` as false and
`010` as 8. Here a number is what looks like one in decimal, only `true` and `false` are booleans, only `null`, `~` and
nothing at all are null, and everything else is text. Anchors, aliases and tags are refused: no recipe needs them, and
with aliases a small file grows without end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

Place = tuple[str | int, ...]
"""The keys, and indices of list entries, that lead to a value."""

_MAX_DEPTH = 20
_MOST_LETTERS = 1500
_TAG = "tag:yaml.org,2002:"
# Longer runs of digits are floats: Python refuses to read an int of more than 4300 digits.
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own declaration, emptied for this class only)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # untyped in types-PyYAML
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="a recipe has no & * or ! before a value", problem_mark=event.start_mark)
        if self.depth == _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or our own loader would read as something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    breaks = re.search("[\n\x85\u2028\u2029]", text)
    return dumper.represent_scalar(_TAG + "str", text, style='"' if breaks else None)


_Dumper.add_representer(str, _represent_text)
_Loader.add_implicit_resolver(_TAG + "int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver(_TAG + "bool", re.compile("(true|false)$"), list("tf"))
_Loader.add_implicit_resolver(_TAG + "null", re.compile("(null|~|)$"), ["n", "~", ""])
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))

_READERS: dict[str, Callable[[str], object]] = {
    _TAG + "int": int,
    _TAG + "float": float,
    _TAG + "bool": lambda text: text == "true",
    _TAG + "null": lambda text: None,
}


@dataclass
class Document:
    """What a text says: its value, the origin of each value in it, and the faults found in reading."""

    value: Any = None
    origins: dict[Place, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def put(self, path: Place, other: Document) -> None:
        """Set the value at `path`, below a mapping, to that of `other`, with its origins."""
        parent = self.value
        for depth, part in enumerate(path[:-1], start=1):
            if not isinstance(parent.get(part), dict):
                parent[part] = {}
                self.origins[path[:depth]] = other.origins[path]
            parent = parent[part]
        parent[path[-1]] = other.value
        kept = {place: origin for place, origin in self.origins.items() if place[: len(path)] != path}
        self.origins = kept | other.origins


def parse(text: str, where: str, at: Place = (), numbered: bool = True) -> Document:
    """Read YAML. An origin is `where`, with the line if `numbered`; `at` goes before each path."""
    document = Document()

    def origin(line: int) -> str:
        return f"{where}:{line}" if numbered else where

    def note(line: int, path: Place, message: str) -> None:
        document.faults.append(fault(origin(line), path, message))

    def build(node: yaml.Node, path: Place, line: int) -> object:
        document.origins[path] = origin(line)
        if isinstance(node, yaml.MappingNode):
            return build_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [build(entry, (*path, i), _line(entry)) for i, entry in enumerate(node.value)]
        return _READERS.get(node.tag, str)(node.value)

    def build_mapping(node: yaml.MappingNode, path: Place) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                note(_line(key), path, "a key must be text")
            elif key.value in mapping:
                here = (*path, key.value)
                note(_line(key), here, f"duplicate key; given before at {document.origins[here]}")
            else:
                mapping[key.value] = build(value, (*path, key.value), _line(key))
        return mapping

    document.origins[at] = origin(1)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        line, column, problem = _problem(error, text)
        spot = f"{where}:{line}:{column}" if numbered else where
        document.faults.append(fault(spot, (), f"not valid YAML: {problem}"))
    else:
        document.value = None if root is None else build(root, at, _line(root))
    return document


def entries(text: str) -> list[str]:
    """The values of a list without its brackets, such as `4, 16` or `[q_proj, v_proj],all-linear`, each as it stands
    in the text. Raises ValueError for what is no such list."""
    try:
        root = yaml.compose(f"[{text}]", Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {_problem(error, text)[2]}") from None
    assert isinstance(root, yaml.SequenceNode)
    return [text[node.start_mark.index - 1 : node.end_mark.index - 1] for node in root.value]


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _problem(error: yaml.YAMLError, text: str) -> tuple[int, int, str]:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        context = f" ({error.context})" if error.context else ""
        return error.problem_mark.line + 1, error.problem_mark.column + 1, f"{error.problem}{context}"
    position = getattr(error, "position", 0)
    before = text[:position]
    line, column = before.count("\n") + 1, position - before.rfind("\n")
    return line, column, f"the character {text[position : position + 1]!r} is not allowed"


def dump(value: object) -> str:
    """YAML that `parse`, and any other reader of YAML, reads back as `value`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def inline(value: object) -> str:
    """The same in one line."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def fault(origin: str, path: Place, message: str) -> str:
    """One line of a RecipeError: `recipes/x.yaml:7  training.max_steps: must be …`."""
    if len(message) > _MOST_LETTERS:  # it repeats what was given
        message = f"{message[:_MOST_LETTERS]} …"
    return f"{origin}  {dotted(path)}: {message}" if path else f"{origin}  {message}"


def dotted(path: Place) -> str:
    """The path as people write it: `task.labels[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key may hold a line break or a dot: quoted, it cannot be mistaken for more than it is.
            text += "." * bool(text) + (part if re.fullmatch(r"[\w-]+", part) else repr(part))
    return text
