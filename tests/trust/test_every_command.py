"""Every command on stored adapters that are damaged, their digests made to agree: a sentence and the exit code for bad
input, or it works; never a traceback."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pefttune import store
from pefttune.cli.app import app
from pefttune.errors import AdapterError, PefttuneError

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", store.MANIFEST
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
COMMANDS = [
    "show tiny",
    "publish tiny --repo-id anna/tiny --dry-run --private --license mit",
    "diff tiny other --max-rows 0",
    "list",
    "show tiny --json",
    "diff other tiny --max-rows 0 --json",
    "check tiny --target vllm",
    "check tiny --target peft",
    "check tiny --target llama.cpp",
    "check tiny --target mlx",
    "sign tiny --key key.pem",
    "export tiny --to peft --output out",
    "export tiny --to gguf --output out",
    "export tiny --to ollama --output out",
    "export tiny --to mlx --output out",
    "verify tiny",
    "predict tiny text",
    "merge tiny other --to both --max-rows 2",
    "merge other tiny --to both --max-rows 2 --method svd",
    "export tiny --to merged --output out",
    "alias tiny best",
    "gc --dry-run",
    "remove tiny",
]
ALWAYS = 3
"""So many commands, those that say most of a manifest, are run on every manifest that can be read."""


@pytest.fixture
def damaged(folder: Path, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `tiny` in a store here, beside `other`, a key, and what this machine knows of their base."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    done = finished()
    shutil.copytree(done.run.folder, tmp_path / "adapters" / "other" / "1")
    shutil.copytree(done.cache, tmp_path / "cache")
    shutil.copy(done.store.parent / "reviews.jsonl", tmp_path)
    monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path / "cache"))
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    return folder


def told(command: str) -> str | None:
    """What a command refuses in, None where it works; anything but a sentence fails here."""
    said = None
    try:
        app(command.split(), standalone_mode=False)
    except PefttuneError as error:
        said = str(error)
    for made in ("out", "runs", "adapters/both"):
        shutil.rmtree(made, ignore_errors=True)
    for made in ("adapters/tiny/.record.json", "adapters/tiny/1/model.sig"):
        Path(made).unlink(missing_ok=True)
    assert said is None or (len(said) < 20_000 and not set(said) & {"\x1b", "\0"})
    return said


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside; of a list to the first."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else [0][: len(value)] if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def test_every_command_works_as_it_is(damaged: Path) -> None:
    """Else the tests below would prove nothing."""
    for command in COMMANDS[:-1]:
        assert told(command) is None, command


def is_alone(path: tuple[Any, ...]) -> bool:
    """Whether what becomes of this key is not what becomes of others beside it."""
    settings = path[0] == "recipe" and len(path) > 2 and path[:3] != ("recipe", "task", "type")
    of_many = "per_class" in path[:-1] or (path[0] in ("probe", "versions", "files") and len(path) > 2)
    return not of_many and (not settings or path[1] in ("data", "output"))


@pytest.mark.parametrize("new", [..., {"a": [1]}], ids=["dropped", "of another kind"])
def test_every_key_of_a_manifest(damaged: Path, new: Any, put: Any) -> None:
    original = json.loads((damaged / MANIFEST).read_text())
    others, read = cycle(COMMANDS[ALWAYS:15]), 0
    for path in filter(is_alone, places(original)):
        manifest = json.loads(json.dumps(original))
        put(manifest, path, new)
        (damaged / MANIFEST).write_text(json.dumps(manifest))
        try:
            store.read_manifest(damaged)
        except AdapterError:  # and so will every command say
            continue
        read += 1
        for command in (*COMMANDS[:ALWAYS], next(others)):
            told(command)
    assert read > 10


def weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        edit(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def config(**changes: Any) -> Callable[[Path], None]:
    """Keys of `adapter_config.json`; `...` takes one away."""

    def damage(folder: Path) -> None:
        changed = {**json.loads((folder / CONFIG).read_text()), **changes}
        (folder / CONFIG).write_text(json.dumps({key: new for key, new in changed.items() if new is not ...}))

    return damage


def content(file: str, raw: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(raw) and None


def without(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


DEEP = b'{"peft_type": "LORA", "x": ' + b"[" * 500 + b"]" * 500 + b"}"
DAMAGES: dict[str, Callable[[Path], None]] = {
    "A without a shape": weights(lambda state: state.update({f"{LAYER}.lora_A.weight": torch.tensor(1.0)})),
    "B of one dimension": weights(lambda state: state.update({f"{LAYER}.lora_B.weight": torch.ones(4)})),
    "A of rank 0": weights(lambda state: state.update({f"{LAYER}.lora_A.weight": torch.ones(0, 32)})),
    "an update of nothing": weights(
        lambda state: state.update(
            {f"{LAYER}.lora_A.weight": torch.ones(4, 0), f"{LAYER}.lora_B.weight": torch.ones(0, 4)}
        )
    ),
    "other widths": weights(
        lambda state: state.update(
            {f"{LAYER}.lora_A.weight": torch.ones(4, 31), f"{LAYER}.lora_B.weight": torch.ones(33, 4)}
        )
    ),
    "another rank": weights(
        lambda state: state.update(
            {f"{LAYER}.lora_A.weight": torch.ones(9, 32), f"{LAYER}.lora_B.weight": torch.ones(32, 9)}
        )
    ),
    "a layer that is none": weights(
        lambda state: state.update(
            {f"base_model.model.model.layers.{'9' * 5000}.x.lora_{half}.weight": torch.ones(4, 4) for half in "AB"}
        )
    ),
    "a number for more": weights(lambda state: state.update({"base_model.model.score.weight": torch.tensor(1.0)})),
    "no tensors": weights(lambda state: state.clear()),
    "a deep configuration": content(CONFIG, DEEP),
    "a configuration 10,000 deep": content(CONFIG, b"[" * 10_000 + b"]" * 10_000),
    "an alpha that no float holds": content(CONFIG, b'{"peft_type": "LORA", "lora_alpha": 1e999}'),
    "a rank of 400 digits": content(CONFIG, b'{"peft_type": "LORA", "r": ' + b"9" * 400 + b"}"),
    "half a character": content(CONFIG, b'{"peft_type": "LORA", "revision": "\\ud800"}'),
    **{f"no {key}": config(**{key: ...}) for key in ("r", "lora_alpha", "alpha_pattern", "use_dora", "task_type")},
    **{f"a {key} that is none": config(**{key: [1]}) for key in ("r", "task_type", "use_rslora", "rank_pattern")},
    "the configuration of IA3": config(peft_type="IA3"),
    "no card": without("README.md"),
    "no figure": without("figure.png"),
    "a figure that is none": content("figure.png", b"\x89PNG\r\n\x1a\n" + b"\xff" * 60),
    "a card of quotations": content("README.md", b"> " * 20_000 + b"x"),
    "a card of no letters": content("README.md", b"\xff\xfe\x00---\n" * 40),
}


# PEFT takes for what is left out what the adapter has.
AS_PEFT_TAKES_IT = ("no lora_alpha", "no alpha_pattern", "no use_dora")
HARMLESS = (*AS_PEFT_TAKES_IT, "a card of quotations", "a card of no letters")


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_agree_with_their_digests(damaged: Path, sealed: Any, damage: str) -> None:
    DAMAGES[damage](damaged)
    sealed(damaged)
    refused = [command for command in COMMANDS[:-1] if told(command)]
    assert refused or damage in HARMLESS


SAYS = [
    ("1e999", "damaged: it holds 1e999"),
    ("NaN", "damaged: it holds NaN"),
    ("9" * 400, "damaged: it holds 9999"),
    ('"\\ud800"', "surrogates not allowed"),
    ('{"\\udfff": 1}', "surrogates not allowed"),
    ("[" * 500 + "]" * 500, "damaged: it is nested too deeply"),
]


@pytest.mark.parametrize(("value", "why"), SAYS, ids=["inf", "nan", "digits", "half", "half-key", "deep"])
def test_values_that_no_manifest_has(damaged: Path, value: str, why: str) -> None:
    """Wherever they stand: also where nobody looks."""
    text = (damaged / MANIFEST).read_text().rstrip().removesuffix("}")
    (damaged / MANIFEST).write_text(f'{text}, "more": {value}}}')
    for command in COMMANDS:
        if "tiny" in command and not command.startswith(("alias", "remove")):
            assert why in str(told(command)), command


def test_names_of_files_that_no_system_has(damaged: Path) -> None:
    original = json.loads((damaged / MANIFEST).read_text())
    for name in ("a" * 5000, "a\0b", "\x1b[2J", ""):
        files = {**original["files"], name: "0" * 64}
        (damaged / MANIFEST).write_text(json.dumps({**original, "files": files}))
        for command in COMMANDS[:2]:
            assert told(command)


def test_a_store_that_is_not_ours(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of others on a shared disk."""

    def not_ours(**about: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("pefttune.store.replacing.tempfile.mkstemp", not_ours)
        assert ".record.json cannot be written: Permission denied" in str(told("alias tiny best"))
    ours = Path.iterdir

    def refused(path: Path) -> Any:
        if path.name == "tiny":
            raise PermissionError(errno.EACCES, "Permission denied")
        return ours(path)

    monkeypatch.setattr(Path, "iterdir", refused)  # whoever runs tests may be allowed everything
    for command in COMMANDS:
        if "tiny" in command:
            assert "adapters/tiny cannot be read: Permission denied" in str(told(command)), command
    assert told("list") is None


@pytest.mark.parametrize(
    "record", ['{"aliases": {"a": 1e999}, "last": 0}', '{"aliases": {"\\ud800": 1}, "last": 0}', "[" * 5000, "{}"]
)
def test_a_record_that_is_none(damaged: Path, record: str) -> None:
    for command in ("show tiny@a", "alias tiny best", "remove tiny", "gc"):
        (damaged.parent / ".record.json").write_text(record)
        assert ".record.json is damaged" in str(told(command)), command


def test_files_with_names_that_are_no_text(damaged: Path) -> None:
    (damaged.parents[1].joinpath("tiny", "1", "\udcff\udc80")).touch()
    for command in COMMANDS[:4]:
        told(command)
    (damaged / "link").symlink_to("nowhere")
    assert told("list") is None
