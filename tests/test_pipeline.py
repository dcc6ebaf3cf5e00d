"""The straight line, from a recipe to a stored adapter, and every way it may end before."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pefttune import bases, methods, pipeline, store
from pefttune.errors import (
    DataError,
    NonFiniteError,
    PefttuneError,
    StorageError,
    TrainingError,
    VerificationError,
)
from pefttune.inference import Session, open_session
from pefttune.inference.collating import Collator
from pefttune.methods import weights

QUICK = {"training.max_steps": 3, "evaluation.bootstrap_samples": 100}


@pytest.fixture
def quick(recipe_of: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Recipes of three steps; half of such a run would be its figure, which those of `finished` draw."""
    monkeypatch.setattr("pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"figure"))
    return lambda changes=None: recipe_of({**QUICK, **(changes or {})})


def stored(tmp_path: Path) -> list[str]:
    """Everything below the store, also what begins with a dot."""
    shelf = tmp_path / "adapters"
    return sorted(str(path.relative_to(shelf)) for path in shelf.rglob("*"))


@pytest.mark.parametrize("approach", ["label-words", "head"])
def test_a_run_leaves_an_adapter_that_learned(finished: Any, approach: str) -> None:
    done = finished(approach)
    assert done.run.folder == done.store / "tiny" / "1"
    manifest = store.read_manifest(done.run.folder)
    assert manifest["recipe"]["task"]["approach"] == approach
    steps = [event for event in done.events if event["event"] == "step"]
    assert steps[-1]["loss"] < steps[0]["loss"]  # seeded, so always by the same amount
    assert done.run.comparison.rows == manifest["data"]["rows"]["test"] == manifest["comparison"]["rows"]
    assert done.run.comparison.adapter["accuracy"] == manifest["comparison"]["adapter"]["accuracy"]


def test_events_come_in_the_order_of_the_line_and_are_the_log(finished: Any) -> None:
    done = finished()
    kinds = [event["event"] for event in done.events]
    order = ["data", "base", "step", "evaluation", "memory", "scoring", "comparison", "verifying", "stored"]
    firsts = [kinds.index(kind) for kind in order]
    assert firsts == sorted(firsts)
    assert set(kinds) <= {*order, "notice"}
    lines = [json.loads(line) for line in (done.run.run_folder / "log.jsonl").read_text().splitlines()]
    assert [{key: value for key, value in line.items() if key != "at_s"} for line in lines] == (
        json.loads(json.dumps(done.events))
    )
    times = [line["at_s"] for line in lines]
    assert times == sorted(times)


def test_the_run_folder_holds_the_whole_story(finished: Any) -> None:
    folder = finished().run.run_folder
    assert {"log.jsonl", "comparison.json", "figure.png", "best.safetensors"} <= {p.name for p in folder.iterdir()}
    comparison = json.loads((folder / "comparison.json").read_text())
    changed = [*comparison["fixed"], *comparison["broken"]]
    assert all(row["other"] != row["adapter"] and row["text"] and row["reference"] for row in changed)
    assert comparison["differences"][0]["against"] == "base, zero-shot"
    assert len(comparison["fixed"]) == comparison["differences"][0]["fixed"]
    assert len(comparison["broken"]) == comparison["differences"][0]["broken"]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_base_trains_and_verifies(quick: Any, quantization: str, tmp_path: Path) -> None:
    run = pipeline.run(quick({"base.quantization": quantization, "adapter.lora_dropout": 0.1}))
    assert stored(tmp_path)[:2] == ["tiny", "tiny/1"]
    told = run.manifest["base"]["fingerprint"]["quantization"]
    assert told == {"nf4": "nf4+double", "int8": "int8"}[quantization]
    session = open_session("tiny", tmp_path / "adapters")
    probe = run.manifest["probe"]
    assert [p.label for p in session.predict(probe["rows"])] == [
        run.manifest["labels"][scores.index(max(scores))] for (scores,) in probe["scores"]
    ]


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(quick: Any) -> None:
    files = [
        (pipeline.run(quick({"seed": seed, "adapter.lora_dropout": 0.2})).folder / weights.WEIGHTS).read_bytes()
        for seed in (5, 5, 6)
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_versions_count_up_and_the_first_stays(quick: Any, tmp_path: Path) -> None:
    first = pipeline.run(quick()).folder
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    assert pipeline.run(quick({"seed": 1})).folder.name == "2"
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    assert store.versions(tmp_path / "adapters", "tiny") == [1, 2]


def test_batches_of_a_real_run_are_of_like_length(quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a base that cannot read ragged batches gets: sorted where it is used, not only where it is planned."""
    monkeypatch.setattr("pefttune.inference.collating.disagreement", lambda *args, **options: "it is told not to")
    with (tmp_path / "reviews.jsonl").open("w") as file:
        for i in range(200):
            length = i * 37 % 150
            file.write(json.dumps({"text": f"row {i} " + "x" * length, "label": "good" if i % 2 else "bad"}) + "\n")
    collate, batches = Collator.collate, []

    def noting(self: Collator, examples: Any, *, every_answer: bool) -> Any:
        if not every_answer:
            batches.append([len(example) for example in examples])
        return collate(self, examples, every_answer=every_answer)

    monkeypatch.setattr(Collator, "collate", noting)
    pipeline.run(quick({"training.max_steps": None, "training.gradient_accumulation_steps": 2}))
    assert len(batches) > 8
    for batch in batches:
        assert batch == sorted(batch, reverse=True)
    # One group of steps: nothing lies between two batches in length.
    ordered = sorted(batches, key=lambda batch: (batch[-1], batch[0]))
    assert all(one[0] <= other[-1] for one, other in pairwise(ordered))
    assert batches != ordered, "the short ones all come first"


def long_rows(tmp_path: Path, every: int, rows: int = 60) -> None:
    """Rows of which some are far longer than the others."""
    with (tmp_path / "reviews.jsonl").open("w") as file:
        for i in range(rows):
            text = f"film {i} is {'fine' if i % 2 else 'dull'}" + " and long" * (40 if i % every == 0 else 0)
            file.write(json.dumps({"text": text, "label": "good" if i % 2 else "bad"}) + "\n")


@pytest.mark.parametrize("policy", ["truncate", "drop"])
def test_long_rows_are_counted_and_told(quick: Any, tmp_path: Path, policy: str) -> None:
    long_rows(tmp_path, every=7)
    events: list[dict[str, Any]] = []
    pipeline.run(quick({"data.max_length": 128, "data.too_long": policy, "training.max_steps": None}), events.append)
    told = [event["message"] for event in events if event["event"] == "notice"]
    counts = {what: int(message.split()[0]) for what in ("training", "validation", "test") for message in told
              if f" {what} rows do not fit data.max_length = 128 tokens" in message}  # fmt: skip
    assert sum(counts.values()) == 9  # every seventh of sixty
    assert counts["training"] > 0
    for message in told:
        dropped = policy == "drop" and "training rows" in message
        assert f"they {'are dropped' if dropped else 'lose their end'}: reviews.jsonl:" in message
    rows = next(event for event in events if event["event"] == "data")["rows"]
    trained = sum(event["examples"] for event in events if event["event"] == "step")
    assert trained == rows["train"] - (counts["training"] if policy == "drop" else 0)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_long_row_stops_the_run_before_training_where_that_is_asked_for(
    quick: Any, tmp_path: Path, part: str
) -> None:
    long_rows(tmp_path, every=1000)  # row 0 alone
    lines = (tmp_path / "reviews.jsonl").read_text().splitlines()
    parts = {"train": lines[1:30], "validation": lines[30:45], "test": lines[45:]}
    parts[part].append(lines[0])
    for name, content in parts.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(content))
    events: list[dict[str, Any]] = []
    sources = {"data.source": None, **{f"data.{name}": str(tmp_path / f"{name}.jsonl") for name in parts}}
    with pytest.raises(
        DataError, match=r"1 of \d+ \w+ rows do not fit data\.max_length = 128 tokens: .*Raise the limit"
    ):
        pipeline.run(quick({**sources, "data.max_length": 128, "data.too_long": "error"}), events.append)
    assert "step" not in [event["event"] for event in events]
    assert stored(tmp_path) == []


@pytest.mark.timeout(60)
def test_dropping_every_row_leaves_none_to_train_on(quick: Any, tmp_path: Path) -> None:
    long_rows(tmp_path, every=1)
    with pytest.raises(DataError, match=r"they do not fit|none is left to train on"):
        pipeline.run(quick({"data.max_length": 128, "data.too_long": "drop"}))
    assert stored(tmp_path) == []


def test_an_adapter_that_was_saved_wrong_is_not_stored(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = weights.write

    def wrong_by_a_bit(folder: Path, config: Any, state: Any, *names: Any) -> None:
        # In every tensor: that of one may drown in the rounding of what comes after it.
        wrong = {key: torch.nextafter(tensor, torch.tensor(torch.inf)) for key, tensor in state.items()}
        write(folder, config, wrong, *names)

    monkeypatch.setattr(weights, "write", wrong_by_a_bit)
    with pytest.raises(VerificationError, match=r"tiny scores its probe rows up to .* it has not been stored"):
        pipeline.run(quick())
    assert stored(tmp_path) == []


def test_an_adapter_that_was_saved_wrong_leaves_the_earlier_version(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.run(quick())
    before = stored(tmp_path)
    monkeypatch.setattr(weights, "read", lambda folder, expected, _: {key: 2 * one for key, one in expected.items()})
    with pytest.raises(VerificationError):
        pipeline.run(quick())
    assert stored(tmp_path) == before


def test_the_proof_is_made_in_the_dtype_of_the_training(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the measurement may choose otherwise the second time."""
    speeds = iter([1.0, 2.0])  # float32 wins once; asked again, there is no more to give

    def seconds(dtype: torch.dtype) -> float:
        return next(speeds)

    monkeypatch.setattr("pefttune.bases.machine._seconds", seconds)
    run = pipeline.run(quick({"base.dtype": "auto"}))
    assert run.manifest["base"]["dtype"] == "float32"


def test_the_trained_base_is_gone_when_the_proof_loads_a_fresh_one(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two bases are in memory at once."""
    load, loaded, alive = bases.load, [], []

    def noting(*args: Any, **options: Any) -> bases.Base:
        alive.append([model for model in loaded if model() is not None])
        base = load(*args, **options)
        loaded.append(weakref.ref(base.model))
        return base

    monkeypatch.setattr(bases, "load", noting)
    pipeline.run(quick())
    assert alive == [[], []]


@pytest.mark.parametrize(
    ("after", "allowed", "message"),
    [
        ("data", 300, r"the log .*log\.jsonl cannot be written"),
        ("base", 30_000, r"best\.safetensors could not be written"),
        ("memory", 15_000, r"runs/tiny/.* cannot be written to: File too large; the store is untouched"),
        ("comparison", 60_000, r"could not be saved in .*adapters/tiny: adapter_model\.safetensors.*earlier versions"),
    ],
)
def test_a_full_disk_is_told_and_leaves_the_earlier_version_whole(
    quick: Any, tmp_path: Path, disk_full: Any, after: str, allowed: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from an event on: for the log, the best weights, the figure, the adapter itself."""
    before = pipeline.run(quick()).folder
    content = {path.name: path.read_bytes() for path in before.iterdir()}
    listed = stored(tmp_path)
    # 130 kB of weights; the figure is made as large, where it is its turn.
    monkeypatch.setattr(
        "pefttune.evaluation.draw", lambda path, *about: path.write_bytes(b"x" * (50_000 if after == "memory" else 9))
    )
    full: list[Any] = []

    def notify(event: dict[str, Any]) -> None:
        if event["event"] == after:
            full.append(disk_full(allowed))
            full[0].__enter__()

    try:
        with pytest.raises(StorageError, match=message):
            pipeline.run(quick({"adapter.r": 1 if after == "memory" else 16, "training.max_steps": 1}), notify)
    finally:
        full[0].__exit__(None, None, None)
    assert stored(tmp_path) == listed
    assert {path.name: path.read_bytes() for path in before.iterdir()} == content


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_is_broken_off_stores_nothing(quick: Any, tmp_path: Path, error: type[BaseException]) -> None:
    def notify(event: dict[str, Any]) -> None:
        if event["event"] == "verifying":
            raise error

    with pytest.raises(error):
        pipeline.run(quick(), notify)
    assert stored(tmp_path) == []


def test_a_loss_that_is_not_finite_stops_the_run_with_the_rows(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "losses", lambda self, batches: [torch.tensor(float("nan"), requires_grad=True)])
    with pytest.raises(
        NonFiniteError, match=r"^tiny, step 1: the loss is nan .* Rows of this step: reviews\.jsonl:\d+, "
    ):
        pipeline.run(quick())
    assert stored(tmp_path) == []


def test_an_adapter_that_cannot_learn_stops_the_run(quick: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="28 of 28 trainable tensors have not moved"):
        pipeline.run(quick({"adapter.lora_alpha": 0}))
    assert stored(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "UP"])
def test_an_unsafe_name_fails_before_any_work(recipe_of: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(PefttuneError, match="name"):
        pipeline.run(recipe_of().model_copy(update={"output": recipe_of().output.model_copy(update={"name": name})}))
    assert not (tmp_path / "runs").exists()


BAD_DATA = """
import sys
from pefttune import pipeline
from pefttune.errors import DataError
from pefttune.recipe import load_recipe
try:
    pipeline.run(load_recipe(sys.argv[1]))
except DataError as error:
    print(error)
    print(sorted({"torch", "transformers", "peft", "accelerate", "bitsandbytes"} & set(sys.modules)))
"""


def test_bad_data_fails_before_torch_is_imported(recipe_of: Any, tmp_path: Path) -> None:
    with (tmp_path / "reviews.jsonl").open("a") as file:
        file.write('{"text": "", "label": "good"}\n')
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", BAD_DATA, str(recipe_of.path)], capture_output=True, text=True, check=True
    )
    told = done.stdout.splitlines()
    assert told[-1] == "[]"
    assert "reviews.jsonl:61, column `text`: is empty" in done.stdout
    assert not (tmp_path / "runs").exists()
    # 0.5 s alone; torch and its family take 8. Shared machines are slow, so this only bounds the order of size.
    assert time.perf_counter() - started < 30


def test_evaluating_again_gives_the_same_comparison(
    finished: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = finished()
    monkeypatch.setenv("PEFTTUNE_CACHE", str(done.cache))
    monkeypatch.chdir(done.store.parent)  # where its data lies: the manifest names the file without its folder
    assert pipeline.evaluate("tiny", done.store) == done.run.comparison
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"Labelled rows can be given with --data FILE"):
        pipeline.evaluate("tiny", done.store)


def test_evaluating_on_a_file_takes_all_its_rows(
    finished: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_reviews: Any
) -> None:
    done = finished("head")
    monkeypatch.setenv("PEFTTUNE_CACHE", str(done.cache))
    file = new_reviews(tmp_path / "more.jsonl", rows=7)
    comparison = pipeline.evaluate("tiny", done.store, str(file))
    assert comparison.rows == 7
    (tmp_path / "bad.jsonl").write_text('{"text": "x", "label": "god"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1, column `label`: 'god' is not one of bad, good; did you mean"):
        pipeline.evaluate("tiny", done.store, str(tmp_path / "bad.jsonl"))


def test_methods_are_known_to_the_recipe() -> None:
    from pefttune.recipe import adapters

    assert methods.METHODS.keys() == adapters.METHODS.keys()
