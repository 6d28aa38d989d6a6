"""What the documents show is what happens: README blocks and docstring examples run."""

import doctest
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
FOLDERS = ("evals", "evals/arithmetic", "evals/graders", "policies", "agents", "loops")
MODULES = [
    ".".join(("tutorloop", *path.relative_to(ROOT).with_suffix("").parts))
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.py"))
    if path.stem != "__init__"
]
MODULES += ["tutorloop.tests.chaos.start", "tutorloop.tests.chaos.table"]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the examples in it, as a reader would have it."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_two_line_policy_of_the_readme_runs_as_printed(desk: Path) -> None:
    (policy,) = [block for block in PYTHON if "def first_error" in block]
    (desk / "examples" / "my_course.py").write_text(policy)
    (command,) = re.findall(r"tutorloop (run \S+ teacher\.policy=my_course:first_error --run-dir \S+)", README)
    done = subprocess.run(
        [sys.executable, "-m", "tutorloop", *command.split(), "rounds=1", "--json"],
        cwd=desk,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '"accepted"' in done.stdout


def test_the_python_of_the_readme_runs_as_printed(desk: Path) -> None:
    (block,) = [block for block in PYTHON if "tutorloop.launch" in block]
    done = subprocess.run([sys.executable, "-c", block], cwd=desk, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) > 0.9


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_every_file_that_the_readme_names_is_there() -> None:
    listed = README[README.index("## The files") :]
    named = set(re.findall(r"\b(\w+\.py)\b", listed))
    there = {p.name for folder in FOLDERS for p in (ROOT / folder).glob("*.py")}
    assert named <= there
    # The arithmetic world and the graders are one line of the tree each.
    inner = {p.name for folder in ("arithmetic", "graders") for p in (ROOT / "evals" / folder).glob("*.py")}
    assert there - named <= inner | {"__init__.py"}
