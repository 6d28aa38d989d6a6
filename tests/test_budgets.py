"""Prices and budgets: what a run costs is reckoned from its record, and it stops before it costs more than it may."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tutorloop.agents.purse import BudgetSpent, Purse
from tutorloop.loops.config import ConfigError
from tutorloop.loops.launch import launch, prepare
from tutorloop.loops.report import report_page
from tutorloop.loops.show import read_run
from tutorloop.loops.words import run_lines
from tutorloop.policies.records import Cost, Price
from tutorloop.policies.room import Ledger
from tutorloop.policies.rounds import Budget, Report
from tutorloop.tests.policies_for_tests import once, small
from tutorloop.tests.provider import Provider

ONCE = """
async def policy(case, room):
    return await room.teacher.aask(f"Correct it.\\n{case.question}\\n{case.work}")
"""


Start = Callable[..., Report]


@pytest.fixture
def start(tmp_path: Path, provider: Provider, no_power_cuts: None) -> Start:
    """One round in which sixty cases ask a chat teacher once, into `run`."""

    def go(concurrency: int = 64, **changes: Any) -> Report:
        return launch(experiment(tmp_path, provider, concurrency=concurrency, **changes), tmp_path / "run")

    provider.behave()
    return go


def experiment(folder: Path, provider: Provider, concurrency: int = 64, **changes: Any) -> dict[str, Any]:
    teacher = {
        "teacher__engine": "chat",
        "teacher__url": provider.url,
        "teacher__model": "m-1",
        "teacher__policy": small.policy(folder, ONCE),
        "teacher__limits__concurrency": concurrency,
    }
    return small.experiment(folder, **{"method": f"{once.__file__}:METHOD", "rounds": 1, **teacher, **changes})


# ---- the purse


class Spent:
    """A ledger of which only the sums are asked."""

    def __init__(self) -> None:
        self.cost, self.failed = Cost(), Counter[str]()

    def spent(self, step: str = "", member: str = "teacher") -> Cost:
        return self.cost

    def faults(self, step: str = "", member: str = "teacher") -> Mapping[str, int]:
        return self.failed


def purse(**budget: Any) -> tuple[Purse, Spent]:
    spent = Spent()
    return Purse(Budget(**budget), cast(Ledger, spent)), spent


def test_as_many_calls_are_in_flight_as_the_budget_has_left_and_failed_ones_are_counted() -> None:
    purse_, spent = purse(teacher_calls=5)
    spent.cost, spent.failed = Cost(calls=2), Counter({"timeout": 1})
    assert [purse_.take(10, 10) for _ in range(3)] == [True, True, False]
    spent.failed["dropped"] += 1
    purse_.give_back(1, 10, 10)
    assert not purse_.take(10, 10), "4 were made, and one is in flight"
    spent.cost = Cost(calls=3)
    purse_.give_back(1, 10, 10)
    with pytest.raises(BudgetSpent, match=r"the budget of 5 teacher calls is spent \(5\); .*budget.teacher_calls=MORE"):
        purse_.take(10, 10)


def test_what_is_in_flight_holds_what_it_may_take() -> None:
    purse_, spent = purse(teacher_tokens=100)
    assert [purse_.take(10, 20), purse_.take(10, 20), purse_.take(10, 20)] == [True, True, True]
    assert not purse_.take(10, 20), "90 are held, and 30 more are too many"
    spent.cost = Cost(calls=1, tokens_in=10, tokens_out=10)
    purse_.give_back(1, 10, 20)
    assert not purse_.take(10, 20), "20 are spent and 60 are held"
    assert purse_.take(10, 10)


def test_when_nothing_is_in_flight_one_call_may_go_as_long_as_anything_is_left() -> None:
    purse_, spent = purse(teacher_tokens=100)
    spent.cost = Cost(calls=3, tokens_in=90, tokens_out=9)
    assert purse_.take(500, 500) and not purse_.take(0, 1)
    spent.cost = Cost(calls=3, tokens_in=90, tokens_out=10)
    purse_.give_back(1, 500, 500)
    with pytest.raises(BudgetSpent, match=r"budget of 100 teacher tokens is spent \(100\)"):
        purse_.take(0, 1)


def test_dollars_are_tokens_at_their_price_in_and_out() -> None:
    price = Price(input=1.0, output=10.0)
    purse_, spent = purse(teacher_dollars=0.002, price=price)
    spent.cost = Cost(calls=1, tokens_in=500, tokens_out=50)  # 0.0005 + 0.0005 dollars
    assert purse_.take(100, 80), "0.0001 + 0.0008"
    assert not purse_.take(0, 11), "0.0001 are left"
    assert purse_.take(0, 10)
    spent.cost = Cost(calls=2, tokens_in=500, tokens_out=150, unmetered=1)
    with pytest.raises(BudgetSpent, match=r"\$0.002 .* is spent \(at least \$0.0020\); .*budget.teacher_dollars="):
        purse_.take(0, 1)


def test_of_a_wave_as_many_asks_go_out_as_calls_are_left() -> None:
    purse_, spent = purse(teacher_calls=5)
    spent.cost = Cost(calls=2)
    assert (purse_.fit(1), purse_.fit(64)) == (1, 2), "two waves at the same time"
    spent.cost = Cost(calls=5)
    purse_.give_back(3)
    with pytest.raises(BudgetSpent):
        purse_.fit(1)
    assert purse()[0].fit(64) == 64


# ---- in a run


@pytest.mark.parametrize("faults", [{}, {"500": 0.2, "dropped": 0.1}], ids=["all well", "with faults"])
def test_a_budget_of_calls_is_never_overrun_whatever_is_in_flight(
    faults: dict[str, float], tmp_path: Path, provider: Provider, start: Start
) -> None:
    provider.behave(latency=0.02, faults=faults)
    stopped = start(budget__teacher_calls=30)
    assert stopped.status == "stopped" and "budget of 30 teacher calls is spent (30)" in stopped.why
    assert provider.told().calls == 30 == len(small.paid(tmp_path / "run"))
    again = start(budget__teacher_calls=30)
    assert again == stopped and provider.told().calls == 30, "the same budget pays for nothing more"
    assert start(budget__teacher_calls=1000).status == "finished"
    seen = provider.told()
    assert {*seen.answered.values()} == {1} and len(seen.answered) == 60
    assert len(small.paid(tmp_path / "run")) == seen.calls


def test_what_is_begun_early_is_paid_from_the_same_purse(tmp_path: Path, provider: Provider, start: Start) -> None:
    """Sixty cases are verified, and taught as soon as they are."""
    provider.behave(latency=0.02)
    text = """
from dataclasses import replace
from tutorloop.tests.policies_for_tests import once

async def looked(case, room):
    await room.teacher.aask(f"What is wrong?\\n{case.question}\\n{case.work}")

METHOD = replace(once.METHOD, verify=looked)
"""
    for _ in range(3):
        start(method=small.policy(tmp_path / "m", text, "METHOD"), budget__teacher_calls=90)
    assert provider.told().calls == 90 == len(small.paid(tmp_path / "run"))


@pytest.mark.parametrize("unit", ["tokens", "dollars"])
def test_tokens_and_dollars_are_overrun_by_one_call_though_many_are_in_flight(
    unit: str, tmp_path: Path, provider: Provider, start: Start
) -> None:
    provider.behave(latency=0.02)
    prices = {"teacher__price__input": 100.0, "teacher__price__output": 500.0, "teacher__max_tokens": 60}
    limit = 1000 if unit == "tokens" else 0.25
    assert start(**prices, **{f"budget__teacher_{unit}": limit}).status == "stopped"
    paid = [(e.tokens_in, e.tokens_out) for e in small.paid(tmp_path / "run")]
    costs = [n + m if unit == "tokens" else (100 * n + 500 * m) / 1e6 for n, m in paid]
    assert limit <= sum(costs) < limit + max(costs)
    assert provider.told().most > 3 and 10 < len(paid) < 60
    assert start(**prices, **{f"budget__teacher_{unit}": 100 * limit}).status == "finished"
    assert {*provider.told().answered.values()} == {1}


def test_a_local_teacher_takes_of_a_wave_what_the_budget_has_left_and_the_same_each_time(tmp_path: Path) -> None:
    def told(**changes: Any) -> dict[str, Any]:
        return small.experiment(tmp_path, rounds=1, method=f"{once.__file__}:METHOD", **changes)

    for name in ("run", "twin"):
        stopped = launch(told(budget__teacher_calls=17), tmp_path / name)
        assert "budget of 17 teacher calls is spent (17)" in stopped.why
    asked = [(e.item, e.reply) for e in small.paid(tmp_path / "run")]
    assert len(asked) == 17 and asked == [(e.item, e.reply) for e in small.paid(tmp_path / "twin")]
    done = launch(told(budget__teacher_calls=1000), tmp_path / "run")
    assert done.status == "finished" and done.rounds[1].cost.calls == 60
    assert done == launch(told(), tmp_path / "at-once")


def test_budgets_may_grow_and_not_shrink_and_the_price_may_change(provider: Provider, start: Start) -> None:
    start(budget__teacher_calls=100, teacher__price={"input": 1, "output": 1})
    with pytest.raises(ConfigError, match=r"`budget\.teacher_calls` may grow and not shrink"):
        start(budget__teacher_calls=99)
    start(budget__teacher_calls=100, teacher__price={"input": 2, "output": 3})
    assert provider.told().calls == 60


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"budget": {"teacher_dollars": 5}}, "`budget.teacher_dollars` needs to know what a token costs"),
        ({"teacher": {"price": {"input": 1}}}, "both `input` and `output`"),
        ({"teacher": {"price": {"input": -1, "output": 1}}}, "greater than or equal to 0"),
        ({"teacher": {"price": {"in": 1, "out": 1}}}, "the nearest is `input`"),
        ({"budget": {"dollars": 1}}, "the nearest is `teacher_dollars`"),
    ],
)
def test_a_price_or_a_budget_that_is_told_wrong_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        prepare({"placement": "local", **changes})


# ---- what it cost


def test_a_run_tells_its_cost_by_round_and_in_all_and_another_price_asks_nothing_again(
    tmp_path: Path, provider: Provider, start: Start
) -> None:
    provider.behave(faults={"500": 0.1, "dropped": 0.1})
    start(rounds=2)
    seen, entries = provider.told(), small.paid(tmp_path / "run")
    before = read_run(tmp_path / "run")
    assert before.bill.dollars is None and before.bill.cost == "unknown"
    assert "unknown" in "\n".join(run_lines(before))
    start(rounds=2, teacher__price={"input": 100.0, "output": 500.0})
    view = read_run(tmp_path / "run")
    assert provider.told() == seen, "nobody was called for the other price"
    for number in (1, 2):
        mine = [e for e in entries if e.step == f"{number}/teach"]
        good, bill = [e for e in mine if not e.fault], view.rounds[number].bill
        sums = sum(e.tokens_in for e in mine), sum(e.tokens_out for e in mine)
        assert (bill.calls, bill.tokens_in, bill.tokens_out) == (len(good), *sums)
        assert bill.dollars == pytest.approx((100 * sums[0] + 500 * sums[1]) / 1e6)
        assert Counter(bill.failed) == Counter(e.fault for e in mine if e.fault)
        assert bill.reused == view.rounds[number].reused == 60 - len(good)
    first, second = (view.rounds[n].bill for n in (1, 2))
    assert second.reused > 0 and {*first.failed} == {"server error", "dropped"}
    assert view.bill.dollars == pytest.approx((first.dollars or 0) + (second.dollars or 0))
    text, page = "\n".join(run_lines(view)), report_page(tmp_path / "run")
    for told in (first.cost, second.cost, view.bill.cost):
        assert told in text and told in page and told.startswith("$")
    assert f"{first.failed['dropped']} dropped, {first.failed['server error']} server error" in text


def test_tokens_that_the_provider_does_not_tell_make_the_cost_at_least_so_much(
    tmp_path: Path, provider: Provider, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    provider.behave(metered=False)
    start(teacher__price={"input": 1, "output": 1}, budget__teacher_dollars=1.0)
    view = read_run(tmp_path / "run")
    assert (view.bill.unmetered, view.bill.cost) == (60, "at least $0.00")
    assert "of 60 answers the provider did not say the tokens" in "\n".join(run_lines(view))
    assert "none are counted, and a budget of tokens or dollars does not see them" in caplog.text


def test_what_a_stopped_run_has_spent_in_its_open_round_is_told(
    tmp_path: Path, provider: Provider, start: Start
) -> None:
    start(budget__teacher_calls=25)
    view = read_run(tmp_path / "run")
    assert [r.round for r in view.rounds] == [0] and view.bill.calls == 25
    assert "all, 25 asks of an open round too" in "\n".join(run_lines(view))


def test_a_local_teacher_without_a_price_has_no_table_of_costs(tmp_path: Path) -> None:
    launch(small.experiment(tmp_path, rounds=1), tmp_path / "run")
    view = read_run(tmp_path / "run")
    assert view.bill.calls == view.rounds[1].teacher_calls > 0 and view.bill.dollars is None
    assert "without an answer" not in "\n".join(run_lines(view)) + report_page(tmp_path / "run")
    priced = {"teacher__price": {"input": 0, "output": 0}}
    launch(small.experiment(tmp_path, rounds=1, **priced), tmp_path / "run")
    assert "$0.00" in "\n".join(run_lines(read_run(tmp_path / "run"))), "known to be nothing"
