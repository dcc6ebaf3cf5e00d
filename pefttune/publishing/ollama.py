"""An Ollama Modelfile: the base, the adapter beside it, and the prompt that the adapter was trained with where that can
be said exactly (format: github.com/ollama/ollama, docs/modelfile.mdx and parser/parser.go)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pefttune.errors import InputError
from pefttune.publishing import llama_cpp
from pefttune.store.strict_json import shown
from pefttune.tasks.prompt import special_tokens_around
from pefttune.tasks.tokenizing import tokenized

FILE = "Modelfile"
BASE = "./base.gguf"
"""What it begins with unless another base is named."""
HOLE, PROMPT = "{text}", "{{ .Prompt }}"
QUOTES = '"""'


@dataclass(frozen=True)
class Modelfile:
    """Its text, and why it has no TEMPLATE, if it has none."""

    text: str
    without_template: str | None


def modelfile(manifest: Mapping[str, Any], tokenizer: Any, base: str | None = None) -> Modelfile:
    """The Modelfile for a stored adapter, whose base Ollama has under the name `base`, or finds in that file beside it.
    Raises InputError for a name that cannot stand there."""
    told = manifest["base"]
    lines = [
        f"# {manifest['name']}, trained on {shown(told['hub_id'] or told['origin'])}, from {shown(told['origin'])}.",
        "# On any other base its answers are erratic, and on other weights of this one they differ.",
        f"FROM {_checked(BASE if base is None else base)}",
        f"ADAPTER ./{llama_cpp.FILE}",
    ]
    task, why = manifest["recipe"]["task"], _untold(manifest, tokenizer)
    if why is None:
        lines.append(f"TEMPLATE {_quoted(_template(manifest['prompt'], tokenizer))}")
    elif task.get("system") and _quotable(task["system"]):
        lines.append(f"SYSTEM {_quoted(task['system'])}")
    lines.append("PARAMETER temperature 0")
    if (end := tokenizer.eos_token) and _quotable(end) and '"' not in end:
        lines.append(f'PARAMETER stop "{end}"')
    if (most := task.get("max_new_tokens")) is not None:
        lines.append(f"PARAMETER num_predict {most}")
    return Modelfile("\n".join(lines) + "\n", why)


def _checked(base: str) -> str:
    if not base or any(not c.isprintable() or c in " \"'" for c in base):
        raise InputError(f"--from {base!r}: this is no name of a model, and no file's that a Modelfile can name")
    if base.startswith(("/", "~", "\\")) or base[1:2] == ":":
        raise InputError(
            f"--from {base}: a path of this machine is nothing to others; name a model of Ollama (smollm2:135m), or a "
            f"GGUF file beside the Modelfile ({BASE})"
        )
    return base


def _untold(manifest: Mapping[str, Any], tokenizer: Any) -> str | None:
    """Why Ollama cannot be told the prompt so that it makes the tokens that the adapter was trained with; None where
    it can."""
    prompt, inputs = manifest["prompt"], manifest["inputs"]
    if inputs == ["messages"]:
        return "a conversation has several turns, and Ollama writes them by the template of its own base"
    if len(inputs) > 1 or prompt.count(HOLE) != 1:
        return f"its prompt is not a fixed text around one {HOLE}"
    if not _quotable(prompt):
        return "its prompt has characters that a Modelfile cannot hold"
    begins = special_tokens_around(tokenizer)[0]
    if tokenizer.chat_template and begins and not _begins_so(prompt, begins, tokenizer):
        return f"Ollama puts {tokenizer.convert_ids_to_tokens(begins[0])!r} before every text, and its prompt has none"
    before, _, after = prompt.partition(HOLE)
    texts = _texts(manifest["probe"]["rows"], inputs[0])
    if not texts or not all(_alike(tokenizer, (before, text, after)) for text in texts):
        return "its prompt around a text gives other tokens when both are read at once"
    return None


def _texts(rows: Sequence[Any], column: str) -> list[str]:
    """What the probe rows say; a manifest may be of any maker."""
    return [row[column] for row in rows if isinstance(row, dict) and isinstance(row.get(column), str)]


def _quotable(text: str) -> bool:
    """Whether Ollama's parser keeps all of a text between quotes: what is not printable it drops."""
    return QUOTES not in text and not text.endswith('"') and all(c.isprintable() or c in "\n\t" for c in text)


def _alike(tokenizer: Any, parts: Sequence[str]) -> bool:
    """Whether texts give the same tokens one by one, as in training, and at once, as in Ollama."""
    apart = [token for part in parts for token in _tokens(tokenizer, part)]
    return apart == _tokens(tokenizer, "".join(parts))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenized(tokenizer, text, add_special_tokens=False)["input_ids"])


def _begins_so(prompt: str, begins: Sequence[int], tokenizer: Any) -> bool:
    return bool(prompt.startswith(tokenizer.decode(begins)))


def _template(prompt: str, tokenizer: Any) -> str:
    """The prompt as Go's templates have it, without the token that Ollama puts before every text."""
    begins = special_tokens_around(tokenizer)[0]
    if tokenizer.chat_template and begins:
        prompt = prompt.removeprefix(tokenizer.decode(begins))
    before, _, after = prompt.partition(HOLE)
    return f"{_literal(before)}{PROMPT}{_literal(after)}"


def _literal(text: str) -> str:
    """A text in which Go's templates find no code: braces, two of which begin it, as strings."""
    return re.sub(r"\{+", lambda braces: f'{{{{ "{braces[0]}" }}}}', text)


def _quoted(text: str) -> str:
    return f"{QUOTES}{text}{QUOTES}"
