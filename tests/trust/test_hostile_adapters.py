"""Adapters that are broken, or made to do harm: each is refused by a sentence that names the file and the fault, at
once and in little memory; the base is then what it was, other adapters answer to the bit, and the name is free.

Who makes one can write all digests as well, so that these betray nothing.
"""

# ruff: noqa: E501 - an attack is a line of the table, however long its payload
from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pefttune import store
from pefttune.data import Row
from pefttune.errors import PefttuneError
from pefttune.inference import Session, open_session
from pefttune.inference import saved as saved_module

WEIGHTS, CONFIG, MANIFEST, CARD = "adapter_model.safetensors", "adapter_config.json", "pefttune.json", "README.md"
MOST_SECONDS = 2.0
MOST_MIB = 200
"""What a refusal may take: 51 GB are asked for below. (A manifest of 16 MiB may be read whole.)"""
ROWS = 24
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
ENDLESS = "(a+)+$"
TEXTS = ["a fine film", "poor and dull", "x"]

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A row of the table of known attacks, what is done to the folder, the file that is named, and the fault."""

    row: int
    what: str
    spoil: Spoil
    file: str
    told: str
    sealed: bool = True
    """Whether the digests are then made to agree."""

    @property
    def id(self) -> str:
        return f"{self.row}-{self.what.replace(' ', '-')}"


def weights(**changes: Tensor | None) -> Spoil:
    """Tensors replaced, added, or left out (None)."""

    def spoil(folder: Path) -> None:
        state = {**load_file(folder / WEIGHTS), **changes}
        kept = {key: tensor for key, tensor in state.items() if tensor is not None}
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def each_weight(change: Callable[[int, str, Tensor], tuple[str, Tensor] | None]) -> Spoil:
    """Every tensor under another key, with another value, or left out (None)."""

    def spoil(folder: Path) -> None:
        state = sorted(load_file(folder / WEIGHTS).items())
        kept = [change(number, key, tensor) for number, (key, tensor) in enumerate(state)]
        save_file(dict(each for each in kept if each is not None), folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def content(file: str, raw: bytes | Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / file).write_bytes(raw if isinstance(raw, bytes) else raw((folder / file).read_bytes()))

    return spoil


def config(**changes: Any) -> Spoil:
    """Keys of `adapter_config.json`."""
    return content(CONFIG, lambda raw: json.dumps({**json.loads(raw), **changes}).encode())


def manifest(edit: Callable[[dict[str, Any]], object]) -> Spoil:
    def change(raw: bytes) -> bytes:
        known = json.loads(raw)
        edit(known)
        return json.dumps(known).encode()

    return content(MANIFEST, change)


def adapter(**changes: Any) -> Spoil:
    """Keys of the recipe's `adapter`, which is what pefttune attaches by."""
    return manifest(lambda known: known["recipe"]["adapter"].update(changes))


def header(text: bytes, data: bytes = b"") -> Spoil:
    return content(WEIGHTS, len(text).to_bytes(8, "little") + text + data)


def large(file: str, nbytes: int = 100 << 20) -> Spoil:
    """A file with holes, which takes no room on the disk."""
    return lambda folder: os.truncate(folder / file, nbytes)


class Payload:
    """A pickle that leaves a file where it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("pickle-was-read",)


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": Payload()}, buffer)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("../../outside", b"x")
    return buffer.getvalue()


def linked(folder: Path) -> None:
    """A manifest that never ends."""
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to("/dev/zero")


def piped(folder: Path) -> None:
    """A manifest that waits for somebody to write it."""
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


F32 = b'{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'
STRANGE = "is not a tensor of this adapter"
CASES = [
    Case(1, "an output layer", weights(**{"lm_head.weight": torch.ones(261, 32)}), WEIGHTS, rf"lm_head\.weight {STRANGE}"),
    Case(2, "a base layer", weights(**{f"{LAYER}.base_layer.weight": torch.ones(32, 32)}), WEIGHTS, STRANGE),
    Case(3, "keys of another name", each_weight(lambda n, k, t: (k.replace(".weight", ".other.weight"), t)), WEIGHTS, STRANGE),
    Case(4, "NaN", weights(**{f"{LAYER}.lora_A.weight": torch.full((4, 32), torch.nan)}), WEIGHTS, "NaN or infinite"),
    Case(4, "an infinite number", weights(**{f"{LAYER}.lora_B.weight": torch.full((32, 4), -torch.inf)}), WEIGHTS, "NaN or inf"),
    Case(5, "half of the keys", each_weight(lambda n, k, t: (k, t) if n % 2 else None), WEIGHTS, r"holds .* numbers, and the"),
    Case(5, "one key less", weights(**{f"{LAYER}.lora_A.weight": None, "more": torch.ones(999)}), WEIGHTS, "lora_A.weight is missing"),
    Case(6, "renamed layers", each_weight(lambda n, k, t: (k.replace("q_proj", "query"), t)), WEIGHTS, STRANGE),
    Case(6, "renamed targets", config(target_modules=["query"]), CONFIG, "target_modules is"),
    Case(7, "an alpha of 1e30 to train by", adapter(lora_alpha=1e30), MANIFEST, r"adapter\.lora_alpha"),
    Case(7, "an alpha of 1e30 for PEFT", config(lora_alpha=1e30), CONFIG, r"lora_alpha is 1e\+30"),
    Case(7, "an alpha of 1e30 for one layer", config(alpha_pattern={"q_proj": 1e30}), CONFIG, r"alpha_pattern is 1e\+30"),
    Case(7, "another alpha for PEFT than for pefttune", config(lora_alpha=9), CONFIG, "describes another adapter .* lora_alpha is 9"),
    Case(8, "a word for alpha", config(lora_alpha="much"), CONFIG, "lora_alpha is much"),
    Case(8, "a word for alpha to train by", adapter(lora_alpha="much"), MANIFEST, r"adapter\.lora_alpha"),
    Case(8, "rank 0", config(r=0), CONFIG, "r is 0"),
    Case(8, "rank 0 to train by", adapter(r=0), MANIFEST, r"adapter\.r"),
    Case(8, "rank -4", config(r=-4), CONFIG, "r is -4"),
    Case(8, "rank -4 to train by", adapter(r=-4), MANIFEST, r"adapter\.r"),
    Case(9, "another rank than the tensors", config(r=8), CONFIG, "r is 8, and the adapter's 4"),
    Case(9, "a larger rank to train by", adapter(r=8), MANIFEST, "is not the file of such an adapter"),
    Case(9, "a smaller rank to train by", adapter(r=2), CONFIG, "r is 4, and the adapter's 2"),
    Case(9, "another rank everywhere", lambda folder: [adapter(r=2)(folder), config(r=2, lora_alpha=4)(folder)], WEIGHTS, r"has shape \[4, 32\]"),
    Case(10, "rank 2e8", config(r=200_000_000), CONFIG, "r is 200000000"),
    Case(10, "rank 2e8 to train by", adapter(r=200_000_000), MANIFEST, r"adapter\.r"),
    Case(10, "rank 2e8 for one layer", config(rank_pattern={"q_proj": 200_000_000}), CONFIG, "rank_pattern is 200000000"),
    Case(10, "more layers than there are", adapter(layers="top-" + "9" * 5000), MANIFEST, r"adapter\.layers"),
    Case(10, "a million labels", manifest(lambda known: [
        known.update(labels=[str(n) for n in range(1_000_000)]), known["recipe"]["task"].update(approach="head")
    ]), MANIFEST, "asks for 32,"),
    Case(11, "a pattern for targets", config(target_modules=ENDLESS), CONFIG, "target_modules has to be a list of names"),
    Case(11, "a pattern among targets", config(target_modules=[ENDLESS]), CONFIG, "target_modules has to be a list of names"),
    Case(11, "a pattern to leave out", config(exclude_modules=ENDLESS), CONFIG, "exclude_modules has to be"),
    Case(11, "a pattern to save", config(modules_to_save=[ENDLESS]), CONFIG, "modules_to_save has to be"),
    Case(11, "a pattern for ranks", config(rank_pattern={ENDLESS: 4}), CONFIG, "rank_pattern has to name modules"),
    Case(11, "a pattern for alphas", config(alpha_pattern={ENDLESS: 4}), CONFIG, "alpha_pattern has to name modules"),
    Case(11, "a pattern for layers", config(layers_pattern=[ENDLESS]), CONFIG, "pefttune writes no layers_pattern"),
    Case(11, "a pattern to train by", adapter(target_modules=[ENDLESS]), MANIFEST, r"no linear module '\(a\+\)\+\$'"),
    Case(12, "layers 2000 times", config(layer_replication=[[0, 2]] * 2000), CONFIG, "pefttune writes no layer_replication"),
    Case(13, "an unknown type", config(peft_type="EVIL"), CONFIG, "peft_type is EVIL, and the adapter's LORA"),
    Case(13, "an unknown method", adapter(method="evil"), MANIFEST, "evil"),
    Case(14, "a module to import", config(auto_mapping={"parent_library": "os"}), CONFIG, "pefttune writes no auto_mapping"),
    Case(14, "a core to import", config(megatron_core="os", megatron_config={"a": 1}), CONFIG, "megatron_core names a module"),
    Case(15, "a head without weights", config(modules_to_save=["score"]), CONFIG, "modules_to_save is"),
    Case(15, "a head without weights to train", manifest(
        lambda known: known["recipe"]["task"].update(approach="head")
    ), WEIGHTS, "asks for 4,160 at least"),
    Case(16, "truncated", content(WEIGHTS, lambda raw: raw[:-1]), WEIGHTS, "tensors have .* bytes, but"),
    Case(16, "empty", content(WEIGHTS, b""), WEIGHTS, "cut off, or no safetensors file"),
    Case(16, "a header too large", header(b"{" + b" " * (17 << 20) + b"}"), WEIGHTS, "too large for an adapter"),
    Case(16, "a key twice", header(b'{"a":%s,"a":%s}' % (F32 % (0, 8), F32 % (0, 8)), bytes(8)), WEIGHTS, "a key twice"),
    Case(16, "two that overlap", header(b'{"a":%s,"b":%s}' % (F32 % (0, 8), F32 % (4, 12)), bytes(12)), WEIGHTS, "does not begin"),
    Case(17, "a pickle for weights", content(WEIGHTS, pickled()), WEIGHTS, "cannot be read"),
    Case(17, "a pickle alone", lambda folder: [(folder / WEIGHTS).unlink(), (folder / "adapter_model.bin").write_bytes(pickled())], MANIFEST, f"files.{WEIGHTS} missing"),
    Case(17, "a pickle beside", content("adapter_model.bin", pickled()), "adapter_model.bin", "is not among the files", sealed=False),
    Case(18, "a name that leads out", manifest(lambda known: known.update(name="../../evil")), MANIFEST, "cannot name an adapter"),
    Case(18, "an absolute name", manifest(lambda known: known.update(name="/etc/passwd")), MANIFEST, "cannot name an adapter"),
    Case(18, "a name with NUL", manifest(lambda known: known.update(name="a\0b")), MANIFEST, "cannot name an adapter"),
    Case(18, "a name that steers the terminal", manifest(lambda known: known.update(name="\x1b[2J")), MANIFEST, r"'\\x1b\[2J' cannot name"),
    Case(18, "a twin in capitals", manifest(lambda known: known.update(name="Tiny")), MANIFEST, "cannot name an adapter"),
    Case(18, "the base's name", manifest(lambda known: known.update(name="base")), MANIFEST, "cannot name an adapter"),
    Case(18, "PEFT's own name", manifest(lambda known: known.update(name="default")), MANIFEST, "cannot name an adapter"),
    Case(18, "a file outside", manifest(lambda known: known["files"].update({"../../outside": "0" * 64})), "outside", "is missing", sealed=False),
    Case(18, "a manifest without end", linked, MANIFEST, "it is no file", sealed=False),
    Case(18, "a manifest that waits", piped, MANIFEST, "it is no file", sealed=False),
    Case(19, "an archive for weights", content(WEIGHTS, zipped()), WEIGHTS, "cut off, or no safetensors file"),
    Case(19, "an archive beside", content("adapter.zip", zipped()), "adapter.zip", "is not among the files", sealed=False),
    Case(20, "a template beside", content("chat_template.jinja", b"{{ 'a' * 10**10 }}"), "chat_template.jinja", "is not among the files", sealed=False),
    Case(20, "a tokenizer beside", content("tokenizer_config.json", b"{}"), "tokenizer_config.json", "is not among", sealed=False),
    Case(21, "code beside", content("evil.py", b"1/0"), "evil.py", "is not among the files", sealed=False),
    Case(21, "a base's configuration beside", content("config.json", b'{"auto_map": {}}'), "config.json", "is not among", sealed=False),
    Case(22, "a base elsewhere", config(base_model_name_or_path="evil/base"), CONFIG, "names another base than"),
    Case(22, "a base that is a path", config(base_model_name_or_path="/etc"), CONFIG, "names another base than"),
    Case(22, "a base that is an address", config(base_model_name_or_path="https://evil.example/base"), CONFIG, "names another base"),
    *(
        Case(22, f"a base {what}", lambda folder, origin=origin: [
            config(base_model_name_or_path=origin)(folder),
            manifest(lambda known: known["base"].update(hub_id=None, revision=None, origin=origin))(folder),
        ], MANIFEST, "which plain PEFT would fetch")
        for what, origin in {"elsewhere that has no id": "evil/base", "above": "..", "that is an option": "--trust-remote-code"}.items()
    ),
    Case(22, "a revision that is an option", manifest(lambda known: known["base"].update(revision="--evil")), MANIFEST, "is no revision"),
    Case(22, "another base to fetch than is named", manifest(
        lambda known: known["recipe"]["base"].update(source="evil/base")
    ), MANIFEST, "names one base, and has another loaded"),
    Case(22, "another base", manifest(
        lambda known: known["base"]["fingerprint"].update(tensors="0" * 32)
    ), "tiny", r"trained on another base .* tensors \("),
    Case(23, "a manifest of 100 MB", large(MANIFEST), MANIFEST, "too large", sealed=False),
    Case(23, "a manifest 10,000 deep", content(MANIFEST, b"[" * 10_000 + b"]" * 10_000), MANIFEST, "damaged", sealed=False),
    Case(23, "a configuration of 100 MB", large(CONFIG), CONFIG, "too large"),
    Case(23, "a configuration 10,000 deep", content(CONFIG, b"[" * 10_000 + b"]" * 10_000), CONFIG, "damaged"),
    Case(23, "a configuration with a key twice", content(CONFIG, lambda raw: b'{"r": 4,' + raw.lstrip()[1:]), CONFIG, "a key twice"),
    Case(23, "a million faults", manifest(lambda known: known.update(labels=[0] * 1_000_000)), MANIFEST, "labels.0, labels.1"),
    Case(24, "a wrong digest", manifest(lambda known: known["files"].update({CARD: "0" * 64})), CARD, "changed or damaged", sealed=False),
    Case(24, "a digest that is none", manifest(lambda known: known["files"].update({CARD: 7})), MANIFEST, "damaged", sealed=False),
    Case(24, "a changed card", content(CARD, b"other"), CARD, "changed or damaged", sealed=False),
    Case(24, "a file more", content("notes.txt", b""), "notes.txt", "is not among the files", sealed=False),
]  # fmt: skip


@pytest.fixture
def session(base_of: Any, adapted: Any) -> Session:
    """One with an adapter of one's own."""
    made = Session(base_of())
    adapted(made, "mine")
    return made


def scores(session: Session, name: str) -> Tensor:
    encoder = session[name].encoder
    return torch.stack(session.scores(name, [each for text in TEXTS for each in encoder(Row({"text": text}, text))]))


@pytest.fixture
def unharmed(session: Session, finished: Any, tmp_path: Path) -> Iterator[None]:
    """Afterwards the base has its bytes and modules, one's own adapter answers to the bit, nothing was run, and the
    good adapter goes in under its name."""
    digest, before, modules = session.base.digest(), scores(session, "mine"), dict(session.base.model.named_modules())
    yield
    assert session.names == ("mine",)
    assert session.base.digest() == digest
    assert dict(session.base.model.named_modules()) == modules
    assert torch.equal(scores(session, "mine"), before)
    assert not (tmp_path / "pickle-was-read").exists()
    probe = finished().run.manifest["probe"]
    session.load(finished().run.folder)
    found = [session.scores("tiny", session["tiny"].encoder(Row(row, "probe")))[0].tolist() for row in probe["rows"]]
    assert [[each] for each in found] == probe["scores"] or found == probe["scores"]


def peak_mib(*, anew: bool = False) -> float:
    """The most memory that this process has held since it was counted anew (Linux)."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def refusal(act: Callable[[], object]) -> str:
    """What is told, in little time and memory."""
    before, started = peak_mib(anew=True), time.process_time()
    with pytest.raises(PefttuneError) as raised:
        act()
    assert time.process_time() - started < MOST_SECONDS
    assert peak_mib() - before < MOST_MIB
    told = str(raised.value)
    assert len(told) < 3000
    assert all(line.isprintable() for line in told.splitlines())
    return told


def test_every_row_of_the_table_has_a_case() -> None:
    assert {case.row for case in CASES} == set(range(1, ROWS + 1))
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.timeout(60)
def test_it_is_refused(session: Session, unharmed: None, folder: Path, sealed: Any, case: Case) -> None:
    case.spoil(folder)
    if case.sealed:
        sealed(folder)
    told = refusal(lambda: session.load(folder))
    assert case.file in told
    assert re.search(case.told, told), told


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_file_swapped_after_the_check_is_refused(session: Session, unharmed: None, folder: Path, file: str) -> None:
    """Row 24: between the digests and the reading somebody puts another file in its place."""
    checked = saved_module.read_saved(folder, session.base)
    if file == WEIGHTS:
        each_weight(lambda n, key, tensor: (key, tensor + 1))(folder)
    else:
        config(lora_alpha=9)(folder)
    assert file in refusal(lambda: saved_module.attach_saved(session, checked))


@pytest.mark.parametrize("name", ["../tiny", "/etc", "tiny/1", "a\0b", "Tiny", "TINY", "base", "default", ""])
def test_a_name_that_could_lead_out_of_the_store(folder: Path, name: str) -> None:
    """Row 18."""
    assert "cannot name an adapter" in refusal(lambda: store.find(folder.parents[1], name))


def test_a_link_out_of_the_store_is_no_adapter(folder: Path, tmp_path: Path) -> None:
    """Row 18: a link is followed only to a folder that is whole."""
    shelf = folder.parents[1]
    (shelf / "linked").symlink_to("/etc")
    assert store.names(shelf) == ["tiny"]
    assert "no adapter 'linked'" in refusal(lambda: store.find(shelf, "linked"))


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("config.json", {"_attn_implementation_internal": "someone/kernel"}),  # CVE-2026-4372
    ],
)
def test_a_base_that_brings_code_is_not_opened(
    folder: Path, tiny: Path, tmp_path: Path, file: str, keys: dict[str, Any]
) -> None:
    """Row 21."""
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    (base / "evil.py").write_text("import os\nos.mkdir('code-was-run')\n")
    content(file, lambda raw: json.dumps({**json.loads(raw), **keys}).encode())(base)
    told = refusal(lambda: open_session("tiny", folder.parents[1], str(base)))
    assert f"{file}: the key" in told
    assert not Path("code-was-run").exists()


def test_ten_thousand_adapters_hide_none(session: Session, folder: Path) -> None:
    """Row 23."""
    shelf = folder.parents[1]
    for number in range(10_000):
        version = shelf / f"a{number}" / "1"
        version.mkdir(parents=True)
        (version / MANIFEST).touch()
    started = time.process_time()
    assert store.find(shelf, "tiny") == folder
    session.load(folder)
    assert len(store.names(shelf)) == 10_001
    assert time.process_time() - started < MOST_SECONDS


def test_a_terminal_is_not_steered(capsys: pytest.CaptureFixture[str]) -> None:
    """What adapters and data say is printed; what would clear the screen or turn a line round is escaped, and JSON
    stays JSON."""
    from pefttune.cli.output import err, out, print_json

    evil = "a\x1b[2Jb\x9b3Jc\rd\u202ee\tf\u00a0g"
    out.print(evil)
    err.print(evil, soft_wrap=True)
    print_json({"name": evil})
    shown, errors = capsys.readouterr()
    assert shown.splitlines()[0].startswith("a\\u001b[2Jb\\u009b3Jcd\\u202ee")  # rich itself drops the return
    assert json.loads("".join(shown.splitlines()[1:])) == {"name": evil}
    assert errors.startswith("a\\u001b[2Jb")
    assert not set("\x1b\x9b\r\u202e") & set(shown + errors)
