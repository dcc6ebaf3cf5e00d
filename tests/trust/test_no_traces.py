"""No file that leaves the machine tells whose it is: all that a run, an import, exports to every program and a signed
publication write is searched for this machine's folders, the user's name, and what lies in the environment. What stays
here, of a run, a sweep and a probe, may say where its rows and its base lie, and no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pefttune import pipeline, publishing, sweep
from pefttune.pipeline import Gate
from pefttune.pipeline.converting import Program
from pefttune.recipe import read_choices, variants

USER = "anneliese-kowalczyk"
SECRETS = {
    "HF_TOKEN": "hf_" + "Q7" * 17,
    "OPENAI_API_KEY": "sk-" + "Z9" * 20,
    "WANDB_API_KEY": "0123456789abcdef" * 2,
    "DATABASE_URL": "postgres://anneliese:geheim@db.example/rows",
}


OF_THE_USER = {**SECRETS, "user": USER}
"""What is not even told where it stays here."""


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
    programs: tuple[Program, ...] = ("gguf", "ollama", "mlx")
    for to in programs:
        pipeline.export_converted("tiny", to, tmp_path / to, store)
    for folder in (run.folder, *(tmp_path / name for name in ("for-peft", "merged", *programs))):
        assert found(folder, traces) == []
    with publishing.prepare(
        run.folder, "anna/tiny", private=True, license="MIT", key=private_key(Path.cwd())
    ) as publication:
        [sent] = {file.path.parent for file in publication.files}
        assert {"model.sig", "bom.json"} <= {path.name for path in sent.iterdir()}
        assert found(sent, traces) == []
    assert found(run.run_folder, OF_THE_USER) == []
    page = (run.run_folder / "report.html").read_text()
    assert str(tmp_path) not in page


def private_key(folder: Path) -> Path:
    pytest.importorskip("model_signing", reason="needs pip install 'pefttune[sign]'")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    return folder / "key.pem"


def test_what_is_taken_in_tells_nothing_of_where_it_lay(
    traces: dict[str, str], finished: Any, recipe_of: Any, tiny: Path
) -> None:
    traces["folder of the base"] = str(tiny.parent)
    folder = Path.cwd() / "left-by-peft"
    shutil.copytree(finished().run.folder, folder)
    (folder / "pefttune.json").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tiny)}))
    taken = pipeline.take_in(folder, recipe_of(), "mine", max_rows=4)
    assert found(taken.folder, traces) == []
    assert found(taken.run_folder, {**SECRETS, "user": str(folder)}) == []


def test_what_a_sweep_and_a_probe_leave(traces: dict[str, str], recipe_of: Any) -> None:
    small = {"training.max_steps": 2, "evaluation.bootstrap_samples": 100}
    recipe_of(small)
    choices = [f"{key}={value}" for key, value in small.items()]
    tried = read_choices([*choices, "adapter.r=2,4"])
    variants_of = variants(str(recipe_of.path), tried)
    swept = sweep.sweep(variants_of, sweep.searcher("grid", variants_of, tried, None, 0), lambda event: None)
    probed = pipeline.probe(recipe_of(), [], [], 40)
    for folder in (swept.folder, probed.folder):
        assert found(folder, OF_THE_USER) == []
        pictures = [path for path in folder.rglob("*") if path.suffix in (".png", ".svg", ".html", ".md")]
        assert pictures
        assert not [path for path in pictures if any(traces["folder"].encode() in said for said in words(path))]


@pytest.mark.parametrize("name", ["README.md", "adapter_config.json", "figure.png", "adapter_model.safetensors"])
def test_a_trace_is_found(traces: dict[str, str], finished: Any, tmp_path: Path, name: str) -> None:
    """Of the search itself."""
    (tmp_path / "sent").mkdir()
    content = (finished().run.folder / name).read_bytes()
    (tmp_path / "sent" / name).write_bytes(content + SECRETS["HF_TOKEN"].encode())
    assert found(tmp_path / "sent", traces) == [f"HF_TOKEN in {name}"]
