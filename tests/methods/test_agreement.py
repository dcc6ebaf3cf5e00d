"""A configuration is that of the adapter whose recipe and weights lie beside it, or it is refused, without any base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune import methods
from pefttune.errors import AdapterError
from pefttune.methods.agreement import OF_WRITING, TENSORS, check_alone
from pefttune.methods.settings import SETTINGS
from pefttune.methods.weights import CONFIG
from pefttune.recipe.adapters import METHODS

Q_PROJ = "model.layers.0.self_attn.q_proj"
ON_THE_BASE = {"token_indices", "num_attention_heads", "feedforward_modules"}
"""What shows there alone, or where PEFT itself fails for the shape of the weights."""
KEYS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "rank_pattern": {Q_PROJ: 2}, "alpha_pattern": {Q_PROJ: 3}},
    "adalora": {"init_r": 4, "target_r": 2},
    "oft": {"oft_block_size": 8},
    "vera": {"r": 16},
    "miss": {"r": 4},
    "trainable_tokens": {"tokens": ["f"]},
}


@pytest.fixture
def saved(base_of: Any, tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """The folder of a new adapter by a recipe's section, and the section."""

    def save(method: str, model: Path | None = None, **keys: Any) -> tuple[Path, Any]:
        base = base_of(model) if model else base_of()
        section = METHODS[method](method=method, **keys)
        adapter = methods.attach(base.model, section, base.tokenizer)
        methods.weights.write(tmp_path, adapter.config(), adapter.state(), "base", None)
        return tmp_path, section

    return save


def say(folder: Path, **keys: Any) -> None:
    """Let the configuration say something else."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **keys}))


def otherwise(value: Any) -> Any:
    """Something else of the kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return value[1:]
    if isinstance(value, dict):
        return {key: each + 1 for key, each in value.items()} if value else {"x": 1}
    return "SEQ_CLS" if isinstance(value, str) else ["x"]


@pytest.mark.parametrize("method", [method for method in SETTINGS if method != "head"])
def test_whatever_key_says_something_else(saved: Any, method: str) -> None:
    """Each key of the file in turn, but those that tell by whom it was made."""
    folder, section = saved(method, **KEYS.get(method, {}))
    check_alone(folder, section, None)
    config = json.loads((folder / CONFIG).read_text())
    believed = []
    for key in sorted(config.keys() - OF_WRITING - ON_THE_BASE):
        say(folder, **{**config, key: otherwise(config[key])})
        try:
            check_alone(folder, section, None)
        except AdapterError:
            continue
        believed.append(key)
    # It can leave out what there are no weights for; and the layers of the base count for prefixes alone.
    harmless = {"exclude_modules", "layers_to_transform"}
    assert set(believed) <= harmless | ({"num_layers"} if method in ("prompt_tuning", "p_tuning") else set())


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"target_modules": ["k_proj"]}, "leave out model.layers.0.mlp.down_proj"),
        ({"target_modules": methods.configuration.NOWHERE}, "leave out"),
        ({"exclude_modules": ["self_attn.q_proj"]}, f"leave out {Q_PROJ}"),
        ({"layers_to_transform": [1]}, "leave out model.layers.0"),
        ({"layers_to_transform": 1}, "layers_to_transform has to be a list of layers"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern names q_proj, which is none of the modules"),
        ({"rank_pattern": {}}, f"{Q_PROJ} has rank 4, and its weights 2"),
        ({"alpha_pattern": {Q_PROJ: 300}}, f"{Q_PROJ} has lora_alpha 300, and by the recipe another"),
        ({"lora_alpha": 400}, "lora_alpha is 400, and the adapter's 8"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"task_type": "SEQ_CLS"}, "task_type is SEQ_CLS, and the adapter's to write"),
        ({"modules_to_save": ["score"]}, "the adapter has no head"),
        ({"peft_type": "ADALORA"}, "peft_type is ADALORA"),
        ({"inference_mode": False}, "inference_mode is False"),
        ({"alpha_pattern": {Q_PROJ: None}}, "alpha_pattern is None, and has to be a number"),
    ],
)
def test_what_peft_would_compute_otherwise(saved: Any, keys: dict[str, Any], told: str) -> None:
    folder, section = saved("lora", **KEYS["lora"])
    say(folder, **keys)
    with pytest.raises(AdapterError, match=told):
        check_alone(folder, section, None)


def test_a_key_left_out_is_what_peft_takes(saved: Any) -> None:
    folder, section = saved("lora", r=8, lora_alpha=8)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({key: config[key] for key in config.keys() - {"r", "lora_alpha"}}))
    check_alone(folder, section, None)
    folder, section = saved("lora", r=4)
    (folder / CONFIG).write_text(json.dumps({key: config[key] for key in config.keys() - {"r", "lora_alpha"}}))
    with pytest.raises(AdapterError, match="r is 8, and the adapter's 4"):
        check_alone(folder, section, None)


def test_weights_that_peft_would_pass_over(saved: Any) -> None:
    folder, section = saved("lora", r=4)
    state = methods.weights.read_any(folder, _digest(folder))
    config = json.loads((folder / CONFIG).read_text())
    methods.weights.write(folder, config, {**state, "base_model.model.lm_head.weight": torch.zeros(2, 2)}, "base", None)
    with pytest.raises(AdapterError, match=r"PEFT would pass over base_model\.model\.lm_head\.weight"):
        check_alone(folder, section, None)


@pytest.mark.parametrize("method", [method for method in TENSORS if TENSORS[method]])
def test_tensors_are_those_that_peft_reads(saved: Any, method: str) -> None:
    """Each in turn is taken away: PEFT would begin it anew, A at random. And one more: it would pass over that."""
    folder, section = saved(method, **KEYS.get(method, {}))
    config, state = json.loads((folder / CONFIG).read_text()), methods.weights.read_any(folder, _digest(folder))
    path = next(iter(state)).partition(f".{TENSORS[method][0].partition('.')[0]}")[0]
    for end in TENSORS[method] if len(TENSORS[method]) > 1 else ():
        methods.weights.write(folder, config, {k: v for k, v in state.items() if k != f"{path}.{end}"}, "base", None)
        with pytest.raises(AdapterError, match=f"has no {end}"):
            check_alone(folder, section, None)
    for key in (f"{path}.lora_B.bias", f"{path}.lora_embedding_A", f"base_model.model.{'a.' * 9000}lora_A.weight"):
        methods.weights.write(folder, config, {**state, key: torch.zeros(4, 4)}, "base", None)
        with pytest.raises(AdapterError, match="PEFT would pass over base_model"):
            check_alone(folder, section, None)


@pytest.mark.parametrize("shapes", [((4, 32), (32, 5)), ((0, 32), (32, 0)), ((), (32, 4)), ((4, 32), (4,))])
def test_a_and_b_are_of_one_rank(saved: Any, shapes: Any) -> None:
    folder, section = saved("lora", r=4)
    config, state = json.loads((folder / CONFIG).read_text()), methods.weights.read_any(folder, _digest(folder))
    for half, shape in zip("AB", shapes, strict=True):
        state[f"base_model.model.{Q_PROJ}.lora_{half}.weight"] = torch.zeros(shape)
    methods.weights.write(folder, config, state, "base", None)
    with pytest.raises(AdapterError, match="has no A and B of one rank"):
        check_alone(folder, section, None)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("tiny", {"r": 4, "use_rslora": True, "rank_pattern": {Q_PROJ: 2}, "alpha_pattern": {Q_PROJ: 3}}),
        ("tiny", {"r": 4, "init_lora_weights": "pissa", "rank_pattern": {Q_PROJ: 2}}),
        ("tiny", {"r": 4, "rank_pattern": {Q_PROJ: 0}}),
        ("tiny", {"r": 4, "layers": [1]}),
        ("tiny", {"r": 4, "target_modules": [Q_PROJ, "down_proj"]}),
        ("tiny_encoder", {"r": 4, "rank_pattern": {"encoder.layer.0.output.dense": 2}}),
        ("tiny_encoder", {"r": 4, "alpha_pattern": {"encoder.layer.0.output.dense": 3}, "layers": [0]}),
    ],
)
def test_sound_adapters_are_let_through(
    saved: Any, request: pytest.FixtureRequest, kind: str, keys: dict[str, Any]
) -> None:
    folder, section = saved("lora", request.getfixturevalue(kind), **keys)
    check_alone(folder, section, None)


def test_a_head_takes_the_adapter_from_modules_of_its_name(saved: Any) -> None:
    """PEFT attaches nothing to what lies in a module that is saved whole."""
    folder, section = saved("lora", r=4)
    config = json.loads((folder / CONFIG).read_text()) | {
        "task_type": "SEQ_CLS",
        "modules_to_save": ["classifier"],
        "target_modules": ["dense"],
    }
    head = {"task_type": "SEQ_CLS", "outputs": 2, "plain": True}
    for path, refused in (("encoder.dense", False), ("classifier.dense", True)):
        state = {f"base_model.model.{path}.lora_A.weight": torch.zeros(4, 8)}
        state |= {f"base_model.model.{path}.lora_B.weight": torch.zeros(8, 4)}
        state |= {"base_model.model.classifier.weight": torch.zeros(2, 8)}
        methods.weights.write(folder, config, state, "base", None)
        if refused:
            with pytest.raises(AdapterError, match=r"leave out classifier\.dense"):
                check_alone(folder, section, head)
        else:
            check_alone(folder, section, head)


def test_a_head_is_the_one_of_the_manifest(saved: Any) -> None:
    folder, section = saved("head")
    head = {"task_type": "SEQ_CLS", "outputs": 2, "plain": True}
    key, weight = "base_model.model.score.weight", torch.zeros(2, 32)
    config = json.loads((folder / CONFIG).read_text()) | {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    methods.weights.write(folder, config, {key: weight}, "base", None)
    check_alone(folder, section, head)
    methods.weights.write(folder, config, {key: weight, "base_model.model.score.bias": torch.zeros(2)}, "base", None)
    check_alone(folder, section, head)
    for keys, told in [({"outputs": 3}, "one head, of 3 outputs"), ({"task_type": "TOKEN_CLS"}, "TOKEN_CLS")]:
        with pytest.raises(AdapterError, match=told):
            check_alone(folder, section, {**head, **keys})
    with pytest.raises(AdapterError, match="to write"):
        check_alone(folder, section, None)


def test_what_peft_has_not_is_none_of_its_kinds(saved: Any) -> None:
    folder, section = saved("bottleneck")
    check_alone(folder, section, None)
    say(folder, peft_type="LORA")
    with pytest.raises(AdapterError, match="PEFT has no bottleneck"):
        check_alone(folder, section, None)


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / methods.weights.WEIGHTS).read_bytes()).hexdigest()
