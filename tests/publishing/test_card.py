"""What a card says that others copy into their shell is words, whatever a stranger called his base."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from pefttune.publishing import render_card, render_converted_card

BASE = "x; touch evil `touch evil` $(touch evil) 'evil"


def shell_lines(card: str) -> list[str]:
    return [line for block in re.findall(r"```bash\n(.*?)```", card, re.DOTALL) for line in block.splitlines()]


def test_a_base_of_any_name_is_one_word(finished: Any) -> None:
    manifest = json.loads((finished().run.folder / "pefttune.json").read_text())
    manifest["base"] |= {"hub_id": None, "revision": None, "origin": BASE}
    cards = (render_converted_card(manifest, "mlx"), render_card(manifest, repo_id="anna/tiny", vllm_rank=8))
    for card, program in zip(cards, ("mlx_lm.generate", "vllm serve"), strict=True):
        [line] = [line for line in shell_lines(card) if line.startswith(program)]
        assert BASE in shlex.split(line)
