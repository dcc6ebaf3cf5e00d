"""An adapter is PEFT's own: transformers and PEFT alone load it and give the same logits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune.batching import hidden_rows
from pefttune.data import Row
from pefttune.inference import Session

TEXTS = ["fine film number 3", "a dull, cold and much too long film, as poor as any", "x"]
PLAIN = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

logits, without = {}, {}
for run, asked in json.load(sys.stdin).items():
    kind, options = AutoModelForSequenceClassification, {"num_labels": 2}
    if run == "label-words":
        kind, options = AutoModelForCausalLM, {}
    base = kind.from_pretrained(asked["base"], dtype=torch.float32, **options)
    model = PeftModel.from_pretrained(base, asked["folder"]).eval()
    with torch.no_grad():
        logits[run] = [model(torch.tensor([ids])).logits[0].tolist() for ids in asked["ids"]]
        for name, parameter in model.named_parameters():
            if "lora_B" in name or ("alone" in run and "modules_to_save" in name):
                parameter.zero_()
        without[run] = [model(torch.tensor([ids])).logits[0].tolist() for ids in asked["ids"]]
assert not any(name.startswith("pefttune") for name in sys.modules)
json.dump({"logits": logits, "without": without}, sys.stdout)
"""


HEADS = ("head", "encoder", "alone", "encoder-alone")
RUNS = ("label-words", *HEADS)


@pytest.fixture(scope="module")
def asked(finished: Any, tiny: Path, tiny_encoder: Path) -> dict[str, Any]:
    """Token ids as pefttune makes them, our logits beside; kept here, sent to the other process without."""
    from pefttune import bases
    from pefttune.recipe import schema

    result: dict[str, Any] = {}
    for run in RUNS:
        folder, base = finished(run).run.folder, tiny_encoder if "encoder" in run else tiny
        plain = schema.Base(source=str(base), quantization="none", dtype="float32", device="cpu")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PEFTTUNE_CACHE", str(finished(run).cache))
            session = Session(bases.load(plain))
        loaded = session.load(folder, name=run)
        session.use(run)
        ids, ours, scored = [], [], []
        for text in TEXTS:
            examples = loaded.encoder(Row({"text": text, "label": "good"}, ""))
            batch = session.collator.collate(examples, every_answer=False)
            with torch.no_grad():
                rows_ND = hidden_rows(session.base.model, batch)
                output = loaded.head or session.base.model.get_output_embeddings()
                ours.append(output(rows_ND))
            ids.append(batch.ids_BT[0].tolist())
            scored.append(batch.rows_N.tolist())
        result[run] = {"base": str(base), "folder": str(folder), "ids": ids, "ours": ours, "scored": scored}
    return result


@pytest.fixture(scope="module")
def plain(asked: dict[str, Any]) -> dict[str, Any]:
    """Logits of transformers and PEFT in a process that never imports pefttune, also without the updates of LoRA,
    or without the head where it is all there is."""
    sent = {run: {key: asked[run][key] for key in ("base", "folder", "ids")} for run in RUNS}
    done = subprocess.run([sys.executable, "-c", PLAIN], input=json.dumps(sent), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# Both compute in float32 on the same CPU. Ours puts only scored rows through the output layer, and a matrix product of
# other height may take another kernel, that is another order of 32 sums of about 1. Seen: 7e-8.
KERNEL = 1e-6


def test_the_language_models_logits_are_equal(asked: dict[str, Any], plain: dict[str, Any]) -> None:
    mine = asked["label-words"]
    for ours, theirs, rows in zip(mine["ours"], plain["logits"]["label-words"], mine["scored"], strict=True):
        assert (ours - torch.tensor(theirs)[rows]).abs().max() <= KERNEL


@pytest.mark.parametrize("run", HEADS)
def test_the_heads_logits_are_equal(asked: dict[str, Any], plain: dict[str, Any], run: str) -> None:
    for ours, theirs in zip(asked[run]["ours"], plain["logits"][run], strict=True):
        assert (ours[0] - torch.tensor(theirs)).abs().max() <= KERNEL


@pytest.mark.parametrize("run", RUNS)
def test_the_adapters_do_something(plain: dict[str, Any], run: str) -> None:
    """Without this, an adapter that PEFT loads but ignores would pass."""
    for logits, without in zip(plain["logits"][run], plain["without"][run], strict=True):
        assert (torch.tensor(logits) - torch.tensor(without)).abs().max() > 1000 * KERNEL
