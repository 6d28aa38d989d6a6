"""What the documents show is what happens: README blocks and docstring examples run."""

import ast
import doctest
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tutorloop
from tutorloop.tests.policies_for_tests import small
from tutorloop.tests.provider import running

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


WALK = README[README.index("## A teacher policy of your own") : README.index("From Python:")]
STEPS = re.findall(r"```python\n(.*?)```", WALK, re.DOTALL)
"""What is added to `my_course.py`, step by step."""


def types(command: str, folder: Path) -> str:
    """What it prints."""
    line = [sys.executable, "-m", "tutorloop", *shlex.split(command)]
    here = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_an_empty_folder_ones_own_policy_runs_by_two_lines_and_three_commands_as_printed(tmp_path: Path) -> None:
    assert len(STEPS[0].splitlines()) == 2
    (tmp_path / "my_course.py").write_text(STEPS[0])
    block = re.search(r"((?:    tutorloop .*\n){3})", WALK)
    assert block is not None
    first, second, third = (types(line.split(maxsplit=1)[1], tmp_path) for line in block[1].splitlines())
    assert "runs/scripted" in first and "runs/mine" in second and "accepted  correction" in third
    (shown,) = re.findall(r"`tutorloop (try .*?) --watch`", WALK)
    assert "accepted  20 lessons" in types(shown, tmp_path)
    report = tutorloop.read_run(tmp_path / "runs" / "mine")
    assert report.exam.after is not None and report.exam.after > 0.9


@pytest.mark.parametrize("step", [2, 3])
def test_each_further_step_of_the_walk_through_runs_as_printed(step: int, tmp_path: Path) -> None:
    (tmp_path / "my_course.py").write_text("\n\n".join(STEPS[:step]))
    command = re.findall(r"^    tutorloop (run .*)$", WALK, re.MULTILINE)[step]
    assert types(f"{command} rounds=1", tmp_path)
    (root,) = (tmp_path / "runs").iterdir()
    lessons = [x for x in small.table(root, "1/check") if x.sound]
    hints = [x for x in lessons if x.act == "hint"]
    assert len(hints) > 20 and all(x.own for x in hints)
    assert {x.act for x in lessons} == ({"hint"} if step == 2 else {"hint", "telling"})
    assert not any(x.rejected for x in lessons)


def test_the_template_of_the_examples_is_the_walk_through_with_types() -> None:
    def bare(source: str) -> list[str]:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.returns = None
            if isinstance(node, ast.arg):
                node.annotation = None
        return [ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]

    template = (ROOT / "examples" / "my_course.py").read_text(encoding="utf-8")
    assert bare(template) == bare("\n".join(STEPS))
    for command in re.findall(r"^    tutorloop (run .*)$", WALK, re.MULTILINE)[1:]:
        assert command in template


def test_the_python_of_the_readme_runs_as_printed(desk: Path) -> None:
    (block,) = [block for block in PYTHON if "tutorloop.launch" in block]
    done = subprocess.run([sys.executable, "-c", block], cwd=desk, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (exam,) = re.findall(r"^(?:0\.\d+|1\.0)$", done.stdout, re.MULTILINE)
    assert float(exam) > 0.9
    assert "student-r0001" in done.stdout.splitlines()[-1]


def _without_figures(text: str) -> str:
    return re.sub(r"[\d.,]*\d", "#", text)


def test_the_price_the_budget_and_the_commands_of_the_page_on_teachers_do_as_it_says(tmp_path: Path) -> None:
    """Against a provider on this machine, which bills nobody."""
    page = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")
    page = page[page.index("## What it costs") : page.index("## What is not covered")]
    (told,) = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    first, *others = (line.split(maxsplit=1)[1] for line in re.findall(r"^    (tutorloop .*)$", page, re.MULTILINE))
    with running() as provider:
        teacher = {"engine": "chat", "url": provider.url, "model": "m-1", **told["teacher"]}
        mine = small.experiment(tmp_path, teacher=teacher, budget=told["budget"])
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(mine))
        (shown,) = re.findall(r"```\n(probe  .*?)```", page, re.DOTALL)
        printed = _without_figures(types(first, tmp_path))
        assert _without_figures(shown) in printed
        for command in others:
            assert re.search(r"^all .* \$0\.\d{4}$", types(command, tmp_path), re.MULTILINE)
        assert {*provider.told().answered.values()} <= {1, 2}, "by the probe, and by the run"


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
