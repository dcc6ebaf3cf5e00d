"""The command line: parse, call, print. Heavy imports stand inside the commands, so that --help is instant."""

from pefttune.cli.app import main

__all__ = ["main"]
