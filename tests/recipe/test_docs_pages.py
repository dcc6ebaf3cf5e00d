"""The pages in docs/recipe/ say what the schema says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from pefttune.recipe import all_keys, explain
from pefttune.recipe.document import parse

SCRIPT = Path(__file__).parents[2] / "docs" / "generate.py"


@pytest.fixture
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_in_the_repository_are_fresh(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    code = generate.main(["--check"])
    assert capsys.readouterr().out == ""
    assert code == 0


def test_check_names_stale_missing_and_left_over_pages(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    (tmp_path / "seed.md").write_text("other", encoding="utf-8")
    (tmp_path / "output.name.md").unlink()
    (tmp_path / "training.lr.md").touch()
    assert generate.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'output.name.md'}: missing",
        f"{tmp_path / 'seed.md'}: stale",
        f"{tmp_path / 'training.lr.md'}: left over",
        "run: python docs/generate.py",
    ]
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0


def test_every_page_shows_yaml_that_sets_its_key(generate: ModuleType) -> None:
    pages = generate.pages()
    for key in all_keys():
        found = re.search(r"```yaml\n(.*)```", pages[f"{key}.md"], re.DOTALL)
        assert found, key
        value = parse(found[1], "").value
        for part in key.split("."):
            value = value[part]
        assert value == parse(explain(key).example or "", "").value, key


def test_a_page_and_the_index_say_what_matters(generate: ModuleType) -> None:
    pages = generate.pages()
    assert (
        pages["data.max_length.md"]
        == """\
# `data.max_length`

Longest example, prompt and answer together; for an encoder-decoder the longest of each.

| | |
|---|---|
| Type | a whole number |
| Bounds | above 0 |
| Unit | tokens |
| Default | `512` |

In a recipe:

```yaml
data:
  max_length: 512
```

As an override: `data.max_length=512`

[All keys](README.md#data)
"""
    )
    assert "| [`output.name`](output.name.md) | Name of the adapter" in pages["README.md"]
    assert "| required |" in pages["README.md"]
    assert "| [`adapter.use_rslora`](adapter.use_rslora.md) | lora, dora | Scale by" in pages["README.md"]
    assert "normalize, learned anew (arXiv:2312.11420). | [`layers`](adapter.layers.md) |" in pages["methods.md"]
    assert max(map(len, pages["README.md"].splitlines())) < 1000  # a row that can be read
