"""A policy is tried on recorded cases: as a run would, in seconds, and the run stays as it is to the byte."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from tutorloop.agents.chat import Chat, render
from tutorloop.evals.arithmetic import shipped
from tutorloop.evals.records import user
from tutorloop.loops import trial
from tutorloop.loops.cli import app
from tutorloop.loops.fork import fork
from tutorloop.loops.launch import launch
from tutorloop.loops.watching import saves
from tutorloop.policies.records import Example
from tutorloop.tests.policies_for_tests import small

POLICIES = """
import asyncio, sys, threading, time
from dataclasses import dataclass
from tutorloop import Lesson

def first_error(case, room):
    return room.teacher.ask(f"Find the first wrong step and correct it from there.\\n{case.question}\\n{case.work}")

def raises(case, room):
    raise RuntimeError("no luck\\x1b[2J today")

def hangs(case, room):
    time.sleep(1000)

async def blocks(case, room):
    time.sleep(20)

async def stubborn(case, room):
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass

def nonsense(case, room):
    return 42

def mistyped(case, room):
    return room.techer.ask("x")

def unknown(case, room):
    return froom

def number(case, room):
    return room.teacher.ask(7)

def half(case, room):
    return Lesson(target=42)

def exits(case, room):
    sys.exit("bye")

def asks_for_ever(case, room):
    return room.teacher.ask([])

def escapes(case, room):
    return "\\x1b[2J\\x07"

def gigabytes(case, room):
    for _ in range(1000):
        print("x" * 1_000_000)

async def chatty(case, room):
    print("one of", case.id)
    print("to stderr", file=sys.stderr)

def odd(case, room):
    import io
    print("half \\ud800 \\x1b[2J of a character")
    try:
        sys.stdout.write(b"bytes")
    except TypeError:
        sys.stdout.close()
    sys.stdout = sys.stderr = io.StringIO()
    print("lost")

def goes_on(case, room):
    threading.Thread(target=noise, daemon=True).start()
    while True:
        print("NOISE")
        time.sleep(0.001)

def noise():
    while True:
        print("NOISE")
        time.sleep(0.001)

def again(case, room):
    return room.retry(case).work

async def own(case, room):
    return (await room.learner.aattempt(case.problem)).text

@dataclass
class Hint:
    line: str

def hinted(case, room):
    hint = room.teacher.fill(f"A hint, please.\\n{case.question}\\n{case.work}", Hint)
    return Lesson(text=hint.line, target=room.retry(case, context=hint.line).work)

def nothing(case, room):
    return None

def pairs(case, room):
    right = room.teacher.ask(f"Correct this.\\n{case.question}\\n{case.work}")
    return [Lesson(target=right, rejected=case.work), Lesson(target="=1"), Lesson(act="hint", text="look")]
"""
OPTIONS = """
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Said:
    word: str = "this"
    times: int = 1

    def __call__(self, case, room):
        for i in range(self.times):
            room.teacher.ask(f"Correct {self.word}.\\n{case.question}\\n{case.work}", sample=i)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(home: Path) -> Iterator[Path]:
    """A finished run of two rounds, which no test changes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda descriptor: None)
        launch(small.experiment(home), home / "run")
    before = small.tree(home / "run")
    yield home / "run"
    assert small.tree(home / "run") == before


@pytest.fixture
def course(tmp_path: Path) -> Path:
    file = tmp_path / "my_course.py"
    file.write_text(POLICIES)
    return file


@pytest.fixture
def attempt(run: Path, course: Path) -> Callable[..., Any]:
    """`attempt("first_error", "-n", "3")`: the command on the run, its exit code and what it printed."""

    def command(name: str, *args: str, on: Path = run) -> Any:
        done = CliRunner().invoke(app, ["try", f"{course}:{name}", "--on", str(on), *args])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return command


@pytest.fixture
def told(attempt: Callable[..., Any]) -> Callable[..., Any]:
    """The same as data."""

    def command(name: str, *args: str, code: int = 0, **kwargs: Any) -> Any:
        done = attempt(name, *args, "--json", **kwargs)
        assert done.exit_code == code, done.stderr
        return json.loads(done.stdout)

    return command


def refused(done: Any, *words: str) -> None:
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


# ---- what it shows


def test_a_trial_is_what_a_run_with_this_policy_does(home: Path, told: Callable[..., Any], course: Path) -> None:
    """Lessons with their ids and evidence, asks, examples: all of a round's."""
    launch(small.experiment(home, rounds=1, teacher__policy=f"{course}:pairs"), home / "other")
    found = told("pairs", "-n", "1000")
    lessons = list(small.table(home / "other", "1/check"))
    shown = [x for tried in found["tried"] for x in tried["lessons"]]
    assert [(x["id"], x["target"], x["accepted"], x["by"]) for x in shown] == [
        (x.id, x.prefix + x.target, x.sound, x.verdict.by) for x in lessons
    ]
    paid = [e for e in small.paid(home / "other") if e.step == "1/teach"]
    assert found["asks"] == len(paid) == found["whole_round"]["asks"]
    assert found["tokens"] == sum(e.tokens_in + e.tokens_out for e in paid) == found["whole_round"]["tokens"]
    rows = {row["id"]: (row["completion"], row["rejected"]) for tried in found["tried"] for row in tried["rows"]}
    learnt = [e for e in small.table(home / "other", "1/curate") if e.origin == "lesson"]
    assert learnt and all(rows[e.id] == (e.completion, e.rejected) for e in learnt)


def test_the_totals_are_the_sums_of_what_is_shown(told: Callable[..., Any]) -> None:
    found = told("pairs", "-n", "7")
    lessons = [x for tried in found["tried"] for x in tried["lessons"]]
    asks = [e for tried in found["tried"] for e in tried["asks"]]
    assert found["cases"] == len(found["tried"]) == 7
    assert found["accepted"] == sum(x["accepted"] for x in lessons)
    assert found["rejected"] == Counter(x["by"] for x in lessons if not x["accepted"])
    assert found["rejected"]["no evidence"] >= 7 <= found["rejected"]["no target"], "`=1`, and the hint"
    assert found["asks"] + found["reused"] == len(asks)
    assert found["tokens"] == sum(e["tokens"] for e in asks if not e["reused"])
    cases = found["whole_round"]["cases"]
    assert found["whole_round"] == {
        "cases": cases,
        "asks": round(found["asks"] * cases / 7),
        "tokens": round(found["tokens"] * cases / 7),
    }


def test_cases_are_those_of_the_round_in_the_order_of_triage(run: Path, told: Callable[..., Any]) -> None:
    for number in (1, 2):
        picked = [case.id for case in small.table(run, f"{number}/triage")][:5]
        found = told("nothing", "-n", "5", "--round", str(number))
        assert [tried["case"] for tried in found["tried"]] == picked
        assert (found["round"], found["asks"], found["accepted"]) == (number, 0, 0)
    assert told("nothing")["round"] == 1


def test_named_cases_alone_are_tried(run: Path, told: Callable[..., Any]) -> None:
    ids = [case.id for case in small.table(run, "1/triage")][3:1:-1]
    assert [tried["case"] for tried in told("nothing", "--case", ids[0], "--case", ids[1])["tried"]] == ids


def test_where_nobody_triaged_the_wrong_ones_are_the_cases(
    home: Path, told: Callable[..., Any], tmp_path: Path
) -> None:
    method = "from dataclasses import replace\nfrom tutorloop.policies.tailored import METHOD as tailored\n"
    (tmp_path / "untriaged.py").write_text(f"{method}METHOD = replace(tailored, name='untriaged', triage=None)\n")
    launch(small.experiment(home, rounds=1, method=f"{tmp_path}/untriaged.py:METHOD"), tmp_path / "run")
    wrong = [c.id for c in small.table(tmp_path / "run", "1/verify") if not c.right]
    assert [x["case"] for x in told("nothing", "-n", "99", on=tmp_path / "run")["tried"]] == wrong


def test_a_person_reads_work_prompts_replies_lessons_evidence_and_rows(attempt: Callable[..., Any]) -> None:
    out = attempt("pairs", "-n", "1").stdout
    for part in (
        "1/1  ",
        " recorded wrong",
        "<- first wrong step",
        "teacher   Correct this.",
        "replied   ",
        "accepted  correction",
        "(evidence steps: ",
        "refused   correction  =1   (no evidence",
        "refused   hint",
        "masked    ",
        "trained   ",
        "over      ",
        "rejected  2 lessons: 1 no evidence, 1 no target",
        "1 made, ",
        "cases at this rate: ",
        "this student has neither chat template nor tokens",
    ):
        assert part in out, part


def test_options_of_a_policy_are_given_as_key_and_value(
    told: Callable[..., Any], course: Path, attempt: Callable[..., Any]
) -> None:
    course.write_text(OPTIONS)
    found = told("Said", "word=it", "times=2", "-n", "1")
    assert [e["prompt"][0]["content"].splitlines()[0] for e in found["tried"][0]["asks"]] == ["Correct it."] * 2
    refused(attempt("Said", "tims=2"), "no option `tims`", "the nearest is `times`")
    refused(attempt("Said", "times"), "option=value")


# ---- what it leaves alone


def test_a_run_is_tried_on_while_another_process_holds_it(run: Path, told: Callable[..., Any]) -> None:
    before = {p: p.stat().st_mtime_ns for p in sorted(run.rglob("*"))}
    with FileLock(run / "lock"):
        assert told("again", "-n", "3")["cases"] == 3
    assert {p: p.stat().st_mtime_ns for p in sorted(run.rglob("*"))} == before


ALONE = """
import sys
from tutorloop.__main__ import main
sys.argv = ["tutorloop", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted({m.partition(".")[0] for m in sys.modules}), file=sys.stderr)
"""


def test_neither_torch_nor_ray_nor_a_trainer_is_loaded(run: Path, course: Path) -> None:
    command = [sys.executable, "-c", ALONE, "try", f"{course}:first_error", "--on", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["accepted"] > 0
    loaded = set(done.stderr.split())
    assert "pyarrow" in loaded
    assert not loaded & {"torch", "ray", "trl", "transformers", "peft", "datasets", "accelerate", "pandas", "scipy"}


# ---- policies that misbehave


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("raises", "RuntimeError: no luck"),
        ("hangs", "gave no answer within 0.5 s"),
        ("blocks", "the event loop stood still for 0.5 s at my_course.py:"),
        ("stubborn", "it was given up and goes on"),
        ("nonsense", "returned int: '42'; this slot returns a text, a Lesson, several, or None"),
        ("mistyped", "no attribute 'techer'. The nearest is `teacher` (my_course.py:"),
        ("unknown", "name 'froom' is not defined. The nearest is `room` (my_course.py:"),
        ("number", "a prompt is a text or several turns, got int (my_course.py:"),
        ("half", "`Lesson.target`: Input should be a valid string, got 42"),
        ("exits", "SystemExit: bye"),
        ("asks_for_ever", "a prompt needs a turn of the user's"),
    ],
)
def test_a_policy_that_fails_gets_one_clear_line_a_case(
    attempt: Callable[..., Any], told: Callable[..., Any], name: str, why: str
) -> None:
    done = attempt(name, "-n", "3", "--seconds", "0.5")
    failed = [line for line in done.stdout.splitlines() if line.startswith(f"{'':10}failed ")]
    assert done.exit_code == 1 and len(failed) == 3 and all(why in line for line in failed), done.stdout
    assert "\x1b" not in done.stdout and "   failed    3" in done.stdout
    found = told(name, "-n", "3", "--seconds", "0.5", code=1)
    assert (found["cases"], found["failures"], found["accepted"], found["rejected"]) == (3, 3, 0, {})


def test_one_case_that_fails_costs_no_other_one(run: Path, told: Callable[..., Any], course: Path) -> None:
    first = next(iter(small.table(run, "1/triage"))).id
    course.write_text(
        f"{POLICIES}\ndef one(case, room):\n    return 42 if case.id == {first!r} else first_error(case, room)\n"
    )
    found = told("one", "-n", "4")
    assert [len(tried["failures"]) for tried in found["tried"]] == [1, 0, 0, 0] and found["accepted"] == 3
    assert "in_vain" not in found


def test_nothing_that_a_policy_writes_is_obeyed_by_a_terminal(attempt: Callable[..., Any]) -> None:
    assert (
        "\\u001b[2J\\u0007" in (out := attempt("escapes", "-n", "1").stdout) and "\x1b" not in out and "\x07" not in out
    )


def test_a_gigabyte_of_prints_is_a_line_and_its_beginning_is_kept(
    attempt: Callable[..., Any], told: Callable[..., Any]
) -> None:
    (tried,) = told("gigabytes", "-n", "1")["tried"]
    assert tried["printed_characters"] == 1000 * 1_000_001 and tried["printed"] == "x" * 2000
    out = attempt("gigabytes", "-n", "1").stdout
    assert "printed   xxxx" in out and "(1,000,001,000 characters in all)" in out and len(out) < 5000


def test_what_is_printed_is_told_by_case_from_a_coroutine_and_from_a_thread(
    told: Callable[..., Any], course: Path
) -> None:
    course.write_text(f"print('when read')\n{POLICIES}\ndef plain(case, room):\n    print('thread', case.id)\n")
    for name, said in (("chatty", "one of {}\nto stderr\n"), ("plain", "thread {}\n")):
        found = told(name, "-n", "4")
        assert [tried["printed"] for tried in found["tried"]] == [said.format(x["case"]) for x in found["tried"]]
        assert found["printed"] == "when read\n"


def test_whatever_a_policy_does_to_the_streams_the_command_keeps_its_own(
    attempt: Callable[..., Any], told: Callable[..., Any]
) -> None:
    assert told("odd", "-n", "2")["tried"][0]["printed"] == "half \\ud800 \x1b[2J of a character\n"
    out = attempt("odd", "-n", "2").stdout
    assert "\x1b" not in out and "printed   half \\ud800 \\u001b[2J of a character" in out


def test_a_thread_that_goes_on_printing_stays_out_of_the_json(run: Path, course: Path) -> None:
    args = ["try", f"{course}:goes_on", "--on", str(run), "-n", "3", "--seconds", "0.5", "--json"]
    done = subprocess.run([sys.executable, "-m", "tutorloop", *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == ""
    assert json.loads(done.stdout)["failures"] == 3


# ---- what was asked before


def test_what_several_cases_ask_alike_is_asked_once(told: Callable[..., Any], course: Path) -> None:
    course.write_text("def first_error(case, room):\n    return room.teacher.ask('17-9\\n7-9 put 2\\n=12') and None\n")
    found = told("first_error", "-n", "5")
    assert (found["asks"], found["reused"]) == (1, 4)


def test_a_policy_that_is_tried_again_asks_only_what_changed(told: Callable[..., Any], course: Path) -> None:
    first = told("first_error", "-n", "6")
    assert (first["asks"], first["reused"]) == (6, 0)
    again = told("first_error", "-n", "6")
    assert (again["asks"], again["reused"], again["tokens"]) == (0, 6, 0)
    assert all(e["reused"] for tried in again["tried"] for e in tried["asks"])
    assert again["whole_round"] == first["whole_round"]
    one = first["tried"][2]["case"]
    course.write_text(
        f"{POLICIES}\ndef edited(case, room):\n    more = ' Please.' if case.id == {one!r} else ''\n"
        '    return room.teacher.ask(f"Find the first wrong step and correct it from there.{more}\\n'
        '{case.question}\\n{case.work}")\n'
    )
    edited = told("edited", "-n", "6")
    assert (edited["asks"], edited["reused"]) == (1, 5)
    assert [[e["reused"] for e in tried["asks"]] for tried in edited["tried"]] == [[i != 2] for i in range(6)]


def test_two_tries_at_once_lose_nothing(run: Path, course: Path, told: Callable[..., Any]) -> None:
    command = [sys.executable, "-m", "tutorloop", "try", f"{course}:first_error", "--on", str(run), "--json", "-n"]
    both = [subprocess.Popen([*command, n], stdout=subprocess.PIPE, text=True) for n in ("15", "20")]
    found = [json.loads(process.communicate()[0]) for process in both]
    assert [x["accepted"] + sum(x["rejected"].values()) + x["failures"] for x in found] == [15, 20]
    assert sum(x["asks"] for x in found) == 20
    assert told("first_error", "-n", "20")["asks"] == 0


def test_a_cache_that_is_damaged_is_begun_anew(cache: Path, told: Callable[..., Any]) -> None:
    told("first_error", "-n", "2")
    (file,) = cache.rglob("*.jsonl")
    file.write_bytes(file.read_bytes().replace(b"Find", b"Lose"))
    assert told("first_error", "-n", "2")["asks"] == 2
    assert told("first_error", "-n", "2")["asks"] == 0


def test_what_tries_have_asked_does_not_pile_up(
    cache: Path, told: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told("first_error", "-n", "2")
    (mine,) = (cache / "tutorloop" / "tries").iterdir()
    for name, days in (("old", 91), ("young", 89)):
        shutil.copytree(mine, other := mine.with_name(name))
        then = time.time() - days * 24 * 3600
        os.utime(other / "lock", (then, then))
    os.utime(mine / "lock", (0, 0))  # it is in use again
    assert told("first_error", "-n", "2")["asks"] == 0
    assert {path.name for path in mine.parent.iterdir()} == {mine.name, "young"}
    size = sum(path.stat().st_size for path in (mine / "asks").iterdir())
    monkeypatch.setattr(trial, "LARGEST", size)
    assert told("first_error", "-n", "2")["asks"] == 0
    monkeypatch.setattr(trial, "LARGEST", size - 1)
    assert told("first_error", "-n", "2")["asks"] == 2


# ---- the student


@pytest.mark.parametrize("number", ["1", "2"])
@pytest.mark.parametrize("name", ["again", "own"])
def test_the_student_answers_as_it_did_in_that_round(told: Callable[..., Any], name: str, number: str) -> None:
    found = told(name, "--round", number)
    assert [tried["lessons"][0]["target"] for tried in found["tried"]] == [tried["work"] for tried in found["tried"]]
    assert found["student_asks"] == found["cases"] > 0 and found["asks"] == found["tokens"] == 0
    assert {e["member"] for tried in found["tried"] for e in tried["asks"]} == {"student"}


def test_a_hint_is_in_the_prompt_that_the_student_answered_and_not_in_the_trained_one(
    told: Callable[..., Any],
) -> None:
    found = told("hinted", "-n", "99")
    learnt = [tried for tried in found["tried"] if tried["rows"]]
    assert learnt and {tried["lessons"][0]["by"] for tried in learnt} == {"steps"}
    for tried in learnt:
        (row,), hint = tried["rows"], tried["lessons"][0]["text"]
        assert hint and tried["asks"][1]["prompt"][-1]["content"] == f"{tried['question']}\n{hint}"
        assert row["prompt"] == tried["question"] and row["completion"] == tried["asks"][1]["reply"]


def test_a_student_that_is_not_what_answered_is_refused(run: Path, attempt: Callable[..., Any], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    for path in (copy / "states").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "gone": []}))
    refused(attempt("again", "--round", "2", on=copy), "round 2 of", "cannot be had as it was", "holds another state")
    assert attempt("again", "--round", "1", on=copy).exit_code == 0


def test_a_fork_is_tried_with_its_own_teacher(run: Path, told: Callable[..., Any], tmp_path: Path) -> None:
    fork(run, tmp_path / "fork", 1, ["teacher.options.error_rate=1.0", "rounds=2"])
    for number in ("1", "2"):
        assert told("first_error", "--round", number, on=run)["accepted"] > 0
        assert told("first_error", "--round", number, on=tmp_path / "fork")["accepted"] == 0


# ---- what is refused


def test_what_is_not_there_is_named_with_what_is(
    run: Path, attempt: Callable[..., Any], course: Path, tmp_path: Path
) -> None:
    refused(attempt("first_error", on=run.parent / "runn"), "there is no run in", "there are: run")
    refused(attempt("first_error", "--round", "7"), "has no round 7; it has 1 to 2")
    known = next(iter(small.table(run, "1/triage"))).id
    refused(attempt("first_error", "--case", known[:-1]), "has no case", known)
    first, second = ({c.id for c in small.table(run, f"{n}/triage")} for n in (1, 2))
    later = next(iter(second - first))
    refused(attempt("first_error", "--case", later), "has no case", "It is one of round 2: --round 2")
    left = next(c.id for c in small.table(run, "1/verify") if c.id not in first | second)
    refused(attempt("first_error", "--case", left), "has no case", f"tutorloop show {run} {left}")
    refused(attempt("first_eror"), "there is no `first_eror`", "the nearest is `first_error`")
    course.write_text("def first_error(case, room) return 1")
    refused(attempt("first_error"), "does not import: SyntaxError")
    refused(CliRunner().invoke(app, ["try", "my_curse.py:x", "--on", str(run)]), "no file my_curse.py")
    refused(
        CliRunner().invoke(app, ["try", "mine.py", "--on", str(run)]), "write it as module:name, e.g. mine.py:first"
    )
    refused(CliRunner().invoke(app, ["try", "json:dumps", "--watch", "--on", str(run)]), "only a file can be watched")


def test_a_round_without_cases_says_so(home: Path, attempt: Callable[..., Any], tmp_path: Path) -> None:
    method = "from dataclasses import replace\nfrom tutorloop.policies.tailored import METHOD as tailored\n"
    (tmp_path / "none.py").write_text(
        f"{method}METHOD = replace(tailored, name='none', triage=lambda cases, room: [])\n"
    )
    launch(small.experiment(home, rounds=1, method=f"{tmp_path}/none.py:METHOD"), tmp_path / "run")
    refused(attempt("first_error", "--round", "1", on=tmp_path / "run"), "round 1", "has no cases")
    refused(attempt("first_error", on=tmp_path / "run"), "no round of", "has cases")


# ---- watching


@pytest.fixture
def watching(run: Path, course: Path) -> Iterator["subprocess.Popen[str]"]:
    args = ["try", f"{course}:first_error", "--on", str(run), "-n", "2", "--watch"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tutorloop", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background does not hear it
    )
    yield process
    process.kill()
    process.communicate()


def until(process: "subprocess.Popen[str]", words: str) -> str:
    """What it printed, up to the line with these words."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"it ended without {words!r}: {''.join(lines)}")


def test_a_file_that_is_watched_is_tried_again_when_it_is_saved(
    watching: "subprocess.Popen[str]", course: Path
) -> None:
    assert "2 made" in until(watching, "cases at this rate")
    course.write_text(POLICIES.replace("return room.teacher.ask(f", "return room.teacher.ask('Now. ' + f"))
    again = until(watching, "cases at this rate")
    assert "teacher   Now. Find the first wrong step" in again and "2 made" in again
    course.write_text("def first_error(case, room) oh")
    assert "does not import: SyntaxError" in until(watching, "SyntaxError")
    part = course.with_suffix(".part")  # as some editors do it
    part.write_text(POLICIES)
    part.replace(course)
    assert "0 made, 0 tokens; 2 reused" in until(watching, "cases at this rate")
    time.sleep(0.3)  # it has printed, and waits
    watching.send_signal(signal.SIGINT)
    assert watching.wait(timeout=60) == 0


def test_a_file_that_is_away_for_a_moment_is_waited_for(course: Path) -> None:
    seen = saves(course)
    next(seen)
    course.unlink()
    threading.Timer(0.3, course.write_text, ["a = 1\n"]).start()
    next(seen)
    assert course.exists()


def test_two_saves_of_one_size_within_a_second_are_two(told: Callable[..., Any], course: Path) -> None:
    for word in ("one", "two"):
        course.write_text(f"def first_error(case, room):\n    print({word!r})\n")
        os.utime(course, (1e9, 1e9))
        assert told("first_error", "-n", "1")["tried"][0]["printed"] == f"{word}\n"


# ---- a student of tokens


@pytest.mark.slow
def test_rows_of_a_real_student_are_shown_to_the_token(told: Callable[..., Any], tmp_path: Path) -> None:
    experiment = small.experiment(tmp_path, schedule__rows=32)
    experiment["student"] = {"engine": "transformers"}
    launch(experiment, tmp_path / "run")
    before = small.tree(tmp_path / "run")
    chat = Chat.of(shipped())
    for number in ("1", "2"):
        found = told("first_error", "--round", number, on=tmp_path / "run")
        rows = [row for tried in found["tried"] for row in tried["rows"]]
        assert rows
        for row in rows:
            example = Example(id="", prompt=user(row["prompt"]), completion=row["completion"])
            assert [tuple(piece) for piece in row["pieces"]] == render(example, chat).pieces(chat)
        own = told("again", "--round", number, "-n", "5", on=tmp_path / "run")
        assert [x["lessons"][0]["target"] for x in own["tried"]] == [x["work"] for x in own["tried"]]
    assert small.tree(tmp_path / "run") == before
