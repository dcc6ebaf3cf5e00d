"""Encoder-decoders as bases of tasks whose answer is written, from the recipe to plain PEFT, on tiny random models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pefttune
from pefttune.data import Row
from pefttune.errors import BaseError, DataError
from pefttune.inference import BASE_ITSELF, Session
from pefttune.methods import weights
from pefttune.tasks import Generation

KINDS = ["T5", "Bart"]
WORDS = ["sun", "cat", "dog", "sea", "tree", "moon"]
ROWS = [
    ("About the sun. More of it, and much more than that.", "sun 1"),
    ("x", "a longer one"),
    ("The cat sat there.", "cat"),
]
# float32 on the same CPU: padding makes matrix products of other height, that is another order of the same sums.
ORDER_OF_SUMS = 1e-6


def write_data(folder: Path, task: str = "summarization") -> Path:
    path = folder / f"{task}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            word = WORDS[number % 6]
            long = f"About the {word}, number {number}. More of it."
            rows = {
                "summarization": {"document": long, "summary": [word, f"{word} {number}"]},
                "text-generation": {
                    "messages": [
                        {"role": "user", "content": f"Hello {number}"},
                        {"role": "assistant", "content": "Hi"},
                        {"role": "user", "content": long},
                        {"role": "assistant", "content": word},
                    ]
                },
                "text-classification": {"text": long, "label": word},
                "token-classification": {"tokens": [str(number), word], "tags": ["O", "B-X"]},
                "question-answering": {
                    "question": "What?",
                    "context": long,
                    "answers": {"text": [word], "answer_start": [long.index(word)]},
                },
            }
            file.write(json.dumps(rows[task]) + "\n")
    return path


def write_recipe(folder: Path, base: Path, task: str, changes: dict[str, Any]) -> Any:
    from pefttune.recipe import load_recipe

    own = "" if "classification" in task or "question" in task else ", max_new_tokens: 8"
    path = folder / f"{task}.yaml"
    path.write_text(
        f"task: {{type: {task}{own}}}\n"
        f"base: {{source: {base}, quantization: none, dtype: float32, device: cpu}}\n"
        f"data: {{source: {write_data(folder, task)}, split: {{validation: 0.2, test: 0.3}}, max_length: 96}}\n"
        "adapter: {method: lora, r: 4}\n"
        "training: {per_device_train_batch_size: 8, learning_rate: 2e-2, max_steps: 20, eval_steps: 10}\n"
        "evaluation: {bootstrap_samples: 100}\n"
        f"output: {{name: pairs, store: {folder}/adapters, runs: {folder}/runs}}\n",
        encoding="utf-8",
    )
    return load_recipe(path, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


@pytest.fixture
def recipe_for(tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Recipes on a tiny encoder-decoder, without the figure: `recipe_for("T5", {"adapter.layers": "top-1"})`."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))

    def make(kind: str, changes: dict[str, Any] | None = None, task: str = "summarization") -> Any:
        return write_recipe(tmp_path, tiny_pair(kind), task, changes or {})

    return make


@pytest.fixture(scope="module")
def done(tiny_pair: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run of summarization on the tiny T5 or BART, made once: the `Run`, its events, its store and cache."""
    from types import SimpleNamespace

    runs: dict[str, Any] = {}

    def run(kind: str) -> Any:
        if kind not in runs:
            folder, events = tmp_path_factory.mktemp(kind), []
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PEFTTUNE_CACHE", str(folder / "cache"))
                one = pefttune.run(write_recipe(folder, tiny_pair(kind), "summarization", {}), events.append)
            runs[kind] = SimpleNamespace(run=one, events=events, store=folder / "adapters", cache=folder / "cache")
        return runs[kind]

    return run


@pytest.fixture
def pairs_of(base_of: Any, tiny_pair: Any) -> Any:
    """A session on a tiny encoder-decoder with the adapter `a` of random weights, as after training."""
    from pefttune import tasks
    from pefttune.recipe import schema
    from pefttune.recipe import tasks as sections

    def open_(kind: str, names: str = "a", **changes: Any) -> Session:
        session = Session(base_of(tiny_pair(kind), **changes))
        for name in names:
            section = sections.Summarization(type="summarization", instruction="summarize:", max_new_tokens=20)
            loaded = session.add(name, session.attach(tasks.get(section), schema.Lora(method="lora", r=4), 96))
            torch.manual_seed(ord(name))
            for parameter in loaded.parameters.values():
                parameter.data.normal_(std=0.2)
        return session

    return open_


def examples(session: Session, name: str = "a") -> list[Any]:
    rows = [Row({"document": document, "summary": [summary]}, "row") for document, summary in ROWS]
    return [example for row in rows for example in session[name].encoder(row)]


def plain_model(folder: Path) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", [*KINDS, "Marian", "Pegasus"])
def test_the_loss_is_that_of_transformers_on_the_same_rows(pairs_of: Any, tiny_pair: Any, kind: str) -> None:
    session = pairs_of(kind)
    session.use("a")
    tokenizer = session.base.tokenizer
    texts, summaries = ["summarize: " + document for document, _ in ROWS], [summary for _, summary in ROWS]
    given = tokenizer(texts, text_target=summaries, padding=True, return_tensors="pt")
    labels = given["labels"].masked_fill(given["labels"] == tokenizer.pad_token_id, -100)
    batch = session.collator.collate(examples(session), every_answer=False)
    assert torch.equal(batch.ids_BT, given["input_ids"])
    assert batch.n_scored == int((labels != -100).sum())
    inputs = {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"], "labels": labels}
    with torch.no_grad():
        adapted = session.base.model(**inputs).loss.item()
        assert session.loss("a", batch).item() == pytest.approx(adapted * batch.n_scored, rel=ORDER_OF_SUMS)
        plain = plain_model(tiny_pair(kind))(**inputs).loss.item()
        itself = session.loss(BASE_ITSELF + "a", batch).item()
    assert itself == pytest.approx(plain * batch.n_scored, rel=ORDER_OF_SUMS)
    assert abs(adapted - plain) > 1000 * ORDER_OF_SUMS, "the adapter does nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_do_not_depend_on_the_batch(pairs_of: Any, kind: str) -> None:
    session = pairs_of(kind)
    own = examples(session)
    together = session.scores("a", own)
    assert [len(each) for each in together] == [len(each.answers[0]) for each in own]
    for example, scores in zip(own, together, strict=True):
        torch.testing.assert_close(session.scores("a", [example])[0], scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_transformers_writes(pairs_of: Any, tiny_pair: Any, kind: str, num_beams: int) -> None:
    session, model = pairs_of(kind), plain_model(tiny_pair(kind))
    own = examples(session)
    # BART puts its end where the answer must stop: that is no end, and no part of what is written.
    forced = model.generation_config.forced_eos_token_id
    for longest in (6, 20):
        ours = session.generate(BASE_ITSELF + "a", own, Generation(longest, num_beams=num_beams))
        for example, writing in zip(own, ours, strict=True):
            ids = torch.tensor([example.prompt])
            (tokens,) = model.generate(ids, max_new_tokens=longest, min_new_tokens=0, num_beams=num_beams).tolist()
            written = tokens[1:-1] if forced is not None and len(tokens) == longest + 1 else tokens[1:]
            text = session.base.tokenizer.decode(written, skip_special_tokens=True)
            assert writing.text == text.rstrip("\ufffd").strip()  # half a character is none
            assert writing.ended == (model.generation_config.eos_token_id in written)
    assert len({writing.text for writing in ours}) > 1, "all texts look alike, so nothing is compared"


def test_each_row_is_written_by_its_own_adapter(pairs_of: Any) -> None:
    session = pairs_of("T5", "ab")
    documents = [document for document, _ in ROWS]
    alone = {name: [each.text for each in session.predict(documents, name)] for name in "ab"}
    assert alone["a"] != alone["b"]
    mixed = [each.text for each in session.predict(documents, ["b", "a", "b"])]
    assert mixed == [alone["b"][0], alone["a"][1], alone["b"][2]]
    assert list(session.stream("a", documents[0])) == [alone["a"][0]]  # in one piece


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_is_proved_and_opens_again(done: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = done(kind)
    losses = [event["loss"] for event in finished.events if event["event"] == "step"]
    assert len(losses) == 20
    assert sum(losses[-3:]) < sum(losses[:3]) - 1  # seeded, so always by the same amount
    assert [event["message"] for event in finished.events if event["event"] == "notice"] == [
        "this base reads padded batches, which are slower: ragged, its decoder would look at the texts of all examples"
    ]
    assert next(iter(finished.run.comparison.others)) == "base, zero-shot"
    monkeypatch.setenv("PEFTTUNE_CACHE", str(finished.cache))
    monkeypatch.chdir(finished.store.parent)
    assert pefttune.evaluate("pairs", finished.store).adapter == finished.run.comparison.adapter


@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_conversation_is_answered(recipe_for: Any, tmp_path: Path) -> None:
    run = pefttune.run(recipe_for("T5", {"training.max_steps": 4}, "text-generation"))
    session = pefttune.open_session("pairs", tmp_path / "adapters")
    predictions = list(session.predict(run.manifest["probe"]["rows"]))
    assert {type(prediction).__name__ for prediction in predictions} == {"Written"}


PLAIN = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

def logits(model, pairs):
    with torch.no_grad():
        return [model(ids, labels=own).logits[0].tolist() for ids, own in pairs]

result = {}
for kind, asked in json.load(sys.stdin).items():
    base = AutoModelForSeq2SeqLM.from_pretrained(asked["base"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, asked["folder"]).eval()
    pairs = [(torch.tensor([ids]), torch.tensor([own])) for ids, own in asked["pairs"]]
    told = {"class": type(model).__name__, "logits": logits(model, pairs)}
    told["written"] = [model.generate(input_ids=ids, max_new_tokens=8)[0].tolist() for ids, own in pairs]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    result[kind] = {**told, "without": logits(model, pairs)}
assert not any(name.startswith("pefttune") for name in sys.modules)
json.dump(result, sys.stdout)
"""


@pytest.fixture(scope="module")
def opened(done: Any) -> dict[str, Session]:
    """What was published, in sessions."""
    with pytest.MonkeyPatch.context() as patch:
        sessions = {}
        for kind in KINDS:
            patch.setenv("PEFTTUNE_CACHE", str(done(kind).cache))
            sessions[kind] = pefttune.open_session("pairs", done(kind).store)
    return sessions


@pytest.fixture(scope="module")
def plain(done: Any, opened: dict[str, Session], tiny_pair: Any) -> dict[str, Any]:
    """Logits and answers of transformers and PEFT in a process that never imports pefttune."""
    sent = {
        kind: {
            "base": str(tiny_pair(kind)),
            "folder": str(done(kind).run.folder),
            "pairs": [(each.prompt, each.answers[0]) for each in examples(opened[kind], "pairs")],
        }
        for kind in KINDS
    }
    ended = subprocess.run([sys.executable, "-c", PLAIN], input=json.dumps(sent), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_plain_peft_loads_what_was_published_with_equal_logits(
    opened: dict[str, Session], plain: dict[str, Any], kind: str
) -> None:
    session, theirs = opened[kind], plain[kind]
    assert theirs["class"] == "PeftModelForSeq2SeqLM"
    session.use("pairs")
    moved = 0.0
    for example, logits, without in zip(examples(session, "pairs"), theirs["logits"], theirs["without"], strict=True):
        ids, labels = torch.tensor([example.prompt]), torch.tensor([example.answers[0]])
        with torch.no_grad():
            ours = session.base.model(ids, labels=labels).logits[0]
        torch.testing.assert_close(ours, torch.tensor(logits), rtol=1e-6, atol=1e-5)  # LoRA's sums in another order
        moved = max(moved, float((ours - torch.tensor(without)).abs().max()))
    assert moved > 0.1, "an adapter that PEFT loads but ignores would pass"


@pytest.mark.parametrize("kind", KINDS)
def test_plain_peft_writes_the_same(opened: dict[str, Session], plain: dict[str, Any], kind: str) -> None:
    session = opened[kind]
    for writing, tokens in zip(
        session.generate("pairs", examples(session, "pairs")), plain[kind]["written"], strict=True
    ):
        text = session.base.tokenizer.decode(tokens, skip_special_tokens=True)
        assert writing.text == text.rstrip("\ufffd").strip()


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("T5", ["k", "o", "q", "v", "wi_0", "wi_1", "wo"]),
        ("Bart", ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]),
    ],
)
def test_every_linear_layer_but_the_output_is_adapted_and_the_card_names_the_class(
    done: Any, kind: str, targets: list[str]
) -> None:
    folder = done(kind).run.folder
    config = json.loads((folder / weights.CONFIG).read_text())
    assert (config["task_type"], config["target_modules"]) == ("SEQ_2_SEQ_LM", targets)
    tensors = load_file(folder / weights.WEIGHTS)
    # T5: 4 in each attention, 3 in each block's feed-forward part; BART: 4 and 2. Two layers on each side, A and B.
    feed_forward = 3 if kind == "T5" else 2
    assert len(tensors) == 2 * 2 * ((4 + feed_forward) + (4 + 4 + feed_forward))
    card = (folder / "README.md").read_text()
    assert "with the base read by\ntransformers' `AutoModelForSeq2SeqLM`." in card
    assert "Summarize the text. {text}" in card


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_quantized_t5_trains_and_is_proved(recipe_for: Any, quantization: str) -> None:
    run = pefttune.run(recipe_for("T5", {"base.quantization": quantization, "training.max_steps": 4}))
    assert run.manifest["base"]["fingerprint"]["quantization"].startswith(quantization)


def test_a_t5_in_half_precision_keeps_its_own_norms(pairs_of: Any) -> None:
    """transformers leaves `wo` in float32 there, and a norm that does not bring that back would not run."""
    session = pairs_of("T5", dtype="float16")
    dense = session.base.model.encoder.block[0].layer[1].DenseReluDense
    assert (dense.wo.weight.dtype, dense.wi_0.weight.dtype) == (torch.float32, torch.float16)
    assert all(scores.isfinite().all() for scores in session.scores("a", examples(session)))
    assert len(session.generate("a", examples(session))) == len(ROWS)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering"])
@pytest.mark.usefixtures("_fresh_accelerate")
def test_tasks_that_write_nothing_are_refused_before_training(recipe_for: Any, task: str, tmp_path: Path) -> None:
    with pytest.raises(BaseError) as raised:
        pefttune.run(recipe_for("T5", task=task))
    assert str(raised.value) == (
        f"{task} reads the states of a decoder or an encoder, and this base is an encoder-decoder, which does "
        "summarization and text-generation: take a base like Llama or BERT"
    )
    assert list((tmp_path / "adapters").rglob("*")) == []


@pytest.mark.parametrize("layers", ["top-1", [0]])
@pytest.mark.usefixtures("_fresh_accelerate")
def test_some_layers_alone_are_refused(recipe_for: Any, layers: Any) -> None:
    with pytest.raises(BaseError) as raised:
        pefttune.run(recipe_for("Bart", {"adapter.layers": layers}))
    assert str(raised.value) == (
        "adapter.layers: this base is an encoder-decoder, and its encoder and its decoder count their layers each from "
        "0; leave it out, so that all are adapted, or choose modules by adapter.target_modules"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.max_length": 129}, "data.max_length: 129 tokens are more than this base reads; it has 128"),
        (
            {"data.max_length": 21},
            "data.max_length: 21 tokens leave no room for a text; what stands around it takes 22",
        ),
        (
            {"task.max_new_tokens": 97},
            "data.max_length: 96 tokens are fewer than the 97 of task.max_new_tokens; raise the one or lower the other",
        ),
    ],
)
@pytest.mark.usefixtures("_fresh_accelerate")
def test_limits_that_cannot_be_kept_are_refused(recipe_for: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError) as raised:
        pefttune.run(recipe_for("Bart", changes))
    assert str(raised.value) == told


def test_features_are_refused(pairs_of: Any) -> None:
    from pefttune.inference import extract

    with pytest.raises(BaseError) as raised:
        next(extract(pairs_of("T5"), [Row({"text": "x"}, "row 1")], "mean", 32))
    assert str(raised.value) == (
        "this base is an encoder-decoder, whose states are not read as features: take a decoder or an encoder"
    )


def test_a_base_that_does_not_say_how_it_begins_is_refused(
    new_encoder_decoder: Any, base_of: Any, tmp_path: Path
) -> None:
    folder = new_encoder_decoder(tmp_path / "bart", "Bart", decoder_start_token_id=None)
    with pytest.raises(BaseError) as raised:
        base_of(folder)
    assert str(raised.value) == (
        f"{folder}: its config.json has no decoder_start_token_id, with which BartForConditionalGeneration begins to "
        "write"
    )


def test_a_base_that_does_not_say_what_its_decoder_reads_is_refused(
    new_encoder_decoder: Any, base_of: Any, tmp_path: Path
) -> None:
    from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration

    folder = new_encoder_decoder(tmp_path / "blender", "Bart")
    small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    config = BlenderbotConfig(vocab_size=260, d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, **small)
    BlenderbotForConditionalGeneration(config).save_pretrained(folder)
    with pytest.raises(BaseError) as raised:
        base_of(folder)
    assert str(raised.value) == (
        f"{folder}: transformers' BlenderbotForConditionalGeneration does not say what its decoder reads in training; "
        "encoder-decoders such as T5, BART, Pegasus and Marian can be a base"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_draws_the_text_read_and_the_answer_trained(recipe_for: Any, kind: str) -> None:
    from pefttune import doctor, pipeline

    recipe = recipe_for(kind)
    report = doctor.examine(recipe, *pipeline.read_data(recipe))
    assert [str(finding) for finding in report.findings if finding.level != "note"] == []
    assert report.positions == (128 if kind == "Bart" else None)
    for shown in report.shown:
        first = {"T5": "", "Bart": "<s>"}[kind]
        text = "".join(token.text for token in shown.tokens if token.role == "read")
        assert text.startswith(f"{first}Summarize the text. About the ")
        assert text.endswith("More of it.</s>")
        answer = "".join(token.text for token in shown.tokens if token.role == "trained")
        assert answer.strip() in {f"{first}{word}</s>" for word in WORDS}


def test_the_doctor_refuses_what_the_run_refuses(recipe_for: Any) -> None:
    from pefttune import doctor, pipeline

    recipe = recipe_for("T5", task="token-classification")
    with pytest.raises(BaseError, match="token-classification reads the states of a decoder or an encoder"):
        doctor.examine(recipe, *pipeline.read_data(recipe))
