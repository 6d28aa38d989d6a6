"""Two runs side by side: the same problems by content, sums by hand, and no more claimed than one pair can show."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tutorloop import JournalError, launch
from tutorloop.evals.records import Attempt, Problem, Verdict, user
from tutorloop.evals.rows import write_rows
from tutorloop.loops.cli import app
from tutorloop.loops.compare import ONE_PAIR, _pool, compare, comparison_lines
from tutorloop.policies.records import Marked
from tutorloop.policies.rounds import Sheet
from tutorloop.tests.policies_for_tests import small


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `tailored`, `gold` (the method, three rounds) and `short` (one round)."""
    folder = tmp_path_factory.mktemp("compare")
    launch(small.experiment(folder), folder / "tailored")
    launch(small.experiment(folder, method="gold", rounds=3), folder / "gold")
    launch(small.experiment(folder, rounds=1), folder / "short")
    return folder


@pytest.fixture
def sheet(tmp_path: Path) -> Callable[..., Sheet]:
    """`sheet("1+1 right plus", ...)`: question, label and skill of each row."""

    def make(*told: str, prefix: str = "p") -> Sheet:
        rows = []
        for i, line in enumerate(told):
            question, said, skill = line.split()
            label: Any = said
            problem = Problem(id=f"{prefix}{i}", messages=user(question))
            attempt = Attempt(problem=problem.id, text="", finish="stop", state="s")
            rows.append(Marked(problem=problem, attempt=attempt, verdict=Verdict(label=label, by="t"), skill=skill))
        table = write_rows(tmp_path, f"sheet-{len(list(tmp_path.iterdir()))}", Marked, rows)
        right = sum(row.verdict.right for row in rows)
        return Sheet(pool="exam", state="s", n=len(rows), right=right, truncated=0, unparsed=0, rows=table)

    return make


def test_problems_are_matched_by_content_and_counted_by_hand(sheet: Callable[..., Sheet]) -> None:
    """17+25 and 25+17 are one problem, whatever their ids; 9-1 and 8-1 are in one run only."""
    first = sheet("17+25 right plus", "3-1 right minus", "4-1 wrong minus", "5-1 truncated minus", "9-1 right minus")
    second = sheet(
        *("8-1 wrong minus", "5-1 wrong minus", "4-1 right minus", "3-1 unparsed minus", "25+17 right plus"), prefix="q"
    )
    found = _pool(first, second)
    assert found is not None
    assert (found.n, found.both, found.only_first, found.only_second, found.neither) == (4, 1, 1, 1, 1)
    assert found.accuracy == (2 / 4, 2 / 4) and found.difference == 0 and found.p == 1.0
    assert found.left_out == (1, 1) and found.unread == (1, 1)
    assert found.lost == [("p1", "q3")] and found.won == [("p2", "q2")]
    assert {name: (pair.n, pair.both) for name, pair in found.skills.items()} == {"plus": (1, 1), "minus": (3, 0)}


def test_a_lead_is_tested_in_pairs(sheet: Callable[..., Sheet]) -> None:
    """8 problems that only the second has right: p = 2 / 2**8; a = 1/14, b = 9/14 of the adjusted interval."""
    first = sheet(*(f"{i}-1 {'right' if i < 4 else 'wrong'} s" for i in range(12)))
    second = sheet(*(f"{i}-1 right s" for i in range(12)))
    found = _pool(first, second)
    assert found is not None and found.p == 2 / 256 and found.verdict == "confirmed"
    assert found.difference == pytest.approx(8 / 12)
    half = 1.959964 * ((10 / 14 - (8 / 14) ** 2) / 14) ** 0.5
    assert found.interval == pytest.approx((8 / 14 - half, 8 / 14 + half), abs=1e-6)


def marks(root: Path, number: int, pool: str) -> dict[str, bool]:
    sheets = small.value(root, f"final/{number}", dict[str, Sheet])
    return {row.problem.question: row.verdict.right for row in sheets[pool].rows}


def test_two_runs_are_told_as_their_folders_have_them(home: Path) -> None:
    found = compare(home / "short", home / "gold")
    for pool, pair in found.pools.items():
        a, b = marks(home / "short", 1, pool), marks(home / "gold", 3, pool)
        assert pair.n == len(a) == len(b) and a.keys() == b.keys()
        assert pair.only_first == sum(a[q] and not b[q] for q in a)
        assert pair.only_second == sum(b[q] and not a[q] for q in a)
        assert pair.accuracy == (sum(a.values()) / len(a), sum(b.values()) / len(b))
        assert sum(skill.n for skill in pair.skills.values()) == pair.n
    assert set(found.pools) == {"exam", "probe", "retention"} and found.pools["exam"].only_second > 3
    assert found.same_start and found.verdict == found.pools["exam"].verdict
    assert found.differs == {"method": ("tailored", "gold"), "rounds": (1, 3)}
    reports = [small.report(home / "short", 1)]
    assert found.first.teacher_tokens == sum(r.cost.tokens for r in reports) > 0 == found.second.teacher_tokens
    steps = [json.loads(p.read_bytes()) for p in (home / "gold/steps").glob("*/train-*-sft.json")]
    assert found.second.optimizer_tokens["sft"] == sum(step["value"]["tokens"] for step in steps) > 0
    assert (found.first.after_round, found.second.after_round) == (1, 3)


def test_a_run_is_as_good_as_itself_and_one_pair_shows_no_method(home: Path) -> None:
    found = compare(home / "gold", home / "gold")
    told = "\n".join(comparison_lines(found))
    assert found.pools["exam"].difference == 0 and found.differs == {} and found.verdict == "not settled"
    assert "their settings, sources and versions are the same" in told and "neither run is ahead" in told
    assert ONE_PAIR in told and found.caution == ONE_PAIR
    assert "teacher tokens: equal, 0.0% apart" in told


def test_the_command_says_it_in_words_and_in_json(home: Path) -> None:
    told = CliRunner().invoke(app, ["compare", str(home / "tailored"), str(home / "gold")])
    assert told.exit_code == 0 and told.stdout.startswith(f"A  {home / 'tailored'}  finished; method tailored")
    assert "teacher tokens: NOT EQUAL, 100.0% apart" in told.stdout
    data = json.loads(CliRunner().invoke(app, ["compare", str(home / "tailored"), str(home / "gold"), "--json"]).stdout)
    exam = data["pools"]["exam"]
    assert exam["both"] + exam["only_first"] + exam["only_second"] + exam["neither"] == exam["n"] == 60
    assert data["verdict"] in ("confirmed", "equivalent", "not settled") and data["sentence"] in told.stdout


def test_what_is_hostile_in_a_name_is_no_order_to_the_terminal(home: Path) -> None:
    found = compare(home / "short", home / "gold")
    pools = {"\x1b[2J": replace(found.pools["exam"], won=[("\x1b[2J", "\u202e")])}
    told = "".join(comparison_lines(replace(found, pools=pools, differs={"\x1b": ("\x07", 1)})))
    assert told.isprintable()


def lone(home: Path, name: str, first: int) -> Path:
    """A run on questions of its own, from number `first`."""
    rows = [{"question": f"{i}+{i}", "answer": str(2 * i)} for i in range(first, first + 90)]
    (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told: dict[str, Any] = small.experiment(home, rounds=0)
    told["course"] = {"kind": "jsonl", "path": str(home / f"{name}.jsonl"), "practice": 30, "quiz": 30, "exam": 30}
    launch(told, home / name)
    return home / name


def test_exams_without_a_problem_in_common_are_not_compared(tmp_path: Path) -> None:
    a, b = lone(tmp_path, "a", 0), lone(tmp_path, "b", 100)
    with pytest.raises(JournalError, match="have no problem in common"):
        compare(a, b)
    done = CliRunner().invoke(app, ["compare", str(a), str(b)])
    assert done.exit_code == 2 and done.stdout == "" and "Compare runs with the same `course`" in done.stderr


def test_a_run_without_an_exam_and_a_folder_without_a_run_are_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no run"):
        compare(home / "gold", tmp_path)
    begun = shutil.copytree(home / "short", tmp_path / "begun")
    shutil.rmtree(begun / "steps")
    with pytest.raises(JournalError, match="sat no exam yet"):
        compare(home / "gold", begun)
