"""Virtual tokens: vectors of an adapter before every text, PEFT's to the bit, in every kind of batch."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import safetensors
import torch
import transformers
from pydantic import TypeAdapter
from torch import Tensor

from pefttune import methods, tasks
from pefttune.batching import hidden_rows
from pefttune.data import Row
from pefttune.errors import BaseError, DataError, RecipeError
from pefttune.inference import Session
from pefttune.inference.forward import can_share
from pefttune.methods.prefix import _of_words
from pefttune.recipe import adapters as sections
from pefttune.recipe import recipe_from_mapping
from pefttune.recipe import tasks as task_sections

N = 3
SMALL: dict[str, dict[str, Any]] = {
    "prompt_tuning": {},
    "p_tuning": {"encoder_hidden_size": 16},
    "prefix_tuning": {},
    "p_tuning-lstm": {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 16},
}
TURNED = 1e-5
IDS = torch.arange(5, 40)[None]


def section(kind: str, **changes: Any) -> Any:
    method = kind.partition("-")[0]
    told = {"method": method, "num_virtual_tokens": N, **SMALL[kind], **changes}
    return TypeAdapter(sections.AdapterSection).validate_python(told)


def moved(adapter: Any, seed: int = 3) -> None:
    """As after training: every weight somewhere else."""
    torch.manual_seed(seed)
    for parameter in adapter.parameters.values():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)


@torch.no_grad()
def logits(model: Any, adapter: Any) -> Tensor:
    """Of the text behind the virtual tokens."""
    methods.activate(model, adapter)
    ids = torch.cat([torch.tensor([adapter.virtual_ids], dtype=torch.long), IDS], dim=1)
    found: Tensor = model(ids, use_cache=False).logits
    methods.activate(model)
    return found[:, len(adapter.virtual_ids) :]


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("kind", SMALL)
def test_plain_peft_computes_the_same(model_of: Any, tmp_path: Any, kind: str) -> None:
    model = model_of("Llama")
    adapter = methods.attach(model, section(kind))
    moved(adapter)
    methods.weights.write(tmp_path, adapter.config(), methods.weights.copied(adapter.state()), "tiny", None)
    theirs = peft.PeftModel.from_pretrained(model_of("Llama"), tmp_path)
    with torch.no_grad():
        found = theirs(IDS).logits
    ours = logits(model, adapter)
    if kind == "prefix_tuning":  # keys are turned back and forth, which costs the last bits of some
        assert (found - ours).abs().max() <= TURNED * ours.abs().max()
    else:
        assert torch.equal(found[:, N:], ours)


def recipe_with(quantization: str = "none", **adapter: Any) -> Any:
    return recipe_from_mapping(
        {
            "task": {"type": "text-classification", "labels": ["bad", "good"]},
            "base": {"quantization": quantization},
            "data": {"source": "x.csv"},
            "adapter": adapter,
            "output": {"name": "x"},
        },
        "recipe.yaml",
    )


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
@pytest.mark.parametrize("kind", SMALL)
def test_it_learns_in_ten_steps_is_read_back_to_the_bit_and_leaves_the_base_as_it_was(
    learn: Any, base_of: Any, kind: str, quantization: str
) -> None:
    assert recipe_with(quantization, method=kind.partition("-")[0])
    base = base_of(quantization=quantization)
    model, digest, modules = base.model, base.digest(), dict(base.model.named_modules())
    with torch.no_grad():
        before = model(IDS, use_cache=False).logits
    adapter = methods.attach(model, section(kind))
    first = logits(model, adapter)
    assert first.isfinite().all()
    assert not torch.equal(first, before)
    ids = torch.cat([torch.tensor([adapter.virtual_ids]), IDS], dim=1)
    labels = torch.cat([torch.full((1, N), -100), IDS], dim=1)

    def loss() -> Tensor:
        methods.activate(model, adapter)
        found: Tensor = model(ids, labels=labels, use_cache=False).loss
        methods.activate(model)
        return found

    learn(adapter, loss)
    trained = logits(model, adapter)
    assert not torch.equal(trained, first)
    again = methods.attach(model, section(kind).stored())
    methods.weights.fill(again.parameters, methods.weights.copied(adapter.state()))
    assert torch.equal(logits(model, again), trained)
    with torch.no_grad():
        assert torch.equal(model(IDS, use_cache=False).logits, before)
    for one in (adapter, again):
        methods.detach(model, one)
    assert dict(model.named_modules()) == modules
    assert base.digest() == digest
    assert not any(p.requires_grad for p in model.parameters())


@pytest.fixture
def session(base_of: Any) -> Session:
    return Session(base_of())


def add(session: Session, kind: str, name: str = "", seed: int = 3, max_length: int = 256, **task: Any) -> Any:
    told = {"type": "text-classification", "labels": ("bad", "good"), "approach": "label-words", **task}
    told = {key: value for key, value in told.items() if value is not None}
    made = tasks.get(TypeAdapter(task_sections.TaskSection).validate_python(told))
    loaded = session.add(name or kind, session.attach(made, section(kind), max_length))
    moved(loaded, seed)
    return loaded


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
def test_ragged_batches_with_a_shared_beginning_give_what_texts_alone_give(
    session: Session, ragged: Any, examples_of: Any, kind: str
) -> None:
    loaded = add(session, kind)
    examples = examples_of(loaded, ragged)
    assert all(example.prompt[:N] == loaded.adapter.virtual_ids for example in examples)
    ours = session.scores(kind, examples)
    assert session.collator.is_ragged(examples)
    (batch,) = [session.collator.collate(examples, every_answer=True)]
    assert batch.ids_BT.flatten().tolist().count(loaded.adapter.virtual_ids[0]) == 1
    model = session.base.model
    for example, scores in zip(examples, ours, strict=True):
        for answer, score in zip(example.answers, scores, strict=True):
            ids = torch.tensor([[*example.prompt, *answer]])
            with torch.no_grad(), session.passing(kind):
                chances = model(ids, use_cache=False).logits[0].log_softmax(-1)
            own = chances[range(len(example.prompt) - 1, ids.shape[1] - 1), answer].sum()
            assert own == pytest.approx(float(score), abs=1e-4)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
def test_it_writes_what_plain_peft_writes(session: Session, tiny: Any, tmp_path: Any, kind: str) -> None:
    loaded = add(session, kind, type="text-generation", max_new_tokens=12, labels=None, approach=None)
    texts = ["Hello", "Two and two? Say it in one word.", "A"]
    rows = [Row({"messages": [{"role": "user", "content": text}]}, text) for text in texts]
    examples = [loaded.encoder(row)[-1] for row in rows]
    written = session.generate(kind, examples)
    assert session.collator.is_ragged(examples)
    assert session.can_write
    session.collator.ragged = False
    assert [one.text for one in session.generate(kind, examples)] == [one.text for one in written]
    methods.weights.write(tmp_path, loaded.peft_config(), loaded.state(), "tiny", None)
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(tiny), tmp_path)
    for example, ours in zip(examples, written, strict=True):
        ids = torch.tensor([example.prompt[N:]])
        told = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 12}
        (found,) = theirs.generate(input_ids=ids, **told)
        text = session.base.tokenizer.decode(found[-12:], skip_special_tokens=True)
        assert text.rstrip("\ufffd").strip().endswith(ours.text)  # bytes that are no character yet
    assert any(ours.text for ours in written)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
def test_plain_peft_reads_a_head_with_them(session: Session, tiny: Any, tmp_path: Any, kind: str) -> None:
    loaded = add(session, kind, approach="head")
    (example,) = loaded.encoder(Row({"text": "fine film", "label": "good"}, "row"))
    (scores,) = session.scores(kind, [example])
    methods.weights.write(tmp_path, loaded.peft_config(), loaded.state(), "tiny", None)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    with torch.no_grad():
        found = theirs(torch.tensor([example.prompt[N:]])).logits[0].log_softmax(-1)
    torch.testing.assert_close(scores, found, rtol=1e-4, atol=1e-5)


def test_several_of_them_and_loras_share_a_pass_with_the_gradients_of_each_alone(
    session: Session, adapted: Any, ragged: Any, examples_of: Any
) -> None:
    names = [*SMALL, "other"]
    for seed, kind in enumerate(SMALL):
        add(session, kind, seed=seed)
    add(session, "prompt_tuning", "other", seed=9, approach="head")
    adapted(session, "lora")
    names.append("lora")
    batches = []
    for name in names:
        session[name].train(True)
        examples = examples_of(session[name], ragged)
        session.collator.found_ragged(examples)
        batches.append((name, session.collator.collate(examples, every_answer=False)))
    found = {}
    for together in (False, True):
        parts = [batches] if together else [[one] for one in batches]
        losses = [loss for part in parts for loss in session.losses(part)]
        sum(losses).backward()
        gradients = {}
        for name in names:
            for key, parameter in session[name].parameters.items():
                gradients[name, key], parameter.grad = parameter.grad, None
        found[together] = losses, gradients
    assert can_share(session.base.model, [session[name] for name in names])
    for alone, together in zip(found[False][0], found[True][0], strict=True):
        assert together.item() == pytest.approx(alone.item(), rel=1e-5)
    for key, alone in found[False][1].items():
        assert alone.abs().max() > 0
        torch.testing.assert_close(found[True][1][key], alone, rtol=1e-3, atol=1e-5, msg=str(key))


@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning"])
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering"])
def test_heads_of_an_encoder_read_the_tokens_that_they_are_to_read(
    base_of: Any, tiny_encoder: Any, kind: str, task: str
) -> None:
    session = Session(base_of(tiny_encoder))
    told = {
        "text-classification": {"approach": "head"},
        "token-classification": {"labels": ["X"], "approach": None},
        "question-answering": {"labels": None, "approach": None},
    }
    rows = {
        "text-classification": {"text": "fine film", "label": "good"},
        "token-classification": {"tokens": ["fine", "film"], "tags": ["O", "B-X"]},
        "question-answering": {
            "question": "what?",
            "context": "a fine film",
            "answers": {"text": ["film"], "answer_start": [7]},
        },
    }
    loaded = add(session, kind, type=task, **told[task])
    row = Row(rows[task], "row")
    (example,), (plain,) = loaded.encoder(row), loaded.encoder.plain(row)
    assert loaded.encoder.without([example]) == [plain]
    assert [example.prompt[place] for place, _ in example.marks] == [plain.prompt[place] for place, _ in plain.marks]
    (prediction,) = session.predict([rows[task]], kind)
    with torch.no_grad(), session.passing(kind):
        batch = session.collator.collate([example], every_answer=False)
        states = session.base.model(input_ids=torch.tensor([example.prompt])).last_hidden_state[0]
        expected = states[[place for place, _ in example.marks]]
        torch.testing.assert_close(hidden_rows(session.base.model, batch), expected, rtol=1e-4, atol=1e-5)
    assert 0 <= prediction.confidence <= 1


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning"])
@pytest.mark.parametrize("base", ["T5", "Bart"])
def test_an_encoder_decoder_reads_them_as_plain_peft_has_it(
    base_of: Any, tiny_pair: Any, tmp_path: Any, kind: str, base: str
) -> None:
    session = Session(base_of(tiny_pair(base)))
    loaded = add(session, kind, type="summarization", max_new_tokens=8, max_length=120, labels=None, approach=None)
    (example,) = loaded.encoder(Row({"document": "A fine film.", "summary": ["film"]}, "row"))
    (scores,) = session.scores(kind, [example])
    methods.weights.write(tmp_path, loaded.peft_config(), loaded.state(), "tiny", None)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_pair(base))
    theirs = peft.PeftModel.from_pretrained(model, tmp_path)
    labels = torch.tensor([example.answers[0]])
    with torch.no_grad():
        ids = torch.tensor([example.prompt[N:]])
        found = theirs(ids, attention_mask=torch.ones_like(ids), labels=labels).logits[0].log_softmax(-1)
    expected = found.gather(1, labels[0][:, None])[:, 0]
    torch.testing.assert_close(scores.flatten().sum(), expected.sum(), rtol=1e-5, atol=1e-5)
    assert session.generate(kind, [example])[0].text is not None


@pytest.mark.usefixtures("_fresh_accelerate")
@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_a_run_from_the_recipe_to_the_store_and_back(recipe_of: Any, tmp_path: Any, kind: str) -> None:
    import pefttune

    recipe = recipe_of({"adapter": {"method": kind, "num_virtual_tokens": N}, "data.max_length": 200})
    events: list[dict[str, Any]] = []
    run = pefttune.run(recipe, events.append)
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert losses[-1] < losses[0]
    assert not [event for event in events if "padded" in str(event.get("message"))]
    with safetensors.safe_open(run.folder / methods.weights.WEIGHTS, "pt") as file:
        assert list(file.keys()) == ["prompt_embeddings"]
    session = pefttune.open_session("tiny", tmp_path / "adapters")
    assert pefttune.evaluate("tiny", tmp_path / "adapters").adapter == run.comparison.adapter
    assert len(list(session.predict(["fine film", "dull"]))) == 2


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_text_and_virtual_tokens_must_fit_the_positions(recipe_of: Any, method: str) -> None:
    import pefttune

    recipe = recipe_of({"adapter": {"method": method, "num_virtual_tokens": 100}, "data.max_length": 413})
    told = "data.max_length with adapter.num_virtual_tokens: 513 tokens are more than this base reads; it has 512"
    with pytest.raises(DataError, match=told):
        pefttune.run(recipe)


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ({"num_virtual_tokens": 0}, "adapter.num_virtual_tokens"),
        ({"num_virtual_tokens": 2000}, "adapter.num_virtual_tokens"),
        ({"prompt_tuning_init": "text"}, "needs words to begin with: set `prompt_tuning_init_text`"),
        ({"prompt_tuning_init": "text", "prompt_tuning_init_text": " "}, "needs words to begin with"),
        ({"prompt_tuning_init_text": "Good?"}, "is read with `prompt_tuning_init: text` only"),
    ],
)
def test_what_the_recipe_refuses(adapter: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe_with(method="prompt_tuning", **adapter)


def test_a_prompt_begins_as_it_is_told(base_of: Any) -> None:
    base = base_of()
    table = base.model.get_input_embeddings().weight

    def begun(**changes: Any) -> Tensor:
        adapter = methods.attach(base.model, section("prompt_tuning", num_virtual_tokens=8, **changes), base.tokenizer)
        return adapter.parameters["prompt_embeddings"]

    ids = base.tokenizer("Great")["input_ids"]
    said = begun(prompt_tuning_init="text", prompt_tuning_init_text="Great")
    assert torch.equal(said, table[[*ids, *ids[:3]]])
    assert all((table == vector).all(1).any() for vector in begun())
    assert begun(prompt_tuning_init="random").std() > 0.5


def test_what_a_prompt_says_at_first_is_no_text_of_its_own(base_of: Any, tiny_encoder: Any) -> None:
    base = base_of(tiny_encoder)
    told = {"prompt_tuning_init": "text", "prompt_tuning_init_text": "good"}
    adapter = methods.attach(base.model, section("prompt_tuning", **told), base.tokenizer)
    own = base.tokenizer("good", add_special_tokens=False)["input_ids"]
    assert len(base.tokenizer("good")["input_ids"]) == len(own) + 2
    expected = base.model.get_input_embeddings().weight[(own * N)[:N]]
    assert torch.equal(adapter.parameters["prompt_embeddings"], expected)


def test_virtual_tokens_are_none_of_the_vocabulary_and_a_prefix_begins_at_words(model_of: Any) -> None:
    model = model_of("Llama")
    size, heads = model.config.vocab_size, model.config.num_key_value_heads
    torch.manual_seed(5)
    expected = _of_words(model, N).flatten(1)
    torch.manual_seed(5)
    prefix = methods.attach(model, section("prefix_tuning"))
    assert torch.equal(prefix.parameters["prompt_embeddings"], expected)
    assert prefix.config()["num_attention_heads"] == heads != model.config.num_attention_heads
    narrow = methods.attach(model, section("p_tuning"))
    assert narrow.parameters["prompt_encoder.mlp_head.0.weight"].shape == (16, model.config.hidden_size)
    for adapter in (prefix, narrow, methods.attach(model, section("prompt_tuning"))):
        assert adapter.virtual_ids == tuple(range(size, size + N))


@pytest.mark.parametrize("kind", ["GPT2", "Qwen3", "Gemma3Text", "Bert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prefix_is_refused_where_keys_are_more_than_rotated(model_of: Any, kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, **({"n_embd": 32, "n_layer": 2, "n_head": 4} if kind == "GPT2" else {})).to(dtype)
    modules = dict(model.named_modules())
    with pytest.raises(BaseError, match=r"prefix_tuning does not work with .*Llama, Mistral.* and lora do"):
        methods.attach(model, section("prefix_tuning"))
    assert dict(model.named_modules()) == modules


def test_a_prefix_is_refused_where_some_layers_do_not_rotate(model_of: Any) -> None:
    with pytest.raises(BaseError, match="prefix_tuning does not work with SmolLM3ForCausalLM"):
        methods.attach(model_of("SmolLM3", num_hidden_layers=4, no_rope_layer_interval=4), section("prefix_tuning"))


@pytest.mark.parametrize("kind", ["Mistral", "Qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prefix_works_where_they_are_no_more_than_that(model_of: Any, kind: str, dtype: torch.dtype) -> None:
    assert methods.attach(model_of(kind).to(dtype), section("prefix_tuning"))


def test_a_prefix_works_where_turning_lengthens(model_of: Any) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    model = model_of("Llama", rope_parameters=yarn)
    cos, sin = model.base_model.rotary_emb(torch.zeros(1), torch.arange(N)[None])
    assert (cos**2 + sin**2).min() > 1.1
    assert methods.attach(model, section("prefix_tuning"))
