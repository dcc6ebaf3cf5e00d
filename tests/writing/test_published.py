"""What was published of an encoder-decoder, read by plain transformers and PEFT."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pefttune
from pefttune.inference import Session
from pefttune.methods import weights

KINDS = ["T5", "Bart"]


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
def plain(examples: Any, done: Any, opened: dict[str, Session], tiny_pair: Any) -> dict[str, Any]:
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
    examples: Any, opened: dict[str, Session], plain: dict[str, Any], kind: str
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
def test_plain_peft_writes_the_same(
    examples: Any, opened: dict[str, Session], plain: dict[str, Any], kind: str
) -> None:
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
