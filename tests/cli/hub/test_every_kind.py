"""An adapter of every task and every method, from the recipe to the Hub and back: the same bytes, the same scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pefttune.recipe import adapters as sections

# huggingface_hub 2.4 sends files by LFS with an argument that its HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
WEIGHTS = "adapter_model.safetensors"


def row_of(task: str, number: int) -> dict[str, Any]:
    """A row of any task; its answer hangs on its number."""
    text, word = f"film number {number}", ("good", "bad")[number % 2]
    match task:
        case "multi_label_classification":
            return {"text": text, "label": [word]}
        case "regression":
            return {"text": text, "label": number % 7 / 2}
        case "token-classification":
            return {"tokens": text.split(), "tags": ["O", "O", f"B-{word.upper()}"]}
        case "question-answering":
            answers = {"text": [str(number)], "answer_start": [len("film number ")]}
            return {"question": "which?", "context": text, "answers": answers}
        case "summarization":
            return {"document": text, "summary": word}
        case "text-generation":
            return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": word}]}
    return {"text": text, "label": word}


TASKS = {
    "label-words": "{type: text-classification}",
    "head": "{type: text-classification, approach: head}",
    "multi_label_classification": "{type: text-classification, approach: head, problem_type: "
    "multi_label_classification}",
    "regression": "{type: text-classification, approach: head, problem_type: regression}",
    "token-classification": "{type: token-classification}",
    "question-answering": "{type: question-answering, stride: 8}",
    "summarization": "{type: summarization, max_new_tokens: 8}",
    "text-generation": "{type: text-generation, max_new_tokens: 8}",
}
# What a method needs on so small a base.
KEYS = {
    "adalora": "init_r: 4, target_r: 2, ",
    "oft": "oft_block_size: 8, ",
    "boft": "boft_block_size: 4, ",
    "vera": "r: 16, ",
    "miss": "r: 4, ",
    "trainable_tokens": "tokens: [f], ",
    "lora": "r: 4, ",
    "dora": "r: 4, ",
}
OTHERS = [
    word
    for word, kind in sections.METHODS.items()
    if kind.__module__ == sections.__name__ and word not in ("lora", "fusion")  # a fusion has a test of its own
]
CASES = [*((task, "lora") for task in TASKS), *(("head", method) for method in OTHERS)]


@pytest.mark.parametrize(("task", "method"), CASES, ids=["-".join(case) for case in CASES])
def test_it_is_on_the_hub_and_back_what_was_trained(
    command: Any, hub: Any, from_the_hub: Any, new_recipe: Any, tiny: Path, tmp_path: Path, task: str, method: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row_of(task, number)) + "\n" for number in range(40)), encoding="utf-8")
    data = f"{{source: {rows}, max_length: 200, split: {{validation: 0.2, test: 0.3}}}}"
    training = "{max_steps: 10, learning_rate: 1e-2, per_device_train_batch_size: 8}"
    adapter = f"{{{KEYS.get(method, '')}method: {method}}}"
    trained = command("train", new_recipe(tmp_path, tiny, TASKS[task], data, training, adapter, name="mine"))
    assert trained.code == 0, trained.err
    folder = from_the_hub(tmp_path / "adapters" / "mine" / "1")
    sent = command("publish", "mine", "--repo-id", "anna/mine")
    assert sent.code == 0, sent.err
    come = command("pull", "anna/mine", "--store", "there")
    assert come.code == 0, come.err
    assert Path("there/mine/1", WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    document = command("verify", "mine", "--store", "there", "--json").document
    assert (document["verdict"], document["largest"]) == ("equal", 0.0)
    assert document["rows"] > 0
