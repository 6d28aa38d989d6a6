"""The repository root is the package: all of it ships, it points one way, and importing it costs nothing."""

import ast
import doctest
import importlib
import inspect
import json
import os
import pickle
import pkgutil
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tutorloop
from tutorloop.loops.config import SHIPPED

ROOT = Path(tutorloop.__file__).parent
ORDER = ("evals", "policies", "agents", "loops")
"""Each may import itself and what stands before it."""
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "ray", "accelerate"}
FILES = sorted(path for folder in ORDER for path in (ROOT / folder).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(tutorloop.__path__, "tutorloop."):
        if found.name.split(".")[1] in ORDER:
            yield importlib.import_module(found.name)


# ---- what ships


def test_every_package_is_listed() -> None:
    there = {"tutorloop"} | {
        "tutorloop." + ".".join(path.parent.relative_to(ROOT).parts) for path in FILES if path.name == "__init__.py"
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == there
    assert {path.parent for path in FILES} == {path.parent for path in FILES if path.name == "__init__.py"}


def test_no_stray_module_lies_at_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_every_dependency_has_a_tested_version() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    names = {"".join(c for c in w.partition(">")[0].partition("=")[0] if c.isalnum() or c in "-_") for w in wanted}
    assert {n for n in names if n.lower() not in {p.lower() for p in pinned}} == set()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[zipfile.ZipFile, tarfile.TarFile]:
    """Wheel and source archive, built from a copy of what is here."""
    folder = tmp_path_factory.mktemp("build")
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "__pycache__")
    shutil.copytree(ROOT, folder / "main", ignore=left_out)
    code = "from setuptools import build_meta as b; b.build_wheel('../dist'); b.build_sdist('../dist')"
    (folder / "dist").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=folder / "main", check=True, capture_output=True)
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return zipfile.ZipFile(wheel), tarfile.open(sdist)


def test_the_wheel_has_every_module_the_marker_of_types_the_tested_versions_the_experiments_and_the_student(
    built: Any,
) -> None:
    names = set(built[0].namelist())
    assert {f"tutorloop/{name(path)}" for path in FILES} <= names
    beside = ("__init__.py", "__main__.py", "py.typed", "constraints.txt", "loops/report.html.j2")
    assert {f"tutorloop/{n}" for n in beside} <= names
    assert {f"tutorloop/examples/{experiment}.yaml" for experiment in SHIPPED} <= names
    student = {f"tutorloop/{name(p)}" for p in (ROOT / "evals/arithmetic/student").glob("*")}
    assert student <= names and any(n.endswith(".safetensors") for n in student)
    outside = {n for n in names if not n.startswith(("tutorloop/", "tutorloop-"))}
    assert not outside and not any("test" in n for n in names), "`agents` and `evals` are other people's names"


def test_an_installed_wheel_runs_from_anywhere(built: Any, tmp_path: Path) -> None:
    built[0].extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tutorloop; from tutorloop.loops import launch;"
        "from tutorloop.evals.arithmetic import shipped, profile;"
        "print(tutorloop.__file__, len(profile(shipped())) > 5)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "site"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path / "site/tutorloop/__init__.py"), "True"]


def test_the_source_archive_has_what_a_build_needs(built: Any) -> None:
    names = {n.partition("/")[2] for n in built[1].getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "py.typed", *map(name, FILES)} <= names


# ---- which way it points


def imported(path: Path, node: ast.AST) -> list[str]:
    """Full names of what an import statement names, e.g. `tutorloop.evals.rows`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = ("tutorloop", *path.parent.relative_to(ROOT).parts)
    base = [*package[: len(package) - node.level + 1]] if node.level else []
    return [".".join([*base, *([node.module] if node.module else [alias.name])]) for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    mine = ORDER.index(path.relative_to(ROOT).parts[0])
    for node in ast.walk(tree(path)):
        for target in imported(path, node):
            if target.startswith("tutorloop.") and target != "tutorloop.__version__":
                folder = target.split(".")[1]
                assert folder in ORDER[: mine + 1], f"{name(path)}:{node.lineno} imports {target}"  # type: ignore[attr-defined]


def test_inside_the_package_imports_are_relative() -> None:
    """Right under whatever name the checkout has; `import agents` would be somebody else's package."""
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
                first = {target.split(".")[0] for target in imported(path, node)}
                assert not first & {"tutorloop", *ORDER}, f"{name(path)}:{node.lineno}"


@pytest.mark.parametrize("folder", ["agents", "evals"])
def test_a_folder_of_the_checkout_is_not_taken_for_another_package(folder: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and f"Write `import tutorloop.{folder}`" in done.stderr


# ---- what it costs


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {module.split(".")[0] for module in done.stdout.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import tutorloop",
        "import tutorloop; [getattr(tutorloop, n) for n in tutorloop.__all__]",
        "import tutorloop.loops.cli",
        "import tutorloop.loops.launch, tutorloop.agents.scripted, tutorloop.agents.evaluator, tutorloop.agents.hosts",
    ],
)
def test_importing_it_loads_neither_torch_nor_ray(code: str) -> None:
    assert not loaded_by(code) & (HEAVY | {"pandas", "scipy", "matplotlib"})


def test_the_bare_import_loads_nothing_of_others() -> None:
    assert loaded_by("import tutorloop") - loaded_by("") - sys.stdlib_module_names == {"tutorloop"}


def test_heavy_libraries_are_imported_only_where_models_and_actors_are() -> None:
    """At the top of these modules; elsewhere, if at all, inside the function that needs them."""
    users: dict[str, set[str]] = {}
    for path in FILES:
        for node in tree(path).body:
            for target in imported(path, node):
                if target.split(".")[0] in HEAVY:
                    users.setdefault(target.split(".")[0], set()).add(name(path))
    assert users.pop("ray") == {"agents/placement.py"}
    weights = {"base", "transformers_server", "vllm_server", "trl_learner", "trl_rows", "ray_learner", "pretrain"}
    assert {path for paths in users.values() for path in paths} <= {f"agents/{stem}.py" for stem in weights}


def test_ray_is_spoken_in_two_files() -> None:
    """Anywhere in them: inside a function too."""
    users = {name(p) for p in FILES for n in ast.walk(tree(p)) if any(t.split(".")[0] == "ray" for t in imported(p, n))}
    assert users == {"agents/placement.py", "agents/ray_learner.py"}


REPORTING = """
from datasets import config
from huggingface_hub import constants
from ray._common.usage import usage_lib

print(constants.HF_HUB_DISABLE_TELEMETRY, config.HF_UPDATE_DOWNLOAD_COUNTS, usage_lib.usage_stats_enabled())
"""


def test_no_library_reports_to_its_makers_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in tutorloop.QUIET:
        monkeypatch.delenv(variable, raising=False)
    ask = [sys.executable, "-c", f"import tutorloop\n{REPORTING}"]
    assert subprocess.check_output(ask, text=True).split() == ["True", "False", "False"]


def test_what_a_person_has_set_about_reports_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    ask = [sys.executable, "-c", "import os, tutorloop; print(os.environ['RAY_USAGE_STATS_ENABLED'])"]
    assert subprocess.check_output(ask, text=True) == "1\n"


@pytest.mark.slow
def test_a_real_round_with_the_network_allowed_tries_no_other_machine(tmp_path: Path) -> None:
    """Neither offline nor in CI, where nothing would be reported; and no proxy, which may be on this machine."""
    told = {
        "rounds": 1,
        "placement": "local",
        "course": {"practice": 40, "quiz": 20, "exam": 10, "twins": 0, "retention": 0},
        "schedule": {"rows": 16},
    }
    (tmp_path / "experiment.json").write_text(json.dumps(told))
    silent = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "CI", "GITHUB_ACTIONS", "HF_ENDPOINT"}
    silent |= tutorloop.QUIET.keys() | {name for name in os.environ if name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, ROOT / "tests/drivers/online.py", "experiment.json", "run"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in silent},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["would"] == ["trl/SFTTrainer", "trl/other"], "each training asks for it; our DPO is unknown to TRL"
    assert seen["unquiet"] == ["huggingface.co"], "else nothing would be seen"
    assert seen["tried"] == []


# ---- how it reads


def test_the_loop_is_on_one_screen() -> None:
    lines = (ROOT / "loops/tutoring.py").read_text().splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 120
    (run,) = (n for n in tree(ROOT / "loops/tutoring.py").body if isinstance(n, ast.FunctionDef))
    assert run.name == "run"


def test_no_file_is_too_long_to_read() -> None:
    long = {name(p): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 700}
    assert not long


def test_every_module_opens_with_what_it_is_for() -> None:
    assert [name(p) for p in FILES if not ast.get_docstring(tree(p))] == []


def test_every_public_name_is_there_and_documented() -> None:
    for public in tutorloop.__all__:
        found = getattr(tutorloop, public)
        assert inspect.getdoc(found) or not (inspect.isclass(found) or inspect.isfunction(found)), public
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tutorloop.nothing  # noqa: B018


def test_records_are_frozen_and_built_by_name() -> None:
    """They cross process borders and are never mutated."""
    for module in ("evals.records", "policies.records", "policies.rounds", "agents.roles"):
        for kind in vars(importlib.import_module(f"tutorloop.{module}")).values():
            if is_dataclass(kind) and isinstance(kind, type) and kind.__module__.startswith("tutorloop"):
                assert kind.__dataclass_params__.frozen, kind  # type: ignore[attr-defined]
                assert all(f.kw_only for f in fields(kind)), kind


def test_errors_cross_process_borders() -> None:
    found = 0
    for module in modules():
        if module.__name__.split(".")[1] == "loops":
            continue  # lives in the driver
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module.__name__:
                back = pickle.loads(pickle.dumps(kind("why")))
                assert type(back) is kind and back.args == ("why",)
                found += 1
    assert found >= 8


def test_the_examples_in_the_docstrings_hold() -> None:
    """Under the modules' real names: pytest's own collection would import each of them a second time."""
    tried = 0
    for module in modules():
        result = doctest.testmod(module)
        assert result.failed == 0, f"{module.__name__}: see above"
        tried += result.attempted
    assert tried > 100
