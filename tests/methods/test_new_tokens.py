"""Tokens that an adapter adds to the vocabulary: its own tokenizer, vectors beyond the table, outputs where tied."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pefttune import doctor, methods, pipeline, publishing, tasks
from pefttune.data import Row
from pefttune.errors import AdapterError, BaseError, DataError
from pefttune.evaluation import transfer
from pefttune.inference import Sampling, Session, views_of
from pefttune.recipe import adapters as sections
from pefttune.recipe import tasks as of_tasks

NEW = ("<ent>", "g", "<tail>")  # the second one is in the vocabulary
SUMS = 1e-5  # the learned columns come from a product of their own: another order of 32 sums
KNOWN = 261  # tokens of the tests' tokenizer


@pytest.fixture(params=["tied", "untied", "tied, one spare row"])
def folder(request: Any, new_model: Any, tmp_path: Path) -> Path:
    path: Path = new_model(tmp_path / "model", tie_word_embeddings=request.param != "untied")
    return padded(path) if "spare" in request.param else path


def padded(folder: Path) -> Path:
    """The model there, with a row more than its tokenizer has tokens."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(KNOWN + 1)
    model.save_pretrained(folder)
    return folder


def section(tokens: tuple[str, ...] = NEW) -> sections.TrainableTokens:
    return sections.TrainableTokens(method="trainable_tokens", tokens=tokens)


def classifier(**changes: Any) -> Any:
    told = {"type": "text-classification", "labels": ("bad", "good"), **changes}
    return tasks.get(of_tasks.TextClassification(**told))


def added(session: Session, name: str, tokens: tuple[str, ...] = NEW, task: Any = None, seed: int = 3) -> Any:
    """An adapter in the session, that does something."""
    loaded = session.add(name, session.attach(task or classifier(), section(tokens), 256))
    torch.manual_seed(seed)
    for parameter in loaded.parameters.values():
        parameter.data.add_(torch.randn_like(parameter))
    return loaded


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model(ids, use_cache=False).logits
    return found


def test_the_adapter_alone_has_the_new_tokens(base_of: Any, folder: Path) -> None:
    base = base_of(folder)
    session, before = Session(base), base.tokenizer.get_vocab()
    loaded = session.attach(classifier(), section(), 256)
    (vectors,) = loaded.parameters.values()
    assert loaded.vocabulary.new_ids == {"<ent>": KNOWN, "<tail>": KNOWN + 1}
    table = base.model.get_input_embeddings().weight
    pieces = base.tokenizer("<ent>", add_special_tokens=False)["input_ids"]
    assert len(pieces) == 5
    assert torch.equal(vectors[0], table[pieces].mean(0))
    assert torch.equal(vectors[1], table[before["g"]])
    assert base.tokenizer.get_vocab() == before
    text = Row({"text": "<ent> of<tail>", "label": "good"}, "row")
    assert {KNOWN, KNOWN + 1} <= {*loaded.encoder(text)[0].prompt}
    (other,) = session.attach(classifier(), sections.Lora(method="lora", r=2), 256).encoder(text)
    assert max(other.prompt) < KNOWN
    session.add("new", loaded)
    assert max(session["base:new"].encoder(text)[0].prompt) < KNOWN
    again = session.attach(classifier(), section(), 256)
    assert again.vocabulary is loaded.vocabulary  # a tokenizer takes megabytes
    turned = session.attach(classifier(), section(NEW[::-1]), 256)
    assert turned.vocabulary.new_ids == {"<tail>": KNOWN, "<ent>": KNOWN + 1}
    assert loaded.vocabulary.new_ids == {"<ent>": KNOWN, "<tail>": KNOWN + 1}


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_plain_peft_computes_the_same(base_of: Any, folder: Path, tmp_path: Path) -> None:
    import transformers

    session = Session(base_of(folder))
    loaded = added(session, "new")
    tied = session.base.model.config.tie_word_embeddings
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.add_tokens(["<ent>", "<tail>"]) == 2
    ids = torch.tensor([tokenizer("<ent> is the one, <tail> the other")["input_ids"]])
    assert {KNOWN, KNOWN + 1} <= {*ids[0].tolist()}
    session.use("new")
    ours = logits(session.base.model, ids)
    methods.weights.write(tmp_path, loaded.peft_config(), loaded.state(), "tiny", None)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    plain.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    theirs = logits(peft.PeftModel.from_pretrained(plain, tmp_path), ids)
    assert ours.shape[-1] == (len(tokenizer) if tied else KNOWN)
    assert (theirs[..., : ours.shape[-1]] - ours).abs().max() <= SUMS * ours.abs().max()


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
def test_it_learns_in_ten_steps_is_read_back_and_leaves_the_base_as_it_was(
    learn: Any, base_of: Any, folder: Path, quantization: str
) -> None:
    session = Session(base_of(folder, quantization=quantization))
    model, digest = session.base.model, session.base.digest()
    known = torch.arange(5, 40)[None]
    before, modules = logits(model, known), dict(model.named_modules())
    loaded = session.add("new", session.attach(classifier(), section(), 256))
    # What an untied output layer has no row for can be read, but not be learned to be written.
    inside = [KNOWN + 1] if session.base.model.config.tie_word_embeddings else []
    ids = torch.tensor([[KNOWN, *range(5, 20), *inside, *range(20, 40)]])
    session.use("new")
    learn(loaded, lambda: cross_entropy(model(ids, use_cache=False).logits[0, :-1], ids[0, 1:]))
    trained = logits(model, ids)
    again = session.add("again", session.attach(classifier(), section(), 256))
    again.load_state(loaded.state())
    assert torch.equal(logits(model, known), before)
    session.use("again")
    assert torch.equal(logits(model, ids), trained)
    session.remove("new")
    session.remove("again")
    assert dict(model.named_modules()) == modules
    assert session.base.digest() == digest


@pytest.mark.parametrize("ragged_batches", [True, False])
def test_rows_of_several_are_each_read_by_their_own_tokenizer(
    base_of: Any, adapted: Any, folder: Path, ragged_batches: bool
) -> None:
    """The same id is another token to another adapter, and a virtual one to a third."""
    session = Session(base_of(folder))
    session.collator.ragged = ragged_batches
    adapted(session, "lora")
    added(session, "one", ("<ent>", "<tail>"))
    added(session, "other", ("<tail>", "<ent>"), seed=4)
    prompted = sections.PromptTuning(method="prompt_tuning", num_virtual_tokens=3)
    session.add("prompted", session.attach(classifier(), prompted, 256))
    names = ["one", "lora", "prompted", "other", "base:one"] * 2
    texts = [f"the <ent> of{'<tail>' * number} it" for number in range(len(names))]
    mixed = list(session.predict(texts, names))
    for text, name, found in zip(texts, names, mixed, strict=True):
        (alone,) = session.predict([text], name)
        assert alone.probabilities == pytest.approx(found.probabilities, rel=1e-3)
    (one,), (other,) = (session.predict(texts[2:3], name) for name in ("one", "other"))
    assert one.probabilities != pytest.approx(other.probabilities, rel=1e-3)
    with pytest.raises(AdapterError, match="not asked alike"):
        session.average("mean", ["one", "other"])
    with pytest.raises(
        AdapterError, match="'one' cannot be stacked: its method puts layers in the places of the base's"
    ):
        session.stack("both", ["lora", "one"])


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_new_token_is_written(base_of: Any, new_model: Any, tmp_path: Path, num_beams: int) -> None:
    session = Session(base_of(new_model(tmp_path / "model", tie_word_embeddings=True)))
    told = {"type": "text-generation", "max_new_tokens": 6, "num_beams": num_beams}
    loaded = session.add("new", session.attach(tasks.get(of_tasks.TextGeneration(**told)), section(), 256))
    row = Row({"messages": [{"role": "user", "content": "Who?"}]}, "row")
    (example,) = loaded.encoder(row)
    (vectors,) = loaded.parameters.values()
    with session.passing(None), torch.no_grad():  # by far the likeliest behind this prompt
        vectors[0] = 100 * session.base.model.base_model(torch.tensor([example.prompt])).last_hidden_state[0, -1]
    (written,) = session.generate("new", [example])
    assert written.text.startswith("<ent>")
    assert "".join(session.stream("new", row)) == written.text
    stopping = tasks.Generation(6, num_beams=num_beams, stop=("<ent>",))
    (stopped,) = session.generate("new", [example], stopping)
    assert stopped.text == ""


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("sampling", [None, Sampling()])
def test_a_spare_row_that_nobody_trained_is_never_written(
    base_of: Any, new_model: Any, tmp_path: Path, num_beams: int, sampling: Sampling | None
) -> None:
    session = Session(base_of(padded(new_model(tmp_path / "model", tie_word_embeddings=False))))
    told = {"type": "text-generation", "max_new_tokens": 6, "num_beams": num_beams}
    loaded = session.add("new", session.attach(tasks.get(of_tasks.TextGeneration(**told)), section(), 256))
    row = Row({"messages": [{"role": "user", "content": "Who?"}]}, "row")
    (example,) = loaded.encoder(row)
    with session.passing(None), torch.no_grad():  # by far the likeliest behind this prompt
        hidden_D = session.base.model.base_model(torch.tensor([example.prompt])).last_hidden_state[0, -1]
        session.base.model.lm_head.weight[KNOWN] = 100 * hidden_D
        assert logits(session.base.model, torch.tensor([example.prompt]))[0, -1].argmax() == KNOWN
    (written,) = session.generate("new", [example], sampling=sampling)
    assert "<ent>" not in written.text
    assert "<ent>" not in "".join(session.stream("new", row, sampling=sampling))
    with pytest.raises(DataError, match="a new token that this base can read but not write"):
        loaded.encoder(Row({**row.values, "reply": "<ent>"}, "row"))


def test_answers_and_words_are_found_behind_new_tokens(base_of: Any, tiny_encoder: Path) -> None:
    session = Session(base_of(tiny_encoder))
    asked = tasks.get(of_tasks.QuestionAnswering(type="question-answering"))
    loaded = session.attach(asked, section(("<Ent>",)), 256)
    context = "<Ent>Ada lives in oslo now"
    answers = {"text": ["oslo"], "answer_start": [context.index("oslo")]}
    row = Row({"question": "where?", "context": context, "answers": answers}, "row")
    (example,) = loaded.encoder(row)
    (new,) = loaded.vocabulary.new_ids.values()
    assert new in example.prompt
    assert example.characters_M2[:2].tolist() == [[0, 5], [5, 6]]
    assert loaded.encoder.misaligned(row) == []
    tagged = tasks.get(of_tasks.TokenClassification(type="token-classification", labels=("X",)))
    loaded = session.attach(tagged, section(("<Ent>",)), 256)
    (example,) = loaded.encoder(Row({"tokens": ["a", "<Ent>", "b"], "tags": ["O", "B-X", "O"]}, "row"))
    (marked,) = [position for position, target in example.marks if target == 1]
    assert example.prompt[marked] == new


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.usefixtures("_fresh_accelerate")
def test_new_words_make_a_task_learnable_from_the_recipe_to_the_store_and_back(
    new_model: Any, recipe_of: Any, tmp_path: Path
) -> None:
    import transformers

    import pefttune

    base = new_model(tmp_path / "tied", tie_word_embeddings=True, initializer_range=0.2)
    rows = [(f"{'<up>' if i % 2 else '<down>'} {i}", "<yes>" if i % 2 else "<no>") for i in range(90)]
    data = tmp_path / "marked.jsonl"
    data.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows), encoding="utf-8")
    adapter = {"method": "trainable_tokens", "tokens": ["<up>", "<down>", "<yes>", "<no>"]}
    changes = {"base.source": str(base), "data.source": str(data), "adapter": adapter, "task.instruction": "Which?"}
    recipe = recipe_of({**changes, "training.num_train_epochs": 4, "training.learning_rate": 0.03})
    events: list[dict[str, Any]] = []
    run = pefttune.run(recipe, events.append)
    assert [event for event in events if "'<up>' (id 261), '<down>' (id 262), '<yes>'" in str(event.get("message"))]
    assert run.comparison.adapter["accuracy"] > 0.8
    assert run.manifest["new_tokens"] == {"<up>": 261, "<down>": 262, "<yes>": 263, "<no>": 264}
    assert pefttune.evaluate("tiny", tmp_path / "adapters").adapter == run.comparison.adapter
    assert pipeline.verify("tiny", tmp_path / "adapters").verdict.word == "equal"

    session = pefttune.open_session("tiny", tmp_path / "adapters")
    (example,) = session["tiny"].encoder(Row({"text": "<up> 7"}, "row"))
    plain = {
        "tokenizer": transformers.AutoTokenizer.from_pretrained(base),
        "base": transformers.AutoModelForCausalLM.from_pretrained(base),
    }
    (lines,) = re.findall(
        r"```python\n(from transformers import AddedToken.*?)```", (run.folder / "README.md").read_text(), re.DOTALL
    )
    exec(lines, plain)
    assert plain["tokenizer"].get_vocab() == session.tokenizer("tiny").get_vocab()
    card = publishing.render_card(run.manifest, repo_id=str(run.folder))  # as it is on the Hub
    (lines,) = re.findall(r"```python\n(from peft import PeftModel.*?)```", card, re.DOTALL)
    on_hub: dict[str, Any] = {}
    exec(lines.replace(run.manifest["base"]["origin"], str(base)), on_hub)
    assert on_hub["tokenizer"].get_vocab() == session.tokenizer("tiny").get_vocab()
    ids = torch.tensor([example.prompt])
    theirs = logits(peft.PeftModel.from_pretrained(plain["base"], run.folder), ids)
    assert torch.equal(logits(on_hub["model"], ids), theirs)
    assert (theirs - logits(session.base.model, ids)).abs().max() <= SUMS * theirs.abs().max()
    [found] = pipeline.check("tiny", "peft", tmp_path / "adapters")
    assert (found.kind, "'<up>', '<down>'" in found.cause) == ("know", True)


def test_the_doctor_reads_by_them_before_any_weight(recipe_of: Any, tmp_path: Path) -> None:
    (tmp_path / "reviews.jsonl").write_text(
        "\n".join(json.dumps({"text": f"<ent> {i}", "label": "good" if i % 2 else "bad"}) for i in range(60))
    )
    lengths = []
    for adapter in ({"method": "lora"}, {"method": "trainable_tokens", "tokens": ["<ent>"]}):
        recipe = recipe_of({"adapter": adapter})
        report = doctor.examine(recipe, *pipeline.read_data(recipe))
        lengths.append(report.parts["train"].lengths)
    assert lengths[0] != lengths[1]


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (" <ent>", "begins or ends with a blank"),
        ("<ent>\n", "begins or ends with a blank"),
        ("<|USER|>", r"it is the special token '<\|user\|>'"),
    ],
)
def test_a_token_that_cannot_be_told_from_others_is_refused(base_of: Any, token: str, told: str) -> None:
    with pytest.raises(BaseError, match=f"adapter.tokens: .* cannot be added to the base's vocabulary: .*{told}"):
        Session(base_of()).attach(classifier(), section((token,)), 256)


def test_a_token_that_is_not_found_in_a_text_is_refused(
    base_of: Any, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(tiny_encoder)
    # As it was before, where what the tokenizer makes of texts is made of new tokens, too.
    monkeypatch.setattr("transformers.AddedToken", lambda token, normalized: token)
    with pytest.raises(BaseError, match="its tokenizer does not find it in a text"):
        Session(base).attach(classifier(approach="head"), section(("<Ent>", "<ent>")), 256)


def test_a_token_is_found_as_it_is_written(base_of: Any, tiny_encoder: Path) -> None:
    loaded = Session(base_of(tiny_encoder)).attach(classifier(approach="head"), section(("<Ent>", "<ent>")), 256)
    (example,) = loaded.encoder(Row({"text": "a<Ent>b <ent>", "label": "good"}, ""))
    assert len(set(example.prompt) & set(loaded.vocabulary.new_ids.values())) == 2


def test_probes_behind_adapters_read_texts_as_these_do(
    base_of: Any, folder: Path, adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, read = Session(base_of(folder)), {}
    writes = tasks.get(of_tasks.TextGeneration(type="text-generation", max_new_tokens=9))
    added(session, "new", task=writes)
    prompted = sections.PromptTuning(method="prompt_tuning", num_virtual_tokens=3)
    session.add("prompted", session.attach(writes, prompted, 256))
    session.add("lora", session.attach(writes, sections.Lora(method="lora", r=2), 256))
    rows = tuple(Row({"text": f"<ent> {i}", "label": ("bad", "good")[i % 2]}, f"row {i}") for i in range(6))
    encoder = session.encoder(classifier(), 256)
    sample = transfer.Sample(classifier(), rows, tuple(map(encoder, rows)))

    def watched(session: Session, examples: Any, *others: Any, adapter: str) -> Any:
        read[adapter] = [example.prompt for example in examples]
        return views_of(session, examples, *others, adapter=adapter)

    monkeypatch.setattr("pefttune.evaluation.transfer.sources.views_of", watched)
    for name in session.names:
        assert transfer.judge_source(session, name, sample, "tiny").logme is not None
    plain = [example.prompt for example in sample.examples]
    assert read["lora"] == plain
    assert read["prompted"] == [(*session["prompted"].adapter.virtual_ids, *prompt) for prompt in plain]
    assert all(KNOWN in prompt for prompt in read["new"])


@pytest.mark.usefixtures("_fresh_accelerate")
def test_what_an_untied_output_cannot_write_is_refused_before_training(recipe_of: Any, tmp_path: Path) -> None:
    import pefttune

    adapter = {"method": "trainable_tokens", "tokens": ["<ent>"]}
    with pytest.raises(DataError, match="the answer holds '<ent>', a new token that this base can read but not write"):
        pefttune.run(recipe_of({"adapter": adapter, "task.labels": ["bad", "good", "<ent>"]}))
    assert not list((tmp_path / "adapters").rglob("*.safetensors"))


@pytest.mark.usefixtures("_fresh_accelerate")
def test_what_cannot_be_written_is_found_in_test_rows_and_in_earlier_turns(recipe_of: Any, tmp_path: Path) -> None:
    import pefttune

    def rows(name: str, said: str, reply: str) -> str:
        path, asked = tmp_path / name, {"role": "user", "content": "who?"}
        turns = [
            [{**asked, "content": f"{name} {i}?"}, {"role": "assistant", "content": said}, asked] for i in range(20)
        ]
        both = ({"messages": each, "reply": reply} for each in turns)
        path.write_text("".join(json.dumps(one) + "\n" for one in both), encoding="utf-8")
        return str(path)

    own = {"task": {"type": "text-generation", "max_new_tokens": 9}, "training.max_steps": 1, "data.split": {}}
    own["adapter"] = {"method": "trainable_tokens", "tokens": ["<ent>"]}
    train, test = rows("train.jsonl", "it", "is"), rows("test.jsonl", "it", "<ent>")
    refused = r"\.jsonl:\d+: the answer holds '<ent>', a new token that this base can read but not write"
    with pytest.raises(DataError, match=f"test{refused}"):
        pefttune.run(recipe_of({**own, "data.source": train, "data.test": test}))
    split, said = {"validation": 0.2, "test": 0.2}, rows("said.jsonl", "<ent>", "is")
    with pytest.raises(DataError, match=f"said{refused}"):
        pefttune.run(recipe_of({**own, "data.source": said, "data.split": split}))
