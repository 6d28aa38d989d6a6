"""One correction, taught now, on top of a run that stays as it is. Most on scripted roles; a real one is slow."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tutorloop
from tutorloop import ConfigError, JournalError, Refused, launch
from tutorloop.agents.weights import adapter_digest
from tutorloop.evals.arithmetic import solve
from tutorloop.evals.records import Attempt, Problem, user
from tutorloop.evals.rows import Rows
from tutorloop.loops.by_hand import edited, taught_lines
from tutorloop.loops.cli import app
from tutorloop.loops.journal import Tick
from tutorloop.loops.live import Live
from tutorloop.loops.report import report_page
from tutorloop.policies.records import Case, Example, Lesson
from tutorloop.tests.policies_for_tests import small


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small.experiment(tmp_path_factory.mktemp("told"), rounds=1, schedule__ask=10, schedule__rows=40)


@pytest.fixture(scope="module")
def finished(told: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has left much to be taught."""
    root = tmp_path_factory.mktemp("finished") / "run"
    launch(told, root)
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def wrong(live: Live) -> Case:
    """Something that the student gets wrong by a misconception that can be named."""
    cases = (live.work(p.id) for p in live.course.practice.problems)
    return next(case for case in cases if not case.right and live.gold[case.id].misconceptions)


def test_a_correction_cures_what_it_corrects_and_the_twins_that_nobody_taught(run: Path) -> None:
    before = small.tree(run)
    with tutorloop.open(run) as live:
        case = wrong(live)
        taught = live.teach(case.id, solve(case.question))
        assert taught.before.work == case.work and not taught.before.right
        assert taught.after.right and taught.after.work == solve(case.question)
        assert taught.about in live.gold[case.id].misconceptions
        assert taught.twins and taught.twins.n == 2 and taught.twins.after > taught.twins.before
        assert taught.mastered and (taught.mastered.fixed, taught.mastered.regressed, taught.mastered.p) == (0, 0, 1.0)
        assert taught.was != taught.state == live.state
        assert taught.proof == "published"
    assert small.tree(run) == before, "the run itself stays as it is"
    assert not any("not cured" in line for line in taught_lines(taught))
    in_vain = replace(taught, after=taught.before)
    assert "  not cured: a correction is taught gently. The same command teaches it once more" in taught_lines(in_vain)


def test_what_is_taught_is_a_round_like_any_other(run: Path) -> None:
    with tutorloop.open(run) as live:
        case = wrong(live)
        taught = live.teach(case.id, solve(case.question))
        root = Path(taught.run)
    assert root == run.with_name("run-taught").resolve()
    report = small.report(root, 2)
    assert report.serving["student"] == taught.state
    (mine,) = [c for c in small.value(root, "2/triage", Rows[Case])]
    assert (mine.id, mine.reason) == (case.id, "by hand")
    first, *similar = small.value(root, "2/check", Rows[Lesson])
    assert first.target == solve(case.question) and first.rejected == case.work and first.sound
    assert len(similar) == 7 and all(lesson.sound and lesson.act == "similar" for lesson in similar)
    examples = list(small.value(root, "2/curate", Rows[Example]))
    assert {e.origin for e in examples} == {"lesson", "earlier", "own"}
    own = [e for e in examples if e.origin == "own"]
    answered = {c.id: c for c in small.value(root, "2/attempt", Rows[Case])}
    assert all(answered[e.problem].right and e.completion == answered[e.problem].work for e in own)
    view = tutorloop.read_run(root)
    assert view.shared == 1 and [line.round for line in view.rounds] == [0, 1, 2]
    assert tutorloop.read_history(root, case.id).rounds[-1].taught["correction"] == 1


def test_undo_goes_back_to_the_very_state_before(run: Path) -> None:
    with tutorloop.open(run) as live:
        start = live.state
        trees = []
        for _ in range(2):
            case = wrong(live)
            trees.append((live.state, _told(live.book.root)))
            live.teach(case.id, solve(case.question))
        assert len({start.digest, live.state.digest, trees[1][0].digest}) == 3
        for state, told in reversed(trees):
            assert live.undo() == state
            assert _told(live.book.root) == told
        assert live.state == start
        with pytest.raises(Refused, match="nothing was taught in"):
            live.undo()
    with tutorloop.open(run) as live:  # and it is so for whoever comes later
        assert live.state == start
        live.book.check()


def _told(root: Path) -> dict[str, str]:
    """All records, rows and states of a run."""
    found = small.transcript(root)
    return {name: str(told) for name, told in found.items() if not name.startswith("logs/")}


def test_a_session_finds_what_earlier_ones_have_taught(run: Path) -> None:
    with tutorloop.open(run) as live:
        case = wrong(live)
        taught = live.teach(case.id, solve(case.question))
    with tutorloop.open(run) as live:
        assert live.state == taught.state and live.work(case.id).right
        other = wrong(live)
        second = live.teach(other.id, solve(other.question))
    with tutorloop.open(second.run) as live:  # by the folder that it was taught in
        assert live.state == second.state and len(live.report.rounds) == 4


# ---- what is refused


def test_a_wrong_correction_is_refused_with_the_step_that_is_wrong(run: Path) -> None:
    with tutorloop.open(run) as live:
        case = wrong(live)
        before = _told(live.book.root)
        first, *rest = solve(case.question).splitlines()
        digit = str((int(first[-1]) + 1) % 10) if first[-1].isdigit() else "0"
        why = rf"step 1 is wrong \('.*{digit}'\): line 1 is not what is due there"
        with pytest.raises(Refused, match=why) as caught:
            live.teach(case.id, "\n".join([first[:-1] + digit, *rest]))
        assert first in str(caught.value), "it says what is due"
        with pytest.raises(Refused, match="not in the notation of the work"):
            live.teach(case.id, "I would carry the one.")
        with pytest.raises(Refused, match=r"step 1 is wrong \('=\d+'\)"):
            live.teach(case.id, rest[-1])  # a bare answer, be it right
        with pytest.raises(Refused, match="is no practice problem, and nothing else is taught from"):
            live.teach("exam-add-0001", solve(case.question))
        assert _told(live.book.root) == before


def test_what_can_be_refused_by_itself_starts_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "work.txt").write_text("=1")
    for id, why in (("sub-9999", "The nearest: "), ("sub-0002", "step 1 is wrong ('=1')")):
        done = CliRunner().invoke(app, ["teach", str(run), id, "--work", str(tmp_path / "work.txt")])
        assert done.exit_code == 2 and why in done.output
    assert not run.with_name("run-taught").exists()


def test_a_correction_of_work_that_was_right_is_refused(run: Path) -> None:
    with tutorloop.open(run) as live:
        right = next(c for c in (live.work(p.id) for p in live.course.practice.problems) if c.right)
        with pytest.raises(Refused, match="is right now: there is nothing to correct"):
            live.teach(right.id, right.work)
        assert len(live.report.rounds) == 2


def test_who_names_a_problem_that_is_right_is_told_which_are_wrong(run: Path) -> None:
    with tutorloop.open(run) as live:
        right = next(c for c in (live.work(p.id) for p in live.course.practice.problems) if c.right)
        with pytest.raises(Refused) as caught:
            live.teach(right.id, right.work)
        told, _, some = str(caught.value).removesuffix(".").partition(" others were wrong, e.g. ")
        tables = live.report.rounds[1].tables
        assert tables is not None and "nothing to correct. In round 1, before its training, " in told
        assert set(some.split(", ")) <= {c.id for c in tables.answered if not c.right} - {right.id}


def test_two_sessions_on_one_run_do_not_meet(run: Path) -> None:
    with tutorloop.open(run), pytest.raises(JournalError, match="in use by another process"), tutorloop.open(run):
        pass


def test_a_correction_that_could_not_be_taught_is_not_in_the_way_of_the_next(run: Path) -> None:
    class Breaks(Tick):
        broken = False

        def step(self, name: str, seconds: float, replayed: bool) -> None:
            if name == "2/curate" and not self.broken:
                self.broken = True
                raise OSError(28, "No space left on device")

    with tutorloop.open(run, tick=Breaks()) as live:
        case = wrong(live)
        with pytest.raises(OSError, match="No space left"):
            live.teach(case.id, solve(case.question))
        assert len(live.report.rounds) == 2 and not list(live.book.root.glob("steps/2/*"))
        cases = (live.work(p.id) for p in live.course.practice.problems)
        other = next(c for c in cases if not c.right and c.id != case.id and live.gold[c.id].misconceptions)
        assert live.teach(other.id, solve(other.question)).after.right
        (taught,) = small.value(live.book.root, "2/triage", Rows[Case])
        assert taught.id == other.id


def test_a_correction_whose_round_fails_is_refused_with_what_failed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tutorloop.open(run) as live:
        case, start = wrong(live), live.state

        def fails(self: Any, case: Case, room: Any) -> Any:
            raise ValueError("no new problems")

        monkeypatch.setattr("tutorloop.policies.by_hand.Correction.__call__", fails)
        with pytest.raises(Refused, match=r"could not be taught: .*no new problems.* Nothing was taught"):
            live.teach(case.id, solve(case.question))
        assert live.state == start


def test_what_was_taught_on_top_of_another_run_is_not_gone_on_with(
    run: Path, told: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tutorloop.open(run):
        pass
    shutil.copytree(run, tmp_path / "other")
    other = tutorloop.open(tmp_path / "other", tmp_path / "run-taught")
    with pytest.raises(ConfigError, match=r"was taught on top of .*run, as it was, and not of .*other"), other:
        pass
    (tmp_path / "run").rename(tmp_path / "moved")
    with tutorloop.open(tmp_path / "moved", tmp_path / "run-taught"):
        assert not caplog.records
    launch(told, tmp_path / "moved", ["rounds=2"])
    with tutorloop.open(tmp_path / "moved", tmp_path / "run-taught"):
        assert "has gone on to round 2, and what is taught in" in caplog.text


def test_a_run_that_counts_steps_is_taught_by_hand_for_an_epoch_all_the_same(tmp_path: Path) -> None:
    told = small.experiment(tmp_path, rounds=1, schedule__ask=10, schedule__rows=40, update__sft={"max_steps": 500})
    launch(told, tmp_path / "run")
    with tutorloop.open(tmp_path / "run") as live:
        sft = live.ready.stages[0].rounds.settings["sft"]
    assert (sft["num_train_epochs"], sft["max_steps"]) == (1, -1)


def test_a_policy_that_is_not_there_any_more_is_not_missed(tmp_path: Path) -> None:
    text = "def policy(case, room):\n    return None\n"
    name = small.policy(tmp_path / "course", text)
    told = small.experiment(tmp_path, rounds=1, schedule__ask=10, schedule__rows=40, teacher__policy=name)
    launch(told, tmp_path / "run")
    shutil.rmtree(tmp_path / "course")
    with tutorloop.open(tmp_path / "run") as live:
        assert live.teach((case := wrong(live)).id, solve(case.question)).after.right


# ---- kills


@pytest.mark.parametrize("point", ["2/attempt", "2/update", "2/gate", "final/2"])
def test_a_session_that_is_killed_leaves_the_correction_undone_or_done(run: Path, tmp_path: Path, point: str) -> None:
    script = tmp_path / "teach.py"
    script.write_text(
        "import os, signal, sys, tutorloop\n"
        "from tutorloop.evals.arithmetic import solve\n"
        "from tutorloop.loops.journal import Tick\n"
        "from tutorloop.tests.test_teach import wrong\n"
        "class Dies(Tick):\n"
        "    def step(self, name, seconds, replayed):\n"
        "        if name == sys.argv[2] and not replayed:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "with tutorloop.open(sys.argv[1], tick=Dies()) as live:\n"
        "    case = wrong(live)\n"
        "    live.teach(case.id, solve(case.question))\n"
    )
    done = subprocess.run([sys.executable, str(script), str(run), point])
    assert done.returncode == -signal.SIGKILL
    with tutorloop.open(run) as live:
        live.book.check()
        assert len(live.report.rounds) == (3 if point in ("2/gate", "final/2") else 2)
        case = wrong(live)
        assert live.teach(case.id, solve(case.question)).after.right


# ---- the command


def test_the_command_takes_a_correction_from_a_file_and_takes_it_back(run: Path, tmp_path: Path) -> None:
    with tutorloop.open(run) as live:
        case, start = wrong(live), live.state
    (tmp_path / "work.txt").write_text(solve(case.question) + "\n")
    done = CliRunner().invoke(app, ["teach", str(run), case.id, "--work", str(tmp_path / "work.txt")])
    assert done.exit_code == 0, done.output
    assert f"before   wrong   {' / '.join(case.work.splitlines())}" in done.output
    assert f"after    right   {' / '.join(solve(case.question).splitlines())}" in done.output
    assert "twins, never taught: 0 -> 2 of 2 right" in done.output
    done = CliRunner().invoke(app, ["teach", str(run), "--undo", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["digest"] == start.digest
    done = CliRunner().invoke(app, ["teach", str(run), case.id, "--work", str(tmp_path / "none.txt")])
    assert done.exit_code == 2 and "cannot be read" in done.output
    done = CliRunner().invoke(app, ["teach", str(run)])
    assert done.exit_code == 2 and "name a problem to teach, or --undo" in done.output


def test_what_was_taught_by_hand_is_called_so_wherever_a_person_reads(run: Path) -> None:
    with tutorloop.open(run) as live:
        case = wrong(live)
        taught = live.teach(case.id, solve(case.question)).run
    name = "tutorloop.policies.by_hand:METHOD"
    for command in (["runs", str(run.parent)], ["show", taught], ["compare", str(run), taught]):
        told = CliRunner().invoke(app, command).stdout
        head = "\n".join(line for line in told.splitlines() if not line.startswith("method  "))  # of what differs
        assert "by hand" in head and name not in head, command
        assert name in CliRunner().invoke(app, [*command, "--json"]).stdout, "a program reads what a config names"
    page = report_page(taught)
    assert "method <b>by hand</b>" in page


def test_the_command_opens_an_editor_with_the_work_in_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tutorloop.open(run) as live:
        case = wrong(live)
    editor, seen = tmp_path / "editor.py", tmp_path / "seen.txt"
    editor.write_text(
        "import pathlib, sys\n"
        "file = pathlib.Path(sys.argv[-1])\n"
        f"pathlib.Path({str(seen)!r}).write_text(file.read_text())\n"
        f"work = {case.work!r}\n"
        f"file.write_text(file.read_text().replace(work, {solve(case.question)!r}))\n"
        "import os; os.utime(file, (9e9, 9e9))\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {editor}")
    monkeypatch.delenv("VISUAL", raising=False)
    done = CliRunner().invoke(app, ["teach", str(run), case.id])
    assert done.exit_code == 0, done.output
    assert "after    right" in done.output
    assert seen.read_text().startswith(f"{case.work}\n# {case.id}: {case.question}\n")
    monkeypatch.setenv("EDITOR", "true")
    with tutorloop.open(run) as live:
        other = wrong(live)
    done = CliRunner().invoke(app, ["teach", str(run), other.id])
    assert done.exit_code == 2 and "was left as it was. Nothing was taught." in done.output
    monkeypatch.delenv("EDITOR")  # the default is one that waits for keys, which nobody presses here
    done = CliRunner().invoke(app, ["teach", str(run), other.id])
    assert done.exit_code == 2 and "no terminal to edit in" in done.output and "--work FILE" in done.output


def test_what_was_never_taught_cannot_be_undone_and_nothing_is_made_to_find_out(run: Path) -> None:
    done = CliRunner().invoke(app, ["teach", str(run), "--undo"])
    assert done.exit_code == 2 and "nothing was taught on" in done.output
    assert [p.name for p in run.parent.iterdir()] == ["run"]
    with pytest.raises(ConfigError, match="none that was taught by hand"), tutorloop.open(run, run):
        pass


def test_lines_of_the_work_that_begin_with_a_hash_are_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(id="gsm8k-0001", messages=user("3*4?\n# and 5?"))
    attempt = Attempt(problem=problem.id, text="3*4 = 13\n#### 13", finish="stop", state="")
    case = Case(id=problem.id, problem=problem, attempts=(attempt,))
    monkeypatch.setenv("EDITOR", "any")
    monkeypatch.setattr("click.edit", lambda text, **_: text.replace("13", "12"))
    assert edited(case) == "3*4 = 12\n#### 12"
    monkeypatch.setattr("click.edit", lambda text, **_: text)
    with pytest.raises(Refused, match="was left as it was"):
        edited(case)


# ---- on weights


@pytest.mark.slow
def test_a_real_student_is_taught_and_taken_back_to_the_digest_before(tmp_path: Path) -> None:
    """The shipped student, after one round of few rows."""
    told = {
        "rounds": 1,
        "course": {"practice": 100, "quiz": 40, "exam": 20, "twins": 2, "retention": 40},
        "schedule": {"rows": 96},
        "placement": "local",
    }
    launch(told, tmp_path / "run")
    before = small.tree(tmp_path / "run")
    with tutorloop.open(tmp_path / "run") as live:
        start, case = live.state, wrong(live)
        taught = live.teach(case.id, solve(case.question))
        assert taught.state != start and taught.proof == "published"
        root, base = live.book.root, live.report.rounds[0].serving["student"].digest
        assert adapter_digest(root / taught.state.weights, base) == taught.state.digest
        assert live.work(case.id).attempts[0].state == taught.state.digest
        assert live.undo() == start
        assert adapter_digest(root / start.weights, base) == start.digest
        assert not (root / taught.state.weights).exists()
    assert small.tree(tmp_path / "run") == before
