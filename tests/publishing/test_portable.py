"""What is published says nothing of the machine it was made on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pefttune import pipeline, store
from pefttune.bases import Located
from pefttune.publishing import portable, render_card

FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "figure.png", "pefttune.json"]


def located(hub_id: str | None = None, origin: str = "llama") -> Located:
    return Located(Path("/anywhere"), hub_id, None, origin)


def recipe_with(base: str, **data: Any) -> dict[str, Any]:
    return {
        "seed": 1,
        "base": {"source": base, "dtype": "auto"},
        "data": {"source": None, "train": None, "validation": None, "test": None, **data},
        "output": {"name": "film", "store": "/home/anna/adapters", "runs": "/home/anna/runs"},
        "task": {"instruction": "and/or"},
    }


@pytest.mark.parametrize(
    ("base", "where", "kept"),
    [
        ("smollm2-135m-instruct", located("HuggingFaceTB/SmolLM2-135M-Instruct", "package index"), None),
        ("Qwen/Qwen2.5-0.5B-Instruct", located("Qwen/Qwen2.5-0.5B-Instruct"), None),
        ("/home/anna/models/llama", located(), "llama"),
        ("clients/acme", located(origin="acme"), "acme"),
        ("~/m/small.gguf", located(origin="small.gguf"), "small.gguf"),
    ],
)
def test_a_base_keeps_its_public_name_or_its_last_part(base: str, where: Located, kept: str | None) -> None:
    assert portable(recipe_with(base), where)["base"] == {"source": kept or base, "dtype": "auto"}


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ({"source": "film-reviews"}, {"source": "film-reviews"}),
        ({"source": "org/set-1.5", "train": "train"}, {"source": "org/set-1.5", "train": "train"}),
        ({"source": "anna/reviews.csv"}, {"source": "reviews.csv"}),
        (
            {"train": "/home/anna/t.csv", "validation": "~/v.csv", "test": "../e.csv"},
            {"train": "t.csv", "validation": "v.csv", "test": "e.csv"},
        ),
        ({"train": ["/home/anna/a.csv", "tweets"], "test": "b.csv"}, {"train": ["a.csv", "tweets"], "test": "b.csv"}),
        ({"source": "org/set", "train": ["train", "a/b"]}, {"source": "org/set", "train": ["train", "a/b"]}),
    ],
)
def test_data_keep_their_public_name_or_their_last_part(data: dict[str, Any], kept: dict[str, Any]) -> None:
    cut = portable(recipe_with("smollm2-135m-instruct", **data), located())
    assert {key: value for key, value in cut["data"].items() if value is not None} == kept
    assert cut["output"] == {"name": "film", "store": "adapters", "runs": "runs"}
    assert (cut["seed"], cut["task"]) == (1, {"instruction": "and/or"})


@pytest.mark.parametrize("approach", ["label-words", "head", "encoder"])
def test_the_folder_holds_these_files_and_no_other(finished: Any, approach: str) -> None:
    assert sorted(path.name for path in finished(approach).run.folder.iterdir()) == FILES


def test_no_file_of_an_adapter_names_the_machine(
    recipe_of: Any, new_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with everything in folders that tell, broken rows with their places among them."""
    hidden = tmp_path / "anna-secret"
    base = new_model(hidden / "base")
    rows = (tmp_path / "reviews.jsonl").read_text().splitlines()
    parts = {"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}
    for part, lines in parts.items():
        (hidden / f"{part}.jsonl").write_text("\n".join([*lines, '{"text": "", "label": "good"}']))
    monkeypatch.setenv("HOME", str(hidden))
    recipe = recipe_of(
        {
            "base.source": str(base),
            "data.source": None,
            **{f"data.{part}": str(hidden / f"{part}.jsonl") for part in parts},
            "data.max_bad_rows": 3,
            "training.max_steps": 2,
            "output.store": str(hidden / "adapters"),
        }
    )
    folder = pipeline.run(recipe).folder
    assert len(store.read_manifest(folder)["data"]["bad_rows"]) == 3
    assert len(list(folder.iterdir())) == len(FILES)
    for path in folder.iterdir():
        content = path.read_bytes()
        for told in (str(tmp_path), tmp_path.name, "anna-secret", str(Path.home()), "/tmp", "/root", "/home"):
            assert told.encode() not in content, f"{path.name} holds {told}"


@pytest.mark.parametrize("approach", ["label-words", "head", "encoder"])
def test_the_card_says_what_the_manifest_says(finished: Any, approach: str) -> None:
    run = finished(approach).run
    _, head, body = (run.folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["base_model"] == ("tiny-encoder" if approach == "encoder" else "tiny")
    assert metadata["library_name"] == "peft"
    assert metadata["pipeline_tag"] == "text-classification"
    assert metadata["metrics"] == ["accuracy", "f1"]
    [result] = metadata["model-index"][0]["results"]
    assert [(one["type"], one["name"]) for one in result["metrics"]] == [("accuracy", "accuracy"), ("f1", "macro-F1")]
    assert "base_model_revision" not in metadata
    assert f"{run.manifest['parameters']:,} trainable parameters" in body
    assert "adapter for text-classification (bad / good) on `" in body
    assert "`PeftModel.from_pretrained(base, folder)` loads it without pefttune" in body
    assert ("AutoModelForSequenceClassification` with `num_labels=2`" in body) == (approach != "label-words")
    told = 'The model reads this prompt, and the likeliest of the answers "bad", "good" wins:'
    assert (f"{told}\n\n```\n{run.manifest['prompt']}\n```\n" in body) == (approach == "label-words")
    assert 'session.predict(["…", "…"])' in body


def table(card: str, heading: str) -> list[list[str]]:
    """The cells of the table that begins with this line."""
    lines = card.split(f"{heading}\n", 1)[1].split("\n\n", 1)[0].splitlines()
    assert lines[0] == "|" + "---|" * (heading.count("|") - 1)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.parametrize("approach", ["label-words", "encoder"])
def test_the_cards_tables_are_the_comparison(finished: Any, approach: str) -> None:
    """A base that cannot be asked zero-shot stands in none of them."""
    run = finished(approach).run
    card, comparison = (run.folder / "README.md").read_text(encoding="utf-8"), run.comparison
    others = ["always 'bad'"] if approach == "encoder" else ["base, zero-shot", "always 'bad'"]
    assert list(comparison.others) == others

    def percents(metrics: dict[str, Any], keys: Any, bold: str = "") -> list[str]:
        return [f"{bold}{100 * metrics[key]:.1f} %{bold}" for key in keys]

    assert f"Measured on {comparison.rows} held-out rows" in card
    assert table(card, "| | accuracy | macro-F1 | calibration error |") == [
        *([name, *percents(comparison.others[name], comparison.shown)] for name in others),
        ["**with this adapter**", *percents(comparison.adapter, comparison.shown, "**")],
    ]
    heading = "| difference in accuracy, paired | | 95.0 % interval | sign test p | rows better | rows worse |"
    assert table(card, heading) == [
        [
            f"against {each.against}",
            f"{100 * each.difference:+.1f} points",
            f"{100 * each.low:+.1f} points … {100 * each.high:+.1f} points",
            f"{each.sign_test_p:.2g}",
            str(each.fixed),
            str(each.broken),
        ]
        for each in comparison.differences
    ]
    assert table(card, "| class | precision | recall | F1 | rows |") == [
        [label, *percents(own, ("precision", "recall", "f1")), str(own["rows"])]
        for label, own in comparison.adapter["per_class"].items()
    ]


def test_metrics_have_the_names_that_the_hub_knows(finished: Any) -> None:
    manifest = json.loads(json.dumps(finished().run.manifest))
    comparison = manifest["comparison"]
    comparison["shown"] = {"rouge_l": "ROUGE-L", "rouge_1": "ROUGE-1", "exact_match": "exact match", "accuracy": "x"}
    for metrics in (comparison["adapter"], *comparison["others"].values()):
        metrics.update(dict.fromkeys(comparison["shown"], 0.5))
    comparison["primary"] = "rouge_l"
    _, head, _ = render_card(manifest).split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["metrics"] == ["rouge", "exact_match", "accuracy"]
    [result] = metadata["model-index"][0]["results"]
    assert [(one["type"], one["name"]) for one in result["metrics"]] == [
        ("rouge", "ROUGE-L"),
        ("rouge", "ROUGE-1"),
        ("exact_match", "exact match"),
        ("accuracy", "x"),
    ]


def test_names_in_a_card_cannot_break_its_tables(finished: Any) -> None:
    manifest = json.loads(json.dumps(finished().run.manifest))
    comparison = manifest["comparison"]
    comparison["others"] = {"always 'a|b\nc'": next(iter(comparison["others"].values()))}
    comparison["differences"] = [{**comparison["differences"][0], "against": "always 'a|b\nc'"}]
    comparison["adapter"]["per_class"] = {"a|b": comparison["adapter"]["per_class"]["good"]}
    card = render_card(manifest)
    assert "| always 'a\\|b c' |" in card
    assert "| against always 'a\\|b c' |" in card
    assert "| a\\|b |" in card


def test_a_card_names_some_of_many_labels_and_how_a_task_of_two_columns_is_asked(finished: Any) -> None:
    manifest = {**finished().run.manifest, "labels": [str(i) for i in range(40)], "inputs": ["question", "context"]}
    manifest["comparison"] = json.loads(json.dumps(manifest["comparison"]))
    del manifest["comparison"]["adapter"]["per_class"]  # not every task has classes
    card = render_card(manifest)
    assert "text-classification (0 / 1 / 2 / 3 / 4 / 5 / 6 / 7 / …, 40 labels) on `tiny`" in card
    row = '{"question": "…", "context": "…"}'
    assert f"session.predict([{row}, {row}])" in card
    assert "| class |" not in card


def test_the_manifest_says_how_to_repeat_and_judge_it(finished: Any) -> None:
    done = finished()
    manifest = store.read_manifest(done.run.folder)
    assert manifest["recipe"]["adapter"]["r"] == 4
    assert manifest["recipe"]["training"]["learning_rate"] == 1e-2
    assert (manifest["labels"], manifest["inputs"]) == (["bad", "good"], ["text"])
    assert manifest["head"] is None
    assert finished("head").run.manifest["head"] == {"task_type": "SEQ_CLS", "outputs": 2, "plain": True}
    assert manifest["base"]["dtype"] == "float32"
    assert set(manifest["data"]["fingerprints"]) == {"train", "validation", "test"}
    assert set(manifest["files"]) == set(FILES) - {"pefttune.json"}
    assert manifest["training"]["steps"] == len([e for e in done.events if e["event"] == "step"])
    memory = manifest["training"]["memory"]
    assert memory["device"] == "cpu"
    assert memory["peak_mib"] >= memory["libraries_mib"] > 0
    assert memory["weights_mib"] > 0
    assert memory["adapter_and_optimizer_mib"] > 0
    assert memory["activations_mib"] >= 0
    assert {"pefttune", "torch", "transformers", "peft", "python"} <= manifest["versions"].keys()
    assert json.loads(json.dumps(done.run.manifest)) == {
        key: value for key, value in manifest.items() if key not in ("format", "files")
    }
