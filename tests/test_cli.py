"""The command line, as a person or a script meets it: scripted roles, real processes where it matters."""

import ast
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tutorloop
from tutorloop.loops.cli import app
from tutorloop.loops.launch import prepare
from tutorloop.loops.plan import plan_lines

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "ray", "pandas", "scipy", "pyarrow", "transformers", "trl", "peft", "datasets"}
BUGS = [
    *("carries-pile-up", "carry-lost-over-blank", "forgets-carry", "n+0=0", "borrow-from-zero", "n-n=1-after-borrow"),
    *("forget-borrow-over-blanks", "smaller-from-larger", "n-0=0", "sub-one-over-blank"),
]
POLICIES = """
def plain(case, room):
    return room.teacher.ask(f"Correct this.\\n{case.question}\\n{case.work}")

def rude(case, room):
    from tutorloop import Lesson
    return Lesson(text="\\x1b[2J[bold red]look\\x07", target="\\x1b[2J[bold red]look\\x07")

def broken(case, room):
    raise RuntimeError("no luck today")
"""
METHOD = """
from dataclasses import replace
from tutorloop.policies.tailored import METHOD as tailored

def boom(examples, room):
    raise AssertionError("a bug of mine \\x1b[2J")

METHOD = replace(tailored, name="boom", update=boom)
"""


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """A folder with an experiment, and the command in it."""

    folder: Path

    def __call__(self, *args: str) -> Done:
        """The command in this process."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            done = CliRunner().invoke(app, args)
        finally:
            os.chdir(before)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    def process(self, *args: str, python: Sequence[str] = ()) -> Done:
        """The command in a process of its own."""
        command = [sys.executable, *python, "-m", "tutorloop", *args]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tutorloop", *args]
        return subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def tree(self) -> dict[str, bytes]:
        files = (p for p in self.folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in files}


def furnish(folder: Path) -> Shell:
    """An experiment with a student profile of its own: 100 problems a pool, nothing shipped is needed."""
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "provenance.json").write_text(json.dumps({"bugs": BUGS}))
    (folder / "policies.py").write_text(POLICIES)
    (folder / "boom.py").write_text(METHOD)
    (folder / "small.yaml").write_text(
        "course: {practice: 100, quiz: 100, exam: 100, twins: 2, retention: 10}\n"
        "schedule: {rows: 150}\n"
        "rounds: 2\n"
        "student: {engine: scripted, model: student}\n"
        "placement: local\n"
    )
    return Shell(folder)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return furnish(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, Done]:
    """A finished run in `runs/small`, and what its command printed. Not to be written to."""
    shell = furnish(tmp_path_factory.mktemp("finished"))
    done = shell.process("run", "small.yaml")
    assert done.code == 0, done.err
    return shell, done


@pytest.fixture
def copy(finished: tuple[Shell, Done], tmp_path: Path) -> Shell:
    """The finished run once more, elsewhere."""
    shutil.copytree(finished[0].folder, tmp_path / "copy")
    return Shell(tmp_path / "copy")


def imported(err: str) -> set[str]:
    """The packages in what `-X importtime` writes."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in err.splitlines() if "import time:" in line}


# ---- starting


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["run", "--help"], ["methods"]])
def test_help_loads_nothing_heavy(shell: Shell, args: list[str]) -> None:
    done = shell.process(*args, python=["-X", "importtime"])
    assert done.code == 0
    assert done.out
    assert not imported(done.err) & HEAVY


def test_help_and_version_answer_in_under_a_second(shell: Shell) -> None:
    for flag in ("--help", "--version"):
        took = []
        for _ in range(3):  # the machine may be busy
            started = time.perf_counter()
            shell.process(flag)
            took.append(time.perf_counter() - started)
        assert min(took) < 1


def test_a_second_start_on_a_finished_run_starts_nothing(copy: Shell) -> None:
    """Not even where the roles would be actors: Ray is not imported."""
    before = copy("show", "runs/small", "--json").json
    done = copy.process("run", "small.yaml", "placement=ray", "--json", python=["-X", "importtime"])
    assert done.code == 0, done.err
    assert not imported(done.err) & (HEAVY - {"pyarrow"})
    assert done.json == before


def test_a_run_that_was_moved_goes_on_where_it_lies(copy: Shell) -> None:
    shutil.move(copy.folder / "runs", copy.folder / "elsewhere")
    done = copy("run", "small.yaml", "--run-dir", "elsewhere/small", "rounds=3", "--json")
    assert done.code == 0, done.err
    assert [r["round"] for r in done.json["rounds"]] == [0, 1, 2, 3]
    assert not (copy.folder / "runs").exists()


# ---- running


def test_a_run_ends_with_its_rounds_and_its_exam(finished: tuple[Shell, Done]) -> None:
    out = finished[1].out
    assert "runs/small  finished" in out
    for word in ("quiz", "95 %", "unread", "fixed", "regressed", "exam", "probe", "retention", "McNemar", "masked"):
        assert word in out


def test_not_on_a_terminal_progress_is_plain_lines(finished: tuple[Shell, Done]) -> None:
    err = finished[1].err
    assert "\x1b" not in err and "\r" not in err
    lines = err.splitlines()
    assert any("round 1, teach: done in" in line for line in lines)
    assert any("round 2: quiz" in line and "n 100" in line and "kept" in line for line in lines)


def test_on_a_terminal_progress_moves_with_rate_and_time_left(shell: Shell) -> None:
    ours, theirs = pty.openpty()
    larger = ["course.practice=1500", "course.exam=1000"]  # than a screen is drawn anew
    command = [sys.executable, "-m", "tutorloop", "run", "small.yaml", "rounds=1", *larger]
    with subprocess.Popen(command, cwd=shell.folder, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while block := os.read(ours, 4096):
                seen += block
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in seen
    assert b"left" in seen and b"shards" in seen


def test_quiet_prints_nothing(shell: Shell) -> None:
    done = shell("run", "small.yaml", "rounds=0", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_and_the_same_command_finishes(
    shell: Shell, finished: tuple[Shell, Done], number: signal.Signals
) -> None:
    process = shell.start("run", "small.yaml", "--json")
    assert process.stderr
    for line in process.stderr:
        if "round 0: quiz" in line:  # early: the whole rest takes a second
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert "tutorloop run small.yaml --run-dir runs/small" in err
    assert json.loads(out)["status"] == "paused"
    again = shell.process("run", "small.yaml", "--json")
    assert again.code == 0
    assert "going on after" in again.err
    undisturbed = finished[0]("show", "runs/small", "--json").json
    assert [r["state"] for r in again.json["rounds"]] == [r["state"] for r in undisturbed["rounds"]]
    assert again.json["exam"] == undisturbed["exam"]


def test_a_finished_run_continues_with_more_rounds_and_lists_its_earlier_end(copy: Shell) -> None:
    done = copy.process("run", "small.yaml", "rounds=3")
    assert done.code == 0, done.err
    assert "an earlier end, after round 2" in done.out
    told = copy("show", "runs/small", "--json").json
    assert len(told["rounds"]) == 4
    assert list(told["finals"]) == ["0", "2", "3"]


def test_a_spent_budget_stops_and_a_larger_one_goes_on(shell: Shell) -> None:
    done = shell("run", "small.yaml", "rounds=1", "budget.teacher_tokens=1000")
    assert done.code == 3
    assert "stopped in runs/small: the budget of 1000 teacher tokens is spent" in done.err
    more = shell("run", "small.yaml", "rounds=1", "budget.teacher_tokens=1000000")
    assert more.code == 0, more.err


def test_too_many_failures_stop_with_the_commonest_reason(shell: Shell) -> None:
    done = shell("run", "small.yaml", "teacher.policy=policies:broken", "rounds=1")
    assert done.code == 3
    assert "RuntimeError: no luck today" in done.err
    assert shell("runs", "--json").json[0]["status"] == "stopped"


def test_a_bug_is_a_short_line_and_a_traceback_in_the_logs(shell: Shell) -> None:
    done = shell.process("run", "small.yaml", "method=boom:METHOD", "rounds=1", "-q")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1
    log = (shell.folder / "runs" / "small" / "logs" / "driver.log").read_text()
    assert "a bug of mine \\u001b[2J" in log and "\x1b" not in log
    assert shell("runs", "--json").json[0]["status"] == "failed"


# ---- what can be mended


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["run", "small.yaml", "roundz=3"], "unknown key `roundz`.*nearest is `rounds`"),
        (["run", "small.yaml", "rounds=many"], "`rounds`.*integer.*'many'"),
        (["run", "small.yaml", "rounds"], "write key=value"),
        (["run", "none.yaml"], "no experiment file none.yaml"),
        (["run", "bad.yaml"], "bad.yaml is no YAML"),
        (["run", "small.yaml", "method=tailord"], "unknown method 'tailord'; the nearest is `tailored`"),
        (["run", "small.yaml", "teacher.policy=nowhere:f"], "nowhere.*does not import"),
        (["run", "small.yaml", "teacher.policy=polices.py:plain"], "no file polices.py in .* nearest: policies.py"),
        (["run", "small.yaml", "teacher.policy=policies:plane"], "no `plane`.*nearest is `plain`"),
        (["run", "small.yaml", "update.sft.lerning_rate=1"], "lerning_rate.*nearest is `learning_rate`"),
        (["run", "small.yaml", "course.practice=0"], "at least 1 problem, got 0"),
        (["run", "small.yaml", "--run-dir", "student"], "not empty and holds no run"),
        (["plan", "small.yaml", "roundz=3"], "nearest is `rounds`"),
        (["show", "runs/none"], "there is no run in runs/none"),
        (["show", "student"], "there is no run in student"),
        (["runs", "runz"], "there is no folder runz"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_changes_nothing(shell: Shell, args: list[str], told: str) -> None:
    (shell.folder / "bad.yaml").write_text("rounds: [1\n")
    before = shell.tree()
    done = shell(*args)
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert re.search(told, done.err), done.err
    assert shell.tree() == before


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["seed=1"], "`seed` was 0, is 1"),
        (["method=gold"], "`method` was 'tailored', is 'gold'"),
        (["rounds=1"], "`rounds` may grow and not shrink"),
    ],
)
def test_a_changed_experiment_is_refused_and_says_what_changed(copy: Shell, args: list[str], told: str) -> None:
    before = copy.tree()
    done = copy("run", "small.yaml", *args)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1
    assert copy.tree() == before


def test_who_leaves_the_folder_of_runs_out_is_told_which_there_are(finished: tuple[Shell, Done]) -> None:
    for mistaken in ("small", "runs"):
        done = finished[0]("show", mistaken)
        assert (
            done.code == 2 and f"there is no run in {mistaken}" in done.err and "In runs there are: small" in done.err
        )


def test_an_edited_policy_is_refused_by_name_with_the_way_out(shell: Shell) -> None:
    command = ["run", "small.yaml", "teacher.policy=policies:plain", "rounds=1", "-q"]
    assert shell(*command).code == 0
    with (shell.folder / "policies.py").open("a") as f:
        f.write("\nVERSION = 2\n")
    done = shell(*command)
    assert done.code == 2
    assert "`policies:plain` has changed" in done.err
    way_out = done.err.split("tutorloop ")[-1].split()
    assert way_out[:2] == ["fork", "runs/small"]
    assert shell(*way_out, "-q").code == 0


def test_a_mistake_that_shows_before_anything_was_answered_can_be_mended(shell: Shell) -> None:
    """What a role cannot be built with is found when it is built; the folder is then no obstacle."""
    ask = ["run", "small.yaml", "rounds=0", "-q"]
    refused = shell(*ask, "teacher.options.error_rate=2")
    assert refused.code == 2, refused.err
    assert "the teacher cannot be built as it is configured: `error_rate` must be between 0 and 1" in refused.err
    assert refused.err.count("\n") == 1
    assert shell(*ask).code == 0


def test_a_damaged_run_says_which_file(copy: Shell) -> None:
    gate = copy.folder / "runs" / "small" / "steps" / "1" / "gate.json"
    gate.write_bytes(gate.read_bytes()[:200])
    for command in (["show", "runs/small"], ["run", "small.yaml"]):
        done = copy(*command)
        assert done.code == 2
        assert "gate.json is damaged" in done.err


# ---- looking


def test_show_has_the_shape_that_programs_read(finished: tuple[Shell, Done]) -> None:
    told = finished[0]("show", "runs/small", "--json").json
    assert told["run"] == "runs/small"
    assert (told["status"], told["why"]) == ("finished", "")
    assert set(told["exam"]) == {"before", "after", "n"}
    assert 0 <= told["exam"]["before"] < told["exam"]["after"] <= 1
    assert told["exam"]["n"] == 100
    wanted = "round quiz_accuracy quiz_low quiz_high quiz_n kept why state serving cases lessons accepted examples"
    wanted += " teacher_calls teacher_tokens seconds fixed regressed truncated"
    for number, line in enumerate(told["rounds"]):
        assert set(wanted.split()) <= set(line)
        assert line["round"] == number
        assert line["quiz_low"] <= line["quiz_accuracy"] <= line["quiz_high"] <= 1
        assert len(line["state"]) == 64
    first, second = told["rounds"][:2]
    assert first["teacher_calls"] == first["cases"] == 0
    assert second["serving"] == second["state"] != first["state"]
    assert second["examples"] == 150
    assert told["retention"]["before"] == told["retention"]["after"] == 1
    assert all(set(skill) == {"before", "after", "n"} for skill in told["probe"]["skills"].values())


def test_what_was_masked_comes_into_the_open_in_the_histories_too(finished: tuple[Shell, Done]) -> None:
    shell, _ = finished
    masked = shell("show", "runs/small", "--json").json["masked"]
    assert masked["problems"] == masked["asked"] == 26
    assert 0 < masked["shown"] <= 26
    history = shell("show", "runs/small", masked["examples"][0], "--json").json
    steps = [r["first_wrong"] for r in history["rounds"] if r["label"] == "wrong"]
    assert steps[-1] > steps[0]
    assert [r["masked"] for r in history["rounds"]] == [False, True]
    assert len(history["misconceptions"]) == 2


def test_a_problems_history_tells_everything_from_error_to_twins(finished: tuple[Shell, Done]) -> None:
    shell, _ = finished
    told = shell("show", "runs/small", "--json").json
    history = shell("show", "runs/small", told["masked"]["examples"][0], "--json").json
    taught = next(r for r in history["rounds"] if r["taught"])
    assert taught["saw"] == ["question", "work"]
    assert not taught["gold_seen"]
    assert taught["diagnosed"] in BUGS
    assert {lesson["by"] for lesson in taught["lessons"] if lesson["accepted"]} == {"steps"}
    assert {lesson["act"] for lesson in taught["lessons"]} == {"correction", "similar"}
    assert sum(taught["taught"].values()) <= len(taught["lessons"])
    assert history["twins"]["n"] == 2
    out = shell("show", "runs/small", history["problem"]).out
    for part in ("first wrong step", "masked until now", "saw question and work, not the answer", "evidence steps"):
        assert part in out
    assert "probe twins right: 0/2 before ->" in out
    assert "regressed elsewhere: 0 of" in out


def test_a_sealed_problem_shows_its_sittings_and_no_gold(finished: tuple[Shell, Done]) -> None:
    sheet = next((finished[0].folder / "runs/small/rows/sheets/exam").iterdir())
    assert sheet.is_dir()
    from tutorloop.loops.show import RunFolder

    exam = RunFolder(finished[0].folder / "runs" / "small").finals[0]["exam"]
    id = next(iter(exam.rows)).problem.id
    history = finished[0]("show", "runs/small", id, "--json").json
    assert history["pool"] == "exam"
    assert history["answer"] == ""
    assert [s["after_round"] for s in history["sittings"]] == [0, 2]


def test_an_unknown_problem_is_answered_with_the_nearest(finished: tuple[Shell, Done]) -> None:
    done = finished[0]("show", "runs/small", "sub-00")
    assert done.code == 2
    assert "has no problem 'sub-00'. The nearest: sub-00" in done.err


def test_what_a_terminal_would_obey_is_written_out(shell: Shell) -> None:
    assert shell("run", "small.yaml", "teacher.policy=policies:rude", "rounds=1", "-q").code == 0
    from tutorloop.loops.show import RunFolder

    run = RunFolder(shell.folder / "runs" / "small")
    tables = run.reports[1].tables
    assert tables
    done = shell("show", "runs/small", next(iter(tables.cases)).problem.id)
    assert "\x1b" not in done.out and "\x07" not in done.out
    assert "\\u001b[2J[bold red]look\\u0007" in done.out
    assert "refused" in done.out


def test_a_run_can_be_looked_at_while_it_goes_on(shell: Shell) -> None:
    process = shell.start("run", "small.yaml", "rounds=3")
    try:
        assert process.stderr
        for line in process.stderr:
            if "round 1, verify" in line:
                break
        os.kill(process.pid, signal.SIGSTOP)  # so that it is still in that round
        told = shell("show", "runs/small", "--json")
        listed = shell("runs", "--json")
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        process.communicate(timeout=60)
    assert told.json["status"] == "running"
    assert told.json["exam"]["after"] is None
    assert [line["status"] for line in listed.json] == ["running"]


def test_runs_lists_a_damaged_one_with_its_fault_and_the_others_all_the_same(copy: Shell) -> None:
    runs = copy.folder / "runs"
    shutil.copytree(runs / "small", runs / "torn")
    (runs / "torn" / "run.json").write_text("{")
    shutil.copytree(runs / "small", runs / "a" / "nested")
    (runs / "notes").mkdir()
    listed = {line["run"]: line for line in copy("runs", "--json").json}
    assert {name: line["status"] for name, line in listed.items()} == {
        "runs/a/nested": "finished",
        "runs/small": "finished",
        "runs/torn": "damaged",
    }
    assert "run.json is damaged" in listed["runs/torn"]["fault"]
    assert listed["runs/small"]["method"] == "tailored"
    assert listed["runs/small"]["exam"]["n"] == 100
    out = copy("runs").out
    assert "runs/torn: runs/torn/run.json is damaged" in out


STRANGER = """
import os, sys
from pathlib import Path
from tutorloop.loops import cli, doctor, history, show, words  # while there may be something to import
if not os.geteuid():
    os.setuid(65534)  # root may read anything
if sys.argv[1] == "disk":
    print(doctor.disk(Path(sys.argv[2])))
else:
    cli.app()
"""


@dataclass(frozen=True)
class Stranger:
    """Somebody to whom not everything in a folder of runs is open, who may read as little as its modes say."""

    folder: Path

    def __call__(self, *args: str) -> Done:
        command = [sys.executable, "-c", STRANGER, *args]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def stranger(finished: tuple[Shell, Done]) -> Iterator[Stranger]:
    """`runs/small` is for everybody; of `closed`, `shut` and `torn` something or other is for nobody."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # a test's own folder is for nobody else
        os.chmod(place, 0o755)
        runs = Path(shutil.copytree(finished[0].folder / "runs", Path(place) / "runs"))
        for name in ("closed", "shut", "torn"):
            shutil.copytree(runs / "small", runs / name)
        modes = {runs / "closed": 0o000, runs / "shut": 0o444, runs / "torn" / "steps" / "0.json": 0o000}
        before = {path: path.stat().st_mode for path in modes}
        for path, mode in modes.items():
            path.chmod(mode)
        yield Stranger(Path(place))
        for path in modes:
            path.chmod(before[path])


def test_runs_names_what_it_may_not_read_and_lists_the_others_all_the_same(stranger: Stranger) -> None:
    done = stranger("runs", "--json")
    assert done.code == 0, done.err
    listed = {line["run"]: line for line in done.json}
    assert {name: line["status"] for name, line in listed.items()} == {
        "runs/closed": "unreadable",
        "runs/shut": "unreadable",
        "runs/small": "finished",
        "runs/torn": "unreadable",
    }
    for name in ("closed", "shut", "torn"):
        assert f"Permission denied: runs/{name}/" in listed[f"runs/{name}"]["fault"]
        assert "Gain access to it" in listed[f"runs/{name}"]["fault"]
    out = stranger("runs").out
    assert "runs/closed: Permission denied: runs/closed/run.json. Gain access" in out


@pytest.mark.parametrize("args", [("runs", "runs/shut"), ("show", "runs/shut"), ("show", "runs/torn")])
def test_what_is_asked_for_and_may_not_be_read_is_said_in_one_line(args: Sequence[str], stranger: Stranger) -> None:
    done = stranger(*args)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
    assert f"tutorloop: Permission denied: {args[1]}/" in done.err and "Gain access to it" in done.err


def test_a_run_that_is_not_there_is_looked_for_among_those_that_may_be_read(stranger: Stranger) -> None:
    done = stranger("show", "runs/smal")
    assert done.code == 2
    assert done.err.endswith("(no run.json). In runs there are: small, torn\n")


def test_the_doctor_sees_that_runs_cannot_be_where_nobody_may_look(stranger: Stranger) -> None:
    done = stranger("disk", "runs/closed/mine/runs")
    assert done.code == 0, done.err
    assert "status='fail'" in done.out and "runs/closed cannot be written" in done.out


def test_runs_without_any_is_no_error(shell: Shell) -> None:
    done = shell("runs")
    assert (done.code, done.out) == (0, "no runs below runs\n")


# ---- plan, methods


def test_a_plan_starts_and_writes_nothing_and_says_who_set_what(shell: Shell) -> None:
    before = shell.tree()
    args = ["plan", "small.yaml", "update.sft.learning_rate=1e-4", "update.lora.lora_dropout=0.1"]
    done = shell.process(*args, "--json", python=["-X", "importtime"])
    assert done.code == 0, done.err
    assert not imported(done.err) & HEAVY
    assert shell.tree() == before
    settings = {(s["group"], s["name"]): s for s in done.json["settings"]}
    assert settings["sft", "learning_rate"] == {
        "group": "sft",
        "name": "learning_rate",
        "value": 0.0001,
        "origin": "yours",
        "otherwise": "0.001 (ours)",
        "without_effect": "a student of the engine 'scripted' is trained by no library",
    }
    assert settings["lora", "lora_dropout"]["otherwise"] == "0.0"
    assert settings["dpo", "beta"]["origin"] == "ours"
    assert settings["dpo", "adam_beta1"]["origin"] == "the library's"
    assert settings["schedule", "times"]["otherwise"] == "5 (the method's)"
    assert settings["schedule", "decay"]["origin"] == "the method's"
    told = shell(*args)
    assert "nothing was started and nothing was written" in told.out
    assert "2 rounds. Each asks every practice problem" in " ".join(told.out.split())
    assert "tutorloop.policies.teaching:CorrectAndPractise(practice=4)" in told.out


def test_the_plans_estimate_is_near_what_the_run_cost(finished: tuple[Shell, Done]) -> None:
    estimate = finished[0]("plan", "small.yaml", "--json").json["estimate"]
    rounds = finished[0]("show", "runs/small", "--json").json["rounds"]
    assert 0.5 < sum(r["teacher_calls"] for r in rounds) / estimate["teacher_calls"] < 2
    assert 0.5 < sum(r["teacher_tokens"] for r in rounds) / estimate["teacher_tokens"] < 2
    assert estimate["how"]


def test_an_unchecked_method_is_said_aloud(shell: Shell) -> None:
    assert "warning: tailored learns from unchecked lessons" in shell("plan", "small.yaml", "check=[unchecked]").out


def test_methods_are_listed_for_programs(shell: Shell) -> None:
    listed = shell("methods", "--json").json
    assert {"tailored", "gold"} <= {m["name"] for m in listed}
    for method in listed:
        assert {"name", "citation", "requires", "summary", "deviations", "rounds"} <= set(method)
    assert "EMNLP 2023" in shell("methods").out


# ---- Python, examples


def test_every_public_name_is_there_and_typed() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If)).body
    said = {alias.name: f".{node.module}" for node in typed if isinstance(node, ast.ImportFrom) for alias in node.names}
    where: Callable[[], dict[str, str]] = lambda: vars(tutorloop)["_WHERE"]  # noqa: E731
    assert said == where()
    for name in tutorloop.__all__:
        assert getattr(tutorloop, name).__name__ == name


@pytest.mark.parametrize(
    "policy",
    [
        *("first_error.py:first_error", "first_error.py:two_opinions"),
        *("my_course.py:first_error", "my_course.py:hint_then_retry", "my_course.py:HintThenTell"),
    ],
)
def test_the_policies_of_the_examples_teach(shell: Shell, policy: str) -> None:
    experiment = {"placement": "local", "student": {"engine": "scripted", "model": str(shell.folder / "student")}}
    sizes = ["course.practice=100", "course.quiz=100", "course.exam=100", "course.twins=2", "course.retention=10"]
    named = f"teacher.policy={ROOT / 'examples' / policy}"
    report = tutorloop.launch(experiment, shell.folder / "mine", [*sizes, "rounds=1", "schedule.rows=100", named])
    assert report.after
    assert report.after["exam"].accuracy > report.before["exam"].accuracy
    view = tutorloop.read_run(shell.folder / "mine")
    assert view.exam.after == report.after["exam"].accuracy


def test_an_experiment_that_ships_is_called_by_name_and_a_file_of_that_name_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_course.py").write_text(
        "def mine(case, room):\n    return None\n"
    )  # in `examples`, it has no `mine`
    ready = prepare("scripted", ["teacher.policy=my_course:mine"])
    for wrong in ("rounds=2", {"rounds": 2}):
        with pytest.raises(tutorloop.ConfigError, match="overrides are a list of texts"):
            prepare("scripted", wrong)  # type: ignore[arg-type]
    assert ready.folder == tmp_path and ready.experiment.teacher.engine == "scripted"
    (tmp_path / "scripted").write_text("seed: 7")
    assert prepare("scripted").experiment.seed == 7


def test_a_policy_under_a_check_that_takes_no_teachers_words_is_told_of() -> None:
    mine = f"teacher.policy={ROOT}/examples/my_course.py:first_error"

    def told(*overrides: str) -> str:
        return "\n".join(plan_lines(tutorloop.plan("scripted", overrides)))

    warning = "nothing that a teacher wrote. That would be: check=[own,steps]"
    assert warning in " ".join(told("method=retry", mine).split())
    for fits in (["method=retry"], [mine], ["method=retry", mine, "check=[own,steps]"]):
        assert "nothing that a teacher wrote" not in " ".join(told(*fits).split())


@pytest.mark.parametrize("name", ["arithmetic.yaml", "scripted.yaml"])
def test_the_experiments_of_the_examples_are_sound(name: str) -> None:
    planned = tutorloop.plan(ROOT / "examples" / name)
    assert planned.pools["practice"] == (700 if name == "arithmetic.yaml" else 300)
    assert planned.estimate.rounds == 5
