"""What goes wrong in a command is told in a line, whichever command it is; what nobody foresaw keeps its traceback."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tutorloop
from tutorloop import launch
from tutorloop.agents.roles import Diverged, PublishError, RayDied, RoleDied, RoleHung, Unproven
from tutorloop.agents.scripted import ScriptedLearner
from tutorloop.evals.arithmetic import solve
from tutorloop.loops.cli import app
from tutorloop.tests.policies_for_tests import small

LOST = (PublishError, RayDied, RoleDied, RoleHung, Unproven)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    launch(small.experiment(folder, rounds=1, schedule__ask=10, schedule__rows=40), folder / "run")
    return folder / "run"


def raising(error: Exception) -> Any:
    def failing(*_: Any, **__: Any) -> Any:
        raise error

    return failing


READING = {
    "report": ("tutorloop.loops.report.write_report", "report RUN"),
    "compare": ("tutorloop.loops.compare.compare", "compare RUN RUN"),
    "try": ("tutorloop.loops.trying.TriedRound.trial", "try tutorloop.policies.teaching:CorrectAndPractise --on RUN"),
    "show": ("tutorloop.loops.show.read_run", "show RUN"),
}
"""Where it goes wrong, and the command."""


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("lost", [*LOST, Diverged])
def test_a_role_that_is_lost_is_a_line_in_a_command_that_only_reads(
    finished: Path, monkeypatch: pytest.MonkeyPatch, command: str, lost: type[Exception]
) -> None:
    where, args = READING[command]
    monkeypatch.setattr(where, raising(lost("student/0 is gone.\nTraceback (most recent call last):")))
    before = small.tree(finished)
    done = CliRunner().invoke(app, [str(finished) if arg == "RUN" else arg for arg in args.split()])
    assert done.exit_code == (2 if lost is Diverged else 1)
    assert done.stderr.startswith("tutorloop: ") and "student/0 is gone." in done.stderr
    assert done.stderr.count("\n") == 1
    assert small.tree(finished) == before


def test_a_bug_in_a_command_that_only_reads_keeps_its_traceback(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(READING["report"][0], raising(AssertionError("a bug of mine")))
    done = CliRunner().invoke(app, ["report", str(finished)])
    assert isinstance(done.exception, AssertionError)


@pytest.mark.parametrize("error", [RoleHung("learner/0 did not answer.\nat line 7"), AssertionError("a bug of mine")])
def test_what_goes_wrong_while_a_correction_is_taught_is_a_line_and_a_traceback_beside_what_was_taught(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    taught = tmp_path / "taught"
    with tutorloop.open(finished, taught) as live:
        wrong = next(c for p in live.course.practice.problems if not (c := live.work(p.id)).right)
    (tmp_path / "work.txt").write_text(solve(wrong.question))
    before = small.tree(finished)
    command = ["teach", str(finished), wrong.id, "--work", str(tmp_path / "work.txt"), "--run-dir", str(taught)]
    with monkeypatch.context() as patch:
        patch.setattr(ScriptedLearner, "train", raising(error))
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    first = str(error).splitlines()[0]
    log = taught / "logs" / "driver.log"
    assert done.stderr.splitlines()[-1] == (
        f"tutorloop: {type(error).__name__}: {first} (traceback in {log}; the same command goes on from here)"
    )
    assert "Traceback" not in done.stderr and first in log.read_text()
    assert small.tree(finished) == before
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output


def test_a_role_that_is_lost_before_there_is_a_run_is_a_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutorloop.loops.company.Company.muster", raising(RayDied("the raylet has died.")))
    done = CliRunner().invoke(app, ["run", "scripted", "--run-dir", str(tmp_path / "run"), "-q"])
    assert (done.exit_code, done.stderr) == (1, "tutorloop: RayDied: the raylet has died.\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("where", "why"), [("notes/deep/run", "notes is a file"), ("link/run", "link is a link that leads nowhere")]
)
@pytest.mark.parametrize(
    "command",
    [
        "run scripted -q --run-dir",
        "run scripted -q --quick --run-dir",
        "fork RUN -q --from-round 0 --run-dir",
        "teach RUN PROBLEM --work notes --run-dir",
        "report RUN --out",
        "teach RUN PROBLEM --work",
    ],
)
def test_a_path_below_a_file_is_told_with_the_file_and_what_to_do(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, where: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    problem = next(iter(small.course(finished).practice.problems))
    Path("notes").write_text(solve(problem.question))
    Path("link").symlink_to("nowhere")
    named = {"RUN": str(finished), "PROBLEM": problem.id}
    args = [*(named.get(arg, arg) for arg in command.split()), where]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2, done.output
    option, said = args[-2], done.stderr
    assert (f"the correction in {where} cannot be read" if option == "--work" else why) in said
    assert option in said and "Errno" not in said and said.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} == {"notes", "link"}
