"""A fork shares what its parent has done, goes on with a change, and neither can hurt the other.

Most on scripted roles; what only weights can show is in `test_real_run.py`. Kills are kills.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tutorloop import ConfigError, JournalError, fork, launch, read_run
from tutorloop.agents.build import build
from tutorloop.agents.roles import RoleSpec
from tutorloop.evals.files import DamagedFile
from tutorloop.loops import fork as forking
from tutorloop.loops.cli import app
from tutorloop.loops.documents import Documents, run_record
from tutorloop.loops.journal import Tick
from tutorloop.loops.listing import listing
from tutorloop.loops.words import listing_lines, run_lines
from tutorloop.tests.policies_for_tests import small

Told = dict[str, Any]
NO_MATTER = "schedule.patience=9"
"""Nothing is rolled back in these runs, so that nobody's patience counts."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Four rounds, each with something to learn."""
    folder = tmp_path_factory.mktemp("told")
    # The student unlearns a misconception by many rows, so that some are left for every round.
    return small.experiment(
        folder, rounds=4, schedule__rows=100, schedule__ask=25, course__practice=100, student__options={}
    )


@pytest.fixture(scope="module")
def parent(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parent") / "run"
    launch(told, root)
    return root


class Counted:
    """Builds roles as they are, and counts what is asked of them: `{role: {method: calls}}`."""

    def __init__(self) -> None:
        self.calls: dict[str, dict[str, int]] = {}

    def __call__(self, spec: RoleSpec) -> Any:
        role, calls = build(spec), self.calls.setdefault(spec.role, {})

        class Watched:
            def __getattr__(self, name: str) -> Any:
                calls[name] = calls.get(name, 0) + 1
                return getattr(role, name)

        return Watched()


def after(root: Path, number: int) -> dict[str, Any]:
    """What a run came to in the rounds after this one, and at its end: what each step is worth, rows, states."""
    later = {str(n) for n in range(number + 1, 20)}
    found: dict[str, Any] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        kind, *below = path.relative_to(root).parts
        if kind == "states" or (kind == "rows" and below[0] in later and path.suffix == ".parquet"):
            found["/".join((kind, *below))] = path.read_bytes()
        elif kind == "steps" and (below[0] in later or below[0] == "final"):
            found["/".join((kind, *below))] = json.loads(path.read_bytes())["value"]
    return found


def test_a_fork_does_not_do_or_pay_for_what_it_shares(parent: Path, tmp_path: Path) -> None:
    before, counted = small.tree(parent), Counted()
    report = fork(parent, tmp_path / "fork", 2, [NO_MATTER], factory=counted)
    assert [r.number for r in report.rounds] == [0, 1, 2, 3, 4]
    assert small.tree(parent) == before
    shared = [p for p in (parent / "steps").rglob("*.json") if p.parent.name in ("1", "2") or p.stem in ("course", "0")]
    assert len(shared) > 20
    for path in [*shared, *(parent / "asks").glob("1-*"), *(parent / "asks").glob("2-*")]:
        assert (tmp_path / "fork" / path.relative_to(parent)).samefile(path), path
    mine = [e for e in small.paid(tmp_path / "fork") if e.step.partition("/")[0] in ("1", "2")]
    theirs = [e for e in small.paid(parent) if e.step.partition("/")[0] in ("1", "2")]
    assert mine == theirs
    # Rounds 3 and 4 train one state each by SFT, and one by DPO; each is asked 25 problems, in one shard.
    trained = [p for n in (3, 4) for p in (parent / f"steps/{n}").glob("train-*")]
    assert counted.calls["learner"]["train"] == len(trained)
    assert counted.calls["student"]["generate"] == 2
    # Two quizzes and one end, of which a retention pool has more shards than one.
    assert "sit" in counted.calls["evaluator"]
    assert not any(p.is_dir() for p in (tmp_path / "fork").glob(".*"))


def test_a_change_that_cannot_matter_leaves_what_the_undisturbed_run_leaves(
    told: Told, parent: Path, tmp_path: Path
) -> None:
    launch(told, tmp_path / "whole", [NO_MATTER])
    fork(parent, tmp_path / "fork", 2, [NO_MATTER])
    whole, forked = after(tmp_path / "whole", 2), after(tmp_path / "fork", 2)
    assert forked == whole
    assert len(whole) > 40
    assert small.states(tmp_path / "fork") == small.states(tmp_path / "whole")


def test_a_change_that_must_matter_leaves_something_else(parent: Path, tmp_path: Path) -> None:
    fork(parent, tmp_path / "fork", 2, ["method=gold"])
    (mine, theirs) = (small.table(root, "3/curate").digest for root in (tmp_path / "fork", parent))
    assert mine != theirs
    assert small.table(tmp_path / "fork", "2/curate").digest == small.table(parent, "2/curate").digest
    assert not [e for e in small.asks(tmp_path / "fork") if e.step.startswith(("3/teach", "4/teach"))]


def test_a_policy_that_teaches_on_under_another_method_is_told_of(
    told: Told, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = small.policy(
        tmp_path, "def policy(case, room):\n    return room.teacher.ask(f'{case.question}\\n{case.work}')\n"
    )
    launch({**told, "rounds": 1, "teacher": {"policy": policy}}, tmp_path / "run")
    fork(tmp_path / "run", tmp_path / "on", 0, ["method=gold", "rounds=1"])
    assert "teaches on, in the place of what 'gold' does. To let the method teach: teacher.policy='\"\"'" in caplog.text
    caplog.clear()
    fork(tmp_path / "run", tmp_path / "off", 0, ["method=gold", "rounds=1", 'teacher.policy=""'])
    assert "teaches on" not in caplog.text


def test_another_teacher_can_take_over(parent: Path, tmp_path: Path) -> None:
    report = fork(parent, tmp_path / "fork", 2, ["teacher.options.error_rate=0.5"])
    before, last = report.rounds[1].serving["teacher"], report.rounds[-1].serving["teacher"]
    assert before.digest != last.digest and before.name != last.name
    rejected = sum(sum(r.rejected.values()) for r in report.rounds[3:])
    assert rejected and not sum(sum(r.rejected.values()) for r in report.rounds[:3])
    assert fork(parent, tmp_path / "fork", 2).status == "finished"  # and nothing is damaged by it


def test_from_round_0_everything_but_the_first_exam_is_new(parent: Path, tmp_path: Path) -> None:
    report = fork(parent, tmp_path / "fork", 0, ["teacher.options.error_rate=0.5", "rounds=1"])
    assert [r.number for r in report.rounds] == [0, 1]
    assert (tmp_path / "fork/steps/final/0.json").samefile(parent / "steps/final/0.json")
    assert not (tmp_path / "fork/steps/1/gate.json").samefile(parent / "steps/1/gate.json")


def test_forks_can_be_forked_and_outlive_their_parents(told: Told, parent: Path, tmp_path: Path) -> None:
    mine, child, grandchild = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    shutil.copytree(parent, mine)
    fork(mine, child, 3, [NO_MATTER])
    fork(child, grandchild, 1, [NO_MATTER])
    shutil.rmtree(mine)
    shutil.rmtree(child)
    launch(told, tmp_path / "whole", [NO_MATTER])
    assert after(grandchild, 1) == after(tmp_path / "whole", 1)
    assert launch(grandchild, grandchild, ["rounds=5"]).rounds[-1].number == 5
    assert fork(child, grandchild, 1).status == "finished"  # the same command, its parent gone


@pytest.mark.parametrize("point", ["3/attempt", "3/train-1-sft", "3/gate", "final/4"])
def test_a_fork_that_is_killed_goes_on_by_the_same_command(
    told: Told, parent: Path, tmp_path: Path, point: str
) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        "import os, signal, sys\n"
        "from tutorloop import fork\n"
        "from tutorloop.loops.journal import Tick\n"
        "class Dies(Tick):\n"
        "    def step(self, name, seconds, replayed):\n"
        "        if name == sys.argv[3] and not replayed:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "fork(sys.argv[1], sys.argv[2], 2, [sys.argv[4]], tick=Dies())\n"
    )
    command = [sys.executable, str(script), str(parent), str(tmp_path / "fork"), point, NO_MATTER]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert fork(parent, tmp_path / "fork", 2, [NO_MATTER]).status == "finished"
    launch(told, tmp_path / "whole", [NO_MATTER])
    assert after(tmp_path / "fork", 2) == after(tmp_path / "whole", 2)


def test_a_fork_that_was_killed_while_it_was_made_is_made_anew(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, made = os.link, list[str]()

    def dying(source: Any, target: Any) -> None:
        made.append(str(target))
        if len(made) > 30:
            raise KeyboardInterrupt
        link(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "link", dying)
        fork(parent, tmp_path / "fork", 2, [NO_MATTER])
    assert not (tmp_path / "fork").exists()
    assert listing(tmp_path) == [], "what is half made is no run"
    assert fork(parent, tmp_path / "fork", 2, [NO_MATTER]).status == "finished"
    assert not (tmp_path / ".fork.part").exists()


def test_of_two_that_make_one_fork_at_once_the_second_is_told_and_the_first_is_whole(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fork", str(parent), "--from-round", "3", "--run-dir", str(tmp_path / "fork"), "-q", NO_MATTER]
    link, second = os.link, list["subprocess.CompletedProcess[str]"]()

    def slow(source: Any, target: Any) -> None:
        link(source, target)
        if not second:
            second.append(subprocess.run([sys.executable, "-m", "tutorloop", *command], capture_output=True, text=True))

    monkeypatch.setattr(os, "link", slow)
    assert CliRunner().invoke(app, command).exit_code == 0
    told = f"tutorloop: {tmp_path / 'fork'} is being made by another process. Wait for it, or choose another --run-dir."
    assert (second[0].returncode, second[0].stderr) == (2, f"{told}\n")
    fork(parent, tmp_path / "alone", 3, [NO_MATTER])
    assert after(tmp_path / "fork", 3) == after(tmp_path / "alone", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "fork"]


def test_a_fork_that_another_process_has_begun_meanwhile_is_left_to_it(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = forking._check

    def slow(*args: Any) -> None:
        monkeypatch.setattr(forking, "_check", check)
        fork(parent, tmp_path / "fork", 3, [NO_MATTER])
        check(*args)

    monkeypatch.setattr(forking, "_check", slow)
    with pytest.raises(JournalError, match="was begun by another process meanwhile"):
        fork(parent, tmp_path / "fork", 3, [NO_MATTER])
    assert fork(parent, tmp_path / "fork", 3).status == "finished"
    assert [p.name for p in tmp_path.iterdir()] == ["fork"]


def test_where_files_cannot_be_linked_they_are_copied(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Any, target: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    assert fork(parent, tmp_path / "fork", 3, [NO_MATTER]).status == "finished"
    assert not (tmp_path / "fork/steps/0.json").samefile(parent / "steps/0.json")


def test_a_parent_that_stopped_in_the_middle_of_an_exam_and_its_fork_go_on_each_for_itself(tmp_path: Path) -> None:
    told = small.experiment(tmp_path, rounds=1, course__exam=150)

    class Until(Tick):
        def __call__(self, name: str, done: int, total: int) -> None:
            if name.startswith("sheets/exam/") and "base" not in name and done == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(told, tmp_path / "run", tick=Until())
    before = small.tree(tmp_path / "run")
    assert fork(tmp_path / "run", tmp_path / "fork", 1, [NO_MATTER]).status == "finished"
    assert small.tree(tmp_path / "run") == before
    assert launch(told, tmp_path / "run").status == "finished"
    assert after(tmp_path / "run", 1) == after(tmp_path / "fork", 1)


def test_five_rounds_that_go_on_to_eight_are_eight_rounds(told: Told, tmp_path: Path) -> None:
    launch(told, tmp_path / "grown", ["rounds=5"])
    launch(told, tmp_path / "grown", ["rounds=8"])
    launch(told, tmp_path / "whole", ["rounds=8"])
    grown, whole = after(tmp_path / "grown", 0), after(tmp_path / "whole", 0)
    early = {name: grown.pop(name) for name in list(grown) if name.endswith("final/5.json")}
    assert early
    assert grown == whole


# ---- what is refused


def test_every_refusal_of_a_changed_run_prints_the_command_that_forks_it(
    parent: Path, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(parent, mine)
    before = small.tree(mine)
    with pytest.raises(ConfigError, match="was begun with another experiment") as caught:
        launch(told, mine, ["method=gold", "update.sft.learning_rate=0.002"])
    assert small.tree(mine) == before
    command = str(caught.value).partition("tutorloop fork ")[2]
    change = "method=gold 'update.sft={\"learning_rate\":0.002}'"
    assert command == f"{mine} --from-round 3 --run-dir {mine}-fork {change}"
    done = subprocess.run(f"{sys.executable} -m tutorloop fork {command} -q", shell=True)
    assert done.returncode == 0
    config = run_record(Path(f"{mine}-fork"))["config"]
    assert config["method"] == "gold" and config["update"]["sft"] == {"learning_rate": 0.002}


def test_a_run_that_ended_early_is_forked_before_its_last_round(tmp_path: Path) -> None:
    told = small.experiment(tmp_path, rounds=9)
    rounds = launch(told, tmp_path / "run").rounds
    last = rounds[-1].number
    assert 1 < last < 9, "it ended early"
    with pytest.raises(ConfigError, match=f"--from-round {last - 1} "):
        launch(told, tmp_path / "run", ["method=gold"])


def test_a_fork_without_a_round_of_its_own_says_that_its_change_had_no_effect(parent: Path, tmp_path: Path) -> None:
    fork(parent, tmp_path / "a", 4, ["method=gold"])
    fork(parent, tmp_path / "b", 3, ["method=gold"])
    a, b = ("\n".join(run_lines(read_run(tmp_path / name))) for name in "ab")
    assert "it has none of its own, so no change has had any effect" in a and "none of its own" not in b


def test_the_way_out_has_the_rounds_that_were_asked_for_too(parent: Path, told: Told, tmp_path: Path) -> None:
    mine = shutil.copytree(parent, tmp_path / "mine")
    with pytest.raises(ConfigError) as caught:
        launch(told, mine, ["method=gold", "rounds=6", "budget.teacher_tokens=90000"])
    change = "budget.teacher_tokens=90000 method=gold rounds=6"
    assert str(caught.value).endswith(f"tutorloop fork {mine} --from-round 4 --run-dir {mine}-fork {change}")


@pytest.mark.parametrize("override", ["course.exam=50", "student.max_tokens=50", "student.engine=transformers"])
def test_what_the_shared_rounds_stand_on_cannot_change(parent: Path, tmp_path: Path, override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=f"`{key}` cannot change in a fork"):
        fork(parent, tmp_path / "fork", 2, [override])
    assert not list(tmp_path.iterdir())


def test_a_round_that_is_not_finished_cannot_be_forked_from(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="has no finished round 7; its last finished one is 4"):
        fork(parent, tmp_path / "fork", 7)
    with pytest.raises(JournalError, match="there is no run in"):
        fork(tmp_path / "nothing", tmp_path / "fork", 1)
    shutil.copytree(parent, tmp_path / "young")
    for step in ("1", "2", "3", "4", "final"):
        shutil.rmtree(tmp_path / "young/steps" / step)
    with pytest.raises(JournalError, match="it has none yet"):
        fork(tmp_path / "young", tmp_path / "fork", 0)
    assert not (tmp_path / "fork").exists()


def test_a_folder_that_holds_something_else_is_left_alone(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty and holds no fork"):
        fork(parent, tmp_path / "full", 2)
    shutil.copytree(parent, tmp_path / "own")
    with pytest.raises(ConfigError, match="is a run of its own, and no fork"):
        fork(parent, tmp_path / "own", 2)
    fork(parent, tmp_path / "fork", 3, [NO_MATTER])
    with pytest.raises(ConfigError, match=r"is a fork of .* from round 3, not of .* from round 2"):
        fork(parent, tmp_path / "fork", 2, [NO_MATTER])
    with pytest.raises(ConfigError, match=r"`schedule.patience` was 9, is 8"):
        fork(parent, tmp_path / "fork", 3, ["schedule.patience=8"])


def test_a_parent_that_is_damaged_is_not_forked(parent: Path, tmp_path: Path) -> None:
    shutil.copytree(parent, tmp_path / "run")
    part = tmp_path / "run" / small.table(parent, "2/attempt").folder / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match="part-00000"):
        fork(tmp_path / "run", tmp_path / "fork", 2)
    fork(tmp_path / "run", tmp_path / "early", 1)
    proof = tmp_path / "run" / small.report(parent, 1).proof.canaries  # type: ignore[union-attr]
    proof.unlink()
    with pytest.raises(DamagedFile, match="is missing"):
        fork(tmp_path / "run", tmp_path / "fork", 1)
    assert not (tmp_path / "fork").exists()


def test_a_method_with_fewer_stages_cannot_take_over_in_a_later_one(tmp_path: Path, told: Told) -> None:
    methods = tmp_path / "stages.py"
    methods.write_text(
        "from dataclasses import replace\n"
        "from tutorloop.policies.rounds import Rounds\n"
        "from tutorloop.policies.tailored import METHOD\n"
        "ONE = replace(METHOD, rounds=Rounds(times=1, rows=60))\n"
        "TWO = (ONE, ONE)\n"
    )
    launch({**told, "method": f"{methods}:TWO", "rounds": 1}, tmp_path / "run")
    with pytest.raises(ConfigError, match="is of stage 2 of its method, and 'tailored' has 1"):
        fork(tmp_path / "run", tmp_path / "fork", 2, ["method=tailored", "rounds=3"])


def test_a_config_of_an_earlier_version_has_the_defaults_of_what_came_later(
    parent: Path, told: Told, tmp_path: Path
) -> None:
    root = shutil.copytree(parent, tmp_path / "run")
    record = run_record(root)
    del record["config"]["limit"], record["config"]["course"]["prompt"], record["config"]["course"]["shots"]
    Documents(root, record["run"]).write("run.json", {k: v for k, v in record.items() if k != "stamp"})
    assert launch(told, root).status == "finished"
    assert fork(root, tmp_path / "fork", 3, [NO_MATTER]).status == "finished"


# ---- what is shown


def test_runs_shows_the_tree(parent: Path, tmp_path: Path) -> None:
    shutil.copytree(parent, tmp_path / "m")
    fork(tmp_path / "m", tmp_path / "z", 3, [NO_MATTER])
    fork(tmp_path / "z", tmp_path / "a", 3, [NO_MATTER])
    lines = list(listing_lines(listing(tmp_path)))
    assert [line.split()[0] for line in lines[1:4]] == [str(tmp_path / name) for name in ("m", "z", "a")]
    assert [len(line) - len(line.lstrip()) for line in lines[1:4]] == [0, 2, 4]
    assert f"{tmp_path / 'z'}: shares the rounds up to 3 of {tmp_path / 'm'}" in lines
    # A fork into the folder of a parent that was removed: each is the other's child, and both are listed.
    shutil.rmtree(tmp_path / "m")
    fork(tmp_path / "z", tmp_path / "m", 3, [NO_MATTER])
    assert len(list(listing_lines(listing(tmp_path)))) == 1 + 3 + 3
    assert any("whose rounds up to 3 it shares" in line for line in run_lines(read_run(tmp_path / "z")))
    shutil.rmtree(tmp_path / "z")
    gone = f"{tmp_path / 'a'}: shares the rounds up to 3 of {tmp_path / 'z'}, which is gone"
    assert gone in listing_lines(listing(tmp_path))


def test_a_run_with_a_policy_of_ones_own_is_told_from_the_method_alone(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def silent(case, room):\n    return None\n")
    policy = f"{tmp_path}/mine.py:silent"
    fork(parent, tmp_path / "a", 3, [f"teacher.policy={policy}"])
    assert f"method tailored, taught by {policy}" in run_lines(read_run(tmp_path / "a"))
    assert "method tailored" in run_lines(read_run(parent))
    (line,) = listing(tmp_path / "a")
    assert (line.method, line.policy) == ("tailored", policy)
    assert f"tailored, {policy}" in list(listing_lines([line]))[1]


def test_the_folder_of_a_run_is_an_experiment(parent: Path, tmp_path: Path) -> None:
    shutil.copytree(parent, tmp_path / "run")
    done = CliRunner().invoke(app, ["run", str(tmp_path / "run"), "rounds=5", "-q"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run/steps/5/gate.json").read_bytes())["value"]["number"] == 5
    done = CliRunner().invoke(app, ["run", str(tmp_path / "run"), "--run-dir", str(tmp_path / "anew"), "-q"])
    assert done.exit_code == 0, done.output
    assert small.table(tmp_path / "anew", "4/curate").digest == small.table(tmp_path / "run", "4/curate").digest
