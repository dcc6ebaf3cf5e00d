"""What can be relied on: the public names, the commands and their options. Growth is a visible diff here."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {
    "pefttune": {
        "PefttuneError",
        "Prediction",
        "Recipe",
        "Run",
        "Session",
        "evaluate",
        "load_recipe",
        "open_session",
        "run",
    },
    "pefttune.recipe": {
        "BaseShape",
        "Choice",
        "Explanation",
        "LoadedRecipe",
        "METHOD",
        "Recipe",
        "Variant",
        "Workload",
        "all_keys",
        "applied",
        "choose",
        "explain",
        "load_recipe",
        "read_choices",
        "read_recipe",
        "recipe_from_mapping",
        "resolved_yaml",
        "shape_of",
        "shipped_recipes",
        "to_mapping",
        "variants",
    },
    "pefttune.data": {
        "CATALOGUE",
        "DataReport",
        "Dataset",
        "Entry",
        "Example",
        "Pin",
        "Row",
        "UNKNOWN",
        "cache_dir",
        "extract_member",
        "fetch",
        "load",
        "load_file",
        "locate",
        "read_rows",
        "take_columns",
        "write_rows",
    },
    "pefttune.store": {
        "MANIFEST",
        "Hold",
        "Removed",
        "alias",
        "check_name",
        "commit",
        "find",
        "names",
        "read_manifest",
        "read_record",
        "remove",
        "staged",
        "tidy",
        "versions",
        "write_manifest",
    },
    "pefttune.tasks": {
        "Answer",
        "Classified",
        "Encoded",
        "Encoder",
        "Entity",
        "Generation",
        "PairEncoder",
        "Piece",
        "Prediction",
        "QuestionAnswering",
        "ScoredBatch",
        "Summarization",
        "TASKS",
        "Tagged",
        "Task",
        "TextClassification",
        "TextGeneration",
        "TokenClassification",
        "Vocabulary",
        "Writing",
        "Written",
        "encoder_of",
        "get",
        "vocabulary_of",
    },
    "pefttune.methods": {
        "Adapter",
        "Beginning",
        "FILE_PREFIX",
        "FusionAdapter",
        "LoraAdapter",
        "METHODS",
        "Merged",
        "SecondMoments",
        "Sketch",
        "Spectrum",
        "activate",
        "attach",
        "corda",
        "detach",
        "eva",
        "full_ranks",
        "loftq",
        "lora_targets",
        "merge",
        "most_ranks",
        "spend",
        "tables_nbytes",
        "weights",
    },
    "pefttune.batching": {
        "Batch",
        "Boundary",
        "Outputs",
        "RUNS_NOT",
        "agrees",
        "check_sees_all",
        "disagreement",
        "evaluation_batches",
        "hidden_rows",
        "inputs_of",
        "is_causal",
        "join",
        "likeliest_tokens",
        "log_likelihoods",
        "logits_are_linear",
        "n_fed",
        "open_boundary",
        "open_outputs",
        "padded",
        "paired",
        "prepare",
        "ragged",
        "see_all",
        "stack_of",
        "states_behind",
        "steps_of",
        "target_log_likelihoods",
        "training_steps",
    },
    "pefttune.bases": {
        "BASES",
        "Base",
        "Fingerprint",
        "Located",
        "Originals",
        "Reader",
        "choose_device",
        "find_known",
        "fingerprint_of",
        "load",
        "local_folder",
        "locate",
        "open_reader",
        "quantization_name",
        "rewrite",
        "weight_of",
    },
    "pefttune.training": {
        "MIB",
        "MemorySplit",
        "Notify",
        "TrainingLog",
        "Work",
        "cost",
        "fit",
        "logging_to",
        "new_run_folder",
        "peak_mib",
        "reset_peak",
        "resident_mib",
    },
    "pefttune.inference": {
        "BASE_ITSELF",
        "Features",
        "Loaded",
        "POOLINGS",
        "PromptedEncoder",
        "ReadOnlyEncoder",
        "Sampling",
        "Session",
        "base_section_of",
        "View",
        "answer_log_likelihoods",
        "boundary_of",
        "check_base",
        "extract",
        "input_sketches",
        "load_base_of",
        "open_session",
        "views_of",
    },
    "pefttune.doctor": {
        "Aligns",
        "CHECKS",
        "Case",
        "Counts",
        "Finding",
        "Lengths",
        "Part",
        "Report",
        "Shown",
        "ShownToken",
        "check",
        "examine",
        "render_page",
    },
    "pefttune.evaluation": {
        "Answers",
        "Comparison",
        "Difference",
        "Findings",
        "Parity",
        "Scored",
        "answer",
        "compare",
        "draw",
        "interval",
        "judge",
        "Verdict",
        "largest_difference",
        "replay",
        "paired_difference",
        "parity",
        "render_report",
        "score",
        "take_probe",
        "verify",
        "watch",
    },
    "pefttune.publishing": {
        "CONSUMERS",
        "Into",
        "Objection",
        "Stored",
        "check_free",
        "copy_stored",
        "File",
        "Publication",
        "Published",
        "Pulled",
        "describe",
        "describe_base",
        "dtype_name",
        "new_folder",
        "object_to",
        "portable",
        "prepare",
        "publish",
        "pull",
        "render_card",
        "render_merged_card",
        "write_merged",
    },
    "pefttune.pipeline": {
        "Merge",
        "Probed",
        "Bench",
        "Exported",
        "Failed",
        "Gate",
        "Run",
        "Verification",
        "Search",
        "Way",
        "evaluate",
        "check",
        "export_merged",
        "export_peft",
        "merge",
        "probe",
        "Tried",
        "check_comparable",
        "read_data",
        "run",
        "run_together",
        "verify",
    },
    "pefttune.sweep": {
        "NOTE",
        "Searcher",
        "Sweep",
        "Trial",
        "is_shared",
        "on_ray",
        "reasons",
        "searcher",
        "sweep",
        "table",
    },
    "pefttune.cli": {
        "main",
    },
}
COMMANDS = {
    "doctor": {"recipe", "overrides", "--html", "--json"},
    "probe": {"recipe", "overrides", "--bases", "--adapters", "--rows", "--json"},
    "train": {"recipe", "more", "--together", "--json"},
    "merge": {
        "names",
        "--to",
        "--method",
        "--weights",
        "--density",
        "--r",
        "--seed",
        "--search",
        "--steps",
        "--max-drop",
        "--max-rows",
        "--store",
        "--base",
        "--json",
    },
    "sweep": {"recipe", "choices", "--searcher", "--trials", "--apart", "--ray", "--train", "--json"},
    "evaluate": {"name", "--data", "--store", "--base", "--json"},
    "predict": {"name", "texts", "--input", "--output", "--text-column", "--store", "--base", "--json"},
    "embed": {"source", "--output", "--base", "--text-column", "--pooling", "--max-length", "--quantization"},
    "list": {"--store", "--json"},
    "show": {"name", "--store", "--json"},
    "verify": {"name", "--store", "--base", "--json"},
    "export": {
        "name",
        "--to",
        "--output",
        "--into",
        "--min-agreement",
        "--data",
        "--max-rows",
        "--store",
        "--base",
        "--json",
    },
    "check": {"name", "--target", "--store", "--json"},
    "alias": {"name", "word", "--store", "--json"},
    "remove": {"name", "--store", "--json"},
    "gc": {"--keep", "--dry-run", "--store", "--json"},
    "publish": {
        "name",
        "--repo-id",
        "--private",
        "--pull-request",
        "--dry-run",
        "--license",
        "--benchmark",
        "--store",
        "--json",
    },
    "pull": {"repository", "--as", "--store", "--json"},
    "recipes": {"--json"},
    "explain": {"key", "--recipe", "--json"},
}
WITHOUT_TORCH = [
    ["--help"],
    *([command, "--help"] for command in COMMANDS),
    ["recipes"],
    ["list"],
    ["explain"],
    ["explain", "training.learning_rate"],
    ["train", "no-such-recipe"],
    ["merge", "no-such-adapter", "another", "--to", "both"],
    ["predict", "no-such-adapter", "text"],
    ["verify", "no-such-adapter"],
    ["check", "no-such-adapter", "--target", "vllm"],
    ["export", "no-such-adapter", "--to", "merged"],
    ["publish", "no-such-adapter", "--repo-id", "anna/film"],
    ["gc"],
]


def test_every_room_has_its_list() -> None:
    rooms = {f"pefttune.{path.parent.name}" for path in (ROOT / "pefttune").glob("*/__init__.py")}
    assert rooms | {"pefttune"} == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_names(name: str) -> None:
    module = importlib.import_module(name)
    assert set(module.__all__) == PUBLIC[name]
    assert len(module.__all__) == len(PUBLIC[name])
    assert all(getattr(module, each) is not None for each in module.__all__)


def test_lazy_names_are_those_of_the_rooms() -> None:
    import pefttune

    assert set(dir(pefttune)) == {*pefttune.__all__, "__version__"}
    assert pefttune.Session is importlib.import_module("pefttune.inference").Session
    with pytest.raises(AttributeError, match=r"^module 'pefttune' has no attribute 'nothing'$"):
        _ = pefttune.nothing


def test_commands_and_options() -> None:
    import typer

    from pefttune.cli.app import app

    commands = typer.main.get_command(app).commands
    found = {name: {option for each in command.params for option in each.opts} for name, command in commands.items()}
    assert found == COMMANDS


def test_public_names_have_docstrings() -> None:
    """ruff checks them, as long as it is told to."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "D1" in lint["select"]
    assert {rule for rule in lint["ignore"] if rule.startswith("D")} == {"D105", "D107"}  # magic methods, __init__
    assert [files for files, rules in lint["per-file-ignores"].items() if "D1" in rules] == ["tests/**", "docs/**"]


def test_these_commands_import_no_torch(tmp_path: Path) -> None:
    """All in one process; the one that imports torch is named."""
    script = (
        "import contextlib, io, json, sys\n"
        "from pefttune.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['pefttune', *arguments]\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main()\n"
        "    heavy = {'torch', 'transformers', 'peft', 'datasets', 'huggingface_hub'} & sys.modules.keys()\n"
        "    if heavy:\n"
        "        sys.exit(f'{arguments} imports {heavy}')\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(WITHOUT_TORCH)], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
