"""A decoder told to let its tokens see what follows them: beside adapters that are not, in every form of batch, and in
transformers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune import pipeline, tasks
from pefttune.batching import hidden_rows
from pefttune.data import Row
from pefttune.errors import BaseError
from pefttune.inference import Session, open_session
from pefttune.recipe import load_recipe
from pefttune.recipe import tasks as sections
from pefttune.recipe.adapters import Lora

TEXTS = ["Ada goes to Rome", "Bob", "in Oslo it rains on the day on which Eve and Kim come from New York", "Lima , Ada"]
PASSAGES = [{"question": "who?", "context": text} for text in TEXTS]
# The same float32 sums in batches of another width.
ORDER_OF_SUMS = 1e-5


def add(session: Session, name: str, section: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    task = tasks.get(section).with_labels(("LOC", "PER") if "token" in section.type else ())
    loaded = session.add(name, session.attach(task, Lora(method="lora", r=4), 128))
    for parameter in loaded.parameters.values():
        parameter.data.normal_(std=0.2)  # a fresh LoRA does nothing
    return loaded


def session_of(base: Any) -> Session:
    session = Session(base)
    for seed, attention in enumerate(("causal", "bidirectional")):
        ner = sections.TokenClassification(type="token-classification", stride=8, attention=attention)
        add(session, f"ner {attention}", ner, seed)
        qa = sections.QuestionAnswering(type="question-answering", stride=8, attention=attention)
        add(session, f"qa {attention}", qa, seed)
    return session


def windows(session: Session, name: str) -> list[Any]:
    loaded = session[name]
    rows = [{"tokens": text} for text in TEXTS] if name.startswith("ner") else PASSAGES
    return [window for row in rows for window in loaded.encoder(Row(loaded.task.check(row), "row"))]


NAMES = ["ner causal", "ner bidirectional", "qa causal", "qa bidirectional"]


def test_the_text_is_read_once_and_its_first_token_sees_the_last(base_of: Any) -> None:
    session = session_of(base_of())
    for name in NAMES:
        (first, *_), other = windows(session, name), "bidirectional" in name
        assert first.sees_all == other
        read = session.base.tokenizer.decode(first.prompt)
        assert read.count(TEXTS[0]) == (1 if other else 2)
    session.use("ner bidirectional")
    for ragged in (True, False):
        session.collator.ragged = ragged
        encoder = session["ner bidirectional"].encoder
        seen = [encoder(Row({"tokens": ["Ada", "goes", last]}, "")) for last in ("up", "on")]
        rows = [hidden_rows(session.base.model, session.collator.collate(each, every_answer=True))[0] for each in seen]
        assert not torch.equal(*rows)


@pytest.mark.parametrize("ragged", [True, False], ids=["ragged", "padded"])
def test_adapters_of_both_kinds_say_together_what_each_says_of_one_text(base_of: Any, ragged: bool) -> None:
    session = session_of(base_of())
    session.collator.ragged = ragged
    asked = [(name, window) for name in NAMES for window in windows(session, name)]
    asked = asked[::2] + asked[1::2]
    together = session.mixed_scores(asked)
    session.collator.ragged = False
    for (name, window), found in zip(asked, together, strict=True):
        torch.testing.assert_close(found, session.scores(name, [window])[0], rtol=ORDER_OF_SUMS, atol=ORDER_OF_SUMS)


def test_those_of_one_kind_share_a_pass(base_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session, passes = session_of(base_of()), []
    asked = [(name, window) for name in NAMES for window in windows(session, name)[:1]]
    session.mixed_scores(asked)  # finds out whether batches can be ragged
    base = session.base.model.base_model
    forward = base.forward
    monkeypatch.setattr(base, "forward", lambda **inputs: passes.append(inputs["layout"].causal) or forward(**inputs))
    session.mixed_scores(asked)
    assert sorted(passes) == [False, True]


def test_adapters_of_both_kinds_learn_together_what_each_learns_alone(base_of: Any) -> None:
    session = session_of(base_of())
    row = Row({"tokens": ["Ada", "goes", "to", "Rome"], "tags": ["B-PER", "O", "O", "B-LOC"]}, "row")
    batches = [(name, session.collator.collate(session[name].encoder(row), every_answer=False)) for name in NAMES[:2]]
    for name in NAMES[:2]:
        session[name].train(True)

    def learned(losses: list[torch.Tensor]) -> list[torch.Tensor]:
        sum(losses).backward()
        parameters = [parameter for name in NAMES[:2] for parameter in session[name].parameters.values()]
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        return gradients

    together = learned(session.losses(batches))
    alone = learned([session.loss(name, batch) for name, batch in batches])
    assert all(map(torch.equal, together, alone))  # the same passes


@pytest.mark.parametrize("ragged", [True, False], ids=["ragged", "padded"])
def test_a_pass_between_leaves_no_trace(base_of: Any, ragged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(base_of())
    session.collator.ragged = ragged
    model = session.base.model
    before, config = session.scores("ner causal", windows(session, "ner causal")), model.config.to_dict()
    other = session.scores("ner bidirectional", windows(session, "ner bidirectional"))
    assert model.config.to_dict() == config
    again = session.scores("ner causal", windows(session, "ner causal"))
    assert all(map(torch.equal, before, again))

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(model.model.layers[1].mlp, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.scores("ner bidirectional", windows(session, "ner bidirectional"))
    assert model.config.to_dict() == config
    assert all(map(torch.equal, before, session.scores("ner causal", windows(session, "ner causal"))))
    assert all(map(torch.equal, other, session.scores("ner bidirectional", windows(session, "ner bidirectional"))))


def test_each_kind_finds_out_for_itself_whether_it_can_be_ragged(
    base_of: Any, model_of: Any, new_tokenizer: Any, tmp_path: Path
) -> None:
    """Ragged batches know a window only where tokens see what stands before them."""
    new_tokenizer(tmp_path)
    model_of("Mistral").save_pretrained(tmp_path)
    session = session_of(base_of(tmp_path))
    told = {name: session.collator.try_ragged(windows(session, name)) for name in NAMES[:2]}
    assert told == {
        "ner causal": None,
        "ner bidirectional": "it does not run on them (ragged attention has no such window or dropout)",
    }
    asked = [(name, window) for name in NAMES for window in windows(session, name)]
    for (name, window), found in zip(asked, session.mixed_scores(asked), strict=True):
        torch.testing.assert_close(found, session.scores(name, [window])[0], rtol=ORDER_OF_SUMS, atol=ORDER_OF_SUMS)
    ragged = [session.collator.collate(windows(session, name), every_answer=True).layout is not None for name in NAMES]
    assert ragged == [True, False, True, False]


def test_a_decoder_that_cannot_be_told_is_refused(
    base_of: Any, model_of: Any, new_tokenizer: Any, tmp_path: Path
) -> None:
    new_tokenizer(tmp_path)
    model_of("Bloom", n_head=4, n_layer=2).save_pretrained(tmp_path)
    session = session_of(base_of(tmp_path))
    session.scores("ner causal", windows(session, "ner causal"))
    with pytest.raises(BaseError, match="runs BloomForCausalLM in one direction only, so"):
        session.scores("ner bidirectional", windows(session, "ner bidirectional"))


BY_PEFT_ALONE = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification

base, folder, prompts, logits = *sys.argv[1:3], json.loads(sys.argv[3]), {}
for told in (True, False):
    bare = AutoModelForTokenClassification.from_pretrained(base, num_labels=5)
    if told:
        bare.config.is_causal = False
    model = PeftModel.from_pretrained(bare, folder).eval()
    with torch.no_grad():
        alone = [model(torch.tensor([prompt])).logits[0].tolist() for prompt in prompts]
        width = max(map(len, prompts))
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
        mask = torch.tensor([[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts])
        together = model(ids, attention_mask=mask).logits
        padded = [each[: len(prompt)].tolist() for each, prompt in zip(together, prompts)]
    logits[told] = {"alone": alone, "padded": padded}
json.dump([logits[True], logits[False]], sys.stdout)
"""
LAST = {"LOC": "zzzz", "PER": "qqqq"}


def write_sentences(path: Path) -> Path:
    """What the first word is, the last one says alone."""
    lines = []
    for number in range(120):
        kind = ("LOC", "PER")[number % 2]
        lines.append(f"X\tB-{kind}\nmet\tO\nBob{number}\tB-PER\n{LAST[kind]}\tO")
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_stored_adapter_says_again_what_it_learned_also_in_transformers_alone(
    new_recipe: Any, tmp_path: Path, tiny: Path
) -> None:
    written = write_sentences(tmp_path / "ner.conll")
    data = f"{{source: {written}, max_length: 64, split: {{validation: 0.2, test: 0.3}}}}"
    training = "{per_device_train_batch_size: 8, learning_rate: 1e-2, num_train_epochs: 12}"
    task = "{type: token-classification, stride: 4, attention: bidirectional}"
    run = pipeline.run(load_recipe(new_recipe(tmp_path, tiny, task, data, training, "{method: lora, r: 8}")))
    assert run.comparison.adapter["f1"] > 0.95
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    assert "with `num_labels=5`. Set `base.config.is_causal = False` first: its\ntokens were trained to" in card

    session = open_session("tiny", tmp_path / "adapters")
    found = session.predict([{"tokens": ["X", "met", "Bob7", last]} for last in LAST.values()], "tiny")
    assert list(map(str, found)) == ["X (LOC), Bob7 (PER)", "X (PER), Bob7 (PER)"]

    examples = [window for text in TEXTS for window in session["tiny"].encoder(Row({"tokens": text.split()}, ""))]
    arguments = [str(tiny), str(run.folder), json.dumps([example.prompt for example in examples])]
    done = subprocess.run([sys.executable, "-c", BY_PEFT_ALONE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, not_told = json.loads(done.stdout)
    for i, (example, ours) in enumerate(zip(examples, session.scores("tiny", examples), strict=True)):
        places = [place for place, _ in example.marks]
        for form in ("alone", "padded"):
            theirs, others = (torch.tensor(each[form][i]).log_softmax(-1)[places] for each in (told, not_told))
            assert torch.allclose(ours, theirs, atol=1e-5)  # float32, other kernels
            assert len(places) == 1 or not torch.allclose(ours, others, atol=0.01)
