"""Fresh processes: what goes wrong in one is told in a sentence; peers' programs know nothing of pefttune."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peers, running, workloads
from benchmarks.errors import BenchmarkError
from benchmarks.job import BaseChoice, Example, Job, Result
from pefttune.environment import SETTINGS

JOB = Job("sst2", BaseChoice("nowhere"), [Example([1], [[2]], 0)], [[0]], threads=3)
PROGRAMS = Path(running.__file__).parent / "programs"


def test_threads_are_pinned_and_the_network_is_shut() -> None:
    told = running.environment(3, cuda=False, keep_freed=False)
    assert told["OMP_NUM_THREADS"] == told["MKL_NUM_THREADS"] == "3"
    assert told.items() >= SETTINGS.items()
    assert (told["HF_HUB_OFFLINE"], told["CUDA_VISIBLE_DEVICES"]) == ("1", "")
    assert not set(running.KEEP_FREED) & set(told)
    assert set(running.KEEP_FREED) <= set(running.environment(3, cuda=False, keep_freed=True))


def python_that(folder: Path, script: str) -> str:
    """Stands for the Python of an environment."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return str(python)


def test_a_missing_package_is_named_with_its_command(tmp_path: Path) -> None:
    python = python_that(tmp_path, "echo \"ModuleNotFoundError: No module named 'trl'\"; exit 1")
    with pytest.raises(BenchmarkError, match=r"No module named 'trl'.*pip install 'trl==1\.16"):
        running.run_program(peers.PEERS["trl"], JOB, python=python)


def test_a_missing_python() -> None:
    with pytest.raises(BenchmarkError, match="cannot be started: No such file"):
        running.run_program(peers.PEERS["trl"], JOB, python="nowhere/python")


def test_a_failure_shows_its_last_lines(tmp_path: Path) -> None:
    python = python_that(tmp_path, "echo no room left >&2; exit 3")
    with pytest.raises(BenchmarkError, match=r"trl_sft ended with 3:\s+no room left"):
        running.run_program(peers.PEERS["trl"], JOB, python=python)


def modules_of(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize(
    "program",
    sorted({peer.program for peer in (*peers.PEERS.values(), peers.SCORER, peers.ADAPTERS_LIBRARY)} - {"ours"}),
)
def test_peers_need_of_ours_only_measuring(program: str) -> None:
    own = {name for name in modules_of(PROGRAMS / f"{program}.py") if name.startswith((".", "benchmarks", "pefttune"))}
    assert own == {"benchmarks.programs.measuring"}


def test_measuring_needs_torch_and_transformers_only() -> None:
    tops = {name.split(".")[0] for name in modules_of(PROGRAMS / "measuring.py")}
    assert tops - sys.stdlib_module_names == {"torch", "transformers"}
    packages = (PROGRAMS / "__init__.py", PROGRAMS.parent / "__init__.py")
    assert not any(map(modules_of, packages))  # they run before it


def test_scoring_loads_no_trainer() -> None:
    script = "import sys, benchmarks.programs.padded_scores; print('transformers.trainer_callback' in sys.modules)"
    told = running.environment(1, cuda=False, keep_freed=False)
    done = subprocess.run([sys.executable, "-c", script], env=told, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "False\n"  # its modules would count as the scorer's memory


def test_neither_side_is_always_the_first() -> None:
    order: list[str] = []

    def side(name: str) -> Result:
        order.append(name)
        return Result([float(len(order))], 0.0, 0.0, {})

    pairs = running.alternate(lambda: side("ours"), lambda: side("peer"), rounds=3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert [(*mine.seconds, *theirs.seconds) for mine, theirs in pairs] == [(1.0, 2.0), (4.0, 3.0), (5.0, 6.0)]


def test_every_peer_has_its_program() -> None:
    for peer in (*peers.PEERS.values(), peers.OURS, peers.SCORER, peers.ADAPTERS_LIBRARY):
        assert (PROGRAMS / f"{peer.program}.py").is_file()


def test_unknown_names_are_told() -> None:
    with pytest.raises(BenchmarkError, match="there are trl, "):
        peers.find("tlr", head=False)
    with pytest.raises(BenchmarkError, match="no classification head; take one of trainer"):
        peers.find("trl", head=True)
    with pytest.raises(BenchmarkError, match="there are sst2, film"):
        workloads.find("sst")


def test_missing_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="PEFTTUNE_DATA"):
        workloads.data_file(None, "sst2/train.tsv")
    with pytest.raises(BenchmarkError, match=r"must be the folder that holds sst2/train\.tsv"):
        workloads.data_file(tmp_path, "sst2/train.tsv")
