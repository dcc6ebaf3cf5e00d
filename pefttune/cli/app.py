"""The commands and what they share: one way to fail, one way to print JSON."""

from __future__ import annotations

import os
import sys

import typer

from pefttune.cli import recipes, store, train, use
from pefttune.cli.output import fail
from pefttune.errors import PefttuneError

app = typer.Typer(
    name="pefttune",
    help="Fine-tune a frozen, quantized model on one task by one recipe, and use the adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(train.train)
app.command()(use.evaluate)
app.command()(use.predict)
app.command("list")(store.list_adapters)
app.command()(store.show)
app.command("recipes")(recipes.list_recipes)
app.command()(recipes.explain)


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 failed, 2 bad input, 130 interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except PefttuneError as error:
        sys.exit(fail(error, as_json="--json" in sys.argv))
    except BrokenPipeError:  # `pefttune list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
