"""The Modelfile: the prompt of the training where Ollama can be told it exactly, and why where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pefttune import bases
from pefttune.errors import InputError
from pefttune.publishing import modelfile

PROMPT = "<|user|>Good or bad?\n\n{text}<|end|><|assistant|>"


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return bases.load_tokenizer(tiny)


def manifest(prompt: str = PROMPT, inputs: tuple[str, ...] = ("text",), text: str = "a film", **task: Any) -> Any:
    return {
        "name": "mine",
        "recipe": {"task": {"type": "text-classification", **task}},
        "base": {"hub_id": "owner/base", "origin": "Hub: owner/base"},
        "prompt": prompt,
        "inputs": list(inputs),
        "probe": {"rows": [{"text": text, "label": "good"}]},
    }


def template(text: str) -> str | None:
    """What Ollama's parser takes for the TEMPLATE: all between three quotes."""
    found = text.partition('TEMPLATE """')[2]
    return found.partition('"""')[0] if found else None


def test_a_fixed_prompt_is_said_exactly(tokenizer: Any) -> None:
    told = modelfile(manifest(), tokenizer, "smollm2:135m")
    assert told.without_template is None
    assert told.text == (
        "# mine, trained on owner/base, from Hub: owner/base.\n"
        "# On any other base its answers are erratic, and on other weights of this one they differ.\n"
        "FROM smollm2:135m\n"
        "ADAPTER ./adapter.gguf\n"
        'TEMPLATE """<|user|>Good or bad?\n\n{{ .Prompt }}<|end|><|assistant|>"""\n'
        "PARAMETER temperature 0\n"
        'PARAMETER stop "<|end|>"\n'
    )


def test_a_summary_may_be_so_long(tokenizer: Any) -> None:
    asked = manifest(inputs=("document",), max_new_tokens=64)
    asked["probe"]["rows"] = [{"document": "long", "summary": "short"}]
    told = modelfile(asked, tokenizer).text
    assert "FROM ./base.gguf\n" in told
    assert told.endswith("PARAMETER num_predict 64\n")


def test_braces_are_no_code(tokenizer: Any) -> None:
    told = modelfile(manifest('Give {"label": {{x}}}:\n{{text}'), tokenizer).text
    assert template(told) == 'Give {{ "{" }}"label": {{ "{{" }}x}}}:\n{{ "{" }}{{ .Prompt }}'


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"inputs": ("messages",)}, "several turns"),
        ({"inputs": ("question", "context")}, "not a fixed text around one"),
        ({"prompt": "no hole"}, "not a fixed text around one"),
        ({"prompt": "{text} and {text}"}, "not a fixed text around one"),
        ({"prompt": 'quotes """ {text}'}, "cannot hold"),
        ({"prompt": "no-break\u00a0space {text}"}, "cannot hold"),
        ({"prompt": '{text} and "'}, "cannot hold"),
        ({"text": 3}, "other tokens"),
    ],
)
def test_what_cannot_be_said_is_left_out_and_told(tokenizer: Any, changes: dict[str, Any], why: str) -> None:
    told = modelfile(manifest(**changes), tokenizer)
    assert why in (told.without_template or "")
    assert template(told.text) is None
    assert told.text.startswith("# mine")


def test_a_prompt_whose_parts_melt_is_left_out(tokenizer: Any) -> None:
    """As in training a text is tokenized alone, in Ollama with what stands around it."""
    from tokenizers import Tokenizer, models

    merging = {"f": 0, "!": 1, "f!": 2, "a": 3, "<|end|>": 4}
    backend = Tokenizer(models.BPE(vocab=merging, merges=[("f", "!")]))
    tokenizer._tokenizer = backend
    assert modelfile(manifest("f{text}", text="f"), tokenizer).without_template is None
    assert "other tokens" in (modelfile(manifest("f{text}", text="!"), tokenizer).without_template or "")


def test_a_system_message_stands_in_for_a_template(tokenizer: Any) -> None:
    told = modelfile(manifest(inputs=("messages",), system="Be brief."), tokenizer).text
    assert 'SYSTEM """Be brief."""\n' in told


def begins_with(token: str, tokenizer: Any) -> Any:
    """The tokenizer, which puts a token before every text."""
    from tokenizers.processors import TemplateProcessing

    number = tokenizer.convert_tokens_to_ids(token)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{token} $A", special_tokens=[(token, number)])
    return tokenizer


def test_a_first_token_that_ollama_writes_is_not_written_twice(tokenizer: Any) -> None:
    told = modelfile(manifest(f"<|system|>{PROMPT}"), begins_with("<|system|>", tokenizer))
    assert template(told.text) == PROMPT.replace("{text}", "{{ .Prompt }}")
    told = modelfile(manifest(), begins_with("<|system|>", tokenizer))
    assert "Ollama puts '<|system|>' before every text, and its prompt has none" in (told.without_template or "")


def test_without_a_chat_template_the_first_token_is_the_tokenizers(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    told = modelfile(manifest(), begins_with("<|system|>", tokenizer))
    assert template(told.text) == PROMPT.replace("{text}", "{{ .Prompt }}")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("/home/me/base.gguf", "a path of this machine"),
        ("~/base.gguf", "a path of this machine"),
        ("C:\\base.gguf", "a path of this machine"),
        ("two words", "no name"),
        ("a\nSYSTEM b", "no name"),
        ("", "no name"),
    ],
)
def test_a_base_that_cannot_stand_there_is_refused(tokenizer: Any, model: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        modelfile(manifest(), tokenizer, model)


@pytest.mark.parametrize("end", [None, 'a"b', "a\nb\x00"])
def test_an_end_that_a_modelfile_cannot_hold_is_left_out(tokenizer: Any, end: str | None) -> None:
    tokenizer.eos_token = end
    assert "PARAMETER stop" not in modelfile(manifest(), tokenizer).text
