"""`pefttune pull`, from a server that speaks the Hub's API: what comes is what was published, or nothing does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pefttune import store

# huggingface_hub 2.4 sends files by LFS with an argument that its HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ADAPTER = "adapter_model.safetensors"


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder.exists() else []


def test_round_trip(command: Any, hub: Any, published: Any, folder: Path) -> None:
    """Publish, pull, verify: the same bytes, and the probe's scores to the bit, on the base that the Hub has."""
    done = command("pull", "anna/reviews")
    assert done.out.startswith(f"reviews@1 is anna/reviews, commit {published.refs['main']}; every file"), done.err
    assert "its base is not here yet" in done.out
    pulled = Path("adapters/reviews/1")
    files = published.files()
    assert everything(pulled) == sorted(files.keys() - {".gitattributes"})
    for path in pulled.iterdir():
        assert path.read_bytes() == files[path.name]
    assert (pulled / ADAPTER).read_bytes() == (folder / ADAPTER).read_bytes()
    document = command("verify", "reviews", "--json").document
    assert (document["verdict"], document["largest"], document["rows"]) == ("equal", 0.0, 16)
    assert [row["name"] for row in command("list", "--json").document["adapters"]] == ["reviews", "tiny"]
    again = command("pull", "anna/reviews", "--as", "second", "--json").document  # the base has come in the meantime
    assert (again["name"], again["base_checked"]) == ("second@1", True)


def test_logits_are_equal(command: Any, published: Any, folder: Path) -> None:
    from pefttune.inference import open_session

    assert command("pull", "anna/reviews").code == 0
    session = open_session(["tiny", "reviews"])
    rows = [f"a film, number {number}" for number in range(5)]
    ours, theirs = ([one.confidence for one in session.predict(rows, [name] * 5)] for name in ("tiny", "reviews"))
    assert ours == theirs
    assert ours != [one.confidence for one in session.predict(rows, ["base:tiny"] * 5)]


def test_the_real_commands_in_processes_of_their_own(hub: Any, published: Any, tmp_path: Path) -> None:
    """Without this test's hand on `huggingface_hub`: the endpoint comes from the environment, as a user sets it."""
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    asked = [sys.executable, "-m", "pefttune", "pull", "anna/reviews", "--store", "there", "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **own})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "reviews@1"


def test_the_cards_own_code_loads_it(hub: Any, published: Any, tmp_path: Path) -> None:
    card = published.files()["README.md"].decode()
    [code] = [block for block in card.split("```python\n")[1:] if block.startswith("from peft")]
    script = code.split("```")[0] + "print(type(model).__name__, sum('lora_A' in name for name in model.state_dict()))"
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **own}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "PeftModelForCausalLM 14\n"


def test_a_revision(command: Any, hub: Any, published: Any, refused: Any) -> None:
    first = published.refs["main"]
    published.commit({"README.md": b"another"})
    refused(command("pull", "anna/reviews", "--json"), 2, "AdapterError", "README.md has been changed or damaged")
    assert command("pull", f"anna/reviews@{first}", "--json").document["commit"] == first
    done = command("pull", "anna/reviews@v9", "--as", "x", "--json")
    refused(done, 1, "HubError", "anna/reviews has no such branch, tag or commit")


def flipped(content: bytes) -> bytes:
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


@pytest.mark.parametrize("name", ["README.md", "adapter_config.json", ADAPTER, "figure.png"])
def test_a_changed_file_is_named_and_nothing_stays(
    command: Any, refused: Any, published: Any, tmp_path: Path, name: str
) -> None:
    published.commit({name: flipped(published.files()[name])})
    before = everything(tmp_path / "adapters")
    refused(command("pull", "anna/reviews", "--json"), 2, "AdapterError", f"{name} has been changed or damaged")
    assert everything(tmp_path / "adapters") == before


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "training_args.bin", "chat_template.jinja", "original/x.py", "../x", "README.MD"]
)
def test_a_file_more_is_named_and_nothing_is_fetched(
    command: Any, refused: Any, hub: Any, published: Any, tmp_path: Path, name: str
) -> None:
    published.commit({name: b"x"})
    refused(command("pull", "anna/reviews", "--json"), 2, "AdapterError", f"holds {name!r}, which is no file of an")
    assert not any("/resolve/" in line for line in hub.asked)


def test_what_the_hub_adds_is_neither_refused_nor_fetched(command: Any, hub: Any, published: Any) -> None:
    published.commit({".eval_results/theirs.yaml": b"- x"})
    assert command("pull", "anna/reviews").code == 0
    assert not any("eval_results" in line for line in hub.asked)


def test_a_file_too_large_is_not_fetched(command: Any, refused: Any, hub: Any, published: Any) -> None:
    published.commit({"pefttune.json": b" " * ((16 << 20) + 1)})
    done = command("pull", "anna/reviews", "--json")
    refused(done, 2, "AdapterError", "pefttune.json has 16,777,217 bytes, and an adapter's may have 16,777,216")
    assert not any("/resolve/" in line for line in hub.asked)


def test_a_file_less_is_named(command: Any, refused: Any, published: Any) -> None:
    del published.files()["figure.png"]
    refused(command("pull", "anna/reviews", "--json"), 2, "AdapterError", "anna/reviews lacks figure.png")


def test_an_adapter_of_plain_peft(command: Any, refused: Any, hub: Any, published: Any) -> None:
    kept = {name: published.files()[name] for name in ("adapter_config.json", ADAPTER)}
    hub.add("ben/plain", kept)
    told = "ben/plain holds no pefttune.json, so pefttune did not publish it"
    refused(command("pull", "ben/plain", "--json"), 2, "AdapterError", told)


def with_digests(files: dict[str, bytes], **changed: bytes) -> dict[str, bytes]:
    """Changes that the manifest's digests do not betray, for a stranger can write both."""
    manifest = json.loads(files["pefttune.json"])
    names = {"config": "adapter_config.json", "weights": ADAPTER}
    result = {names[key]: content for key, content in changed.items()}
    manifest["files"] |= {name: hashlib.sha256(content).hexdigest() for name, content in result.items()}
    return {**result, "pefttune.json": json.dumps(manifest).encode()}


def config_with(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    config = {**json.loads(files["adapter_config.json"]), **changes}
    return with_digests(files, config=json.dumps(config).encode())


def manifest_with(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    return {"pefttune.json": json.dumps({**json.loads(files["pefttune.json"]), **changes}).encode()}


Q_PROJ = "model.layers.0.self_attn.q_proj"


def based_on(files: dict[str, bytes], source: str) -> dict[str, bytes]:
    """A recipe that has another base fetched than the manifest and the card name."""
    recipe = json.loads(files["pefttune.json"])["recipe"]
    return manifest_with(files, recipe={**recipe, "base": {**recipe["base"], "source": source}})


@pytest.mark.parametrize(
    ("spoil", "kind", "told"),
    [
        (lambda files: with_digests(files, weights=b"PK\x03\x04 a pickle"), "AdapterError", "cannot be read"),
        (lambda files: with_digests(files, config=b"[" * 100_000), "AdapterError", "config.json is damaged"),
        (lambda files: config_with(files, base_model_name_or_path="/etc"), "AdapterError", "names another base"),
        (lambda files: config_with(files, target_modules="(a+)+$"), "AdapterError", "target_modules has to be a list"),
        (lambda files: config_with(files, exclude_modules="(a+)+$"), "AdapterError", "exclude_modules has to be"),
        (lambda files: config_with(files, rank_pattern={"(a+)+$": 4}), "AdapterError", "rank_pattern has to name"),
        (lambda files: config_with(files, alpha_pattern={"(a+)+$": 4}), "AdapterError", "alpha_pattern has to name"),
        (lambda files: config_with(files, r=200_000_000), "AdapterError", "r is 200000000"),
        (lambda files: config_with(files, lora_alpha=80), "AdapterError", "lora_alpha is 80, and the adapter's 8"),
        (lambda files: config_with(files, alpha_pattern={Q_PROJ: 80}), "AdapterError", "has lora_alpha 80, and by the"),
        (lambda files: config_with(files, target_modules=["k_proj"]), "AdapterError", "PEFT would pass over"),
        (lambda files: config_with(files, use_qalora=True), "AdapterError", "use_qalora is True"),
        (lambda files: manifest_with(files, name="../\x1b[2J"), "AdapterError", "cannot name an adapter"),
        (lambda files: manifest_with(files, recipe={**json.loads(files["pefttune.json"])["recipe"], "seed": "x"}),
         "RecipeError", "seed"),
        (lambda files: based_on(files, "evil/base"), "AdapterError", "names one base, and has another loaded"),
        (lambda files: manifest_with(files, base={"source": "anna/tiny-base"}), "AdapterError", "base.dtype, "),
        (lambda files: manifest_with(files, created="\ud800"), "AdapterError", "surrogates not allowed"),
        (lambda files: manifest_with(files, parameters=10**400), "AdapterError", "is damaged: it holds 1000"),
        (lambda files: manifest_with(files, lineage={"how": "import"}), "AdapterError", "lineage.sha256, lineage.base"),
        (lambda files: manifest_with(files, probe=None), "AdapterError", "probe missing or of the wrong kind"),
        (lambda files: {"pefttune.json": b"[" * 100_000}, "AdapterError", "pefttune.json is damaged"),
        (lambda files: {"pefttune.json": b"{}"}, "AdapterError", "is not a manifest of pefttune"),
    ],
)  # fmt: skip
def test_hostile_files(
    command: Any, refused: Any, published: Any, tmp_path: Path, spoil: Any, kind: str, told: str
) -> None:
    published.commit(spoil(published.files()))
    before = everything(tmp_path / "adapters")
    refused(command("pull", "anna/reviews", "--json"), 2, kind, told)
    assert everything(tmp_path / "adapters") == before


@pytest.mark.parametrize("changes", [{"name": "../evil"}, {"recipe": {}}, {"format": 3}])
def test_the_weights_of_a_bad_manifest_are_not_fetched(
    command: Any, hub: Any, published: Any, changes: dict[str, Any]
) -> None:
    published.commit(manifest_with(published.files(), **changes))
    assert command("pull", "anna/reviews").code == 2
    assert any(f"/{store.MANIFEST}" in line for line in hub.asked)
    assert not any(f"/{ADAPTER}" in line for line in hub.asked)


def test_weights_that_are_not_the_manifests_are_not_fetched(command: Any, hub: Any, published: Any) -> None:
    published.commit({ADAPTER: flipped(published.files()[ADAPTER])})
    assert f"{ADAPTER} has been changed or damaged" in command("pull", "anna/reviews").err
    assert not any(f"/{ADAPTER}" in line for line in hub.asked)


def test_another_base_of_that_name_here(command: Any, refused: Any, published: Any) -> None:
    from huggingface_hub import snapshot_download

    manifest = json.loads(published.files()["pefttune.json"])
    snapshot_download("anna/tiny-base", revision=manifest["base"]["revision"])
    manifest["base"]["fingerprint"]["tokenizer"] = "0" * 32
    published.commit({"pefttune.json": json.dumps(manifest).encode()})
    told = ("tiny was trained on another base", "They differ in: tokenizer (")
    refused(command("pull", "anna/reviews", "--json"), 2, "AdapterError", *told)


def test_a_strangers_adapter_takes_no_name_unasked(command: Any, refused: Any, hub: Any, published: Any) -> None:
    hub.add("ben/tiny", published.files())
    refused(command("pull", "ben/tiny", "--json"), 2, "AdapterError", "has an adapter 'tiny' already: say --as tiny")
    assert command("pull", "ben/tiny", "--as", "tiny", "--json").document["name"] == "tiny@2"
    assert store.versions(Path("adapters"), "tiny") == [1, 2]


@pytest.mark.parametrize("repository", ["anna/Reviews", "anna/base"])
def test_a_name_that_the_store_cannot_have(command: Any, refused: Any, hub: Any, repository: str) -> None:
    refused(command("pull", repository, "--json"), 2, "AdapterError", "cannot name an adapter", "--as NAME")
    assert hub.asked == []


def test_a_private_one(
    command: Any, refused: Any, hub: Any, published: Any, monkeypatch: pytest.MonkeyPatch, tokens: Any
) -> None:
    published.private = True
    monkeypatch.delenv("HF_TOKEN")
    told = "anna/reviews is not on the Hub"
    refused(command("pull", "anna/reviews", "--json"), 1, "HubError", told, "log in with `hf auth login`")
    monkeypatch.setenv("HF_TOKEN", tokens[1])
    assert command("pull", "anna/reviews").code == 0


def test_the_hub_breaks_off(command: Any, refused: Any, hub: Any, published: Any, tmp_path: Path) -> None:
    before = everything(tmp_path / "adapters")
    hub.refusing[f"GET /anna/reviews/resolve/{published.refs['main']}/{ADAPTER}"] = 404
    refused(command("pull", "anna/reviews", "--json"), 1, "HubError", "the Hub refused what was asked of anna/reviews")
    assert everything(tmp_path / "adapters") == before


def test_a_full_disk(command: Any, refused: Any, published: Any, tmp_path: Path, disk_full: Any) -> None:
    before = everything(tmp_path / "adapters")
    with disk_full(2000):
        done = command("pull", "anna/reviews", "--json")
    refused(done, 1, "StorageError", "the adapter could not be saved in adapters/reviews")
    assert everything(tmp_path / "adapters") == before
