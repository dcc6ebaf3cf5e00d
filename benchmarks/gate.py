"""Before any clock: loss and every gradient of ours against plain transformers and PEFT, in float32, row by row."""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.errors import BenchmarkError
from benchmarks.job import BaseChoice, Example, Job, LoraChoice
from benchmarks.programs import ours
from pefttune.bases.quiet import without_bars

TOLERANCE = 1e-5  # the same sums in another order, float32, two layers
VOCABULARY, CLASSES = 96, 3
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Slope:
    """A loss, and its gradient for every trained tensor by the name that PEFT gives it in a file."""

    loss: float
    gradients: dict[str, Tensor]


Measure = Callable[[Job, dict[str, Tensor]], Slope]


def check(measure: Measure | None = None) -> None:
    """Raise BenchmarkError unless ours (or `measure`) gives the reference's loss and gradients. Prints nothing.

    Once for answers, once for a head; ragged rows with a common beginning.
    """
    measure = measure or of_ours
    with tempfile.TemporaryDirectory() as folder, without_bars():
        write_base(Path(folder))
        for classes in (0, CLASSES):
            job = job_of(folder, classes)
            reference, state = of_reference(job)
            compare(measure(job, state), reference)


def compare(found: Slope, reference: Slope) -> None:
    """Raise BenchmarkError with the worst difference when it is more than rounding."""
    if missing := sorted(set(reference.gradients) ^ set(found.gradients)):
        raise BenchmarkError(f"the gate is shut: only one side has a gradient for {', '.join(missing[:3])}")
    distances = {name: _distance(found.gradients[name], wanted) for name, wanted in reference.gradients.items()}
    distances["the loss"] = abs(found.loss - reference.loss) / abs(reference.loss)
    worst = max(distances, key=lambda name: distances[name])
    if not distances[worst] <= TOLERANCE:
        raise BenchmarkError(
            f"the gate is shut: {worst} is {distances[worst]:.1e} off the reference, more than {TOLERANCE:.0e}; "
            "what is wrong needs no clock"
        )


def of_ours(job: Job, state: dict[str, Tensor]) -> Slope:
    """The loss and gradients of pefttune, with the weights of `state`."""
    session = ours.open_session(job)
    loaded = session[ours.NAME]
    loaded.load_state(state)
    loaded.train(True)
    loss = ours.step_loss(session, ours.examples_of(job))[0]
    loss.backward()
    return Slope(loss.item(), _gradients(loaded.parameters))


def of_reference(job: Job) -> tuple[Slope, dict[str, Tensor]]:
    """The loss and gradients of plain transformers and PEFT, one padded row an example, and random weights for all."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(job.base.folder, dtype=torch.float32)
    config = LoraConfig(r=job.lora.r, lora_alpha=job.lora.alpha, target_modules="all-linear")
    with warnings.catch_warnings():  # PEFT asks transformers by a name that will go
        warnings.simplefilter("ignore", FutureWarning)
        model: Any = get_peft_model(base, config).eval()
    trained = {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}
    head = torch.nn.Linear(SIZES["hidden_size"], job.classes, bias=False) if job.classes else None
    if head is not None:
        trained["base_model.model.score.weight"] = head.weight
    for parameter in trained.values():
        parameter.data.normal_(std=0.1)  # B too: at its usual zero, A has no gradient
    loss = _reference_loss(base, head, job.examples)
    loss.backward()
    state = {name: parameter.detach().clone() for name, parameter in trained.items()}
    return Slope(loss.item(), _gradients(trained)), state


def _reference_loss(base: Any, head: torch.nn.Linear | None, examples: list[Example]) -> Tensor:
    rows = [example.prompt + example.answer for example in examples]
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    if head is not None:
        hidden_BTD = base.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        last_BD = hidden_BTD[torch.arange(len(rows)), mask_BT.sum(1) - 1]
        return cross_entropy(head(last_BD), torch.tensor([example.target for example in examples]))
    labels_BT = torch.full_like(ids_BT, -100)
    for index, example in enumerate(examples):
        labels_BT[index, len(example.prompt) : len(rows[index])] = torch.tensor(example.answer)
    logits_BTV = base(input_ids=ids_BT, attention_mask=mask_BT).logits
    return cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())


def job_of(folder: str, classes: int) -> Job:
    """Seven ragged examples behind a common beginning, the fifth with nothing of its own."""
    draw = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(count)]

    beginning = tokens(9)
    examples = [
        Example(beginning + tokens(length), [] if classes else [tokens(2 + length % 3), tokens(2)], length % 2)
        for length in (4, 11, 1, 7, 0, 23, 4)
    ]
    base = BaseChoice(folder, quantization="none", dtype="float32")
    steps = [list(range(len(examples)))]
    return Job("gate", base, examples, steps, LoraChoice(r=4, alpha=8), classes=classes, threads=1)


def write_base(folder: Path) -> None:
    """A random Llama of two layers with a tokenizer of numbered words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<pad>", "<end>", *map(str, range(VOCABULARY - 2))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=1, bos_token_id=None, **SIZES)
    LlamaForCausalLM(config).save_pretrained(folder)


def _gradients(parameters: dict[str, Any]) -> dict[str, Tensor]:
    return {name: p.grad.detach().float().cpu() for name, p in parameters.items() if p.grad is not None}


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
