"""No file that leaves the machine tells whose it is: all that a run, its exports and a publication write is searched
for this machine's folders, the user's name, and what lies in the environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pefttune import pipeline, publishing
from pefttune.pipeline import Gate

USER = "anneliese-kowalczyk"
SECRETS = {
    "HF_TOKEN": "hf_" + "Q7" * 17,
    "OPENAI_API_KEY": "sk-" + "Z9" * 20,
    "WANDB_API_KEY": "0123456789abcdef" * 2,
    "DATABASE_URL": "postgres://anneliese:geheim@db.example/rows",
}


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What must not be told: a user with a home and secrets, at work in a folder there."""
    home = tmp_path / "home" / USER
    (home / "work").mkdir(parents=True)
    for key, value in {"HOME": str(home), "USER": USER, "LOGNAME": USER, **SECRETS}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(home / "work")
    return {"user": USER, "folder": str(tmp_path), **SECRETS}


def words(path: Path) -> Iterator[bytes]:
    """All that a file says, also where a PNG packs its texts."""
    yield path.read_bytes()
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            yield json.dumps({str(key): str(value) for key, value in image.info.items()}).encode()


def found(folder: Path, traces: dict[str, str]) -> list[str]:
    """Each trace, and the file that it is in."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    names = "\n".join(path.relative_to(folder).as_posix() for path in files)
    in_names = [f"{kind} in a name" for kind, trace in traces.items() if trace in names]
    return in_names + [
        f"{kind} in {path.relative_to(folder)}"
        for path in files
        for said in words(path)
        for kind, trace in traces.items()
        if trace.encode() in said
    ]


def test_nothing_that_leaves_the_machine_tells_of_it(
    traces: dict[str, str], recipe_of: Any, tiny: Path, tmp_path: Path
) -> None:
    traces["folder of the base"] = str(tiny.parent)
    run = pipeline.run(recipe_of({"training.max_steps": 2}))
    store, rows = tmp_path / "adapters", str(tmp_path / "reviews.jsonl")
    pipeline.export_peft("tiny", tmp_path / "for-peft", store)
    pipeline.export_merged("tiny", tmp_path / "merged", gate=Gate(0.0, rows, 4), store_folder=store)
    for folder in (run.folder, tmp_path / "for-peft", tmp_path / "merged"):
        assert found(folder, traces) == []
    with publishing.prepare(run.folder, "anna/tiny", private=True, license="MIT") as publication:
        [sent] = {file.path.parent for file in publication.files}
        assert found(sent, traces) == []
    # A run folder stays here, and is resumed from: it says where the rows lie, and nothing else.
    assert found(run.run_folder, {**SECRETS, "user": USER}) == []
    page = (run.run_folder / "report.html").read_text()
    assert str(tmp_path) not in page


@pytest.mark.parametrize("name", ["README.md", "adapter_config.json", "figure.png", "adapter_model.safetensors"])
def test_a_trace_is_found(traces: dict[str, str], finished: Any, tmp_path: Path, name: str) -> None:
    """Of the search itself."""
    (tmp_path / "sent").mkdir()
    content = (finished().run.folder / name).read_bytes()
    (tmp_path / "sent" / name).write_bytes(content + SECRETS["HF_TOKEN"].encode())
    assert found(tmp_path / "sent", traces) == [f"HF_TOKEN in {name}"]
