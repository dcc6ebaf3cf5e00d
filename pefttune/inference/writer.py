"""An adapter of a session, writing: which answers go together, in the session's own way or that of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pefttune.data import Example
from pefttune.errors import AdapterError
from pefttune.inference.answer import Answer
from pefttune.inference.by_transformers import written_by_transformers
from pefttune.inference.generation import Tokens, groups, write
from pefttune.inference.readonly import ReadOnlyEncoder
from pefttune.inference.sampling import Sampling
from pefttune.tasks import Generation, Writing
from pefttune.tasks.chat import ChatTemplate

if TYPE_CHECKING:
    from pefttune.inference.session import Session


class Writer:
    """Writes by the adapter `name`. Raises AdapterError for a task that writes nothing."""

    def __init__(self, session: Session, name: str, generation: Generation | None, sampling: Sampling | None) -> None:
        task = session.purpose(name).task
        if task.generation is None:
            raise AdapterError(f"{name} does {task.name}: it writes nothing")
        self._session, self._name = session, name
        self._generation, self._sampling = generation or task.generation, sampling
        told = session.base.model.generation_config.eos_token_id
        self._tokenizer, encoder = session.tokenizer(name), session.purpose(name).encoder
        self._never = encoder.ids if isinstance(encoder, ReadOnlyEncoder) else frozenset[int]()
        ends = {*(told if isinstance(told, list) else [told]), self._tokenizer.eos_token_id}
        if not session.base.model.config.is_encoder_decoder:
            ends.add(ChatTemplate(self._tokenizer).end)
        self._ends = frozenset(ends - {None})

    def write(self, examples: Sequence[Example], progress: Callable[[int], None]) -> list[Writing]:
        """What is written after each prompt."""
        prompts = [example.prompt for example in examples]
        answers = [self._new_answer() for _ in prompts]
        by_session, done = self._by_session(examples), 0
        for number, indices in enumerate(groups(prompts, self._session.base.model, self._generation)):
            sampling = self._sampling and self._sampling.of_group(number)
            together, own = [prompts[i] for i in indices], [answers[i] for i in indices]
            if by_session:
                steps = self._steps(together, own, sampling)
                while not all(answer.done for answer in own):
                    self._next(steps)
                    progress(done + sum(answer.done for answer in own))
            else:
                with self._session.passing(self._name):
                    self._leave_to_transformers(together, own, sampling)
            progress(done := done + len(own))
        return [answer.writing() for answer in answers]

    def stream(self, example: Example) -> Iterator[str]:
        """What is written, piece by piece; in one piece where transformers writes."""
        if not self._by_session([example]):
            yield self.write([example], lambda done: None)[0].text
            return
        answer, told = self._new_answer(), 0
        steps = self._steps([example.prompt], [answer], self._sampling and self._sampling.of_group(0))
        while not answer.done:
            self._next(steps)
            text = answer.text().strip()
            if len(text) > told:
                yield text[told:]
                told = len(text)

    def _next(self, steps: Iterator[None]) -> None:
        """One step; before it another adapter may have been in use."""
        with self._session.passing(self._name):
            next(steps)

    def _new_answer(self) -> Answer:
        return Answer(self._tokenizer, self._generation, self._ends)

    def _by_session(self, examples: Sequence[Example]) -> bool:
        ragged = self._session.collator.found_ragged(examples)
        return ragged and self._generation.num_beams == 1 and self._session.can_write

    def _steps(self, prompts: Sequence[Tokens], answers: Sequence[Answer], sampling: Sampling | None) -> Iterator[None]:
        session = self._session
        return write(session.base.model, prompts, answers, self._ends, session.max_batch_tokens, sampling, self._never)

    def _leave_to_transformers(
        self, prompts: Sequence[Tokens], answers: Sequence[Answer], sampling: Sampling | None
    ) -> None:
        base, generation = self._session.base, self._generation
        tokens = written_by_transformers(base, self._tokenizer, prompts, generation, self._ends, sampling, self._never)
        both = zip(prompts, tokens, strict=True)
        examples = [Example(tuple(prompt), (tuple(own),), 0, "prompt") for prompt, own in both]
        # Read back for their likelihood: transformers would keep the logits of the whole vocabulary for every step.
        scores = self._session.scores(self._name, examples)
        for answer, own, log_likelihoods in zip(answers, tokens, scores, strict=True):
            for token, log_likelihood in zip(own, log_likelihoods.tolist(), strict=True):
                answer.add(token, log_likelihood)
