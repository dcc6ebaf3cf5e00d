"""What an adapter scored, in the Hub's two formats: `model-index` in the card, and `.eval_results/*.yaml`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from pefttune.errors import AdapterError

HUB_METRICS = {
    **{name: name for name in ("accuracy", "f1", "precision", "recall", "exact_match")},
    "macro_f1": "f1",
    "micro_f1": "f1",
    "word_accuracy": "accuracy",
    "rouge_l": "rouge",
    "rouge_1": "rouge",
    "rouge_2": "rouge",
    "r2": "r_squared",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Our names, and those of the Hub (huggingface.co/evaluate-metric). Others stand in the card's tables only."""


def hub_metrics(shown: Iterable[str]) -> list[str]:
    """The Hub's names of the metrics that it knows, each once."""
    return list(dict.fromkeys(HUB_METRICS[ours] for ours in shown if ours in HUB_METRICS))


def hub_dataset(manifest: dict[str, Any]) -> str | None:
    """The Hub id of the data set that an adapter was trained on, if it is there."""
    source: str | None = manifest["recipe"]["data"]["source"]
    return source if source is not None and "/" in source else None  # a manifest has no paths


def model_index(manifest: dict[str, Any]) -> list[EvalResult]:
    """The adapter's metrics on its test rows, as far as the Hub knows them
    (github.com/huggingface/hub-docs, modelcard.md)."""
    comparison, data = manifest["comparison"], manifest["data"]
    return [
        EvalResult(
            task_type=manifest["recipe"]["task"]["type"],
            dataset_type=hub_dataset(manifest) or data["source"],
            dataset_name=data["title"] or data["source"],
            dataset_config=manifest["recipe"]["data"]["config_name"],
            dataset_revision=manifest["recipe"]["data"]["revision"],
            dataset_split=_whole_split(manifest),
            metric_type=HUB_METRICS[metric],
            metric_name=name,
            metric_value=comparison["adapter"][metric],
        )
        for metric, name in comparison["shown"].items()
        if metric in HUB_METRICS
    ]


def _whole_split(manifest: dict[str, Any]) -> str | None:
    """The split of the data set that the test rows are, if they are a whole one as it is."""
    data = manifest["recipe"]["data"]
    split = data["test"]
    return split if isinstance(split, str) and not data["max_test_samples"] and not data["label_bins"] else None


def leaderboard(manifest: dict[str, Any], task_id: str) -> tuple[str, list[dict[str, Any]]]:
    """The name and the content of a file that puts the primary metric on the leaderboard of the adapter's data set, in
    its task `task_id` (huggingface.co/docs/hub/eval-results).

    Raises AdapterError unless the test rows are surely those of the leaderboard.
    """
    data, comparison, dataset = manifest["recipe"]["data"], manifest["comparison"], hub_dataset(manifest)
    if dataset is None:
        raise AdapterError("--benchmark: the Hub has leaderboards of its own data sets only, and this data is no such")
    if _whole_split(manifest) is None:
        raise AdapterError(
            f"--benchmark: a leaderboard compares what was measured on one whole split of {dataset}. Name that split "
            "as `data.test` in the recipe, without `data.max_test_samples` and `data.label_bins`, and train again"
        )
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=task_id,
        value=comparison["adapter"][comparison["primary"]],
        dataset_revision=data["revision"],
        date=manifest["created"],
        notes=f"{comparison['shown'][comparison['primary']]} of {manifest['name']}, on split {data['test']}",
    )
    return f"{dataset.replace('/', '--')}.yaml", eval_result_entries_to_yaml([entry])
