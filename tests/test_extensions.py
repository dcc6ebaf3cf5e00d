"""A method from another package: installed beside, found by its entry point, trained, stored and used like ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from pefttune import methods
from pefttune.errors import BaseError
from pefttune.recipe.adapters import Method

SECTION = """
from typing import Literal
from pydantic import Field
from pefttune.recipe.adapters import Method

class Shift(Method):
    in_peft = False
    method: Literal["shift"] = Field(description="A vector added to the embeddings.")
    size: float = Field(0.0, ge=0, description="Its first values.")

    @classmethod
    def adapter_class(cls):
        from tiny_method.adapter import ShiftAdapter
        return ShiftAdapter
"""
ADAPTER = """
import torch
from torch import nn
from pefttune.methods import Adapter

class ShiftAdapter(Adapter):
    mixes = False
    first_layer = 0
    acting = []

    def __init__(self, model, config):
        embeddings = model.get_input_embeddings()
        self.shift = nn.Parameter(torch.full((embeddings.embedding_dim,), config.size), requires_grad=False)
        self.hook = embeddings.register_forward_hook(
            lambda module, args, output: output + self.shift if self in self.acting else None
        )

    @property
    def parameters(self):
        return {"base_model.model.shift": self.shift}

    def train(self, mode):
        self.shift.requires_grad_(mode)

    def activate(self, rows=slice(None)):
        self.acting.append(self)

    @staticmethod
    def deactivate(model):
        ShiftAdapter.acting.clear()

    def config(self):
        return {"peft_type": "SHIFT", "task_type": "CAUSAL_LM"}

    def detach(self):
        self.hook.remove()
"""


@pytest.fixture
def install(tmp_path: Path) -> Any:
    """Installs the package, as pip leaves it: `install({"shift": "tiny_method:Shift"})` gives the folder it is in."""

    def write(entries: dict[str, str], section: str = SECTION) -> Path:
        site = tmp_path / "site"
        files = {
            "tiny_method/__init__.py": section,
            "tiny_method/adapter.py": ADAPTER,
            "tiny_method-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-method\nVersion: 1.2\n",
            "tiny_method-1.2.dist-info/entry_points.txt": "[pefttune.methods]\n"
            + "".join(f"{name} = {value}\n" for name, value in entries.items()),
        }
        for name, text in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text, encoding="utf-8")
        return site

    return write


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(here)))}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def recipe(tiny: Path, new_recipe: Any, new_reviews: Any, tmp_path: Path) -> Any:
    def write(adapter: str) -> str:
        data = f"{{source: {new_reviews(tmp_path / 'reviews.jsonl')}, split: {{validation: 0.2, test: 0.3}}}}"
        return str(new_recipe(tmp_path, tiny, "{type: text-classification}", data, adapter=adapter))

    return write


def test_it_is_trained_stored_and_used(install: Any, recipe: Any, tmp_path: Path) -> None:
    site = install({"shift": "tiny_method:Shift"})
    trained = python(site, "-m", "pefttune", "train", recipe("{method: shift, size: 0.5}"))
    assert trained.returncode == 0, trained.stderr
    assert "load it with pefttune" in (tmp_path / "adapters/tiny/1/README.md").read_text(encoding="utf-8")
    store = str(tmp_path / "adapters")
    predicted = python(site, "-m", "pefttune", "predict", "tiny", "a fine film", "--store", store)
    assert predicted.returncode == 0, predicted.stderr
    without = python(tmp_path, "-m", "pefttune", "predict", "tiny", "a fine film", "--store", store)
    assert without.returncode != 0
    assert "adapter.method: 'shift' is not one of: lora, " in without.stderr


def test_the_pages_of_the_keys_leave_it_out(install: Any) -> None:
    pages = str(Path(__file__).resolve().parents[1] / "docs/generate.py")
    checked = python(install({"shift": "tiny_method:Shift", "move": "tiny_method:Shfit"}), pages, "--check")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_its_keys_are_checked_and_explained_without_torch(install: Any, recipe: Any) -> None:
    site = install({"shift": "tiny_method:Shift"})
    wrong = python(site, "-m", "pefttune", "train", recipe("{method: shift, size: -1, sice: 2}"))
    assert "adapter.size: must be a number (at least 0), not -1" in wrong.stderr
    assert "adapter.sice: unknown key; did you mean 'size'?" in wrong.stderr
    told = python(site, "-c", "import sys\nfrom pefttune.recipe import explain\n" + EXPLAIN)
    assert told.stdout.strip() == "Its first values. False", told.stderr


EXPLAIN = "print(explain('adapter.size').meaning, 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("entries", "section", "word", "told"),
    [
        ({"shift": "tiny_method:Shift"}, "import nowhere", "shift", "(ModuleNotFoundError: No module named 'nowhere')"),
        ({"shift": "tiny_method:Shfit"}, SECTION, "shift", "tiny_method:Shfit cannot be loaded (AttributeError"),
        ({"shift": "tiny_method:Field"}, SECTION, "shift", "is no subclass of pefttune.recipe.adapters.Method"),
        ({"move": "tiny_method:Shift"}, SECTION, "move", "does not say `method: Literal['move']`"),
        ({"dora": "tiny_method:Shift"}, SECTION, "dora", "another method has that name"),
    ],
)
def test_an_entry_point_that_cannot_be_used_troubles_only_who_asks_for_it(
    install: Any, recipe: Any, entries: dict[str, str], section: str, word: str, told: str
) -> None:
    site = install(entries, section)
    check = "import sys\nfrom pefttune.recipe import load_recipe\nload_recipe(sys.argv[1])"
    asked = python(site, "-c", check, recipe(f"{{method: {word}}}"))
    assert f"adapter: `method: {word}` is offered by the package tiny-method 1.2, but " in asked.stderr
    assert told in asked.stderr
    assert "mend or remove that package" in asked.stderr
    assert python(site, "-c", check, recipe("{method: lora}")).returncode == 0


class Lacking(methods.Adapter):
    mixes = True

    def __init__(self, model: Any, config: Any) -> None: ...


class Gone(Method):
    method: Literal["gone"] = "gone"

    @classmethod
    def adapter_class(cls) -> Any:
        raise ImportError("no module named 'it'")


class Incomplete(Method):
    method: Literal["incomplete"] = "incomplete"

    @classmethod
    def adapter_class(cls) -> Any:
        return Lacking


class Nothing(Method):
    method: Literal["nothing"] = "nothing"

    @classmethod
    def adapter_class(cls) -> Any:
        return None


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (Gone(), "gone comes from the package .*, and cannot be loaded .ImportError: no module named 'it'"),
        (
            Incomplete(),
            "Lacking.* is no pefttune.methods.Adapter: it lacks parameters, first_layer, train, activate, config",
        ),
        (Nothing(), "None is no pefttune.methods.Adapter: it does not inherit"),
    ],
)
def test_a_class_that_cannot_be_attached_is_told_with_its_package(model_of: Any, section: Any, told: str) -> None:
    with pytest.raises(BaseError, match=told):
        methods.attach(model_of("Llama"), section)
    assert section.method not in methods.METHODS
