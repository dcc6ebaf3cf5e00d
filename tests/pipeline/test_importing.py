"""Adapters that plain PEFT trained are taken in: their numbers as they are, and and what they compute as PEFT does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pefttune import evaluation, pipeline, store
from pefttune.errors import AdapterError
from pefttune.inference import open_session
from pefttune.recipe import load_recipe

IDS = torch.arange(5, 40)[None]
QUERIES = "model.layers.0.self_attn.q_proj"
CLASSES: dict[str, Any] = {"SEQ_CLS": AutoModelForSequenceClassification, "CAUSAL_LM": AutoModelForCausalLM}
# What else trainers leave beside an adapter.
LEFT = ("README.md", "trainer_state.json", "optimizer.pt", "training_args.bin", "tokenizer.json", "chat_template.jinja")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own


@pytest.fixture(autouse=True)
def _no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))


def plain(base: Path, task_type: str) -> Any:
    options = {"num_labels": 2} if task_type == "SEQ_CLS" else {}
    return CLASSES[task_type].from_pretrained(base, dtype=torch.float32, **options)


@pytest.fixture
def peft_folder(tiny: Path, tmp_path: Path) -> Any:
    """Writes what plain PEFT and a trainer on top of it leave: `peft_folder(r=4, target_modules=["q_proj"])`."""

    def make(base: Path = tiny, task_type: str = "CAUSAL_LM", **config: Any) -> Path:
        torch.manual_seed(7)
        model = get_peft_model(plain(base, task_type), LoraConfig(task_type=task_type, **{"r": 4, **config}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        folder = tmp_path / "foreign"
        model.save_pretrained(folder)
        for name in LEFT:
            (folder / name).write_bytes(b"whatever")
        return folder

    return make


@pytest.fixture
def recipe(tiny: Path, tmp_path: Path, new_recipe: Any, new_reviews: Any) -> Any:
    """The recipe of a task on the tiny base: `recipe()`, `recipe("head")`."""
    data = f"{{source: {new_reviews(tmp_path / 'reviews.jsonl')}, split: {{validation: 0.2, test: 0.3}}}}"

    def make(approach: str = "label-words", base: Path = tiny) -> Any:
        task = f"{{type: text-classification, approach: {approach}}}"
        return load_recipe(new_recipe(tmp_path, base, task, data))

    return make


@torch.no_grad()
def of_plain_peft(base: Path, task_type: str, folder: Path) -> Tensor:
    model = PeftModel.from_pretrained(plain(base, task_type), folder).eval()
    logits: Tensor = model(IDS, use_cache=False).logits
    return logits


KINDS: dict[str, dict[str, Any]] = {
    "some modules": {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 10},
    "rank-stabilized": {"target_modules": ["up_proj"], "lora_alpha": 5, "use_rslora": True},
    "a pattern of modules": {"target_modules": r".*\.1\.self_attn\.(q|k)_proj", "lora_alpha": 8},
    "ranks and alphas of modules": {
        "target_modules": ["q_proj", "down_proj"],
        "lora_alpha": 6,
        "rank_pattern": {"layers.0.self_attn.q_proj": 7, "^model.layers.1.mlp.down_proj": 2},
        "alpha_pattern": {"down_proj": 3, "nowhere": 1},
    },
    "dora": {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 10, "use_dora": True},
    "modules of several layers": {"target_modules": ["model.layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]},
    "dora of several layers": {"target_modules": ["0.self_attn.q_proj", "1.self_attn.v_proj"], "use_dora": True},
    "dora of a layer": {"target_modules": ["o_proj"], "layers_to_transform": [1], "use_dora": True, "use_rslora": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_plain_peft_computes(peft_folder: Any, recipe: Any, tiny: Path, kind: str) -> None:
    folder = peft_folder(**KINDS[kind])
    theirs = of_plain_peft(tiny, "CAUSAL_LM", folder)
    taken = pipeline.take_in(folder, recipe(), "foreign")
    session = open_session("foreign", "adapters", str(tiny))
    with session.passing("foreign"), torch.no_grad():
        ours = session.base.model(IDS, use_cache=False).logits
    without = plain(tiny, "CAUSAL_LM")(IDS, use_cache=False).logits
    assert (theirs - without).abs().max() > 0.01, "the adapter does nothing"
    if "dora" in kind:
        assert torch.equal(ours, theirs)
    else:  # PEFT adds the update to the base's product, where ours is added into it: the last bit is rounded otherwise
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    again = of_plain_peft(tiny, "CAUSAL_LM", taken.folder)
    assert torch.equal(again, theirs), "what was stored is not the same adapter for PEFT"
    before, after = (load_file(each / "adapter_model.safetensors") for each in (folder, taken.folder))
    assert {key.removesuffix(".weight") for key in before} == {key.removesuffix(".weight") for key in after}
    for key, tensor in after.items():
        assert torch.equal(tensor, before[key if key in before else key.removesuffix(".weight")])


def test_a_head_comes_along(peft_folder: Any, recipe: Any, tiny: Path) -> None:
    folder = peft_folder(task_type="SEQ_CLS", target_modules=["q_proj"])
    taken = pipeline.take_in(folder, recipe("head"), "foreign")
    assert "outputs of its head are read in the order of the recipe's labels: 0 is 'bad', 1 is 'good'" in taken.notes
    assert torch.equal(of_plain_peft(tiny, "SEQ_CLS", taken.folder), of_plain_peft(tiny, "SEQ_CLS", folder))


def test_an_encoder(peft_folder: Any, recipe: Any, tiny_encoder: Path) -> None:
    pattern = {"rank_pattern": {"bert.encoder.layer.0.attention.self.query": 3}}
    folder = peft_folder(base=tiny_encoder, task_type="SEQ_CLS", target_modules=["query", "value"], **pattern)
    taken = pipeline.take_in(folder, recipe("head", tiny_encoder), "foreign")
    ours, theirs = (of_plain_peft(tiny_encoder, "SEQ_CLS", each) for each in (taken.folder, folder))
    assert torch.equal(ours, theirs)
    modules = pipeline.look("foreign").modules
    assert modules["bert.encoder.layer.0.attention.self.query"].r == 3
    assert modules["bert.encoder.layer.0.attention.self.query"].scale == pytest.approx(8 / 3)
    assert modules["bert.encoder.layer.0.attention.self.value"].scale == 2.0


def test_what_is_stored(peft_folder: Any, recipe: Any, tmp_path: Path, tiny: Path) -> None:
    folder = peft_folder(target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/home/anna/models/llama"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    events: list[dict[str, Any]] = []
    taken = pipeline.take_in(folder, recipe(), "foreign", max_rows=6, notify=events.append)
    manifest = store.read_manifest(taken.folder)
    section = manifest["recipe"]["adapter"]
    assert (section["method"], section["r"], section["lora_alpha"], section["lora_dropout"]) == ("lora", 4, 8.0, 0.1)
    assert (section["target_modules"], section["layers"]) == (["q_proj", "v_proj"], None)
    assert (section["rank_pattern"], section["alpha_pattern"]) == ({}, {})
    assert (manifest["name"], manifest["comparison"]["rows"]) == ("foreign", 6)
    lineage = manifest["lineage"]
    assert (lineage["how"], lineage["base"], lineage["peft_version"]) == ("import", "llama", config["peft_version"])
    for file in taken.folder.iterdir():
        assert b"/home/anna" not in file.read_bytes()
    assert "Trained elsewhere, and taken in" in (taken.folder / "README.md").read_text()
    notices = [event["message"] for event in events if event["event"] == "notice"]
    assert notices == list(taken.notes)
    assert notices == [
        f"not read: {', '.join(sorted(LEFT))}",
        "never opened, for a pickle runs code: optimizer.pt, training_args.bin",
        "it says that its base is /home/anna/models/llama; it is taken as an adapter of tiny, whose layers it fits: "
        "whether it was trained on that, only the comparison tells",
    ]
    assert pipeline.verify("foreign", "adapters", str(tiny)).verdict.word == "equal"
    session = open_session("foreign", "adapters", str(tiny))
    evaluation.verify(session, "foreign", manifest["probe"])


@pytest.mark.parametrize(
    ("approach", "task_type", "told"),
    [
        ("label-words", "SEQ_CLS", "has score.weight beside its updates, and the recipe's task, text-classification, "),
        ("head", "CAUSAL_LM", "has no head beside its updates, .* takes score.weight: take the recipe of the task"),
    ],
)
def test_another_head_is_refused(
    peft_folder: Any, recipe: Any, tmp_path: Path, approach: str, task_type: str, told: str
) -> None:
    with pytest.raises(AdapterError, match=told):
        pipeline.take_in(peft_folder(task_type=task_type, target_modules=["q_proj"]), recipe(approach), "foreign")
    assert store.names(tmp_path / "adapters") == []


def test_another_base_is_refused(peft_folder: Any, recipe: Any, new_model: Any, tmp_path: Path) -> None:
    deeper = new_model(tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(AdapterError, match=r"adapts model\.layers\.2\.self_attn\.q_proj, and the recipe's base has no"):
        pipeline.take_in(peft_folder(base=deeper, target_modules=["q_proj"]), recipe(), "foreign")
    wider = new_model(tmp_path / "wider", intermediate_size=96)
    with pytest.raises(AdapterError, match=r"lora_A\.weight has shape \[4, 96\], but the base needs \[4, 64\]"):
        pipeline.take_in(peft_folder(base=wider, target_modules=["down_proj"]), recipe(), "foreign")
    assert store.names(tmp_path / "adapters") == []


def test_numbers_that_are_none_are_refused(peft_folder: Any, recipe: Any, tmp_path: Path) -> None:
    folder = peft_folder(target_modules=["q_proj"])
    state = load_file(folder / "adapter_model.safetensors")
    state[f"base_model.model.{QUERIES}.lora_B.weight"][1, 2] = torch.inf
    save_file(state, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"q_proj\.lora_B\.weight holds NaN or infinite values"):
        pipeline.take_in(folder, recipe(), "foreign")
    assert store.names(tmp_path / "adapters") == []


def test_half_of_an_update_is_refused(peft_folder: Any, recipe: Any) -> None:
    folder = peft_folder(target_modules=["q_proj"])
    state = load_file(folder / "adapter_model.safetensors")
    del state[f"base_model.model.{QUERIES}.lora_B.weight"]
    save_file(state, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=rf"{QUERIES}\.lora_B\.weight is missing"):
        pipeline.take_in(folder, recipe(), "foreign")
