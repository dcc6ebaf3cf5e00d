"""`pefttune probe` as it is typed: on a tiny random base, which knows letters at least."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

WRITTEN = "{type: summarization, max_new_tokens: 16}"
ANSWERED = "{type: question-answering, stride: 8}"


@pytest.fixture
def probe(command: Any, new_recipe: Any, new_reviews: Any, tiny: Path, shop: Any, tmp_path: Path) -> Any:
    """Probes 200 reviews for the base that the shop's adapter was trained on: `probe("--rows", 80)`."""
    data = f"{{source: {new_reviews(tmp_path / 'reviews.jsonl', 200)}}}"
    recipe = new_recipe(tmp_path, tiny, "{type: text-classification}", data)
    return lambda *arguments: command("probe", recipe, f"output.store={shop.store}", *arguments)


@pytest.fixture
def probe_rows(command: Any, new_recipe: Any, tiny: Path, tmp_path: Path) -> Any:
    """Probes rows of one's own: `probe_rows("{type: summarization}", rows, "--json")`."""

    def run(task: str, rows: list[dict[str, Any]], *arguments: object, base: Path = tiny) -> Any:
        written = tmp_path / "rows.jsonl"
        written.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return command("probe", new_recipe(tmp_path, base, task, f"{{source: {written}}}"), *arguments)

    return run


def test_a_probe_tells_and_leaves_its_report(probe: Any, tiny_encoder: Path, tiny: Path) -> None:
    done = probe("--bases", f"{tiny},{tiny_encoder}", "--adapters", "tiny", "--json")
    assert done.code == 0, done.err
    told = done.document
    assert told["transfers"] is True
    assert {base["source"] for base in told["bases"]} == {str(tiny), str(tiny_encoder)}
    metrics = [base["forecast"]["metric"] for base in told["bases"]]
    assert metrics == sorted(metrics, reverse=True)
    assert {base["approach"] for base in told["bases"]} == {"label words", "head"}
    assert [source["name"] for source in told["sources"]].count("tiny") == 1
    assert {source["name"] for source in told["sources"]} == {"tiny", "base:tiny"}
    assert all(source["leep"] <= 0 and 0 <= source["accuracy"] <= 1 for source in told["sources"])
    folder = Path(told["run_folder"])
    kept = json.loads((folder / "transfer.json").read_text())
    assert kept["bases"] == told["bases"]
    assert (folder / "transfer.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "log.jsonl").is_file()
    assert "sampled rows pass once through 2 bases and 1 adapter: about" in done.err


def test_tables_on_a_terminal(probe: Any) -> None:
    done = probe()
    assert done.code == 0, done.err
    for words in ("accuracy foretold for", "the best views", "19 shuffles", "nats a token on the texts"):
        assert words in done.out


def test_shuffled_labels_will_not_transfer(probe_rows: Any) -> None:
    rng = random.Random(0)
    rows = [{"text": f"film number {i}", "label": rng.choice(["good", "bad"])} for i in range(150)]
    done = probe_rows("{type: text-classification}", rows, "--json")
    assert done.code == 0, done.err
    assert done.document["transfers"] is False
    assert any("will not transfer" in warning for warning in done.document["warnings"])
    assert "will not transfer" in probe_rows("{type: text-classification}", rows).out


def test_words_are_probed(probe_rows: Any, tiny_encoder: Path) -> None:
    rows = [
        {"tokens": ["we", "met", f"zz{'xq'[i % 2]}", "there", f"{i}"], "tags": ["O", "O", "B-PER", "O", "O"]}
        for i in range(90)
    ]
    done = probe_rows("{type: token-classification, stride: 8}", rows, "--json", base=tiny_encoder)
    assert done.code == 0, done.err
    assert (done.document["metric"], done.document["transfers"]) == ("entity F1", True)
    assert done.document["bases"][0]["forecast"]["metric"] > 0.8


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (WRITTEN, lambda i: {"document": f"number {i} {'la ' * (i % 9)}", "summary": f"{i}"}),
        (
            ANSWERED,
            lambda i: {
                "context": f"the number {i} stands here",
                "question": "which?",
                "answers": {"text": [f"{i}"], "answer_start": [11]},
            },
        ),
    ],
)
def test_answers_are_judged_untrained(probe_rows: Any, task: str, row: Any) -> None:
    done = probe_rows(task, [row(i) for i in range(100, 180)], "--json")
    assert done.code == 0, done.err
    [base] = done.document["bases"]
    assert (base["forecast"], base["control"], base["views"]) == (None, None, [])
    assert base["answers"]["own"] < 0
    assert base["answers"]["bits_per_byte"] > 1
    assert "what training reaches is not foretold" in probe_rows(task, [row(i) for i in range(100, 180)]).out


def test_bad_input_is_told(probe: Any, probe_rows: Any, refused: Any, tiny: Path, tiny_encoder: Path) -> None:
    refused(probe("--adapters", "tinny", "--json"), 2, "AdapterError", "did you mean 'tiny'?")
    wrong = probe("--bases", str(tiny_encoder), "--adapters", "tiny", "--json")
    refused(wrong, 2, "AdapterError", "tiny was trained on another base", "They differ in: config")
    refused(
        probe("--bases", str(tiny_encoder), "--adapters", "all", "--json"), 2, "AdapterError", "holds none that was"
    )
    refused(probe("--bases", "./none", "--json"), 2, "BaseError", "there is no folder or file ./none")
    refused(probe("--bases", f"{tiny},{tiny}", "--json"), 2, "InputError", f"--bases names '{tiny}' twice")
    refused(probe("--adapters", "tiny,tiny", "--json"), 2, "InputError", "--adapters names 'tiny' twice")
    refused(probe("--bases", ",", "--json"), 2, "InputError", "--bases names none: write names")
    refused(probe("--adapters", "", "--json"), 2, "InputError", "--adapters names none: write names")
    refused(probe("--rows", "30", "--json"), 2, "DataError", "30 rows are too few to tell anything")
    regression = ["task.approach=head", "task.problem_type=regression", "data.label_bins=null", "--json"]
    numbers = [{"text": f"film {i}", "label": i} for i in range(60)]
    refused(
        probe_rows("{type: text-classification}", numbers, *regression), 2, "RecipeError", "regression cannot be probed"
    )
    answers = probe_rows(
        WRITTEN, [{"document": f"d {i}", "summary": "s"} for i in range(60)], "--adapters", "all", "--json"
    )
    refused(answers, 2, "InputError", "summarization has none: leave it out")
    few = [{"text": f"film {i}", "label": "good" if i < 4000 else "bad"} for i in range(4001)]
    one_class = probe_rows("{type: text-classification, labels: [good, bad]}", few, "--rows", "60", "--json")
    refused(one_class, 2, "DataError", "60 sampled rows are of the class 'good'")
    question = {"context": "here it is", "question": "where?", "answers": {"text": ["here"], "answer_start": [0]}}
    asked = [{**question, "question": f"where {i}?", "context": f"here {i}"} for i in range(80)]
    encoder = probe_rows(ANSWERED, asked, "--json", base=tiny_encoder)
    refused(encoder, 2, "BaseError", "an encoder, untrained, says nothing of the answers")
