"""The whole cycle on scripted roles: it teaches, it continues, and what would mix two experiments is refused."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutorloop.agents.hosts import InProcess
from tutorloop.agents.roles import PublishError, RoleDied
from tutorloop.evals.arithmetic import draw_profile
from tutorloop.evals.files import DamagedFile
from tutorloop.loops.config import ConfigError
from tutorloop.loops.journal import Journal, JournalError, Tick, read_status
from tutorloop.loops.launch import Interrupted, Prepared, launch, prepare
from tutorloop.policies.rounds import Report
from tutorloop.tests.policies_for_tests import shapes, small

pytestmark = pytest.mark.usefixtures("no_power_cuts")

SHAPES = Path(shapes.__file__)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the student and the policies of this file's experiments lie."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def two(home: Path) -> tuple[Path, Report]:
    """A finished run of two rounds. Not to be changed."""
    return home / "two", launch(small.experiment(home), home / "two")


@pytest.fixture
def copy(two: tuple[Path, Report], tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(two[0], tmp_path / "copy"))


def refused(told: Any, root: Path, error: type[Exception], match: str) -> None:
    """A start is refused, and the folder is what it was."""
    before = small.tree(root)
    with pytest.raises(error, match=match):
        launch(told, root)
    assert small.tree(root) == before


# ---- the cycle


def test_a_student_is_taught_and_examined(two: tuple[Path, Report]) -> None:
    root, report = two
    assert report.status == "finished" and read_status(root) == ("finished", "")
    assert [r.number for r in report.rounds] == [0, 1, 2]
    quiz = [r.quiz.accuracy for r in report.rounds]
    assert quiz[0] < 0.4 < quiz[1] < quiz[2] and quiz[2] > 0.9
    assert set(report.before) == {"exam", "probe", "retention"} and report.after is not None
    assert report.before["probe"].accuracy == 0 and report.after["probe"].accuracy > 0.8
    assert report.after["exam"].accuracy > report.before["exam"].accuracy + 0.5
    assert report.after["retention"].accuracy == report.before["retention"].accuracy == 1
    assert all(r.kept and r.proof and r.proof.status == "published" for r in report.rounds[1:])
    assert report.rounds[2].candidate.digest == report.after["exam"].state


def test_second_reasons_come_to_light_when_the_first_are_gone(two: tuple[Path, Report]) -> None:
    """What makes rounds worth having: some problems are wrong for two reasons, and one of them shows."""
    root, _ = two
    gold = {g.problem: g for g in small.course(root).practice.gold}
    wrong = [{c.problem.id for c in small.table(root, f"{n}/attempt") if not c.right} for n in (1, 2)]
    assert wrong[1] < wrong[0]
    still = [id for id in wrong[1] if len(gold[id].misconceptions) == 2]
    before, after = ({c.problem.id: c.work for c in small.table(root, f"{n}/attempt")} for n in (1, 2))
    assert still and any(before[id] != after[id] for id in still)


def test_the_steps_of_a_round_come_in_the_order_of_the_page(home: Path, tmp_path: Path) -> None:
    log = small.Log()
    launch(small.experiment(home), tmp_path / "run", tick=log)
    steps = [line.removeprefix("step ") for line in log.lines if line.startswith("step ")]
    verbs = "attempt verify triage teach check curate train-1-sft train-2-dpo update publish quiz gate"
    rounds = [f"{n}/{verb}" for n in (1, 2) for verb in verbs.split()]
    assert steps == ["course", "0", "final/0", *rounds, "final/2"]


def test_every_row_names_the_state_that_wrote_it(two: tuple[Path, Report]) -> None:
    root, report = two
    for number in (1, 2):
        served = report.rounds[number - 1].serving["student"].digest
        assert {c.attempts[0].state for c in small.table(root, f"{number}/attempt")} == {served}
        sat = {m.attempt.state for m in report.rounds[number].quiz.rows}
        assert sat == {report.rounds[number].candidate.digest} != {served}


def test_what_is_learnt_in_a_round_has_its_size_and_its_sources(two: tuple[Path, Report]) -> None:
    root, report = two
    for number, sources in ((1, {"lesson", "own"}), (2, {"lesson", "earlier", "own"})):
        examples = list(small.table(root, f"{number}/curate"))
        assert len(examples) == 120 and {e.origin for e in examples} == sources
        assert sum(e.origin == "lesson" for e in examples) <= 0.6 * 120
        assert report.rounds[number].origins == {o: sum(e.origin == o for e in examples) for o in sorted(sources)}


def test_the_same_experiment_gives_the_same_run(home: Path, two: tuple[Path, Report], tmp_path: Path) -> None:
    launch(small.experiment(home), tmp_path / "run")
    assert small.transcript(tmp_path / "run") == small.transcript(two[0])


def test_another_seed_is_another_run(home: Path, two: tuple[Path, Report], tmp_path: Path) -> None:
    launch(small.experiment(home, seed=1, rounds=1), tmp_path / "run")
    ids = [[p.question for p in small.course(root).practice.problems] for root in (two[0], tmp_path / "run")]
    assert ids[0] != ids[1]


def test_no_part_of_a_write_is_left(two: tuple[Path, Report]) -> None:
    assert not list(two[0].rglob("*.part")) and not list(two[0].glob("asks/*.jsonl"))


# ---- again


def test_a_second_start_on_a_finished_run_answers_without_building_a_role(
    home: Path, copy: Path, two: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(self: InProcess, method: str, *args: Any) -> Any:
        raise AssertionError(f"{self.name} was asked to {method}")

    monkeypatch.setattr(InProcess, "call", called)
    before, log = small.transcript(copy), small.Log()
    assert launch(small.experiment(home), copy, tick=log) == two[1]
    assert all(line.endswith("*") for line in log.lines if line.startswith("step "))
    assert not [line for line in log.lines if line.startswith("shard ")]
    assert small.transcript(copy) == before


def test_a_second_start_on_a_finished_run_loads_neither_ray_nor_torch(home: Path, copy: Path) -> None:
    code = """
import json, sys
from tutorloop.loops.launch import launch
print(launch(json.loads(sys.argv[1]), sys.argv[2]).status)
print({"ray", "torch", "transformers", "trl", "pandas"} & set(sys.modules))
"""
    told = json.dumps(small.experiment(home, placement="ray"))
    done = subprocess.run([sys.executable, "-c", code, told, copy], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["finished", "set()"], done.stderr


def test_two_rounds_continued_to_three_are_three_at_once(home: Path, copy: Path, tmp_path: Path) -> None:
    continued = launch(small.experiment(home, rounds=3), copy)
    at_once = launch(small.experiment(home, rounds=3), tmp_path / "at once")
    assert continued == at_once
    one, other = small.transcript(copy), small.transcript(tmp_path / "at once")
    extra = {name for name in one if name not in other}
    assert {name: one[name] for name in other} == other
    assert "steps/final/2.json" in extra, "the earlier final stays listed"
    assert all(name.startswith(("steps/final/2", "rows/sheets/")) for name in extra)
    assert small.states(copy) == small.states(tmp_path / "at once")


def test_rounds_may_not_shrink(home: Path, copy: Path) -> None:
    refused(
        small.experiment(home, rounds=1), copy, ConfigError, r"`rounds` may grow and not shrink: .* has 2, asked for 1"
    )


def test_the_methods_own_number_of_rounds_may_not_shrink_either(home: Path, tmp_path: Path) -> None:
    told = small.experiment(home, teacher__policy=f"{SHAPES}:nothing")
    del told["rounds"]
    launch(told, tmp_path / "run")
    refused({**told, "rounds": 4}, tmp_path / "run", ConfigError, "has 5, asked for 4")
    assert launch({**told, "rounds": 6}, tmp_path / "run").status == "finished"
    refused(told, tmp_path / "run", ConfigError, "has 6, asked for 5")


def test_no_rounds_are_an_exam(home: Path, tmp_path: Path) -> None:
    report = launch(small.experiment(home, rounds=0), tmp_path / "run")
    assert report.before == report.after and len(report.rounds) == 1


def test_a_run_can_be_moved_and_continued(home: Path, copy: Path, tmp_path: Path) -> None:
    copy.rename(tmp_path / "moved")
    report = launch(small.experiment(home, rounds=3), tmp_path / "moved")
    assert len(report.rounds) == 4 and report.rounds[-1].quiz.rows.root == tmp_path / "moved"


# ---- refused


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "`seed` was 0, is 1"),
        ({"schedule__rows": 130}, "`schedule.rows` was 120, is 130"),
        ({"schedule__new": 0.5}, r"`schedule.new` was None, is 0.5"),
        ({"course__exam": 70}, "`course.exam` was 60, is 70"),
        ({"student__max_tokens": 99}, "`student.max_tokens` was 160, is 99"),
        ({"teacher__options": {"error_rate": 0.1}}, "`teacher.options.error_rate` was None, is 0.1"),
        ({"method": "gold"}, "`method` was 'tailored', is 'gold'"),
        ({"update__sft": {"learning_rate": 1e-4}}, r"`update.sft.learning_rate` was None, is 0.0001"),
        ({"teacher__policy": f"{SHAPES}:plain"}, "`teacher.policy` was ''"),
    ],
)
def test_a_changed_experiment_is_refused_by_name(changes: dict[str, Any], named: str, home: Path, copy: Path) -> None:
    refused(small.experiment(home, **changes), copy, ConfigError, named)


@pytest.mark.parametrize(
    "changes",
    [
        {"failures": 0.4},
        {"policy_seconds": 7.0},
        {"student__deadline": 5.0},
        {"learner__gpus": 0.5},
        {"budget__teacher_tokens": 10**9},
    ],
)
def test_where_how_fast_and_how_much_may_change(changes: dict[str, Any], home: Path, copy: Path) -> None:
    assert launch(small.experiment(home, **changes), copy).status == "finished"


def test_an_edited_policy_is_refused_and_its_old_text_goes_on(tmp_path: Path) -> None:
    text = SHAPES.read_text()
    told = small.experiment(tmp_path, rounds=1, teacher__policy=small.policy(tmp_path, text, "plain"))
    launch(told, tmp_path / "run")
    small.policy(tmp_path, text + "\n# a remark\n", "plain")
    refused(told, tmp_path / "run", ConfigError, r"my_policies\.py:plain` has changed")
    small.policy(tmp_path, text, "plain")
    assert launch(told, tmp_path / "run").status == "finished"


def test_a_folder_in_use_is_refused(home: Path, copy: Path) -> None:
    journal = Journal.open(copy)
    try:
        refused(small.experiment(home), copy, JournalError, "in use by another process")
    finally:
        journal.release()
    assert launch(small.experiment(home), copy).status == "finished"


def test_of_two_that_start_in_one_folder_the_second_changes_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is through when the second one, which has found an empty folder, gets the lock."""
    told, root = small.experiment(home, rounds=0), tmp_path / "run"

    def slowly(*args: Any, **named: Any) -> Prepared:
        monkeypatch.undo()
        launch(told, root)
        left.append(small.tree(root))
        return prepare(*args, **named)

    left = list[str]()
    monkeypatch.setattr("tutorloop.loops.launch.prepare", slowly)
    with pytest.raises(JournalError, match="in use by another process until now"):
        launch(told, root)
    assert left == [small.tree(root)]


def test_a_folder_with_something_else_in_it_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("important")
    refused(small.experiment(home), tmp_path / "papers", JournalError, "not empty and holds no run")


@pytest.mark.parametrize(("content", "told"), [(b'{"schema": 0}', "schema 0, this is 2"), (b'{"sche', "is damaged")])
def test_a_folder_of_another_schema_or_with_a_damaged_record_is_refused(
    content: bytes, told: str, home: Path, copy: Path
) -> None:
    (copy / "run.json").write_bytes(content)
    refused(small.experiment(home), copy, JournalError, told)


def test_a_folder_that_was_killed_before_its_first_record_is_started(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "lock").touch()
    (root / ".run.json.part").write_bytes(b'{"sche')
    assert launch(small.experiment(home, rounds=0), root).status == "finished"


def test_a_missing_table_is_named(home: Path, copy: Path) -> None:
    (copy / "rows/2/curate/part-00000.parquet").unlink()
    refused(small.experiment(home, rounds=3), copy, DamagedFile, r"rows/2/curate/part-00000\.parquet is missing")


def test_another_student_in_the_same_place_is_not_served(tmp_path: Path) -> None:
    told = small.experiment(tmp_path, rounds=1)
    launch(told, tmp_path / "run")
    (tmp_path / "student/provenance.json").write_text(json.dumps({"bugs": draw_profile(3)}))
    with pytest.raises(PublishError, match="holds another state than was trained"):
        launch({**told, "rounds": 2}, tmp_path / "run")


# ---- budget


def test_a_spent_budget_leaves_the_round_open_and_a_larger_one_finishes_it(
    home: Path, two: tuple[Path, Report], tmp_path: Path
) -> None:
    root, whole = tmp_path / "run", two[1].rounds[1].cost.tokens
    budget = whole + 10  # spent in the second round
    stopped = launch(small.experiment(home, budget__teacher_tokens=budget), root)
    assert stopped.status == "stopped" and stopped.after is None and [r.number for r in stopped.rounds] == [0, 1]
    assert f"budget of {budget} teacher tokens is spent" in stopped.why and read_status(root) == (
        "stopped",
        stopped.why,
    )
    assert not list(root.glob("steps/2/train*"))
    paid = small.paid(root)

    again = launch(small.experiment(home, budget__teacher_tokens=budget), root)
    assert again == stopped and small.paid(root) == paid, "the same budget pays for nothing more"
    refused(small.experiment(home, budget__teacher_tokens=10), root, ConfigError, "`budget.teacher_tokens` may grow")

    assert launch(small.experiment(home, budget__teacher_tokens=10**6), root) == two[1]
    one, other = small.transcript(root), small.transcript(two[0])
    assert one.pop("run.json") != other.pop("run.json") and one == other
    assert len({e.key for e in small.paid(root)}) == len(small.paid(root)), "nothing was paid twice"


def test_a_budget_is_overrun_by_one_wave_at_most(home: Path, two: tuple[Path, Report], tmp_path: Path) -> None:
    launch(small.experiment(home, budget__teacher_tokens=1), tmp_path / "run")
    assert {e.step for e in small.paid(tmp_path / "run")} == {"1/verify"}


# ---- pauses


class Signals(small.Log):
    """Sends this process a signal when a line of the log begins so."""

    def __init__(self, number: int, at: str) -> None:
        super().__init__()
        self.number, self.at = number, at

    def __call__(self, name: str, done: int, total: int) -> None:
        super().__call__(name, done, total)
        self.send()

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        super().step(name, seconds, replayed)
        self.send()

    def send(self) -> None:
        if self.lines[-1].startswith(self.at):
            self.at = "never again"
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "at"),
    [
        (signal.SIGTERM, "shard sheets/quiz"),
        (signal.SIGINT, "step 1/verify"),
        (signal.SIGTERM, "shard 2/teach"),
        (signal.SIGINT, "step 2/train-1-sft"),
    ],
)
def test_ctrl_c_and_a_scheduler_pause_a_run_that_goes_on_as_if_nothing_had_been(
    number: signal.Signals, at: str, home: Path, two: tuple[Path, Report], tmp_path: Path
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    told = small.experiment(home)
    with pytest.raises(Interrupted, match=f"interrupted by {number.name}; the same command goes on"):
        launch(told, tmp_path / "run", tick=Signals(number, at))
    assert read_status(tmp_path / "run")[0] == "paused"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert launch(told, tmp_path / "run") == two[1]
    assert small.transcript(tmp_path / "run") == small.transcript(two[0])


def test_a_pause_ends_a_policy_that_is_waiting(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = """
import os, signal, time
def policy(case, room):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    return room.teacher.ask("Anybody there?")
"""
    told = small.experiment(home, teacher__policy=small.policy(tmp_path, text))
    with pytest.raises(Interrupted):
        launch(told, tmp_path / "run")
    assert read_status(tmp_path / "run")[0] == "paused"
    assert not caplog.records, "asyncio has nothing to say about it"


# ---- a role is lost


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(
    ("role", "method"), [("student", "generate"), ("teacher", "generate"), ("evaluator", "sit"), ("learner", "train")]
)
def test_a_role_that_is_lost_once_is_replaced_and_nobody_can_tell(
    role: str, method: str, at: int, home: Path, two: tuple[Path, Report], tmp_path: Path, monkeypatch: Any
) -> None:
    answer, calls, incarnations = InProcess.call, list[str](), set[str]()

    def lost(self: InProcess, name: str, *args: Any) -> Any:
        if self.spec.role == role:
            calls.append(name)
            if (name, calls.count(method)) == (method, at):
                raise RoleDied(f"{self.name} died")
            incarnations.add(answer(self, "hello").incarnation)
        return answer(self, name, *args)

    monkeypatch.setattr(InProcess, "call", lost)
    launch(small.experiment(home), tmp_path / "run")
    assert small.transcript(tmp_path / "run") == small.transcript(two[0])
    assert len(incarnations) == 2


def test_a_role_that_is_lost_twice_in_a_row_ends_the_start_but_not_the_run(
    home: Path, two: tuple[Path, Report], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        answer = InProcess.call

        def lost(self: InProcess, name: str, *args: Any) -> Any:
            if name == "train":
                raise RoleDied(f"{self.name} died")
            return answer(self, name, *args)

        patched.setattr(InProcess, "call", lost)
        with pytest.raises(RoleDied, match="learner/0 died"):
            launch(small.experiment(home), tmp_path / "run")
    assert read_status(tmp_path / "run") == ("failed", "RoleDied: learner/0 died")
    assert launch(small.experiment(home), tmp_path / "run") == two[1]


# ---- schedules and stages


def test_the_collector_passes_over_the_libraries_while_a_run_goes_on(home: Path, tmp_path: Path) -> None:
    frozen: list[int] = []

    class Look(Tick):
        def step(self, name: str, seconds: float, replayed: bool) -> None:
            frozen.append(gc.get_freeze_count())
            if name == "1/gate":
                raise EOFError

    with pytest.raises(EOFError):
        launch(small.experiment(home), tmp_path / "run", tick=Look())
    assert frozen[0] == 0 and min(frozen[1:]) > 10_000, "from when the roles are there"
    assert gc.get_freeze_count() == 0


def test_a_window_of_practice_moves_on_from_round_to_round(home: Path, tmp_path: Path) -> None:
    launch(small.experiment(home, rounds=5, schedule__ask=25), tmp_path / "run")
    windows = [[p.id for p in small.table(tmp_path / "run", f"{n}/select")] for n in (1, 2, 3, 4, 5)]
    assert [len(set(w)) for w in windows] == [25] * 5, "nobody is asked twice in a round"
    asked = [id for window in windows for id in window]
    assert len(set(asked[:60])) == len(set(asked[60:120])) == 60, "a lap over the pool asks each problem once"
    assert asked[:60] != asked[60:120], "and the next lap in another order"


def test_a_case_says_how_its_problem_went_in_all_rounds_before(home: Path, tmp_path: Path) -> None:
    launch(small.experiment(home, rounds=5, schedule__ask=40), tmp_path / "run")
    told: dict[str, tuple[str, ...]] = {}
    for number in range(1, 6):  # two thirds of the pool in each: some problems skip a round
        for case in small.table(tmp_path / "run", f"{number}/attempt"):
            assert case.history == told.get(case.id, ())
            told[case.id] = (*case.history, case.grades[0].label)
    assert {len(labels) for labels in told.values()} == {3, 4}


def test_training_from_the_base_in_every_round(home: Path, tmp_path: Path) -> None:
    text = """
from tutorloop.tests.policies_for_tests.shapes import prompt
async def policy(case, room):
    return await room.teacher.aask(prompt(case)) if room.plan.number == 1 else None
"""
    policy = small.policy(tmp_path, text)
    told = small.experiment(home, schedule__start="base", schedule__gate=None, teacher__policy=policy)
    report = launch(told, tmp_path / "run")
    first, second = report.rounds[1:]
    assert second.why.startswith("nothing to learn: the state is unchanged; the teacher had nothing to say")
    assert second.serving == first.serving and report.after is not None
    assert report.after["exam"].state == first.candidate.digest, "a round without lessons does not undo the last one"


METHOD = """
from dataclasses import replace
from tutorloop.evals.records import Problem, user
from tutorloop.policies.gold import METHOD as GOLD
from tutorloop.policies.tailored import METHOD as TAILORED

FIRST = replace(GOLD, rounds=replace(GOLD.rounds, times=1))
METHOD = (FIRST, replace(TAILORED, rounds=replace(TAILORED.rounds, times=2)))
BARE = replace(GOLD, attempt=None, verify=None, triage=None)
SILENT = replace(TAILORED, teach=None)
"""


@pytest.fixture
def methods(tmp_path: Path) -> Callable[[str], str]:
    return lambda name: small.policy(tmp_path, METHOD, name)


def test_stages_of_a_method_run_one_after_another(methods: Callable[[str], str], home: Path, tmp_path: Path) -> None:
    report = launch(small.experiment(home, method=methods("METHOD"), rounds=1), tmp_path / "run")
    assert [(r.number, r.stage) for r in report.rounds] == [(0, 0), (1, 0), (2, 1)]
    assert report.rounds[1].cost.calls == 0 and report.rounds[2].cost.calls > 0
    assert report.rounds[2].proof is not None
    assert json.loads((tmp_path / "run/steps/2/train-1-sft.json").read_bytes())["value"]["state"]["name"]


def test_whole_data_set_synthesis_asks_nobody_first(methods: Callable[[str], str], home: Path, tmp_path: Path) -> None:
    report = launch(small.experiment(home, method=methods("BARE"), rounds=1), tmp_path / "run")
    tables = report.rounds[1].tables
    assert tables is not None and len(tables.cases) == 60 and not any(c.attempts for c in tables.cases)
    assert report.rounds[1].accepted > 60 and "own" not in report.rounds[1].origins


def test_without_a_teacher_nothing_is_said_and_nothing_learnt(
    methods: Callable[[str], str], home: Path, tmp_path: Path
) -> None:
    report = launch(small.experiment(home, method=methods("SILENT")), tmp_path / "run")
    assert len(report.rounds) == 2 and report.rounds[1].why.startswith("nothing to learn")


@pytest.mark.parametrize("control", ["gold", "uniform"])
def test_a_control_without_a_teacher_spends_no_teacher_tokens(control: str, home: Path, tmp_path: Path) -> None:
    report = launch(small.experiment(home, method=control, rounds=1), tmp_path / "run")
    assert report.rounds[1].cost.tokens == 0 and report.rounds[1].quiz.accuracy > report.rounds[0].quiz.accuracy
    assert set(report.rounds[1].origins) == {"gold", "lesson", "own"}
