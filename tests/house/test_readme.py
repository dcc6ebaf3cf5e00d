"""Docs that cannot lie: every command of README and quickstart is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.md", ROOT / "docs" / "quickstart.md"]
# A training in the docs is run in small.
SHORT = "training.max_steps=2 data.max_train_samples=32 data.max_eval_samples=16 data.max_test_samples=32"
WITHOUT_BASE = {"list", "show", "recipes", "explain"}
KNOWN = {"pefttune", "make", "printf", "pip", "source"}


@dataclass(frozen=True)
class Command:
    """A line of a ```bash block, and the lines before it, in its file, that only make files."""

    line: str
    where: str
    before: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)


def blocks(document: Path, language: str) -> list[tuple[int, str]]:
    """Line number and content of each block."""
    text = document.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def commands() -> list[Command]:
    found: list[Command] = []
    for document in DOCS:
        before: list[str] = []
        for start, block in blocks(document, "bash"):
            for offset, line in enumerate(block.replace("\\\n", " ").splitlines()):
                where = f"{document.relative_to(ROOT).as_posix()}:{start + offset}"
                if line.startswith("printf "):
                    before.append(line)
                if line.strip() and not line.startswith("#"):
                    found.append(Command(line, where, tuple(before)))
    return found


COMMANDS = commands()
PEFTTUNE = list({each.line: each for each in COMMANDS if each.words[0] == "pefttune"}.values())


def test_there_are_commands() -> None:
    assert len(PEFTTUNE) >= 3
    assert {each.words[0] for each in COMMANDS} <= KNOWN, "a command that no test here runs"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the project's adapters and recipes, to write in; the adapters are evaluated on a few rows only."""
    for name in ("adapters", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in tmp_path.glob("adapters/*/*/pefttune.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["recipe"]["data"]["max_test_samples"] = 32
        path.write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def run(line: str, folder: Path) -> None:
    """A line of shell, with this Python's `pefttune` first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=folder, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def tier(command: Command) -> object:
    marks = () if command.words[1] in WITHOUT_BASE else (pytest.mark.real,)
    return pytest.param(command, id=f"{command.where} {' '.join(command.words[:3])}", marks=marks)


@pytest.mark.parametrize("command", [tier(each) for each in PEFTTUNE])
def test_a_command(command: Command, checkout: Path) -> None:
    for line in command.before:
        run(line, checkout)
    own = f" {SHORT} output.store={checkout}/trained" if command.words[1] == "train" else ""
    run(command.line + own, checkout)


@pytest.mark.real
@pytest.mark.parametrize("code", [block for document in DOCS for _, block in blocks(document, "python")])
def test_python(code: str, checkout: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("target", sorted({each.words[1] for each in COMMANDS if each.words[0] == "make"}))
def test_make(target: str) -> None:
    done = subprocess.run(["make", "-n", target], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_recipes_in_the_docs_are_valid(tmp_path: Path) -> None:
    from pefttune import load_recipe

    found = [block for document in DOCS for _, block in blocks(document, "yaml")]
    assert found
    for block in found:
        (tmp_path / "recipe.yaml").write_text(block, encoding="utf-8")
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_and_placeholders(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing
    assert not re.findall(r"@[A-Z]+@", text), "a figure has not been filled in"
