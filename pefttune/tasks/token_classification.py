"""Named entities and other labelled spans: a tag for each word, by a linear head."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pefttune.data import Row
from pefttune.data.faults import RowFault
from pefttune.data.hints import shortened
from pefttune.errors import DataError
from pefttune.recipe import tasks as sections
from pefttune.tasks.averaging import mean_of_logs
from pefttune.tasks.calibration import calibration_error
from pefttune.tasks.checks import refuse_unlearned
from pefttune.tasks.protocol import Encoder, Piece, ScoredBatch
from pefttune.tasks.tags import OUTSIDE, Span, as_iob2, classes_of, likeliest, spans
from pefttune.tasks.words import joined, split

if TYPE_CHECKING:  # torch is imported when a batch is scored, so that bad data fails first
    import numpy as np
    from torch import Tensor

    from pefttune.tasks.head import Head
    from pefttune.tasks.words import Window

NOTHING = "nothing"
_NAMES = {"precision": "precision", "recall": "recall", "f1": "f1-score"}


@dataclass(frozen=True)
class Entity:
    """`text[start:end]`, which is the words from `first_word` to the one before `end_word`."""

    kind: str
    text: str
    start: int
    end: int
    first_word: int
    end_word: int
    confidence: float
    """Probability that all of its words are tagged right, each taken for itself."""


@dataclass(frozen=True)
class Tagged:
    """A text with the tag of each of its words. A sentence that came as words is a text with a space between them."""

    text: str
    words: tuple[tuple[int, int], ...]
    """Where in the text each word begins and ends."""
    tags: tuple[str, ...]
    """In IOB2."""
    probabilities: tuple[float, ...]
    """Of each word's tag."""
    unread: int = 0
    """Words in which the tokenizer finds nothing to read; their tag is O."""
    truncated: bool = False

    def __str__(self) -> str:
        return _in_few_words((entity.kind, entity.text) for entity in self.entities)

    @property
    def entities(self) -> tuple[Entity, ...]:
        """What was found, in order."""
        return tuple(map(self._entity, spans(self.tags)))

    @property
    def confidence(self) -> float:
        """Probability that all words are tagged right, each taken for itself."""
        return _product(self.probabilities)

    def columns(self) -> dict[str, Any]:
        """The entities, the tags of all words, and the probability that these are all right."""
        return {
            "prediction": [dataclasses.asdict(entity) for entity in self.entities],
            "predicted_tags": list(self.tags),
            "confidence": self.confidence,
            "truncated": self.truncated,
        }

    def pieces(self, row: Row) -> tuple[Piece, ...]:
        """The text with its entities marked."""
        pieces, end = [], 0
        for entity in self.entities:
            pieces += [Piece(self.text[end : entity.start]), Piece(entity.text, entity.kind)]
            end = entity.end
        return tuple(piece for piece in (*pieces, Piece(self.text[end:])) if piece.text)

    def _entity(self, span: Span) -> Entity:
        start, end = self.words[span.first][0], self.words[span.end - 1][1]
        confidence = _product(self.probabilities[span.first : span.end])
        return Entity(span.kind, self.text[start:end], start, end, span.first, span.end, confidence)


@dataclass(frozen=True)
class TokenClassification:
    """See `pefttune.tasks.protocol.Task`. Its `labels` are the kinds of entities."""

    labels: tuple[str, ...]
    stride: int
    bidirectional: bool = False
    """Whether a decoder's tokens see what follows them, too."""
    name: str = "token-classification"
    columns: tuple[str, ...] = ("tokens", "tags")
    inputs: tuple[str, ...] = ("tokens",)
    kept_together: tuple[str, ...] = ()
    shown: ClassVar[dict[str, str]] = {
        "f1": "entity F1",
        "precision": "precision",
        "recall": "recall",
        "word_accuracy": "word accuracy",
        "calibration_error": "calibration error",
    }
    watched: str = "f1"
    generation: None = None

    @classmethod
    def from_section(cls, section: sections.TokenClassification) -> TokenClassification:
        """The task of a recipe; without `labels` there, the kinds are those of the training rows."""
        return cls(tuple(section.labels or ()), section.stride, section.attention == "bidirectional")

    def check(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with its tags in IOB2. A plain text in place of the words is split into words, and kept with where
        they stand in it; only words can have tags. Raises RowFault."""
        tokens = values["tokens"]
        if "tags" not in values:
            return _plain(tokens) if isinstance(tokens, str) else {"tokens": _words(tokens)}
        words = _words(tokens)
        return {"tokens": words, "tags": self._tags(values["tags"], len(words))}

    def _tags(self, tags: Any, words: int) -> list[str]:
        if not isinstance(tags, list | tuple):
            raise RowFault("tags", f"is {type(tags).__name__}, not a list of tags")
        if len(tags) != words:
            raise RowFault("tags", f"has {len(tags)} tags for {words} words")
        checked = as_iob2(tags)
        for number, tag in enumerate(checked, start=1):
            kind = tag[2:]
            if kind and self.labels and kind not in self.labels:
                close = difflib.get_close_matches(kind, self.labels, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise RowFault("tags", f"word {number}: {kind!r} is not one of {', '.join(self.labels)}{hint}")
        return checked

    def with_labels_of(self, train: Sequence[Row], held_out: Sequence[Row]) -> TokenClassification:
        """The task with its kinds settled from the training rows.

        Raises DataError when these have no entity, or a held-out row has a kind that none of them has.
        """
        seen = {kind for row in train for kind in self.kinds(row)}
        if not seen:
            raise DataError("no training row has an entity, so there is nothing to learn. Is `data.columns` right?")
        refuse_unlearned("tags", self.kinds, train, held_out)
        return dataclasses.replace(self, labels=self.labels or tuple(sorted(seen)))

    def with_labels(self, labels: Sequence[str]) -> TokenClassification:
        """The task with the kinds that an adapter was trained on."""
        return dataclasses.replace(self, labels=tuple(labels))

    def encoder(self, tokenizer: Any, max_length: int, *, causal: bool) -> Encoder:
        """Words, in windows where they are more than `max_length` tokens."""
        from pefttune.tasks.words import WordEncoder

        how = {"causal": causal, "bidirectional": self.bidirectional}
        return WordEncoder(tokenizer, self.labels, max_length, self.stride, **how)

    def new_head(self, model: Any, *, causal: bool) -> Head:
        """A linear layer over the tags, as in transformers' …ForTokenClassification."""
        from pefttune.tasks.head import Head

        key = "score" if causal else "classifier"
        return Head(model, len(classes_of(self.labels)), key=key, task_type="TOKEN_CLS")

    def loss(self, outputs: Tensor, batch: ScoredBatch) -> Tensor:
        """Cross-entropy summed over the words."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, batch.targets_N, reduction="sum")

    def scores(self, outputs: Tensor, batch: ScoredBatch) -> Sequence[Tensor]:
        """For each window the log-probabilities (M, C) of its marked words to have each tag."""
        import torch

        marks = torch.bincount(batch.answers_N, minlength=batch.n_answers).tolist()
        windows: Sequence[Tensor] = torch.log_softmax(outputs, dim=-1).split(marks)
        return windows

    def average(self, scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The logarithms of the mean probabilities."""
        return mean_of_logs(scores, weights)

    def decode(self, row: Row, encoded: tuple[Window, ...], scores: Sequence[Tensor]) -> Tagged:
        """The likeliest tags that IOB2 allows; a word without a token is O."""
        import numpy as np

        classes, words = classes_of(self.labels), len(row.values["tokens"])
        chances_WC = np.full((words, len(classes)), -np.inf)
        chances_WC[:, 0] = 0
        for window, scores_MC in zip(encoded, scores, strict=True):
            read = list(window.words)
            chances_WC[read] = scores_MC[: len(read)].numpy()
        best = likeliest(chances_WC)
        probabilities = np.exp(chances_WC[np.arange(words), best])
        unread = words - sum(len(window.words) for window in encoded)
        return _tagged(row, [classes[index] for index in best], probabilities.tolist(), unread)

    def metrics(self, predictions: Sequence[Tagged], rows: Sequence[Row]) -> dict[str, Any]:
        """F1, precision and recall of whole entities, over all and per kind (seqeval, strict); of words the accuracy
        and the expected calibration error of their tags, and how many could not be read."""
        import numpy as np
        from seqeval.metrics import classification_report
        from seqeval.scheme import IOB2

        references, predicted = [row.values["tags"] for row in rows], [list(p.tags) for p in predictions]
        tallies = self.tallies(predictions, rows).sum(0)
        report: dict[str, Any] = {}
        if tallies.any():  # of nothing seqeval makes no report
            report = classification_report(
                references, predicted, output_dict=True, mode="strict", scheme=IOB2, zero_division=0
            )
        all_kinds = _from_report(report, "micro avg")
        right = np.concatenate([np.equal(p, r) for p, r in zip(predicted, references, strict=True)])
        return {
            "f1": float(self.primary_of(tallies)),
            "precision": all_kinds["precision"],
            "recall": all_kinds["recall"],
            "word_accuracy": float(right.mean()),
            "calibration_error": calibration_error(
                [p for each in predictions for p in each.probabilities], right.tolist()
            ),
            "per_class": {kind: _from_report(report, kind) for kind in self.labels},
            "unread_words": sum(prediction.unread for prediction in predictions),
        }

    def tallies(self, predictions: Sequence[Tagged], rows: Sequence[Row]) -> np.ndarray:
        """Entities that were found, that were made up, and that were missed: (rows, 3)."""
        import numpy as np

        found = [set(spans(prediction.tags)) for prediction in predictions]
        there = [set(spans(row.values["tags"])) for row in rows]
        return np.array([[len(f & t), len(f - t), len(t - f)] for f, t in zip(found, there, strict=True)], float)

    def primary_of(self, tallies: np.ndarray) -> np.ndarray:
        """F1; 1 where nothing is to be found and nothing was."""
        import numpy as np

        twice = 2 * tallies[..., 0]
        of = twice + tallies[..., 1] + tallies[..., 2]
        f1: np.ndarray = np.where(of == 0, 1.0, twice / np.where(of == 0, 1.0, of))
        return f1

    def baseline(self, train: Sequence[Row], rows: Sequence[Row]) -> tuple[str, Sequence[Tagged]]:
        """Each word's commonest tag in the training rows, O for a word that is not in them; what then goes on without
        having begun begins."""
        tags_of: dict[str, Counter[str]] = defaultdict(Counter)
        for row in train:
            for word, tag in zip(row.values["tokens"], row.values["tags"], strict=True):
                tags_of[word][tag] += 1
        share = {word: tags.most_common(1)[0][1] / tags.total() for word, tags in tags_of.items()}
        commonest = {word: tags.most_common(1)[0][0] for word, tags in tags_of.items()}
        predictions = []
        for row in rows:
            words = row.values["tokens"]
            tags = as_iob2([commonest.get(word, OUTSIDE) for word in words])
            predictions.append(_tagged(row, tags, [share.get(word, 1.0) for word in words]))
        return "each word its commonest tag", predictions

    def reference(self, row: Row) -> str:
        """Its entities."""
        words = row.values["tokens"]
        return _in_few_words((kind, " ".join(words[first:end])) for kind, first, end in spans(row.values["tags"]))

    def kinds(self, row: Row) -> tuple[str, ...]:
        """The kind of each of its entities: what rows are counted by (`pefttune.doctor.Counts`)."""
        return tuple(span.kind for span in spans(row.values["tags"]))

    def target_name(self, target: float) -> str:
        """The tag of the word."""
        return classes_of(self.labels)[int(target)]

    def zero_shot(self) -> None:
        """None: a head that was not trained knows nothing."""


def _tagged(row: Row, tags: Sequence[str], probabilities: Sequence[float], unread: int = 0) -> Tagged:
    text, words = joined(row.values["tokens"])
    if "text" in row.values:
        text, words = row.values["text"], row.values["words"]
    return Tagged(text, tuple(words), tuple(tags), tuple(probabilities), unread)


def _in_few_words(entities: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{text} ({kind})" for kind, text in entities) or NOTHING


def _product(probabilities: Sequence[float]) -> float:
    return math.prod(probabilities)


def _from_report(report: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """One kind's part of seqeval's report, which leaves out a kind that nobody has or predicts."""
    own = report.get(kind, {})
    return {**{name: float(own.get(theirs, 0)) for name, theirs in _NAMES.items()}, "rows": int(own.get("support", 0))}


def _plain(text: str) -> dict[str, Any]:
    words = split(text)
    if not words:
        raise RowFault("tokens", "is empty")
    return {"tokens": [text[start:end] for start, end in words], "text": text, "words": words}


def _words(tokens: Any) -> list[str]:
    if isinstance(tokens, str):
        raise RowFault("tokens", "is text; tags need a list of words")
    if not isinstance(tokens, list | tuple):
        raise RowFault("tokens", f"is {type(tokens).__name__}, not a list of words")
    if not tokens:
        raise RowFault("tokens", "is empty")
    for number, word in enumerate(tokens, start=1):
        if not isinstance(word, str):
            raise RowFault("tokens", f"word {number} is {shortened(word)}, not text")
        if not word.strip():
            raise RowFault("tokens", f"word {number} is empty")
    return list(tokens)
