"""Folders of others, before a base is there: what is read of them, and what is refused, by its name."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file

from pefttune.errors import AdapterError
from pefttune.methods import read_foreign, section_of
from pefttune.methods.foreign_config import fits

LINEARS = [f"model.layers.{layer}.{module}" for layer in (0, 1, 2) for module in ("attn.q", "attn.v", "mlp.up")]
Q = "model.layers.0.attn.q"


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """Writes a folder: `folder({Q: 4}, lora_alpha=3)` has tensors of one module of rank 4, and these keys besides."""

    def make(ranks: dict[str, int] | None = None, extra: dict[str, Any] | None = None, **config: Any) -> Path:
        state = {}
        for name, r in (ranks or {Q: 4}).items():
            state[f"base_model.model.{name}.lora_A.weight"] = torch.ones(r, 6)
            state[f"base_model.model.{name}.lora_B.weight"] = torch.ones(5, r)
        save_file({**state, **(extra or {})}, tmp_path / "adapter_model.safetensors")
        targets = sorted({name.rpartition(".")[2] for name in ranks or {Q: 4}})
        usual = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": targets}
        (tmp_path / "adapter_config.json").write_text(json.dumps({**usual, **config}))
        return tmp_path

    return make


def section(folder: Path, prefix: str = "") -> dict[str, Any]:
    return section_of(read_foreign(folder), LINEARS, prefix)


def test_whole_layers(folder: Any) -> None:
    found = section(folder(dict.fromkeys(LINEARS, 4)))
    assert found == {
        "method": "lora",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "target_modules": ["q", "up", "v"],
        "layers": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    assert section(folder({name: 4 for name in LINEARS if ".1." in name}))["layers"] == [1]


def test_single_modules(folder: Any) -> None:
    names = ["model.layers.0.attn.q", "model.layers.1.attn.v"]
    found = section(folder(dict.fromkeys(names, 4)))
    assert (found["target_modules"], found["layers"]) == (names, None)
    assert (found["rank_pattern"], found["alpha_pattern"]) == ({}, {})


def test_ranks_and_alphas(folder: Any) -> None:
    own = {"rank_pattern": {"0.attn.q": 2}, "alpha_pattern": {"attn.v": 1.5}, "use_rslora": True}
    ranks = {f"model.layers.{layer}.attn.{kind}": 4 for layer in (0, 1, 2) for kind in "qv"} | {Q: 2}
    found = section(folder(ranks, **own))
    assert found["rank_pattern"] == {Q: 2}
    assert found["alpha_pattern"] == {Q: 8, **{f"model.layers.{layer}.attn.v": 1.5 for layer in (0, 1, 2)}}
    assert found["use_rslora"]


def test_a_prefix_of_the_class(folder: Any) -> None:
    found = section(folder({f"bert.{name}": 4 for name in LINEARS}, rank_pattern={"bert.nowhere": 3}), "bert.")
    assert found["layers"] is None
    with pytest.raises(AdapterError, match=r"adapts model\.layers\.0\.attn\.q, and the recipe's base has no"):
        section(folder(), "bert.")


@pytest.mark.parametrize(
    "module", [Q, "a.model.layers.0.attn.q", "xmodel.layers.0.attn.q", "q", "model.layers.10.attn.q"]
)
@pytest.mark.parametrize(
    "pattern", ["q", "attn.q", "0.attn.q", "layers.0.attn.q", Q, f"^{Q}", "^q", "model_layers.0.attn.q"]
)
def test_names_fit_as_in_peft(module: str, pattern: str) -> None:
    assert fits(pattern, module) == (get_pattern_key([pattern], module) == pattern)


def test_what_is_left_aside(folder: Any) -> None:
    own = folder(target_modules="(a+)+$", exclude_modules="b", rank_pattern={"mlp.up": 2}, task_type="CAUSAL_LM")
    for name in ("training_args.bin", "README.md"):
        (own / name).write_text("x")
    (own / "checkpoint-5").mkdir()
    assert read_foreign(own).notes == (
        "not read: README.md, checkpoint-5, training_args.bin",
        "never opened, for a pickle runs code: training_args.bin",
        "target_modules is a pattern, which was not run: the modules are the 1 that have tensors",
        "exclude_modules is a pattern, which was not run: the modules are the 1 that have tensors",
        "rank_pattern names mlp.up, which is none of its modules",
    )


def test_no_pattern_is_run(folder: Any) -> None:
    """Any of these takes minutes to be run on this name."""
    began, evil = time.monotonic(), "(a|a|aa)+$"
    read_foreign(folder({"a" * 60 + "!": 4}, target_modules=evil, exclude_modules=evil))
    for key in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(AdapterError, match=rf"{key} has \(a\|a\|aa\)\+\$, a pattern that would have to be run"):
            read_foreign(folder({"a" * 60 + "!": 4}, target_modules=evil, **{key: {evil: 4}}))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3; what can be taken in is LORA"),
        ({"peft_type": None}, "peft_type is None"),
        ({"r": 0}, "r is 0, not a whole number from 1 to 1024"),
        ({"r": 2 * 10**8}, "r is 200000000, not a whole number"),
        ({"r": True}, "r is True, not a whole number"),
        ({"r": "4"}, "r is 4, not a whole number"),
        ({"lora_alpha": 1e30}, r"lora_alpha is 1e\+30, not a number from 0 to 65536"),
        ({"lora_alpha": -1}, "lora_alpha is -1, not a number"),
        ({"lora_alpha": "8"}, "lora_alpha is 8, not a number"),
        ({"lora_alpha": float("nan")}, "is damaged: it holds NaN"),
        ({"lora_dropout": 1}, "lora_dropout is 1, not a number"),
        ({"use_rslora": "yes"}, "use_rslora is yes, neither true nor false"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern gives q 0, which is none that can be"),
        ({"alpha_pattern": {"q": 1e30}}, r"alpha_pattern gives q 1e\+30, which is none"),
        ({"rank_pattern": ["q"]}, "rank_pattern is .* no table of modules"),
        ({"rank_pattern": {"q": 8}}, r"gives model\.layers\.0\.attn\.q rank 8, and its tensors have 4"),
        ({"r": 16}, r"gives model\.layers\.0\.attn\.q rank 16, and its tensors have 4"),
        ({"bias": "all"}, "bias is all: biases of the base were trained"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is pissa, with which a training changes the base"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is loftq"),
        ({"layer_replication": [[0, 2]] * 2000}, "layer_replication is .*not known here"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is "),
        ({"lora_bias": True}, "lora_bias is True; that is not known here and may change what is computed"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is "),
        ({"target_parameters": ["x"]}, "target_parameters is "),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"of_tomorrow": 3}, "of_tomorrow is 3; that is not known here"),
        ({"target_modules": ["v"]}, r"target_modules does not name model\.layers\.0\.attn\.q, which has tensors"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head, which has no tensors"),
        ({"modules_to_save": ["classifier", "score"]}, "modules_to_save names classifier, score, which has no tensors"),
        ({"modules_to_save": "score"}, "modules_to_save is score, no list of names"),
        ({"exclude_modules": ["attn.q"]}, r"exclude_modules names model\.layers\.0\.attn\.q, which has tensors"),
    ],
)
def test_a_configuration_is_refused_by_its_key(folder: Any, config: dict[str, Any], told: str) -> None:
    with pytest.raises(AdapterError, match=told):
        read_foreign(folder(**config))


def test_targets_that_the_base_has_and_the_file_has_not(folder: Any) -> None:
    """Names of other kinds of bases are no matter: PEFT passes over those, too."""
    own = folder(dict.fromkeys([each for each in LINEARS if not each.endswith(".up")], 4))
    config = json.loads((own / "adapter_config.json").read_text())
    whole = [*config["target_modules"], "query_key_value"]
    for targets, excluded, told in (
        (whole, None, None),
        ([*whole, "up"], None, "target_modules names up, which has no tensors"),
        ([*whole, "mlp.up"], ["up"], None),
    ):
        told_of = {**config, "target_modules": targets, "exclude_modules": excluded}
        (own / "adapter_config.json").write_text(json.dumps(told_of))
        if told is None:
            assert section(own)["method"] == "lora"
        else:
            with pytest.raises(AdapterError, match=told):
                section(own)


def test_modules_that_were_saved_whole(folder: Any) -> None:
    """PEFT names the heads of two kinds of models for every classifier, of which one is there."""
    for key in ("score.weight", "classifier.out_proj.weight"):
        head = {f"base_model.model.{key}": torch.ones(2)}
        own = folder(extra=head, modules_to_save=["classifier", "score"])
        assert read_foreign(own).others == (key,)
        with pytest.raises(AdapterError, match="modules_to_save names embed_tokens, which has no tensors"):
            read_foreign(folder(extra=head, modules_to_save=["classifier", "score", "embed_tokens"]))


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("lm_head.weight", "lm_head.weight does not begin with base_model.model."),
        ("base_model.model.lm_head.base_layer.weight", "lm_head.base_layer.weight is none of the tensors"),
        ("base_model.model.embed.lora_embedding_A", "embed.lora_embedding_A is none of the tensors"),
        (f"base_model.model.{Q}.lora_A.other.weight", "lora_A.other.weight is none of the tensors"),
        (f"base_model.model.{Q}.lora_magnitude_vector", "lora_magnitude_vector, and use_dora is not set"),
    ],
)
def test_a_tensor_of_something_else_is_refused(folder: Any, key: str, told: str) -> None:
    with pytest.raises(AdapterError, match=told):
        read_foreign(folder(extra={key: torch.ones(2)}))


def test_a_dora_has_one_scale(folder: Any) -> None:
    for own in ({"alpha_pattern": {"q": 3}}, {"r": 8, "rank_pattern": {"q": 4}}):
        with pytest.raises(AdapterError, match=r"is a DoRA with an r or lora_alpha of model\.layers\.0\.attn\.q alone"):
            section(folder(use_dora=True, **own))


def test_a_folder_without_weights_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "checkpoint-10").mkdir()
    with pytest.raises(
        AdapterError, match=r"holds no adapter_model\.safetensors; name one of .* such as checkpoint-10"
    ):
        read_foreign(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(AdapterError, match=r"but adapter_model\.bin: a pickle runs code .* safe_serialization=True"):
        read_foreign(tmp_path)
    with pytest.raises(AdapterError, match=r"nowhere is no folder"):
        read_foreign(tmp_path / "nowhere")


def test_a_folder_of_our_own_or_without_configuration(folder: Any) -> None:
    own = folder()
    (own / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"holds no adapter_config\.json, which says how its weights are scaled"):
        read_foreign(own)
    (own / "pefttune.json").write_text("{}")
    with pytest.raises(AdapterError, match=r"holds pefttune\.json: it is an adapter of pefttune's own"):
        read_foreign(own)


@pytest.mark.parametrize("content", ["[]", "{", '{"r": ' + "[" * 100_000, " " * (1 << 21)])
def test_a_configuration_that_is_none(folder: Any, content: str) -> None:
    own = folder()
    (own / "adapter_config.json").write_text(content)
    with pytest.raises(AdapterError, match=r"is damaged: |is too large: it may have 1,048,576 bytes"):
        read_foreign(own)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_pipe_is_not_waited_for(folder: Any, name: str) -> None:
    own = folder()
    (own / name).unlink()
    os.mkfifo(own / name)
    with pytest.raises(AdapterError, match=rf"{name} cannot be read: it is no file"):
        read_foreign(own)


def test_what_may_not_be_read_is_told(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = folder()
    with pytest.raises(AdapterError, match=r"a+ cannot be read: File name too long"):
        read_foreign(own / ("a" * 300))

    def refused(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refused)  # whoever runs tests may be allowed everything
    with pytest.raises(AdapterError, match=f"{own} cannot be read: Permission denied"):
        read_foreign(own)
