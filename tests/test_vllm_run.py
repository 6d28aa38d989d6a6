"""Whole runs with the engine vllm on the embedded world: the same rounds as with the engine transformers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tutorloop import Report, launch

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "rounds": 2,
    "course": {"practice": 120, "quiz": 100, "exam": 60, "twins": 1, "retention": 20},
    "schedule": {"rows": 64},
    "update": {"sft": {"per_device_train_batch_size": 16, "learning_rate": 2e-3}},
    "placement": "local",
}


def marks(report: Report) -> list[tuple[int, ...]]:
    """Right answers of each round's quiz, then of what is only reported, before and after."""
    quizzes = [(r.quiz.right, r.quiz.n) for r in report.rounds]
    reported = [*report.before.values(), *(report.after or {}).values()]
    return [*quizzes, *((sheet.right, sheet.n) for sheet in reported)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, ...]]:
    return marks(launch(SMALL, tmp_path_factory.mktemp("transformers") / "run"))


@pytest.mark.parametrize("publish", ["adapter", "merged"])
def test_the_embedded_world_ends_with_the_accuracies_of_transformers_round_by_round(
    theirs: list[tuple[int, ...]], tmp_path: Path, publish: str
) -> None:
    report = launch({**SMALL, "student": {"engine": "vllm", "publish": publish}}, tmp_path / "run")
    assert report.status == "finished"
    assert marks(report) == theirs
    assert {r.proof.status for r in report.rounds if r.proof} == {"published"}


@pytest.mark.ray
def test_student_and_evaluator_may_have_an_environment_of_their_own(place: Path, tmp_path: Path) -> None:
    """The driver and the learner are in one without vLLM."""
    driver = ROOT / ".venv" / "bin" / "python"
    probe = "import importlib.util as u; print(u.find_spec('vllm') is None)"
    told = subprocess.run([driver, "-c", probe], capture_output=True, text=True) if driver.exists() else None
    if told is None or told.stdout.strip() != "True":
        pytest.skip("there is no environment without vLLM in .venv; `make setup` makes it")
    student = {"engine": "vllm", "python": sys.executable}
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps({**SMALL, "rounds": 1, "placement": "ray", "student": student}))
    command = [str(driver), "-m", "tutorloop", "run", str(file), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    proof = json.loads((tmp_path / "run" / "steps" / "1" / "publish.json").read_bytes())
    assert proof["value"]["status"] == "published"
