"""An adapter is PEFT's own: transformers and PEFT alone load it and give the same logits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune.batching import class_logits, hidden_rows
from pefttune.data import Row
from pefttune.inference import Session

TEXTS = ["fine film number 3", "a dull, cold and much too long film, as poor as any", "x"]
PLAIN = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

asked = json.load(sys.stdin)
kinds = {"label-words": (AutoModelForCausalLM, {}), "head": (AutoModelForSequenceClassification, {"num_labels": 2})}
logits = {}
for approach, (kind, options) in kinds.items():
    base = kind.from_pretrained(asked["base"], dtype=torch.float32, **options)
    model = PeftModel.from_pretrained(base, asked[approach]["folder"]).eval()
    with torch.no_grad():
        logits[approach] = [
            model(torch.tensor([ids])).logits[0].tolist() for ids in asked[approach]["ids"]
        ]
assert not any(name.startswith("pefttune") for name in sys.modules)
json.dump(logits, sys.stdout)
"""


@pytest.fixture(scope="module")
def asked(finished: Any, tiny: Path) -> dict[str, Any]:
    """Token ids as pefttune makes them, ours logits beside; kept here, sent to the other process without."""
    from pefttune import bases
    from pefttune.recipe import schema

    plain = schema.Base(source=str(tiny), quantization="none", dtype="float32", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTTUNE_CACHE", str(finished().cache))
        session = Session(bases.load(plain))
    result: dict[str, Any] = {"base": str(tiny)}
    for approach in ("label-words", "head"):
        loaded = session.load(finished(approach).run.folder, name=approach)
        session.use(approach)
        ids, ours, scored = [], [], []
        for text in TEXTS:
            example = loaded.encoder(Row({"text": text, "label": "good"}, ""))
            batch = session.collate([example], every_answer=False)
            with torch.no_grad():
                rows_ND = hidden_rows(session.base.model, batch)
                output = session.base.model.get_output_embeddings()
                ours.append(class_logits(rows_ND, loaded.head) if loaded.head else output(rows_ND))
            ids.append(batch.ids_BT[0].tolist())
            scored.append(batch.rows_N.tolist())
        result[approach] = {
            "folder": str(finished(approach).run.folder), "ids": ids, "ours": ours, "scored": scored
        }  # fmt: skip
    return result


@pytest.fixture(scope="module")
def plain(asked: dict[str, Any]) -> dict[str, Any]:
    """Logits of transformers and PEFT in a process that never imports pefttune."""
    sent = {"base": asked["base"]}
    sent |= {name: {key: asked[name][key] for key in ("folder", "ids")} for name in ("label-words", "head")}
    done = subprocess.run([sys.executable, "-c", PLAIN], input=json.dumps(sent), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# Both compute in float32 on the same CPU. Ours puts only scored rows through the output layer, and a matrix product of
# other height may take another kernel, that is another order of 32 sums of about 1. Seen: 7e-8.
KERNEL = 1e-6


def test_the_language_models_logits_are_equal(asked: dict[str, Any], plain: dict[str, Any]) -> None:
    mine = asked["label-words"]
    for ours, theirs, rows in zip(mine["ours"], plain["label-words"], mine["scored"], strict=True):
        assert (ours - torch.tensor(theirs)[rows]).abs().max() <= KERNEL


def test_the_heads_logits_are_equal(asked: dict[str, Any], plain: dict[str, Any]) -> None:
    for ours, theirs in zip(asked["head"]["ours"], plain["head"], strict=True):
        assert (ours[0] - torch.tensor(theirs)).abs().max() <= KERNEL


def test_the_adapters_do_something(asked: dict[str, Any], tiny: Path) -> None:
    """Without this, an adapter that PEFT loads but ignores would pass."""
    from transformers import AutoModelForCausalLM

    bare = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    mine = asked["label-words"]
    with torch.no_grad():
        logits = bare(torch.tensor([mine["ids"][0]])).logits[0][mine["scored"][0]]
    assert (logits - mine["ours"][0]).abs().max() > 1000 * KERNEL
