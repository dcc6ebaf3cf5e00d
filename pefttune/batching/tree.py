"""Trees of tokens: what several prompts begin with stands once, and what nobody reads does not stand at all.

A root is what its examples' prompts begin with (system message, instruction, few-shot examples); below it stand what
some of them share (a passage with many questions), each example's own text, and its answers. A token sees what lies on
its way to the root, and its position counts from there. The last token of an answer predicts nothing: it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

# A beginning shared by fewer tokens than this is not worth a node of its own.
WORTH_SHARING = 8

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A run of tokens, the rows `start` to `end` of the batch, behind those of the node `parent`."""

    start: int
    end: int
    parent: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a run of tokens comes from: it stands at `offset` in what is fed of each of these examples (the prompt,
    then its answers without their last tokens)."""

    examples: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where an example stands: the runs of its prompt, each as (first position, first row), the last run first, and the
    first row of each answer."""

    runs: tuple[tuple[int, int], ...]
    answer_rows: tuple[int, ...]

    def row(self, position: int) -> int:
        """The row of the prompt's token at `position`."""
        first, row = next(run for run in self.runs if run[0] <= position)
        return row + position - first


class Tree:
    """Grown from prompts and their answers, depth first, so that whatever hangs on a node follows it without a gap."""

    def __init__(self, prompts: Sequence[Tokens], answers: Sequence[Sequence[Tokens]], *, share: bool) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.nodes: list[Node] = []
        self.sources: list[Source] = []
        self._prompts, self._answers = prompts, answers
        self._leaves: dict[int, Leaf] = {}
        order = range(len(prompts))
        for group in self._groups(sorted(order, key=lambda i: prompts[i]), 0) if share else ([i] for i in order):
            self._place(group, 0, None)

    @property
    def leaves(self) -> list[Leaf]:
        """One for each prompt, in order."""
        return [self._leaves[i] for i in range(len(self._leaves))]

    def _groups(self, order: Sequence[int], placed: int) -> Iterator[list[int]]:
        """Runs of the sorted prompts `order` that share enough beyond their first `placed` tokens."""
        group = [order[0]]
        for one, other in pairwise(order):
            if shared_length(self._prompts[one], self._prompts[other]) < placed + WORTH_SHARING:
                yield group
                group = []
            group.append(other)
        yield group

    def _place(self, group: Sequence[int], placed: int, parent: int | None) -> None:
        """Grow what `group` shares beyond the first `placed` tokens, which end with `parent`, then what it does not."""
        if len(group) == 1:
            self._leaves[group[0]] = self._leaf(group[0], placed, parent)
            return
        # In a sorted group, all begin alike as far as the first and the last do.
        end = shared_length(self._prompts[group[0]], self._prompts[group[-1]])
        node = self._grow(self._prompts[group[0]][placed:end], parent, placed, group, placed)
        for inner in self._groups(group, end):
            self._place(inner, end, node)

    def _leaf(self, index: int, placed: int, parent: int | None) -> Leaf:
        prompt, answers = self._prompts[index], self._answers[index]
        if len(answers) == 1:  # no other answer to hide it from: it goes on in the prompt's node
            node = self._grow((*prompt[placed:], *answers[0][:-1]), parent, placed, [index], placed)
            starts = [len(self.ids) - len(answers[0]) + 1]
        else:
            node = self._grow(prompt[placed:], parent, placed, [index], placed)
            starts, offset = [], len(prompt)
            for answer in answers:
                starts.append(len(self.ids))
                self._grow(answer[:-1], node, len(prompt), [index], offset)
                offset += len(answer) - 1
        return Leaf(tuple(self._runs(node)), tuple(starts))

    def _runs(self, node: int | None) -> Iterator[tuple[int, int]]:
        while node is not None:
            yield self.positions[self.nodes[node].start], self.nodes[node].start
            node = self.nodes[node].parent

    def _grow(self, tokens: Tokens, parent: int | None, depth: int, examples: Sequence[int], offset: int) -> int:
        """A node of `tokens` behind `parent`, the first of them at position `depth`; without any, `parent` itself."""
        if not tokens and parent is not None:
            return parent
        start = len(self.ids)
        self.ids += tokens
        self.positions += range(depth, depth + len(tokens))
        self.nodes.append(Node(start, len(self.ids), parent))
        self.sources.append(Source(tuple(examples), offset, len(tokens)))
        return len(self.nodes) - 1


def shared_length(one: Tokens, other: Tokens) -> int:
    """How many tokens the two begin with alike."""
    end = min(len(one), len(other))
    return next((i for i in range(end) if one[i] != other[i]), end)
