"""A run folder with something wrong in it: which file and what to do, in one line, and not a byte is changed by that.

Documents and lines say by themselves that they are whole, in their place and of their run; steps' records and tables'
lists vouch for the other files (`loops/journal.py`). What nobody vouches for harms nobody, and is tried here too.
"""

import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tutorloop.loops.documents import SCHEMA, Documents, StepRecord, run_record
from tutorloop.loops.journal import Tick
from tutorloop.loops.launch import launch
from tutorloop.tests.policies_for_tests import small
from tutorloop.tests.test_cli import Done, Shell

pytestmark = pytest.mark.usefixtures("no_power_cuts")

POLICY = """
def policy(case, room):
    room.note("last", case.id)
    if sum(map(ord, case.id)) % 9 == 0:
        raise RuntimeError("not this one")
    return room.teacher.ask(f"Correct it.\\n{case.question}\\n{case.work}")

def every(cases, room):
    return cases
"""
LIKE: dict[str, Any] = {"failures": 1.0, "course": {"practice": 70, "quiz": 30, "exam": 30, "twins": 0, "retention": 5}}


class Pauses(Tick):
    """At the first shard of round 2's teaching: asks, notes and a part are there, and no step vouches for them yet."""

    def __call__(self, name: str, done: int, total: int) -> None:
        if name == "2/teach":
            assert total > 1
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """`runs/a` is finished, `runs/open` the same, paused in round 2; `runs/b` and `runs/other`, of another seed."""
    folder = tmp_path_factory.mktemp("home")
    told = small.experiment(folder, teacher__policy=small.policy(folder, POLICY), schedule__rows=70, **LIKE)
    told["triage"] = small.policy(folder, POLICY, "every")
    (folder / "a.yaml").write_text(json.dumps(told))
    (folder / "b.yaml").write_text(json.dumps({**told, "seed": 1}))
    launch(folder / "a.yaml", folder / "runs" / "a")
    launch(folder / "b.yaml", folder / "runs" / "b")
    for name, run in (("a", "open"), ("b", "other")):
        with pytest.raises(KeyboardInterrupt):
            launch(folder / f"{name}.yaml", folder / "runs" / run, tick=Pauses())
    return Shell(folder)


@pytest.fixture
def shell(home: Shell, tmp_path: Path) -> Shell:
    """The same, to be damaged."""
    shutil.copytree(home.folder / "runs", tmp_path / "runs")
    for name in "ab":
        shutil.copy(home.folder / f"{name}.yaml", tmp_path)
    return Shell(tmp_path)


# ---- what may happen to a file

Damage = Callable[[Path], object]


def at(root: Path, name: str) -> Path:
    """The file of this name; a digest in it may be a `*`."""
    return next(iter(sorted(root.glob(name))), root / name)


def cut(name: str) -> Damage:
    """Half of it is gone."""

    def do(root: Path) -> None:
        content = at(root, name).read_bytes()
        at(root, name).write_bytes(content[: len(content) // 2])

    return do


def empty(name: str) -> Damage:
    return lambda root: at(root, name).write_bytes(b"")


def flipped(name: str, part: float = 0.5) -> Damage:
    """One byte is another; a digit stays a digit."""

    def do(root: Path) -> None:
        content = bytearray(at(root, name).read_bytes())
        spot = int(len(content) * part)
        if name.endswith((".json", ".jsonl")):
            spot = next(i for i in range(spot, len(content)) if chr(content[i]).isdigit())
        content[spot] ^= 1
        at(root, name).write_bytes(content)

    return do


def gone(name: str) -> Damage:
    return lambda root: at(root, name).unlink()


def swapped(one: str, other: str) -> Damage:
    """Two valid files in each other's place."""

    def do(root: Path) -> None:
        a, b = at(root, one).read_bytes(), at(root, other).read_bytes()
        assert a != b
        at(root, one).write_bytes(b)
        at(root, other).write_bytes(a)

    return do


def foreign(name: str, source: str = "") -> Damage:
    """Another run's, whole and in its place."""

    def do(root: Path) -> None:
        run = root.with_name("other" if root.name == "open" else "b")
        found, here = at(run, source or name), at(root, name)
        assert not here.exists() or found.read_bytes() != here.read_bytes()
        shutil.copy(found, here)

    return do


def copied(name: str, to: str) -> Damage:
    return lambda root: shutil.copy(at(root, name), root / to)


def both(one: Damage, other: Damage) -> Damage:
    def do(root: Path) -> None:
        one(root)
        other(root)

    return do


def edited(name: str, **fields: Any) -> Damage:
    """By hand, as JSON."""

    def do(root: Path) -> None:
        told = json.loads(at(root, name).read_bytes())
        at(root, name).write_text(json.dumps({**told, **fields}))

    return do


def folder(name: str) -> Damage:
    """In its place there is a folder."""

    def do(root: Path) -> None:
        at(root, name).unlink()
        (root / name).mkdir()

    return do


def reshaped(step: str, **fields: Any) -> Damage:
    """Whole, of this run and in its place, as a version with other records would have written it."""

    def do(root: Path) -> None:
        documents = Documents(root, run_record(root)["run"])
        place = f"steps/{step}.json"
        told = {**documents.read(place, StepRecord), **fields}
        documents.write(place, {key: value for key, value in told.items() if value is not None})

    return do


@dataclass(frozen=True)
class Case:
    do: Damage
    named: str
    """What the line says."""


PART, LIST = "rows/1/teach/part-00000.parquet", "rows/1/teach/parts.jsonl"
FAILED = "rows/1/teach/part-00000.failures.jsonl"
ASKS = "asks/1-teach.parquet"


def everything(name: str, source: str = "") -> dict[str, Case]:
    """What may happen to one file that a record vouches for; `source`: a file of the same kind."""
    named = name.partition("*")[0]
    return {
        f"{name} cut": Case(cut(name), named),
        f"{name} empty": Case(empty(name), named),
        f"{name} flipped": Case(flipped(name), named),
        f"{name} gone": Case(gone(name), named),
        f"{name} foreign": Case(foreign(name, source), named),
    }


DOCUMENTS: dict[str, Case] = {
    # run.json
    "run.json cut": Case(cut("run.json"), "run.json is damaged"),
    "run.json flipped": Case(flipped("run.json"), "run.json is damaged"),
    "run.json edited": Case(edited("run.json", rounds=5), "run.json is damaged"),
    "run.json gone": Case(gone("run.json"), "run.json is missing"),
    "run.json foreign": Case(foreign("run.json"), "or one of it and run.json is another run's"),
    "run.json a list": Case(lambda root: (root / "run.json").write_text("[]"), "it holds a list"),
    "run.json a folder": Case(folder("run.json"), "run.json is a folder, and a run has a file there"),
    "status a folder": Case(folder("status.json"), "status.json is a folder, and a run has a file there"),
    "older schema": Case(edited("run.json", schema=SCHEMA - 1), rf"schema {SCHEMA - 1}, this is {SCHEMA}"),
    "newer schema": Case(edited("run.json", schema=SCHEMA + 1), "Use that version, or a later one"),
    # steps
    "step cut": Case(cut("steps/1/teach.json"), "steps/1/teach.json is damaged"),
    "step flipped": Case(flipped("steps/2/gate.json"), "steps/2/gate.json is damaged"),
    "step edited": Case(edited("steps/1/teach.json", seconds=-1.0), "steps/1/teach.json is damaged"),
    "step foreign": Case(foreign("steps/1/attempt.json"), "steps/1/attempt.json is damaged"),
    "steps swapped": Case(swapped("steps/1/teach.json", "steps/2/teach.json"), "steps/1/teach.json is damaged"),
    "step gone": Case(gone("steps/1/check.json"), "written before steps/1/curate.json and after steps/1/teach.json"),
    "first step gone": Case(gone("steps/course.json"), "missing: it was written before steps/0.json"),
    "step of nobody": Case(foreign("steps/9.json", "steps/0.json"), "steps/9.json is damaged"),
    "step a folder": Case(folder("steps/1/teach.json"), "steps/1/teach.json is a folder"),
    # whole, and of another shape
    "first report of another shape": Case(
        reshaped("0", value={"number": 0}),
        "steps/0.json is whole, and of another shape than this version reads: quiz: ",
    ),
    "report of another shape": Case(reshaped("2/gate", value=[]), "steps/2/gate.json is whole, and of another shape"),
    "exam of another shape": Case(
        reshaped("final/2", value={"exam": 1}), "of another shape than this version reads: exam"
    ),
    "record without its files": Case(
        reshaped("1/teach", files=None), "of another shape than this version reads: files"
    ),
}
FINISHED = {
    **DOCUMENTS,
    "lock a folder": Case(folder("lock"), "lock is a folder, and a run has a file there"),
    "table of another shape": Case(reshaped("1/teach", value={"n": 1}), "steps/1/teach.json is whole, and of another"),
    # tables
    **everything(PART),
    **everything(FAILED),
    "parts swapped": Case(swapped(PART, PART.replace("00000", "00001")), "rows/1/teach/part-0000"),
    **everything(LIST),
    "lists swapped": Case(swapped(LIST, LIST.replace("/1/", "/2/")), LIST),
    "table foreign": Case(both(foreign(PART), foreign(LIST)), LIST),
    "trained rows gone": Case(gone("rows/1/train-1-sft/part-00000.parquet"), "rows/1/train-1-sft/part-00000.parquet"),
    # the course
    **everything("course/practice/problems/part-00000.parquet"),
    **everything("course/exam/gold/part-00000.parquet"),
    "pools swapped": Case(
        swapped("course/quiz/problems/part-00000.parquet", "course/exam/problems/part-00000.parquet"), "course/"
    ),
    # asks
    **everything(ASKS),
    "asks swapped": Case(swapped(ASKS, "asks/2-teach.parquet"), "asks/"),
    "asks of nobody": Case(foreign("asks/9-teach.parquet", ASKS), "asks/9-teach.parquet is another run's"),
    # states and proofs
    **everything("states/student-r0002-1-sft-*.json"),
    "states swapped": Case(
        swapped("states/student-r0001-1-sft-*.json", "states/student-r0002-1-sft-*.json"), "states/student-r000"
    ),
    **everything("proofs/student-base.json"),
    "proofs swapped": Case(
        swapped("proofs/student-r0001-*.json", "proofs/student-r0002-*.json"), "proofs/student-r000"
    ),
}


def refused(shell: Shell, args: list[str], named: str) -> Done:
    before = shell.tree()
    done = shell(*args)
    assert (done.code, done.out) == (2, ""), done
    assert done.err.count("\n") == 1 and named in done.err, done.err
    assert any(word in done.err for word in ("Restore", "restore", "Use that version")), f"what to do: {done.err}"
    assert shell.tree() == before
    return done


@pytest.mark.parametrize("case", FINISHED)
def test_damage_is_named_before_anything_is_changed(case: str, shell: Shell) -> None:
    FINISHED[case].do(shell.folder / "runs" / "a")
    refused(shell, ["run", "a.yaml", "--run-dir", "runs/a", "rounds=3"], FINISHED[case].named)
    listed = {line["run"]: line for line in shell("runs", "--json").json}
    assert listed["runs/b"]["status"] == "finished" and listed["runs/b"]["exam"]["after"] is not None
    if case in DOCUMENTS:  # the list opens nothing else
        assert listed["runs/a"]["status"] == "damaged" and FINISHED[case].named in listed["runs/a"]["fault"]
        assert listed["runs/a"]["fault"] in shell("runs").out
    else:
        assert listed["runs/a"]["status"] == "finished"


OPEN, OPEN_PART, OPEN_LIST = "asks/2-teach.jsonl", "rows/2/teach/part-00000.parquet", "rows/2/teach/parts.jsonl"
UNDONE: dict[str, Case] = {
    "asks flipped": Case(flipped(OPEN, 0.3), f"{OPEN}, line "),
    "asks gone": Case(gone(OPEN), f"{OPEN} holds 0 answers, and there were at least "),
    "asks cut": Case(cut(OPEN), f"{OPEN} holds "),
    "asks foreign": Case(foreign(OPEN), f"{OPEN} is another run's"),
    "asks a folder": Case(folder(OPEN), f"{OPEN} is a folder"),
    "asks of another step": Case(copied(OPEN, "asks/3-teach.jsonl"), "asks/3-teach.jsonl is another run's, or of"),
    "part cut": Case(cut(OPEN_PART), OPEN_PART),
    "part gone": Case(gone(OPEN_PART), OPEN_PART),
    "part foreign": Case(foreign(OPEN_PART), OPEN_PART),
    "list flipped": Case(flipped(OPEN_LIST), f"{OPEN_LIST}, line "),
    "list of another round": Case(copied(LIST, OPEN_LIST), f"{OPEN_LIST} is another run's, or of another place"),
    "table foreign": Case(both(foreign(OPEN_PART), foreign(OPEN_LIST)), f"{OPEN_LIST} is another run's"),
    "step gone": Case(gone("steps/1/gate.json"), "written before steps/2/"),
}


@pytest.mark.parametrize("case", UNDONE)
def test_so_is_damage_to_what_no_step_vouches_for_yet(case: str, shell: Shell) -> None:
    UNDONE[case].do(shell.folder / "runs" / "open")
    refused(shell, ["run", "a.yaml", "--run-dir", "runs/open"], UNDONE[case].named)
    status = {line["run"]: line["status"] for line in shell("runs", "--json").json}
    assert status == {
        "runs/a": "finished",
        "runs/b": "finished",
        "runs/open": "damaged" if case == "step gone" else "paused",
        "runs/other": "paused",
    }


def torn(name: str) -> Damage:
    """The end of it was never written."""
    return lambda root: at(root, name).write_bytes(at(root, name).read_bytes()[:-30])


HARMLESS: dict[str, tuple[str, Damage]] = {
    "no lock": ("a", gone("lock")),
    "status cut": ("open", cut("status.json")),
    "status gone": ("a", gone("status.json")),
    "status foreign": ("open", foreign("status.json")),
    "the last step gone": ("a", gone("steps/final/2.json")),
    "a write that was cut short": ("open", copied("run.json", "steps/2/.teach.json.part")),
    "a list not written yet": ("open", gone(OPEN_LIST)),
    "a torn list": ("open", torn(OPEN_LIST)),
    "asks torn by a kill": ("open", both(gone(OPEN_LIST), torn(OPEN))),
    "a file of the user's": ("a", lambda root: (root / "remarks.txt").write_text("a good one")),
    "a proof of nobody": ("a", foreign("proofs/other.json", "proofs/student-base.json")),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_a_kill_or_a_user_leaves_harms_nothing(case: str, home: Shell, shell: Shell) -> None:
    """The same command ends where the undisturbed run did."""
    name, do = HARMLESS[case]
    root = shell.folder / "runs" / name
    extra = {"remarks.txt", "proofs/other.json"}
    do(root)
    if case in ("status cut", "status foreign"):
        fault = {line["run"]: line["fault"] for line in shell("runs", "--json").json}[f"runs/{name}"]
        assert "status.json is damaged" in fault and "The next start writes it anew" in fault
    done = shell("run", "a.yaml", "--run-dir", f"runs/{name}", "--quiet")
    assert done.code == 0, done.err
    came, whole = small.transcript(root), small.transcript(home.folder / "runs" / "a")
    assert came.keys() - extra == whole.keys()
    assert [key for key in came.keys() - extra if came[key] != whole[key]] == []
    assert shell("runs", "--json").json[0]["status"] == "finished"


HOLDS = "import sys, time, pathlib, tutorloop.loops.journal as j; held = j.Journal.open(pathlib.Path(sys.argv[1]))"
HOLDS += "; print('held', flush=True); time.sleep(600)"


@pytest.mark.parametrize("name", ["a", "open"])
def test_a_lock_holds_as_long_as_its_process_lives_and_no_longer(name: str, home: Shell, shell: Shell) -> None:
    root = shell.folder / "runs" / name
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, root], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        before = shell.tree()
        done = shell("run", "a.yaml", "--run-dir", f"runs/{name}", "--quiet")
        assert (done.code, done.out) == (2, ""), done
        assert f"runs/{name} is in use by another process. Wait for it" in done.err and done.err.count("\n") == 1
        assert shell.tree() == before and holder.poll() is None
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (root / "lock").exists(), "nobody has tidied up"
    done = shell("run", "a.yaml", "--run-dir", f"runs/{name}", "--quiet")
    assert done.code == 0, done.err
    assert small.transcript(root) == small.transcript(home.folder / "runs" / "a")


def test_a_file_that_was_restored_makes_the_run_whole_again(home: Shell, shell: Shell) -> None:
    root = shell.folder / "runs" / "open"
    FINISHED[f"{PART} cut"].do(root)
    refused(shell, ["run", "a.yaml", "--run-dir", "runs/open"], PART)
    shutil.copy(home.folder / "runs" / "a" / PART, root / PART)
    assert shell("run", "a.yaml", "--run-dir", "runs/open", "-q").code == 0
    assert small.transcript(root) == small.transcript(home.folder / "runs" / "a")


# ---- looking at it


def test_a_damaged_run_is_shown_as_far_as_what_is_read_is_whole(shell: Shell) -> None:
    cut("rows/1/curate/part-00000.parquet")(shell.folder / "runs" / "a")
    assert shell("show", "runs/a").code == 0, "the rounds do not need it"


@pytest.mark.parametrize(
    ("do", "named"),
    [
        (cut(ASKS), ASKS),
        (cut(PART.replace("teach", "check")), PART.replace("teach", "check")),
        (gone("course/practice/gold/part-00000.parquet"), "course/practice/gold/part-00000.parquet is missing"),
        (cut("steps/1/gate.json"), "steps/1/gate.json is damaged"),
        (gone("steps/1/gate.json"), "written before steps/2/"),
    ],
)
def test_what_is_read_to_be_shown_is_checked_first(do: Damage, named: str, shell: Shell) -> None:
    root = shell.folder / "runs" / "a"
    problem = next(iter(small.table(root, "1/check"))).case
    do(root)
    refused(shell, ["show", "runs/a", problem], named)


@pytest.mark.parametrize("case", ["older schema", "newer schema", "first report of another shape", "run.json a folder"])
@pytest.mark.parametrize("args", [(), ("sub-0001",)])
def test_what_another_version_wrote_is_not_shown_and_said_to_be_its(
    case: str, args: tuple[str, ...], shell: Shell
) -> None:
    DOCUMENTS[case].do(shell.folder / "runs" / "a")
    refused(shell, ["show", "runs/a", *args], DOCUMENTS[case].named)


# ---- weights

ADAPTER = "states/student-r0001-1-sft-*/adapter_model.safetensors"
CONFIG = "states/student-r0001-1-sft-*/adapter_config.json"
STATE = "states/student-r0001-1-sft-*"


def exchanged(one: str, other: str) -> Damage:
    """Two folders in each other's place."""

    def do(root: Path) -> None:
        a, b = at(root, one), at(root, other)
        a.rename(root / "aside")
        b.rename(a)
        (root / "aside").rename(b)

    return do


class Bomb:
    """Whoever opens a pickle of it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def pickled(root: Path) -> None:
    """Under each name by which a library might look for weights."""
    for state in (root / "states").iterdir():
        for name in ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin"):
            (state / name).write_bytes(pickle.dumps(Bomb(root / "opened")))


WEIGHTS: dict[str, Case] = {
    "adapter cut": Case(cut(ADAPTER), "adapter_model.safetensors is not the file"),
    "adapter flipped": Case(flipped(ADAPTER), "adapter_model.safetensors is not the file"),
    "adapter gone": Case(gone(ADAPTER), "adapter_model.safetensors is missing"),
    "adapters swapped": Case(swapped(ADAPTER, ADAPTER.replace("r0001", "r0002")), "is not the file"),
    "adapter foreign": Case(foreign(ADAPTER), "adapter_model.safetensors is not the file"),
    "states swapped": Case(exchanged(STATE, STATE.replace("r0001", "r0002")), "is not the file"),
    "a pickle for the adapter": Case(both(gone(ADAPTER), pickled), "adapter_model.safetensors is missing"),
    "config cut": Case(cut(CONFIG), "adapter_config.json is not the file"),
    "config edited": Case(edited(CONFIG, lora_alpha=1), "adapter_config.json is not the file"),
    "config gone": Case(gone(CONFIG), "adapter_config.json is missing"),
}


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds on a random model: `runs/a`; `runs/b` is of another seed."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [{"question": f"{i}+{i + 1}", "answer": 2 * i + 1, "solution": f"={2 * i + 1}"} for i in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = {
        "course": {"kind": "jsonl", "path": "rows.jsonl", "practice": 8, "quiz": 4, "exam": 4},
        "method": "gold",
        "check": ["gold"],
        "rounds": 2,
        "schedule": {"rows": 8},
        "student": {"model": str(tiny), "max_tokens": 8},
        "update": {"lora": {"r": 2}},
        "placement": "local",
    }
    (folder / "a.yaml").write_text(json.dumps(told))
    launch(folder / "a.yaml", folder / "runs" / "a")
    launch(folder / "a.yaml", folder / "runs" / "b", ["seed=1", "rounds=1"])
    return folder


@pytest.mark.parametrize("case", WEIGHTS)
def test_damaged_weights_are_named_without_loading_them(case: str, trained: Path, tmp_path: Path) -> None:
    shell = Shell(Path(shutil.copytree(trained, tmp_path / "copy")))
    WEIGHTS[case].do(shell.folder / "runs" / "a")
    refused(shell, ["run", "a.yaml", "--run-dir", "runs/a", "rounds=3"], WEIGHTS[case].named)


def test_a_pickle_beside_the_weights_is_never_opened(trained: Path, tmp_path: Path) -> None:
    """It is nobody's: no record vouches for it, and who loads a state takes the safetensors alone."""
    shell = Shell(Path(shutil.copytree(trained, tmp_path / "copy")))
    root, command = shell.folder / "runs" / "a", ["run", "a.yaml", "--run-dir", "runs/a", "rounds=3", "-q"]
    pickled(root)
    done = shell(*command)
    assert done.code == 0, done.err
    assert any("/3/train-" in step for step in small.states(root)), "a state was loaded and trained on"
    mark = root / "opened"
    assert not mark.exists()
    pickle.loads(at(root, f"{STATE}/adapter_model.bin").read_bytes())
    assert mark.exists(), "it would have shown"
