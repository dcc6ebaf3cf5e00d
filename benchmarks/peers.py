"""The peers by the names of the command line, and what each one needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.errors import BenchmarkError


@dataclass(frozen=True)
class Peer:
    """A program and the settings of one of its variants."""

    program: str
    install: str
    """What installs it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    heads: bool = False
    """Whether it trains a classification head."""
    same_steps: bool = True
    """Whether each step holds the examples that ours holds."""


OURS = Peer("ours", "pip install -e .", heads=True)
TRAINER = "pip install transformers peft accelerate bitsandbytes"
TRL = "pip install 'trl==1.16.*'"
OWN = "see benchmarks/README.md; it needs an environment of its own, given as --peer-python"

PEERS = {
    "trl": Peer("trl_sft", TRL, {"variant": "defaults"}),
    "trl-best": Peer("trl_sft", TRL, {"variant": "best", "padding_free": False}),
    "trl-padding-free": Peer("trl_sft", TRL, {"variant": "best", "padding_free": True}),
    "trainer": Peer("trainer_peft", TRAINER, {"variant": "random"}, heads=True),
    "trainer-grouped": Peer("trainer_peft", TRAINER, {"variant": "length-grouped"}, heads=True, same_steps=False),
    "unsloth": Peer("unsloth_cpu", OWN, {"variant": "defaults"}),
    "unsloth-best": Peer("unsloth_cpu", OWN, {"variant": "best"}),
    "uncached": Peer("ours", OURS.install, {"cached": False}),
    "solo": Peer("ours", OURS.install, {"together": False}),
}
SCORER = Peer("padded_scores", TRAINER)
ADAPTERS_LIBRARY = Peer("adapters_trainer", OWN, heads=True)


def find(name: str, head: bool) -> Peer:
    """The peer of that name. Raises BenchmarkError when there is none, or it cannot train a head and should."""
    if name not in PEERS:
        raise BenchmarkError(f"there is no peer {name!r}; there are {', '.join(PEERS)}")
    if head and not PEERS[name].heads:
        able = ", ".join(key for key, peer in PEERS.items() if peer.heads)
        raise BenchmarkError(f"{name} trains no classification head; take one of {able}")
    return PEERS[name]
