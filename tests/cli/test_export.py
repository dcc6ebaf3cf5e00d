"""`pefttune export` and `pefttune check`: what they write, and what they refuse, leaving nothing behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pefttune import evaluation
from pefttune.store import write_manifest


@pytest.fixture
def folder(shop: Any, known_bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained adapter, in a store of one's own."""
    monkeypatch.chdir(tmp_path)
    copied: Path = shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / "tiny" / "1")
    return copied


@pytest.fixture
def rows(shop: Any) -> list[str]:
    """A labelled file: a stored recipe names its own without its folder."""
    return ["--data", str(shop.reviews), "--max-rows", "20"]


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """The manifest with a change that its own digests do not betray."""
    manifest = json.loads((folder / "pefttune.json").read_text())
    edit(manifest)
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("format", "files")})


def of_another_method(folder: Path, section: dict[str, Any], config: dict[str, Any]) -> None:
    """The adapter as if it were one of that section and with that configuration, as far as nobody needs its base."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    edited(folder, lambda manifest: manifest["recipe"].update(adapter=section))


def test_a_merged_model_says_what_the_adapter_says(
    command: Any, folder: Path, rows: list[str], tmp_path: Path, known_bases: Path
) -> None:
    seen = (known_bases / "known-bases.json").read_bytes()
    done = command("export", "tiny", "--to", "merged", *rows, "--json")
    assert done.code == 0, done.err
    assert {key: value for key, value in done.document.items() if key != "parity"} == {
        "name": "tiny",
        "to": "merged",
        "into": "original",
        "folder": "exports/tiny-1-merged",
        "notes": [],
    }
    parity = done.document["parity"]
    assert (parity["rows"], parity["choices"], parity["counted"], parity["agreement"]) == (20, 20, "rows", 1.0)
    assert parity["before"] == parity["after"]
    # Sums in another order, of log-likelihoods about 20 in float32.
    assert 0 <= parity["largest"] <= 1e-3
    written = tmp_path / "exports" / "tiny-1-merged"
    card = (written / "README.md").read_text()
    assert "100.0 % of 20 rows" in card
    assert "<|user|>" in card
    for path in written.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert (known_bases / "known-bases.json").read_bytes() == seen
    done = command("export", "tiny", "--to", "merged", *rows)
    assert done.code == 2
    assert "exports/tiny-1-merged is there already" in done.err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lora_alpha": 80}, "describes another adapter than the manifest: lora_alpha is 80"),
        ({"use_rslora": True}, "describes another adapter than the manifest: use_rslora is True"),
        ({"target_modules": "(a+)+$"}, "target_modules has to be a list of names, and not a pattern"),
        ({"r": 10**400}, "is damaged: it holds 1000"),
        ({"base_model_name_or_path": "evil/base"}, "names another base than pefttune.json"),
    ],
)
@pytest.mark.parametrize("words", ["export --to peft", "export --to gguf", "check --target peft"])
def test_a_configuration_that_is_not_the_adapters_is_not_handed_on(
    command: Any, refused: Any, folder: Path, tmp_path: Path, words: str, change: dict[str, Any], told: str
) -> None:
    """Also where all digests agree."""
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    edited(folder, lambda manifest: None)
    verb, *options = words.split()
    refused(command(verb, "tiny", *options, "--json"), 2, "AdapterError", told)
    assert not list(tmp_path.glob("exports/*"))


def test_a_merged_model_that_says_something_else_is_refused(
    command: Any, refused: Any, folder: Path, rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = evaluation.answer

    def otherwise(session: Any, name: str, *about: Any) -> Any:
        found = answer(session, name, *about)
        return found if session[name].adapter else replace(found, choices=(*found.choices[:18], "x", "x"))

    monkeypatch.setattr(evaluation, "answer", otherwise)
    done = command("export", "tiny", "--to", "merged", *rows, "--json")
    told = (
        "tiny@1, merged into the original weights, is not the model",
        "in 90.0 % of 20 rows",
        "95.0 % are asked for",
        "--to peft",
    )
    refused(done, 1, "VerificationError", *told)
    assert not list((tmp_path / "exports").iterdir())


def test_what_cannot_be_asked_is_told_before_a_base_is_read(
    command: Any, refused: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pefttune.bases.load", None)
    for options, told in (
        (["--to", "merged", "--into", "dequantized"], "was trained on the original weights"),
        (["--to", "merged", "--min-agreement", "1.5"], "--min-agreement 1.5 is no share"),
        (["--to", "merged", "--output", str(folder)], "is there already"),
        (["--to", "peft", "--into", "original"], "--into goes with --to merged"),
        (["--to", "peft", "--output", str(folder)], "is there already"),
        (["--to", "gguf", "--max-rows", "3"], "--max-rows goes with --to merged"),
        (["--to", "gguf", "--from", "base"], "--from goes with --to ollama"),
        (["--to", "mlx", "--output", str(folder)], "is there already"),
    ):
        refused(command("export", "tiny", *options, "--json"), 2, "InputError", told)
    assert not (tmp_path / "exports").exists()


def test_only_lora_without_a_head_can_be_merged(command: Any, refused: Any, folder: Path) -> None:
    edited(folder, lambda manifest: manifest.update(head={"task_type": "SEQ_CLS", "outputs": 2, "plain": True}))
    done = command("export", "tiny", "--to", "merged", "--json")
    refused(done, 2, "AdapterError", "tiny@1 is an adapter with a head", "can be merged into weights is a lora")
    for method in ("ia3", "prefix_tuning"):
        edited(folder, lambda manifest, m=method: manifest["recipe"].update(adapter={"method": m}))  # type: ignore[misc]
        done = command("export", "tiny", "--to", "merged", "--json")
        refused(done, 2, "AdapterError", f"tiny@1 is a {method} adapter", "can be merged into weights is a lora")


def test_peft_gets_what_the_store_holds(command: Any, folder: Path, tmp_path: Path, tree: Any) -> None:
    """Of which tests/publishing/test_plain_peft.py shows that plain PEFT computes the same logits with it."""
    done = command("export", "tiny", "--to", "peft", "--output", tmp_path / "out" / "tiny", "--json")
    assert done.code == 0, done.err
    assert tree(tmp_path / "out" / "tiny") == tree(folder)


def test_peft_gets_no_method_that_it_lacks(command: Any, refused: Any, folder: Path, tmp_path: Path) -> None:
    edited(folder, lambda manifest: manifest["recipe"].update(adapter={"method": "bottleneck"}))
    refused(command("export", "tiny", "--to", "peft", "--json"), 2, "AdapterError", "bottleneck adapter, which PEFT")
    assert not (tmp_path / "exports").exists()


def test_a_changed_file_is_not_exported(command: Any, refused: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("other")
    refused(command("export", "tiny", "--to", "peft", "--json"), 2, "AdapterError", "has been changed or damaged")
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is damaged"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "peft_type missing"),
        ('{"peft_type": "LORA", "r": "four"}', "r is four, and has to be a number"),
        ('{"peft_type": "LORA", "alpha_pattern": {"q": "x"}}', "alpha_pattern is x, and has to be a number"),
        ('{"peft_type": "LORA"}', "names another base"),
    ],
)
def test_a_configuration_that_is_none_is_told(
    command: Any, refused: Any, folder: Path, content: str, told: str
) -> None:
    (folder / "adapter_config.json").write_text(content)
    edited(folder, lambda manifest: None)
    refused(command("check", "tiny", "--target", "vllm", "--json"), 2, "AdapterError", "adapter_config.json", told)


def test_a_rank_that_peft_would_guess_is_missed(command: Any, refused: Any, folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["r"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    edited(folder, lambda manifest: None)
    refused(command("check", "tiny", "--target", "vllm", "--json"), 2, "AdapterError", "r is 8, and the adapter's 4")


def test_check_exits_with_1_where_something_is_wrong(command: Any, folder: Path) -> None:
    done = command("check", "tiny", "--target", "vllm")
    assert (done.code, done.out) == (0, "vllm loads tiny as it was trained\n")
    assert command("check", "tiny", "--target", "peft", "--json").document["objections"] == []
    of_another_method(folder, {"method": "bottleneck"}, {"peft_type": "BOTTLENECK_OF_PEFTTUNE"})
    done = command("check", "tiny", "--target", "vllm")
    assert done.code == 1
    assert done.out.startswith("refused: vLLM serves LoRA adapters, and this is bottleneck")
    done = command("check", "tiny", "--target", "vllm", "--json")
    assert (done.code, [each["kind"] for each in done.document["objections"]]) == (1, ["refuses"])


@pytest.mark.parametrize(
    ("to", "files"),
    [
        ("gguf", {"adapter.gguf"}),
        ("ollama", {"adapter.gguf", "Modelfile"}),
        ("mlx", {"adapters.safetensors", "adapter_config.json"}),
    ],
)
def test_other_programs_get_files_of_their_own(
    command: Any, folder: Path, tmp_path: Path, to: str, files: set[str]
) -> None:
    done = command("export", "tiny", "--to", to, "--json")
    assert done.code == 0, done.err
    assert done.document["folder"] == f"exports/tiny-1-{to}"
    [note] = done.document["notes"]
    assert "not quantized in training): on another base its answers are erratic" in note
    written = tmp_path / "exports" / f"tiny-1-{to}"
    assert {path.name for path in written.iterdir()} == {"README.md", *files}
    for path in written.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert "<|user|>" in (written / "README.md").read_text()
    if to == "ollama":
        assert "{{ .Prompt }}" in (written / "Modelfile").read_text()
    assert "to know: its base is" in command("export", "tiny", "--to", to, "--output", "again").out


@pytest.mark.parametrize("target", ["llama.cpp", "mlx"])
def test_what_check_says_nothing_against_is_exported(command: Any, folder: Path, target: str) -> None:
    done = command("check", "tiny", "--target", target, "--json")
    assert done.code == 0
    assert not any("not on this machine" in each["cause"] for each in done.document["objections"])


@pytest.mark.parametrize("to", ["gguf", "ollama", "mlx"])
def test_only_plain_lora_goes_to_other_programs(
    command: Any, refused: Any, folder: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before a base is looked for."""
    monkeypatch.setattr("pefttune.bases.locate", None)
    of_another_method(folder, {"method": "bottleneck"}, {"peft_type": "BOTTLENECK_OF_PEFTTUNE"})
    told = (f"tiny@1 cannot be exported --to {to}: ", "LoRA adapters, and this is bottleneck")
    refused(command("export", "tiny", "--to", to, "--json"), 2, "AdapterError", *told)
    assert not (tmp_path / "exports").exists()


def test_another_base_is_not_taken_for_its_own(
    command: Any, refused: Any, folder: Path, new_model: Any, tmp_path: Path
) -> None:
    other = new_model(tmp_path / "other", num_attention_heads=2)
    done = command("export", "tiny", "--to", "gguf", "--base", other, "--json")
    refused(done, 2, "AdapterError", "tiny@1 was trained on another base", "their config.json differ")
    assert not (tmp_path / "exports").exists()


def test_a_modelfile_is_not_tried_with_another_tokenizer(
    command: Any, refused: Any, folder: Path, tiny: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    done = command("export", "tiny", "--to", "ollama", "--base", other, "--json")
    refused(done, 2, "AdapterError", "tiny@1 was trained on another base", "they differ in: chat template")
    assert not (tmp_path / "exports").exists()
    assert command("export", "tiny", "--to", "gguf", "--base", other).code == 0  # which holds no text


def test_an_architecture_that_was_not_tried_is_told(
    command: Any, refused: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pefttune.publishing import architectures, consumers

    monkeypatch.delitem(architectures.LLAMA_CPP, "llama")
    monkeypatch.setattr(consumers, "MLX", ())
    for target, to in (("llama.cpp", "gguf"), ("mlx", "mlx")):
        assert command("check", "tiny", "--target", target).code == 1
        done = command("export", "tiny", "--to", to, "--json")
        refused(done, 2, "AdapterError", "its base is a llama, of which it has not been tried", "--to merged")
    assert not (tmp_path / "exports").exists()
