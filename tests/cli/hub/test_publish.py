"""`pefttune publish`, against a server that speaks the Hub's API: what is sent, what stops it, what is read back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

# huggingface_hub 2.4 sends files by LFS with an argument that its HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAMES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "bom.json", "figure.png", "pefttune.json"]
PUBLISH = ("publish", "tiny", "--repo-id", "anna/reviews")


def test_what_lies_there_is_what_was_saved(published: Any, folder: Path) -> None:
    files = published.files()
    assert sorted(files) == [".gitattributes", *NAMES]
    for name in ("adapter_config.json", "adapter_model.safetensors", "figure.png"):
        assert files[name] == (folder / name).read_bytes()
    sent, saved = json.loads(files["pefttune.json"]), json.loads((folder / "pefttune.json").read_text())
    for made in ("README.md", "bom.json"):
        assert sent["files"].pop(made) == hashlib.sha256(files[made]).hexdigest()
    assert json.loads(files["bom.json"])["metadata"]["component"]["name"] == "tiny"
    del saved["files"]["README.md"]
    assert sent == saved


def test_one_commit(command: Any, hub: Any, published: Any) -> None:
    assert len(published.commits) == 2  # the Hub's own, and ours
    assert len([line for line in hub.asked if "/commit/" in line]) == 1


def test_nothing_tells_of_the_machine_or_the_user(
    hub: Any, folder: Path, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: Any
) -> None:
    monkeypatch.setenv("USER", "ferdinand")
    monkeypatch.setenv("LOGNAME", "ferdinand")
    monkeypatch.setenv("HOME", "/home/ferdinand")
    assert command(*PUBLISH).code == 0
    for name, content in hub.repos["anna/reviews"].files().items():
        for told in (str(tmp_path), tmp_path.name, "ferdinand", *tokens, "/tmp", "/root", "/home"):
            assert told.encode() not in content, f"{name} holds {told}"


def test_the_card(published: Any, hub: Any) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(published.files()["README.md"].decode())
    assert card.data.to_dict() == {
        "base_model": "anna/tiny-base",
        "base_model_revision": hub.repos["anna/tiny-base"].refs["main"],
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-classification",
        "tags": ["pefttune", "lora"],
        "metrics": ["accuracy", "f1"],
        "model-index": card.data.to_dict()["model-index"],
    }
    comparison = json.loads(published.files()["pefttune.json"])["comparison"]
    assert [(one.metric_type, one.metric_name, one.metric_value) for one in card.data.eval_results] == [
        ("accuracy", "accuracy", comparison["adapter"]["accuracy"]),
        ("f1", "macro-F1", comparison["adapter"]["macro_f1"]),
    ]
    assert {(one.dataset_type, one.dataset_split) for one in card.data.eval_results} == {("reviews.jsonl", None)}
    revision = hub.repos["anna/tiny-base"].refs["main"]
    for told in (
        "pefttune pull anna/reviews --as tiny\n",
        f'name, revision = "anna/tiny-base", "{revision}"\n',
        'PeftModel.from_pretrained(base, "anna/reviews")',
        f"vllm serve anna/tiny-base --revision {revision} --enable-lora --max-lora-rank 8 "
        "--lora-modules tiny=anna/reviews",
        "## Better than the base?",
        "## Licence\n\nThis adapter: Apache-2.0.",
        "![Learning curve",
    ):
        assert told in card.content


def test_a_dry_run_shows_the_files_and_sends_nothing(command: Any, hub: Any, folder: Path) -> None:
    done = command(*PUBLISH, "--dry-run", "--json")
    document = done.document
    assert [file["name"] for file in document["files"]] == NAMES
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert document["files"][2] == {
        "name": "adapter_model.safetensors",
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert document["published"] is None
    assert hub.asked == []
    assert "16 rows of your own data, reviews.jsonl, are published with it" in " ".join(document["warnings"])
    told = command(*PUBLISH, "--dry-run")
    assert told.out.endswith("nothing was sent; without --dry-run these files go to anna/reviews\n")
    assert "note: 16 rows of your own data" in told.err


def test_a_damaged_version_stays_here(command: Any, refused: Any, hub: Any, folder: Path) -> None:
    (folder / "figure.png").unlink()
    refused(command(*PUBLISH, "--json"), 2, "AdapterError", "figure.png is missing")
    assert hub.asked == []


def test_a_proposal_waits(command: Any, hub: Any, folder: Path) -> None:
    theirs = hub.add("ben/reviews", {})
    before = theirs.refs["main"]
    done = command("publish", "tiny", "--repo-id", "ben/reviews", "--pull-request")
    assert done.out.endswith(f"proposed: {hub.url}/ben/reviews/discussions/1\n"), done.err
    assert theirs.refs["main"] == before
    assert set(NAMES) <= theirs.files("refs/pr/1").keys()


def test_a_proposal_needs_a_repository(command: Any, refused: Any, hub: Any, folder: Path) -> None:
    done = command("publish", "tiny", "--repo-id", "ben/none", "--pull-request", "--json")
    refused(done, 1, "HubError", "ben/none is not on the Hub")
    assert "ben/none" not in hub.repos


def test_private(command: Any, refused: Any, hub: Any, folder: Path, published: Any) -> None:
    assert command("publish", "tiny", "--repo-id", "anna/secret", "--private").code == 0
    assert hub.repos["anna/secret"].private
    before = dict(published.refs)
    refused(command(*PUBLISH, "--private", "--json"), 1, "HubError", "is on the Hub already, and public")
    assert published.refs == before


def test_a_result_on_the_leaderboard_of_its_data_set(
    command: Any, refused: Any, hub: Any, folder: Path, edited: Any
) -> None:
    asked = (*PUBLISH, "--benchmark", "default", "--json")
    refused(command(*asked), 2, "AdapterError", "leaderboards of its own data sets only")
    edited(folder, lambda manifest: manifest["recipe"]["data"].update(source="org/reviews", revision="abc"))
    refused(command(*asked), 2, "AdapterError", "Name that split as `data.test` in the recipe")
    edited(folder, lambda manifest: manifest["recipe"]["data"].update(test="test"))
    assert command(*asked).code == 0
    files = hub.repos["anna/reviews"].files()
    [entry] = yaml.safe_load(files[".eval_results/org--reviews.yaml"])
    manifest = json.loads(files["pefttune.json"])
    assert entry == {
        "dataset": {"id": "org/reviews", "task_id": "default", "revision": "abc"},
        "value": manifest["comparison"]["adapter"]["accuracy"],
        "date": manifest["created"],
        "notes": "accuracy of tiny, on split test",
    }
    assert yaml.safe_load(files["README.md"].decode().split("---\n")[1])["datasets"] == ["org/reviews"]


def of_base(**changes: Any) -> Any:
    return lambda manifest: manifest["base"].update(changes)


def digest(field: str) -> Any:
    return lambda manifest: manifest["base"]["fingerprint"].update({field: ""})


def instruct(text: str) -> Any:
    return lambda manifest: manifest["recipe"]["task"].update(instruction=text)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (of_base(hub_id=None), "its base, 'Hub: anna/tiny-base', has no id on the Hub"),
        (of_base(revision=None), "no commit is known of its base, anna/tiny-base"),
        (of_base(hub_id="ben/other"), "adapter_config.json names another base than pefttune.json"),
        (digest("tokenizer"), "the digest of its base's tokenizer is no digest: ''"),
        (digest("chat_template"), "the digest of its base's chat template is no digest: ''"),
        (lambda manifest: manifest["recipe"]["output"].update(license=None), "no licence is known: give one with"),
        (instruct("/home/anna/notes.txt"), "it holds a path of a machine, /home/anna"),
        (instruct("C:\\Users\\anna\\notes.txt"), "it holds a path of a machine, C:\\\\Users\\\\anna"),
        (instruct("ask hf_" + "x" * 34), "this looks like a secret, hf_xxx…"),
        (instruct("-----BEGIN RSA PRIVATE KEY-----"), "this looks like a secret, -----B…"),
        (lambda manifest: manifest["probe"]["rows"][0].update(text="AKIA" + "A" * 16), "looks like a secret, AKIAAA…"),
    ],
)
def test_what_stops_it(command: Any, refused: Any, hub: Any, folder: Path, edited: Any, edit: Any, told: str) -> None:
    edited(folder, edit)
    done = command(*PUBLISH, "--json")
    refused(done, 2, "AdapterError", "tiny cannot be published as it is:\n", told)
    assert "xxxxxxx" not in done.document["error"]
    assert hub.asked == []


@pytest.mark.parametrize("change", [{"lora_alpha": 80}, {"target_modules": ["k_proj"]}, {"init_lora_weights": "pissa"}])
def test_what_peft_would_compute_otherwise_is_not_published(
    command: Any, refused: Any, hub: Any, folder: Path, edited: Any, change: dict[str, Any]
) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    edited(folder, lambda manifest: None)
    told = "adapters/tiny/1/adapter_config.json describes another adapter than the manifest"  # not the copy's path
    refused(command(*PUBLISH, "--json"), 2, "AdapterError", told)
    assert hub.asked == []


def test_this_users_own_token_and_folders_are_known(
    command: Any, refused: Any, hub: Any, folder: Path, edited: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-another-kind")
    monkeypatch.setenv("LOGNAME", "ferdinand")
    edited(folder, instruct(f"a-secret-of-another-kind, {tmp_path}/x and /srv/ferdinand/x"))
    told = ("a secret, a-secr…", f"path of a machine, {tmp_path}", "path of a machine, /srv/ferdinand")
    refused(command(*PUBLISH, "--json"), 2, "AdapterError", *told)


def test_what_rows_of_the_data_say_is_no_trace(command: Any, folder: Path, edited: Any) -> None:
    edited(folder, lambda manifest: manifest["probe"]["rows"][0].update(text="rm -r /home/anna"))
    assert command(*PUBLISH, "--dry-run").code == 0


def test_text_in_a_figure_is_read(command: Any, refused: Any, folder: Path, edited: Any) -> None:
    from PIL import Image, PngImagePlugin

    told = PngImagePlugin.PngInfo()
    told.add_text("Source", "/home/anna/figure.py", zip=True)
    with Image.open(folder / "figure.png") as image:
        image.load()
        image.save(folder / "figure.png", pnginfo=told)
    edited(folder, lambda manifest: None)
    refused(command(*PUBLISH, "--json"), 2, "AdapterError", "figure.png, line", "path of a machine, /home/anna")


def test_weights_that_pull_would_refuse_are_not_sent(command: Any, refused: Any, folder: Path, edited: Any) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0] = float("nan")
    save_file(tensors, path)
    edited(folder, lambda manifest: None)
    refused(command(*PUBLISH, "--json"), 2, "AdapterError", "holds NaN or infinite values")


def test_a_private_base_is_for_those_who_have_it(command: Any, hub: Any, shop: Any, refused: Any) -> None:
    asked = ("publish", "tiny", "--store", shop.store, "--repo-id", "anna/team", "--license", "mit", "--json")
    refused(command(*asked), 2, "AdapterError", "has no id on the Hub", "publish with --private")
    document = command(*asked, "--private").document
    assert any("has no id on the Hub" in warning for warning in document["warnings"])
    assert hub.repos["anna/team"].private


@pytest.mark.parametrize("name", ["tiny/old.bin", "training_args.bin", "chat_template.jinja"])
def test_a_repository_with_other_files_is_left_alone(
    command: Any, refused: Any, hub: Any, folder: Path, name: str
) -> None:
    there = hub.add("anna/reviews", {name: b"x"})
    refused(command(*PUBLISH, "--json"), 1, "HubError", f"holds {name!r}, which is no part of an adapter")
    assert len(there.commits) == 1


@pytest.mark.parametrize("repo_id", ["reviews", "anna/", "a/b/c", "anna/re views", "anna/..", "/etc/passwd"])
def test_no_repository(command: Any, refused: Any, hub: Any, folder: Path, repo_id: str) -> None:
    refused(command("publish", "tiny", "--repo-id", repo_id, "--json"), 2, "AdapterError", repr(repo_id))
    assert hub.asked == []


def test_what_the_hub_holds_is_read_back(command: Any, refused: Any, hub: Any, folder: Path) -> None:
    hub.spoiling = b"something else"
    told = "anna/reviews does not hold the adapter_model.safetensors that was sent"
    refused(command(*PUBLISH, "--json"), 1, "VerificationError", told)


@pytest.mark.parametrize(
    ("part", "status", "told"),
    [
        ("POST /api/models/anna/reviews/commit", 412, "was changed by somebody else meanwhile"),
        ("POST /api/models/anna/reviews/commit", 403, "your token may not write to anna/reviews"),
        ("POST /api/models/anna/reviews/commit", 413, "the Hub refused what was asked of anna/reviews (HTTP 413)"),
        ("GET /api/models/anna/reviews", 500, "has a fault of its own (HTTP 500)"),
        ("GET /api/models/anna/reviews", 429, "the Hub asks to wait"),
    ],
)
def test_refusals(command: Any, refused: Any, hub: Any, folder: Path, part: str, status: int, told: str) -> None:
    hub.refusing[part] = status
    refused(command(*PUBLISH, "--json"), 1, "HubError", told)


def test_who_may_not_write(
    command: Any, refused: Any, hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, tokens: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", tokens[1])
    refused(command(*PUBLISH, "--json"), 1, "HubError", "your token may not write to anna/reviews")
    monkeypatch.delenv("HF_TOKEN")
    refused(
        command(*PUBLISH, "--json"), 1, "HubError", "the Hub does not know who you are: log in with `hf auth login`"
    )
    assert "anna/reviews" not in hub.repos


def test_no_network(command: Any, refused: Any, hub: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(command(*PUBLISH, "--json"), 1, "HubError", "the Hub (http://127.0.0.1:9) could not be reached")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(command(*PUBLISH, "--json"), 1, "HubError", "offline mode is enabled")


def test_the_shipped_adapters_can_be_published(command: Any, hub: Any) -> None:
    """Their base came from the package index, so that no commit is known of it, but its origin."""
    store = Path(__file__).resolve().parents[3] / "adapters"
    document = command(
        "publish", "film-sentiment", "--store", store, "--repo-id", "a/b", "--dry-run", "--json"
    ).document
    assert document["warnings"] == []


def test_a_card_that_the_hub_refuses(command: Any, refused: Any, hub: Any, folder: Path) -> None:
    hub.card_faults = [{"message": '"license" must be one of [apache-2.0, mit]'}]
    told = ("the Hub refuses the metadata of README.md", "must be one of [apache-2.0, mit]")
    refused(command(*PUBLISH, "--json"), 2, "AdapterError", *told)
    assert "anna/reviews" not in hub.repos
