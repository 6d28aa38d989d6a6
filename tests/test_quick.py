"""A whole experiment at toy scale, in a folder of its own: what one looks at before spending a night."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from filelock import FileLock
from typer.testing import CliRunner

from tutorloop.agents.chat import Chat, render
from tutorloop.agents.roles import RoleSpec
from tutorloop.evals.records import user
from tutorloop.evals.rows import write_rows
from tutorloop.loops import quick
from tutorloop.loops.cli import app
from tutorloop.loops.courses import read_course
from tutorloop.loops.documents import run_record
from tutorloop.loops.launch import launch
from tutorloop.loops.parts import CourseConfig, RoleConfig
from tutorloop.loops.plan import plan
from tutorloop.loops.show import read_run
from tutorloop.loops.training_rows import chat_of, different, shown
from tutorloop.policies.records import Example
from tutorloop.tests.policies_for_tests import small

POLICY = 'def policy(case, room):\n    return room.teacher.ask(f"Correct this.\\n{case.question}\\n{case.work}")\n'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment `own.yaml` in it, where one works."""
    told = small.experiment(tmp_path, teacher__policy="own.py:policy", check=["steps"])
    (tmp_path / "own.py").write_text(POLICY)
    (tmp_path / "own.yaml").write_text(yaml.dump(told))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*args: str) -> Any:
    return CliRunner().invoke(app, args)


def bytes_of(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(p).encode() + p.read_bytes() for p in files)).hexdigest()


def test_quick_runs_the_whole_cycle_beside_the_real_run_and_shows_rows_and_a_history(desk: Path) -> None:
    assert told("run", "own.yaml", "rounds=1", "-q").exit_code == 0
    before = bytes_of(desk / "runs" / "own")
    done = told("run", "own.yaml", "--quick")
    assert done.exit_code == 0, done.output
    assert bytes_of(desk / "runs" / "own") == before
    view = read_run("runs/own-quick")
    assert view.status == "finished" and len(view.rounds) == 3
    assert {r.quiz_n for r in view.rounds} == {8} and view.exam.n == 8 and view.rounds[1].asked == 8
    assert view.rounds[1].examples == 32
    assert done.output.count("\n  masked   ") == done.output.count("\n  trained  ") == 3
    assert (
        "one problem's history:" in done.output
        and " round 2  " in done.output
        and "accepted  correction" in done.output
    )
    assert "toy scale (limit=8): the figures of this run mean nothing" in done.output
    assert run_record(desk / "runs" / "own-quick")["config"]["placement"] == "local"


def test_the_key_limit_is_the_same_wherever_it_stands(desk: Path) -> None:
    (desk / "limited.yaml").write_text((desk / "own.yaml").read_text() + "limit: 5\n")
    for args in (["limited.yaml", "--run-dir", "a"], ["own.yaml", "limit=5", "--run-dir", "b"]):
        assert told("run", *args, "-q").exit_code == 0
    launch("own.yaml", "c", ["limit=5"])
    assert not any((desk / name).exists() for name in "abc")
    assert {read_run(f"{name}-quick").exam.n for name in "abc"} == {5}
    digests = {read_run(f"{name}-quick").rounds[-1].state for name in "abc"}
    assert len(digests) == 1


def test_it_begins_anew_each_time_as_a_policy_may_have_been_mended(desk: Path) -> None:
    (desk / "own.py").write_text("def policy(case, room):\n    return 'nonsense'\n")
    assert "nothing was trained on" in told("run", "own.yaml", "--quick").output
    (desk / "own.py").write_text(POLICY)
    done = told("run", "own.yaml", "--quick")
    assert done.exit_code == 0, done.output
    assert "accepted  correction" in done.output


def test_a_real_run_can_be_tried_at_toy_scale_by_its_folder(desk: Path) -> None:
    assert told("run", "own.yaml", "rounds=1", "-q").exit_code == 0
    before = bytes_of(desk / "runs" / "own")
    assert told("run", "runs/own", "--quick", "-q").exit_code == 0
    assert bytes_of(desk / "runs" / "own") == before
    assert read_run("runs/own-quick").exam.n == 8
    assert told("run", "runs/own-quick", "-q").exit_code == 0, "by its own folder it goes on"


def test_a_run_at_toy_scale_outlives_a_command_that_cannot_run(desk: Path) -> None:
    assert told("run", "own.yaml", "--quick", "-q").exit_code == 0
    before = bytes_of(desk / "runs" / "own-quick")
    assert told("run", "own.yaml", "method=nosuch", "--quick", "-q").exit_code == 2
    for folder in ("runs/own-quick", str(desk / "runs/own-quick")):
        done = told("run", folder, "limit=4", "--run-dir", "runs/own-quick", "-q")
        assert done.exit_code == 2 and "is itself at toy scale" in done.output
    assert told("run", str(desk / "runs/own-quick"), "--run-dir", "runs/own-quick", "-q").exit_code == 0, "it goes on"
    assert read_run("runs/own-quick").exam.n == 8
    for name in ("own.yaml", "scripted"):
        assert told("run", name, "rounds=0", "course.exam=9", "--run-dir", name.partition(".")[0], "-q").exit_code == 0
    assert before == bytes_of(desk / "runs" / "own-quick")


def test_no_run_is_removed_but_one_at_toy_scale_that_nobody_runs_in(desk: Path) -> None:
    assert told("run", "own.yaml", "rounds=0", "--run-dir", "real-quick", "-q").exit_code == 0
    before = bytes_of(desk / "real-quick")
    done = told("run", "own.yaml", "--run-dir", "real", "--quick")
    assert done.exit_code == 2 and "holds a run without a `limit`" in done.output
    assert bytes_of(desk / "real-quick") == before
    (desk / "notes-quick").mkdir()
    (desk / "notes-quick" / "diary.txt").write_text("mine")
    done = told("run", "own.yaml", "--run-dir", "notes", "--quick")
    assert done.exit_code == 2 and "not empty and holds no run" in done.output
    assert (desk / "notes-quick" / "diary.txt").read_text() == "mine"
    assert told("run", "own.yaml", "--run-dir", "toy", "--quick", "-q").exit_code == 0
    with FileLock(desk / "toy-quick" / "lock"):
        done = told("run", "own.yaml", "--run-dir", "toy", "--quick")
    assert done.exit_code == 2 and "in use by another process" in done.output
    assert read_run("toy-quick").status == "finished"


def test_a_plan_tells_of_the_toy_scale(desk: Path) -> None:
    made = plan("own.yaml", ["limit=8", "placement=ray"])
    found = {s.name: s.value for s in made.settings if s.group == "schedule"}
    assert (found["rows"], made.placement, set(made.pools.values())) == (32, "local", {8})
    assert made.estimate.rounds == 2
    assert plan("own.yaml", ["limit=8", "rounds=1"]).estimate.rounds == 1


@pytest.mark.parametrize("files", [True, False])
def test_pools_of_rows_are_cut_to_the_first_of_what_they_would_have_been(files: bool, tmp_path: Path) -> None:
    rows = [json.dumps({"id": f"r{i}", "question": f"{i}+{i}", "answer": str(2 * i)}) for i in range(40)]
    for name, part in (("all", rows), ("p", rows[:20]), ("q", rows[20:30]), ("e", rows[30:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part))
    pools: dict[str, Any] = {"practice": "p.jsonl", "quiz": "q.jsonl", "exam": "e.jsonl"}
    if not files:
        pools = {"practice": 20, "quiz": 10, "exam": 10, "path": "all.jsonl"}
    course = CourseConfig(kind="jsonl", **pools)
    whole, cut = (read_course(course, 0, RoleConfig(), tmp_path, limit).splits for limit in (None, 3))
    for name in whole:
        assert list(cut[name]) == list(whole[name])[:3]


def test_rows_are_shown_as_they_are_trained_on(
    tiny: Path, tmp_path: Path, lessons: Callable[..., list[Example]], spec: Callable[..., RoleSpec]
) -> None:
    chat = Chat.of(tiny)
    plain, spanned = lessons(1)[0], replace(lessons(2)[1], rejected="", spans=((0, 1, 0.0), (2, 4, 3.0)))
    first, second = ("\n".join(quick.row_lines(shown(e, chat))) for e in (plain, spanned))
    row = render(plain, chat)
    assert f"{len(row.ids)} tokens: {len(row.prompt)} masked, {len(row.completion)} up to the stop token" in first
    assert "masked   '<u>0+3<a>'" in first and "trained  '0 and 3\\n=3<e>'" in first
    assert first.endswith("rejected '=4<e>', 3 tokens, in the DPO")
    assert " | " in first and first.count(f" {row.completion[-1]}\n") == 1, "the stop token's id ends the row"
    assert "masked   '<u>1+4<a>1'" in second and "x 3" in second and "rejected" not in second


def test_rows_are_shown_in_the_words_of_the_revision_that_was_trained(
    tiny: Path, tmp_path: Path, lessons: Callable[..., list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[str, str, bool]]()

    def found(model: str, *, revision: str, local_files_only: bool) -> str:
        asked.append((model, revision, local_files_only))
        return str(tiny)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    student = {"engine": "transformers", "model": "some/model", "revision": "abc123"}
    chat = chat_of({"config": {"student": student}, "folder": str(tmp_path)})
    assert asked == [("some/model", "abc123", True)], "and nothing is fetched"
    (example,) = lessons(1)
    assert shown(example, chat).rendered == render(example, Chat.of(tiny))
    monkeypatch.undo()
    assert shown(example, chat_of({"config": {"student": student}})).rendered is None, "it is not on this machine"


def test_shown_are_rows_of_different_origins_pairs_first(tmp_path: Path, lessons: Callable[..., list[Example]]) -> None:
    own = [replace(e, id=f"own{i}", rejected="", origin="own") for i, e in enumerate(lessons(5))]
    earlier = [replace(e, id=f"old{i}", origin="earlier") for i, e in enumerate(lessons(2))]
    new = [replace(e, id=f"new{i}", rejected="") for i, e in enumerate(lessons(2))]
    rows = write_rows(tmp_path, "examples", Example, [*own, *new, *earlier])
    assert [e.id for e in different(rows)] == ["old0", "own0", "new0"]
    assert [e.id for e in different(write_rows(tmp_path, "two", Example, own[:2]))] == ["own0", "own1"]


def test_hostile_text_in_a_row_is_obeyed_by_no_terminal(lessons: Callable[..., list[Example]]) -> None:
    hostile = replace(lessons(1)[0], prompt=user("\x1b[2J\n1+1"), completion="\x07=2\u202e", rejected="\x9b")
    assert all(line.isprintable() for line in quick.row_lines(shown(hostile, None)))


@pytest.mark.slow
def test_the_demo_at_toy_scale_shows_its_rows_token_by_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = Path(__file__).parent.parent / "examples"
    monkeypatch.chdir(tmp_path)
    done = told("run", str(examples / "arithmetic.yaml"), "--quick")
    assert done.exit_code == 0, done.output
    assert done.output.count("<|assistant|>'") == 3 and done.output.count("<|end|>'") >= 3
    assert " masked, " in done.output and "the figures of this run mean nothing" in done.output
