"""The control that does not diagnose, the sums of the ten-student comparison, and that the README shows its data."""

import importlib
import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tutorloop
from tutorloop.evals.records import Gold
from tutorloop.loops.launch import launch, prepare
from tutorloop.policies.rounds import Report
from tutorloop.tests.policies_for_tests import small

ROOT = Path(tutorloop.__file__).parent


def script(name: str) -> Any:
    """A benchmark by its file: `policies` would be a name of its own for the package's."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


with pytest.MonkeyPatch.context() as patched:
    patched.syspath_prepend(ROOT / "benchmarks")  # the scripts import one another, as they do when they are run
    control: Any = importlib.import_module("comparison")
    GOLD: Any = script("gold_control").COMPARISON
    POLICIES: Any = script("policies").COMPARISON
ALL = (GOLD, POLICIES)


# ---- the arm


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """One round of uniform practice on scripted roles, and its folder."""
    folder = tmp_path_factory.mktemp("uniform")
    return launch(small.experiment(folder, method="uniform", rounds=1), folder / "run"), folder / "run"


def test_uniform_practice_draws_as_many_cases_as_are_wrong_from_every_skill_alike(run: tuple[Report, Path]) -> None:
    report, root = run
    tables, gold = report.rounds[1].tables, {g.problem: g.skill for g in small.course(root).practice.gold}
    assert tables is not None
    wrong = [c for c in tables.answered if not c.right]
    assert len(tables.cases) == len(wrong) and any(c.right for c in tables.cases)
    there = Counter(gold[c.problem.id] for c in tables.answered)
    drawn = Counter(gold[c.problem.id] for c in tables.cases)
    most = max(drawn.values())
    assert all(drawn[skill] >= min(n, most - 1) for skill, n in there.items())


def test_only_what_was_wrong_is_put_below_the_right_work(run: tuple[Report, Path]) -> None:
    tables = run[0].rounds[1].tables
    assert tables is not None
    own = {x.case: x.rejected for x in tables.lessons if x.act == "gold"}
    assert own == {c.id: "" if c.right else c.work for c in tables.cases}


def test_a_right_answer_in_other_words_is_not_rejected(run: tuple[Report, Path]) -> None:
    from tutorloop.policies.gold import GoldWork

    tables = run[0].rounds[1].tables
    assert tables is not None
    right = next(c for c in tables.cases if c.right)

    class Told:
        rng = None

        def gold(self, case: Any) -> Any:
            return Gold(problem=case.problem.id, answer="", solution="other words")

    (lesson,) = GoldWork(practice=0)(right, Told())  # type: ignore[arg-type]
    assert lesson.target == "other words" and lesson.rejected == ""


# ---- the row of a run


def test_a_row_counts_what_the_run_left(run: tuple[Report, Path]) -> None:
    report, root = run
    row = control.row(report, root, seed=11, arm="uniform", student="d" * 64, protocol=GOLD.digest())
    assert report.after is not None
    assert (row.exam_after, row.exam_n) == (report.after["exam"].right, 60)
    assert row.rows == 120 and 0 < row.new < 120 and row.rounds == 1 and row.teacher_tokens == 0
    trained = [json.loads(p.read_bytes())["value"]["tokens"] for p in sorted(root.glob("steps/1/train-*"))]
    assert [row.sft_tokens, row.dpo_tokens] == trained and all(trained)
    assert (row.worst_after, row.worst_n) == report.after["retention"].skills[row.worst_skill]
    assert row.worst_before == report.before["retention"].skills[row.worst_skill][0]


def test_the_worst_skill_has_the_smallest_share_and_not_the_fewest_right() -> None:
    assert control.worst({"add-plain": (199, 200), "sub-plain": (180, 200), "sub-equal": (91, 100)}) == "sub-plain"


def test_rows_come_back_from_the_file_as_they_were_written(tmp_path: Path) -> None:
    rows = [made(11, "gold", 400), made(11, "uniform", 390)]
    for row in rows:
        control.append(tmp_path / "data.csv", row)
    assert control.read(tmp_path / "data.csv") == rows and control.read(tmp_path / "none.csv") == []


def test_rows_of_another_protocol_are_refused(tmp_path: Path) -> None:
    control.append(tmp_path / "data.csv", replace(made(11, "gold", 400), protocol="f" * 64))
    with pytest.raises(SystemExit, match="rows of another protocol \\(ffffffffffff\\)"):
        control.main(replace(GOLD, data=tmp_path / "data.csv"), ["--table"])


# ---- sums by hand


def made(seed: int, arm: str, right: int, tokens: int = 1000) -> Any:
    """A row with that many of 500 right in the exam."""
    return control.Row(
        **dict(seed=seed, arm=arm, student="", exam_n=500, exam_before=165, exam_after=right),
        **dict(probe_n=10, probe_before=0, probe_after=5, worst_skill="add-plain", worst_n=200, worst_before=200),
        **dict(worst_after=190, unread=0, rounds=1, rolled_back=0, rows=100, new=50, sft_tokens=tokens - 100),
        **dict(dpo_tokens=100, teacher_tokens=0, version="0", protocol=GOLD.digest()),
    )


def arms(*differences: int) -> list[Any]:
    """`tailored` ahead of `gold` by so many right answers, one student each; `uniform` like `gold`."""
    return [
        made(seed, arm, 400 + ahead * (arm == "tailored"))
        for seed, ahead in enumerate(differences, 1)
        for arm in ("tailored", "gold", "uniform")
    ]


def test_differences_are_paired_by_student_and_one_without_its_pair_has_none() -> None:
    rows = arms(10, 20)[:-2]  # the second student has been taught in one arm only
    assert control.differences(rows, "tailored", "gold", "exam") == [pytest.approx(10 / 500)]


@pytest.mark.parametrize(
    ("ahead", "students", "said"),
    [
        ((10, 20, 30), 3, "not settled"),  # 0.04, s = 0.02: 0.04 ± 4.303 * 0.02 / 1.732 = 0.04 ± 0.050
        ((15, 20, 25), 3, "confirmed"),  # 0.04, s = 0.01: 0.04 ± 0.025
        ((-15, -20, -25), 3, "refuted"),
        ((-1, 0, 1), 3, "equivalent"),  # s = 0.002: the 90 % interval is 0 ± 2.920 * 0.002 / 1.732 = 0 ± 0.003
        ((15, 20, 25), 4, "not settled"),  # one student is missing
    ],
)
def test_the_word_for_a_difference_by_hand(ahead: tuple[int, ...], students: int, said: str) -> None:
    assert control.word(control.differences(arms(*ahead), "tailored", "gold", "exam"), students) == said


def test_the_table_shows_mean_interval_and_word() -> None:
    told = control.tables(arms(15, 20, 25), (1, 2, 3), ("tailored", "gold", "uniform"), GOLD.pairs)
    assert "| tailored less gold | +0.040 [+0.015, +0.065] confirmed | +0.000 [+0.000, +0.000] equivalent |" in told
    assert "| 2 | 0.330 | 0.840, 0.800, 0.800 |" in told
    assert "3 of 3 students" in told and "tailored ends above gold in exam" in told


def test_what_is_open_is_said_not_to_be_supported() -> None:
    told = control.tables(arms(10, 20, 30), (1, 2, 3), ("tailored", "gold", "uniform"), GOLD.pairs)
    supported, open_ = (line for line in told.splitlines() if line.startswith("**What"))
    assert "tailored against gold in exam" in open_ and "gold in exam" not in supported.replace("gold and uniform", "")


@pytest.mark.parametrize(("tokens", "said"), [(1020, "are equal"), (1021, "are **not equal**")])
def test_arms_whose_tokens_differ_by_more_than_2_percent_are_not_called_equal(tokens: int, said: str) -> None:
    rows = [made(1, "tailored", 400, tokens), made(1, "gold", 400), made(1, "uniform", 400)]
    assert said in control.tables(rows, (1,), ("tailored", "gold", "uniform"), GOLD.pairs)


# ---- students


def test_a_student_is_made_once_found_by_its_digest_and_refused_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import asdict

    from safetensors.numpy import save_file

    from tutorloop.agents.pretrain import Recipe
    from tutorloop.evals.arithmetic import draw_profile

    calls: list[int] = []

    def pretrains(command: list[str], check: bool) -> None:
        folder, seed = Path(command[command.index("--out") + 1]), int(command[command.index("--seed") + 1])
        calls.append(seed)
        folder.mkdir()
        weights(folder, float(seed))
        said = {"seed": seed, "bugs": draw_profile(seed), "recipe": asdict(Recipe())}
        (folder / "provenance.json").write_text(json.dumps(said))

    def weights(folder: Path, value: float) -> None:
        import numpy

        save_file({"w": numpy.full(3, value, dtype="float32")}, folder / "model.safetensors")

    monkeypatch.setattr(control.subprocess, "run", pretrains)
    one, other = control.student(11, tmp_path), control.student(12, tmp_path)
    assert control.student(11, tmp_path) == one != other and calls == [11, 12] and len(one.name) == 64
    weights(one, 5.0)
    with pytest.raises(SystemExit, match="holds other weights than it is called after"):
        control.student(11, tmp_path)


# ---- what is committed


@pytest.mark.parametrize("it", ALL, ids=lambda it: it.name)
def test_every_row_names_the_protocol_one_of_its_students_and_one_of_its_arms_once(it: Any) -> None:
    told, rows = it.protocol(), control.read(it.data)
    assert {r.protocol for r in rows} <= {it.digest()}
    assert {(r.seed, r.arm) for r in rows} <= {(s, a) for s in told.seeds for a in told.arms}
    assert len({(r.seed, r.arm) for r in rows}) == len(rows)
    assert all(len({r.student for r in rows if r.seed == s}) <= 1 for s in told.seeds)


@pytest.mark.parametrize("it", ALL, ids=lambda it: it.name)
def test_the_docs_show_the_data(it: Any) -> None:
    told, rows = it.protocol(), control.read(it.data)
    assert {(r.seed, r.arm) for r in rows} == {(seed, arm) for seed in told.seeds for arm in told.arms}
    shown = control.tables(rows, told.seeds, told.arms, it.pairs)
    page = {"gold_control": "README.md", "policies": "docs/comparisons.md"}[it.name]
    assert shown in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("it", ALL, ids=lambda it: it.name)
def test_every_arm_of_a_protocol_is_a_method_whose_settings_are_sound(it: Any) -> None:
    told = it.protocol()
    assert {arm for pair in it.pairs for arm in pair} == set(told.arms) >= set(told.only)
    for arm in told.arms:
        ready = prepare({**told.experiment, "method": arm}, told.only.get(arm, ()))
        assert ready.stages[-1].name == arm and ready.stages[-1].rounds.times == told.experiment["rounds"]


def test_no_student_of_one_comparison_is_one_of_the_other() -> None:
    assert not set(GOLD.protocol().seeds) & set(POLICIES.protocol().seeds)


def test_an_arm_gets_what_is_for_it_alone_and_no_other_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = dict[str, Any]()

    def launches(experiment: Any, root: Path, overrides: Any = ()) -> Any:
        asked[experiment["method"]] = (experiment["seed"], experiment["placement"], tuple(overrides))
        return "report"

    monkeypatch.setattr(control.tutorloop, "launch", launches)
    monkeypatch.setattr(control, "row", lambda report, root, **more: more["protocol"])
    for arm in ("contrast", "gold"):
        assert control.taught(POLICIES, 21, arm, tmp_path / "student", tmp_path) == POLICIES.digest()
    assert asked["gold"] == (21, "local", ())
    assert "update.dpo.max_steps=45" in asked["contrast"][2] and asked["contrast"][:2] == (21, "local")
