"""The commands and what they share: one way to fail, one way to print JSON."""

from __future__ import annotations

import os
import signal
import sys
from io import TextIOWrapper
from typing import Any

import typer

from pefttune.cli import (
    check,
    diff,
    doctor,
    embed,
    export,
    hub,
    importing,
    merge,
    probe,
    recipes,
    store,
    sweep,
    train,
    use,
    verify,
    versions,
)
from pefttune.cli.output import fail
from pefttune.errors import InputError, PefttuneError

app = typer.Typer(
    name="pefttune",
    help="Fine-tune a frozen, quantized model on one task by one recipe, and use the adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(doctor.doctor)
app.command()(probe.probe)
app.command()(train.train)
app.command()(merge.merge)
app.command("import")(importing.take_in)
app.command()(sweep.sweep)
app.command()(use.evaluate)
app.command()(use.predict)
app.command()(embed.embed)
app.command("list")(store.list_adapters)
app.command()(store.show)
app.command()(verify.verify)
app.command()(diff.diff)
app.command()(export.export)
app.command()(check.check)
app.command()(versions.alias)
app.command()(versions.remove)
app.command()(versions.gc)
app.command()(hub.sign)
app.command()(hub.publish)
app.command()(hub.pull)
app.command("recipes")(recipes.list_recipes)
app.command()(recipes.explain)

# A command that was not typed right. typer has no public name for it, and keeps it elsewhere in each version.
UsageError: Any = typer.BadParameter.__bases__[0]


class Stopped(BaseException):
    """Ctrl-C or a polite kill. It leaves like any error, so that what is half written is removed."""

    def __init__(self, signum: int) -> None:
        super().__init__("interrupted" if signum == signal.SIGINT else "terminated")
        self.exit_code = 128 + signum


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 failed, 2 bad input, 130 interrupted, 143 terminated."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what a terminal cannot show is escaped, not a crash
            stream.reconfigure(errors="backslashreplace")
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop)
    arguments = sys.argv[1:]
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    try:
        # With typer's own handling off, a wrong option beside --json gets its document as well.
        sys.exit(app(prog_name="pefttune", standalone_mode=not as_json))
    except UsageError as error:
        sys.exit(fail(InputError(error.format_message()), as_json))
    except (PefttuneError, Stopped) as error:
        sys.exit(fail(error, as_json))


def _stop(signum: int, frame: object) -> None:
    raise Stopped(signum)
