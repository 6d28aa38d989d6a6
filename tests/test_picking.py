"""The lists of problems: which are wrong now, which were fixed, which were lost again."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tutorloop import launch
from tutorloop.evals.records import Attempt, Problem, Verdict, user
from tutorloop.loops.cli import app
from tutorloop.loops.picking import KINDS, listed
from tutorloop.loops.show import RunFolder
from tutorloop.policies.records import Case
from tutorloop.tests.policies_for_tests import small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("lists")
    launch(small.experiment(home, schedule__ask=40), home / "run")
    return home / "run"


def case(id: str, label: str, earlier: Sequence[str], work: str, why: str = "") -> Case:
    return Case(
        id=id,
        problem=Problem(id=id, messages=user("26+28"), domain="arithmetic"),
        attempts=(Attempt(problem=id, text=work, finish="stop", state="s"),),
        grades=(Verdict(label=label, by="number"),),  # type: ignore[arg-type]
        verdicts=(Verdict(label="wrong", by="steps", evidence=why),) if why else (),
        history=tuple(earlier),
    )


FIRST = [
    case("a", "wrong", [], "6+8 put 4\n2+2 put 4\n=44", "forgets-carry"),
    case("b", "right", [], "6+8 put 4\n=54"),
    case("c", "wrong", [], "=1"),
    case("d", "right", [], "=54"),
    case("e", "truncated", [], "26+28 is"),
]
SECOND = [
    case("b", "wrong", ["right"], "6+8 put 4\n2+2 put 4\n=44", "forgets-carry"),
    case("c", "right", ["wrong"], "=54"),
    case("d", "right", ["right"], "=54"),
]


def run(finished: Path, *args: str) -> str:
    done = CliRunner().invoke(app, ["show", str(finished), *args])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_problem_is_listed_as_it_was_last_asked(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "answered", lambda _: iter([(1, FIRST), (2, SECOND)]))
    head, columns, *rows, foot = run(finished, "--only", "wrong").splitlines()
    assert head == "3 of 5 practice problems that were asked are not right, each as last asked"
    assert columns.split() == ["problem", "round", "so", "far", "question", "answer", "wrong", "for"]
    assert [row.split()[:4] for row in rows] == [
        ["b", "2", "right", "wrong"],
        ["a", "1", "wrong", "26+28"],
        ["e", "1", "truncated", "26+28"],
    ]
    assert rows[0].endswith("6+8 put 4 / 2+2 put 4 / =44  first wrong step 1 · forgets-carry")
    assert foot.startswith("round: in which it was last asked")
    for kind, ids in (("fixed", ["c"]), ("regressed", ["b"])):
        told = json.loads(run(finished, "--only", kind, "--json"))
        assert (told["only"], told["asked"], [p["problem"] for p in told["problems"]]) == (kind, 5, ids)
    assert told["problems"][0] == {
        "problem": "b",
        "question": "26+28",
        "round": 2,
        "labels": ["right", "wrong"],
        "answer": "6+8 put 4\n2+2 put 4\n=44",
        "first_wrong": 0,
        "diagnosed": "forgets-carry",
    }


def test_the_lists_of_a_run_are_what_its_tables_say(finished: Path) -> None:
    last: dict[str, tuple[int, list[str]]] = {}
    for number in (1, 2):
        for asked in small.table(finished, f"{number}/attempt"):
            last[asked.problem.id] = number, [*last.get(asked.problem.id, (0, []))[1], asked.grades[0].label]
    told = {kind: {p.problem: (p.round, list(p.labels)) for p in listed(finished, kind).problems} for kind in KINDS}
    assert told["wrong"] == {id: x for id, x in last.items() if x[1][-1] != "right"}
    assert told["fixed"] == {id: x for id, x in last.items() if x[1][-1] == "right" and "wrong" in x[1]}
    assert told["regressed"] == {}, "a scripted student does not forget"
    assert told["wrong"] and told["fixed"] and listed(finished, "wrong").asked == len(last)


def test_what_is_no_list_is_told(finished: Path) -> None:
    done = CliRunner().invoke(app, ["show", str(finished), "--only", "wong"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "'wong' is no kind of problems to list: one of wrong, fixed, regressed" in done.stderr
    done = CliRunner().invoke(app, ["show", str(finished), "sub-0001", "--only", "wrong"])
    assert done.exit_code == 2 and "name one problem, or list --only some" in done.output
    assert run(finished, "--only", "regressed").splitlines()[0].startswith("0 of ")
