"""What vLLM, PEFT, llama.cpp and mlx-lm make of adapters, by their files."""

from __future__ import annotations

from typing import Any

import pytest
from peft import LoraConfig

from pefttune.publishing import CONSUMERS, Stored, object_to

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


def stored(
    ranks: dict[str, int] | None = None,
    method: str = "lora",
    head: dict[str, Any] | None = None,
    quantization: str = "none",
    model_type: str | None = "llama",
    **config: Any,
) -> Stored:
    ranks = ranks or {Q: 4, V: 4}
    shapes = {f"base_model.model.{name}.lora_A.weight": (r, 32) for name, r in ranks.items()}
    manifest = {
        "name": "mine",
        "recipe": {"adapter": {"method": method}},
        "head": head,
        "base": {"fingerprint": {"quantization": quantization}},
    }
    return Stored(LoraConfig(**{"r": 4, "lora_alpha": 8, **config}).to_dict(), shapes, manifest, model_type)


def told(target: str, adapter: Stored) -> list[tuple[str, str]]:
    return [(each.kind, f"{each.cause}. {each.mend}") for each in object_to(target, adapter)]


@pytest.mark.parametrize("target", ["vllm", "peft", "llama.cpp"])
def test_a_plain_lora_has_nothing_against_it(target: str) -> None:
    assert told(target, stored()) == []


def test_mlx_reads_what_export_writes() -> None:
    [(kind, text)] = told("mlx", stored())
    assert kind == "know"
    assert "pefttune export --to mlx writes that" in text


@pytest.mark.parametrize("target", ["llama.cpp", "mlx"])
def test_an_architecture_that_was_not_tried_is_refused(target: str) -> None:
    kind, text = told(target, stored(model_type="bloom"))[0]
    assert (kind, "its base is a bloom" in text, "export mine --to merged" in text) == ("refuses", True, True)
    kind, text = told(target, stored(model_type=None))[0]
    assert (kind, "its base is not on this machine" in text) == ("know", True)


@pytest.mark.parametrize("target", sorted(CONSUMERS))
def test_every_consumer_says_what_it_makes_of_a_head(target: str) -> None:
    head = {"task_type": "TOKEN_CLS", "plain": True}
    found = told(target, stored(head=head, modules_to_save=["score"], task_type="TOKEN_CLS"))
    assert [kind for kind, _ in found if kind != "know"][:1] == ([] if target == "peft" else ["refuses"])
    assert not any("export" in text for _, text in found)


def test_vllm_knows_classifiers_heads_since_lately() -> None:
    [(kind, text)] = told("vllm", stored(modules_to_save=["score"], task_type="SEQ_CLS"))
    assert kind == "know"
    assert "August 2026" in text


@pytest.mark.parametrize(
    ("r", "mend"), [(16, None), (17, "--max-lora-rank 32"), (512, "--max-lora-rank 512"), (513, "adapter.r=512")]
)
def test_vllm_has_a_largest_rank(r: int, mend: str | None) -> None:
    found = told("vllm", stored({Q: r, V: r}, r=r))
    assert [(kind, mend in text) for kind, text in found] == ([("refuses", True)] if mend else [])


def test_vllm_takes_the_largest_of_all_ranks() -> None:
    adapter = stored({Q: 4, V: 20}, rank_pattern={V: 20}, alpha_pattern={V: 40})
    [(kind, text)] = told("vllm", adapter)
    assert (kind, "its rank is 20" in text) == ("refuses", True)


def test_patterns_that_scale_all_layers_alike_are_no_matter_to_vllm_but_to_llama_cpp() -> None:
    """vLLM takes lora_alpha / r for all; llama.cpp lora_alpha / the layer's own rank."""
    adapter = stored({Q: 4, V: 2}, rank_pattern={V: 2}, alpha_pattern={V: 4})
    assert told("vllm", adapter) == []
    [(kind, text)] = told("llama.cpp", adapter)
    assert (kind, "export --to gguf" in text) == ("know", True)
    assert f"1 of 2 layers are scaled wrong, {V} by 4 instead of 2" in text


def test_patterns_that_scale_layers_otherwise_are_ignored_by_vllm() -> None:
    [(kind, text)] = told("vllm", stored(alpha_pattern={Q: 2}))
    assert kind == "else"
    assert f"{Q} by 2 instead of 0.5" in text


def test_rslora_is_ignored_by_llama_cpp_only() -> None:
    adapter = stored(use_rslora=True)
    assert told("vllm", adapter) == []
    [(kind, text)] = told("llama.cpp", adapter)
    assert (kind, "export --to gguf" in text) == ("know", True)
    assert "2 of 2 layers are scaled wrong" in text
    assert "by 2 instead of 4" in text


def test_dora_is_refused_by_all_but_peft() -> None:
    adapter = stored(method="dora", use_dora=True)
    assert told("peft", adapter) == []
    for target in ("vllm", "llama.cpp", "mlx"):
        kind, text = told(target, adapter)[0]
        assert (kind, "adapter.method: lora" in text) == ("refuses", True), target


@pytest.mark.parametrize(("method", "by_peft"), [("ia3", []), ("bottleneck", ["refuses"])])
def test_other_methods(method: str, by_peft: list[str]) -> None:
    adapter = Stored({"peft_type": method.upper()}, {}, stored(method=method).manifest)
    assert [kind for kind, _ in told("peft", adapter)] == by_peft
    for target in ("vllm", "llama.cpp", "mlx"):
        assert [kind for kind, _ in told(target, adapter)] == ["refuses"]


def test_what_plain_peft_has_to_be_told() -> None:
    head = {"task_type": "QUESTION_ANS", "plain": False, "is_causal": False}
    found = told("peft", stored(head=head, quantization="nf4"))
    assert [kind for kind, _ in found] == ["else", "know", "know", "know"]
    for words, (_, text) in zip(("pefttune", "is_causal", "token_type_ids", "BitsAndBytes"), found, strict=True):
        assert words in text


@pytest.mark.parametrize(
    ("target", "mend"),
    [("vllm", "--quantization bitsandbytes"), ("peft", "BitsAndBytesConfig"), ("llama.cpp", "the GGUF base")],
)
def test_a_quantized_base_is_to_know(target: str, mend: str) -> None:
    [(kind, text)] = told(target, stored(quantization="nf4"))
    assert (kind, mend in text) == ("know", True)
