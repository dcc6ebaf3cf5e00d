"""Writes what each method of adapting can do: `python docs/capabilities.py` tries every method on a tiny random model
and writes `capabilities.md`, which `tests/methods/test_capabilities.py` tries again. Methods come from the recipe's
sections, so that a new one has its line as soon as this is run again."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pefttune.recipe import Recipe, recipe_from_mapping
from pefttune.recipe import adapters as sections
from pefttune.recipe.schema import Base

PAGE = Path(__file__).parent / "capabilities.md"
INTRO = """\
# What each method can do

Found by trying, on a tiny random Llama, and written by `python docs/capabilities.py`;
[methods.md](recipe/methods.md) says what each method is. A test tries every cell again and fails where this page
differs (`tests/methods/test_capabilities.py`).

- **none**, **nf4**, **fp4**, **int8**: with this `base.quantization` a whole run of ten steps learns; the adapter that
  it stores scores, on a fresh base, to the bit what it scored when trained; it, another of its method and a LoRA are
  switched on one base, there and back, to the bit. A recipe that asks for a pair without a yes is refused, and told
  which methods do.
- **mixed batch**: rows of two such adapters go through the base in one pass; else the adapters take turns.
- **merge**: PEFT folds the adapter into the weights of an unquantized base (`merge_and_unload`), to the same answers.
- **weighted merge**: `pefttune merge` makes a new adapter of two ([composing](composing.md)).
- **plain PEFT**: transformers and PEFT alone read the stored folder and give the same answers.

"""
# Those of other packages, which may be here, are not told of.
METHODS = {word: kind for word, kind in sections.METHODS.items() if kind.__module__ == sections.__name__}
STEPS, ROWS, LONGEST = 10, 40, 64
ROWS_FILE = "rows.jsonl"
TOKEN = "<|reserved_special_token_0|>"  # in each text, for a method that learns tokens: the example that its key has
TEXTS = (f"fine {TOKEN} film 1", f"dull film number 2 number 3 {TOKEN} number 4", f"film {TOKEN}")
ROUNDING = 1e-4  # log-likelihoods of about 4 in float32, through two layers, with products in another order


class Trained:
    """A method on a quantized base: an adapter of it trained ten steps by a whole run, which proves what it stores."""

    def __init__(self, method: str, quantization: str, folder: Path) -> None:
        """In `folder`, which holds the base. Raises what stops the run, or AssertionError when nothing was learned."""
        from pefttune import pipeline

        self.method, self.base = method, folder / "base"
        events: list[dict[str, Any]] = []
        with allowed(method):
            wanted = recipe(method, quantization, folder)
            for seed, name in enumerate(getattr(wanted.adapter, "adapters", ())):  # those that a fusion weighs, unlike
                output = wanted.output.model_copy(update={"name": name})
                own = {"output": output, "seed": seed}
                pipeline.run(recipe("lora", quantization, folder).model_copy(update=own))
            self.run = pipeline.run(wanted, events.append)
        losses = [event["loss"] for event in events if event["event"] == "step"]
        assert len(losses) == STEPS
        assert losses[-1] < losses[0], f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f}"

    @cached_property
    def session(self) -> Any:
        """The stored adapter, another of its method and a LoRA on one base: `ours`, `other`, `lora`."""
        import torch

        from pefttune.inference import open_session
        from pefttune.recipe.adapters import Lora

        session = open_session("ours", self.run.folder.parents[1], str(self.base))
        task = session.load(self.run.folder, "other").task
        session.add("lora", session.attach(task, Lora(method="lora"), LONGEST))
        torch.manual_seed(1)
        for name in ("other", "lora"):
            for parameter in session[name].parameters.values():
                parameter.data.add_(torch.randn_like(parameter) * 0.05)
        return session

    def examples(self, name: str) -> list[Any]:
        """Texts as they are read for the adapter of that name."""
        from pefttune.data import Row

        encoder = self.session.purpose(name).encoder
        return [encoder(Row({"text": text, "label": "good"}, text))[0] for text in TEXTS]

    def scores(self, name: str) -> Any:
        """What the adapter of that name scores of the texts."""
        import torch

        return torch.stack(self.session.scores(name, self.examples(name)))


def recipe(method: str, quantization: str, folder: Path, name: str = "ours") -> Recipe:
    """The shortest recipe of a method: the keys that it requires, as their own examples have them. Raises RecipeError
    for a pair that is refused."""
    fields = METHODS[method].model_fields
    keys = {name: info.examples[0] for name, info in fields.items() if name != "method" and info.is_required()}
    mapping = {
        "task": {"type": "text-classification", "labels": ["bad", "good"]},
        "base": {"source": str(folder / "base"), "quantization": quantization, "dtype": "float32", "device": "cpu"},
        "data": {"source": str(folder / ROWS_FILE), "max_length": LONGEST, "split": {"validation": 0.2, "test": 0.2}},
        "adapter": {"method": method, **keys},
        "training": {
            "max_steps": STEPS,
            "eval_steps": STEPS,
            "per_device_train_batch_size": ROWS,  # each step the same rows, so that its loss can only fall by learning
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
        },
        "evaluation": {"bootstrap_samples": 100},
        "output": {"name": name, "store": str(folder / method / quantization), "runs": str(folder / "runs")},
    }
    mapping["task"] |= {"approach": "head"} if method == "head" else {}
    return recipe_from_mapping(mapping, "recipe.yaml")


@contextmanager
def allowed(method: str) -> Iterator[None]:
    """Recipes may ask for the method on any base: whether it works there is what is tried."""
    with patch.object(METHODS[method], "not_on", ()):
        yield


def trainer(folder: Path) -> Callable[[str, str], Trained]:
    """What trains a method on a quantization, once, in `folder`."""
    write_base(folder / "base")
    kinds = [("fine", "good"), ("dull", "bad")]  # the first word of a text tells its label
    rows = [{"text": f"{kinds[n % 2][0]} {TOKEN} film number {n}", "label": kinds[n % 2][1]} for n in range(ROWS)]
    (folder / ROWS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return cache(partial(Trained, folder=folder))


def write_base(folder: Path) -> None:
    """A random Llama of two layers, of sizes for which each method's default values fit, and a tokenizer of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<end>", "<unknown>", TOKEN, "fine", "dull", "film", "number", "good", "bad", "Answer:"]
    words += map(str, range(100))  # more than the ids that the base is tried with (pefttune/batching/agreement.py)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), num_hidden_layers=2, max_position_embeddings=4 * LONGEST, **sizes, **ids
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def switches(trained: Trained) -> None:
    """Each adapter on the base scores the same again after every other one."""
    import torch

    first = {name: trained.scores(name) for name in trained.session.names}
    for name in (*reversed(first), *first):
        assert torch.equal(trained.scores(name), first[name]), name
    assert not torch.equal(first["ours"], first["other"])


def mixes(trained: Trained) -> None:
    """Rows of two adapters need one pass, and score as alone."""
    import torch

    names = ["ours", "other", "ours"]
    alone = torch.stack([trained.scores(name)[i] for i, name in enumerate(names)])
    passes: list[None] = []
    layer = trained.session.base.model.get_submodule("model.layers.0")
    with layer.register_forward_pre_hook(lambda *_: passes.append(None)):
        asked = [(name, trained.examples(name)[i]) for i, name in enumerate(names)]
        together = torch.stack(trained.session.mixed_scores(asked))
    assert torch.allclose(together, alone, rtol=0, atol=ROUNDING)
    assert len(passes) == 1, f"{len(passes)} passes"


def read_by_peft(trained: Trained, merged: bool = False) -> None:
    """Transformers and PEFT read the stored folder, and score as we do."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    ours = trained.scores("ours")
    head = trained.session["ours"].head is not None
    kind: Any = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    with warnings.catch_warnings():  # PEFT's own
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(kind.from_pretrained(trained.base), trained.run.folder).eval()
        model = model.merge_and_unload() if merged else model
        scored = classified if head else likelihoods
        with torch.no_grad():
            theirs = torch.stack([scored(model, example) for example in trained.examples("lora")])
    assert torch.allclose(theirs, ours, rtol=0, atol=ROUNDING), float((theirs - ours).abs().max())


def joins(trained: Trained) -> None:
    """With another run's adapter it becomes a new one."""
    from pefttune import pipeline

    store = trained.run.folder.parents[1]
    other = recipe(trained.method, "none", trained.base.parent, name="second")
    pipeline.run(other)
    with chdir(trained.base.parent):  # where the rows are, whose folder no manifest tells
        merged = pipeline.merge(["ours", "second"], "merged", store_folder=store, base_source=str(trained.base))
    assert merged.manifest["lineage"]


def classified(model: Any, example: Any) -> Any:
    """Log-probabilities of the classes."""
    import torch

    return model(torch.tensor([example.prompt])).logits[0].log_softmax(-1)


def likelihoods(model: Any, example: Any) -> Any:
    """Log-likelihoods of the answers; counted from the end, since a method may put tokens of its own before a text."""
    import torch

    found = []
    for answer in example.answers:
        logits = model(torch.tensor([[*example.prompt, *answer]])).logits[0, -len(answer) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum())
    return torch.stack(found)


QUANTIZATIONS: tuple[str, ...] = get_args(Base.model_fields["quantization"].annotation)
ABILITIES: dict[str, Callable[[Trained], None]] = {
    "mixed batch": mixes,
    "merge": partial(read_by_peft, merged=True),
    "weighted merge": joins,
    "plain PEFT": read_by_peft,
}
COLUMNS = (*QUANTIZATIONS, *ABILITIES)


def attempt(method: str, column: str, train: Callable[[str, str], Trained]) -> None:
    """Raise what is wrong unless the method can do what the column says. `train` gives the adapters to try."""
    trained = train(method, column if column in QUANTIZATIONS else "none")
    ABILITIES.get(column, switches)(trained)


def tried() -> dict[tuple[str, str], bool]:
    """Whether each method can do what each column says; what stops one that cannot goes to standard error."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, PEFTTUNE_CACHE=f"{folder}/cache"):
        train = trainer(Path(folder))
        for method in METHODS:
            for column in COLUMNS:
                try:
                    attempt(method, column, train)
                except Exception as error:
                    if column in QUANTIZATIONS and column not in METHODS[method].not_on:
                        raise  # a recipe may ask for it
                    sys.stderr.write(f"{method}, {column}: {type(error).__name__}: {error}\n")
                    found[method, column] = False
                else:
                    found[method, column] = True
    return found


def render(found: dict[tuple[str, str], bool]) -> str:
    """The page."""
    lines = [f"| method | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for method in METHODS:
        cells = " | ".join("yes" if found[method, column] else "–" for column in COLUMNS)
        lines.append(f"| `{method}` | {cells} |")
    return INTRO + "\n".join(lines) + "\n"


def read(page: Path = PAGE) -> dict[tuple[str, str], bool]:
    """What a page says."""
    table = [line.strip("|").split("|") for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    header, _, *lines = [[cell.strip(" `") for cell in line] for line in table]
    return {
        (line[0], column): cell == "yes" for line in lines for column, cell in zip(header[1:], line[1:], strict=True)
    }


def main() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    PAGE.write_text(render(tried()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
