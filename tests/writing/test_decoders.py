"""Tasks whose answer is written, from the recipe to the stored adapter and back, on the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def recipe_of_kind(new_recipe: Any, rows_of: Any, tiny: Path, tmp_path: Path) -> Any:
    from pefttune.recipe import load_recipe

    def make(kind: str, *overrides: str) -> Any:
        task = f"{{type: {kind}, max_new_tokens: 8}}"
        data = f"{{source: {rows_of(tmp_path, kind)}, split: {{validation: 0.2, test: 0.3}}}}"
        training = "{per_device_train_batch_size: 8, learning_rate: 1e-1, num_train_epochs: 6}"
        adapter = "{method: lora, r: 4, layers: top-1}"
        return load_recipe(new_recipe(tmp_path, tiny, task, data, training, adapter, name=kind), list(overrides))

    return make


@pytest.mark.parametrize("kind", ["summarization", "text-generation"])
@pytest.mark.usefixtures("_fresh_accelerate")
def test_a_run_is_watched_by_likelihood_compared_by_what_is_written_and_proved(
    recipe_of_kind: Any, kind: str, tmp_path: Path
) -> None:
    import pefttune

    recipe = recipe_of_kind(kind, *(['task.answer_after="####"'] if kind == "text-generation" else []))
    events: list[dict[str, Any]] = []
    run = pefttune.run(recipe, events.append)
    evaluations = [event for event in events if event["event"] == "evaluation"]
    assert {event["watched"] for event in evaluations} == {"log_likelihood"}
    likelihoods = [event["log_likelihood"] for event in evaluations]
    assert likelihoods[-1] > likelihoods[0] + 0.01, "nothing was learned"
    assert evaluations[0]["perplexity"] == pytest.approx(np.exp(-likelihoods[0]))
    written = [event for event in events if event["event"] == "writing"]
    assert {event["what"] for event in written} == {"base, zero-shot", "with adapter"}
    assert written[-1]["done"] == written[-1]["of"] == run.comparison.rows
    primary = "rouge_l" if kind == "summarization" else "exact_match"
    assert run.comparison.primary == primary
    assert 0 <= run.comparison.adapter[primary] <= 1
    assert len(run.manifest["probe"]["scores"]) == min(16, run.comparison.rows)
    session = pefttune.open_session(kind, tmp_path / "adapters")
    probe = run.manifest["probe"]
    predictions = list(session.predict(probe["rows"]))
    assert {type(prediction).__name__ for prediction in predictions} == {"Written"}
    again = pefttune.evaluate(kind, tmp_path / "adapters")
    assert again.adapter == run.comparison.adapter


@pytest.mark.usefixtures("_fresh_accelerate")
def test_the_loss_of_a_conversation_is_the_same_padded_and_ragged(base_of: Any) -> None:
    import torch

    from pefttune import evaluation, tasks
    from pefttune.data import Row
    from pefttune.inference import Session
    from pefttune.recipe import tasks as sections
    from pefttune.recipe.adapters import Lora

    session = Session(base_of())
    section = sections.TextGeneration(type="text-generation", max_new_tokens=20)
    loaded = session.add("a", session.attach(tasks.get(section), Lora(method="lora", r=4), 256))
    torch.manual_seed(1)
    for parameter in loaded.parameters.values():
        parameter.data.normal_(std=0.2)
    talk = [
        {"role": "user", "content": "Two and two?"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "And one?"},
    ]
    rows = [Row({"messages": talk[at:], "reply": reply}, "x") for at, reply in ((0, "Five."), (2, "A"), (0, "No"))]
    examples = [example for row in rows for example in loaded.encoder(row)]
    assert [len(example.marks) for example in examples] == [6, 0, 6]
    losses, scores = [], []
    for session.collator.ragged in (True, False):
        batch = session.collator.collate(examples, every_answer=False)
        assert batch.n_scored == 6 + 6 + 2 + 6 + 3  # "Four." and its end twice, and each reply with its end
        losses.append(session.loss("a", batch).item())
        scores.append(session.scores("a", examples))
    assert [len(each) for each in scores[0]] == [12, 2, 9]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # float32 sums in another order
    for one, other in zip(*scores, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert losses[0] == pytest.approx(-float(torch.cat(scores[0]).sum()), rel=1e-5)
    watched = evaluation.watch(session, "a", rows, [loaded.encoder(row) for row in rows])
    mean = float(torch.cat(scores[1]).double().mean())
    assert watched == {"log_likelihood": pytest.approx(mean), "perplexity": pytest.approx(np.exp(-mean))}
    ids = torch.tensor([[*examples[0].prompt, *examples[0].answers[0]]])
    plain = session.base.model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    learned = [position for position, _ in examples[0].marks]
    learned += range(len(examples[0].prompt) - 1, ids.shape[1] - 1)
    torch.testing.assert_close(scores[0][0], plain[learned], rtol=1e-4, atol=1e-5)
