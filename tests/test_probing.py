"""A probe asks about a few real cases and says what the whole run would take."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tutorloop.loops.cli import app
from tutorloop.loops.config import ConfigError
from tutorloop.loops.foreseeing import Probe
from tutorloop.loops.launch import launch
from tutorloop.loops.plan import plan
from tutorloop.policies.rounds import Report
from tutorloop.tests.policies_for_tests import once, small
from tutorloop.tests.provider import Provider

PRICE = {"input": 0.25, "output": 2.0}
ONCE = f"{once.__file__}:METHOD"


def experiment(folder: Path, provider: Provider, **changes: Any) -> dict[str, Any]:
    """One round of three hundred problems, taught by a chat model."""
    usual = {"teacher__engine": "chat", "teacher__url": provider.url, "teacher__model": "m-1", "teacher__price": PRICE}
    more = {"course__practice": 300, "method": ONCE, "rounds": 1}
    return small.experiment(folder, **{**usual, **more, **changes})


def probed(folder: Path, told: dict[str, Any], n: int = 20) -> Probe:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(told))
    found = plan(file, probe=n, tell=lambda line: None).probe
    assert found is not None
    return found


def ratios(probe: Probe, report: Report) -> tuple[float, float]:
    """Tokens and dollars that were foreseen, to those that a run has taken."""
    spent = sum((r.cost for r in report.rounds), start=report.rounds[0].cost)
    dollars = (spent.tokens_in * PRICE["input"] + spent.tokens_out * PRICE["output"]) / 1e6
    assert probe.about.dollars is not None
    return probe.about.tokens / spent.tokens, probe.about.dollars / dollars


@pytest.mark.parametrize(
    ("method", "seed"),
    [
        (ONCE, 0),
        ("retry", 1),
        ("tailored", 2),
        *(pytest.param("tailored", n, marks=pytest.mark.slow) for n in range(3, 8)),
        *(pytest.param(name, 8, marks=pytest.mark.slow) for name in ("socratic", "explain")),
    ],
)
def test_a_probe_of_twenty_is_within_a_fifth_of_the_tokens_and_the_cost_of_a_round(
    method: str, seed: int, tmp_path: Path, provider: Provider, no_power_cuts: None
) -> None:
    provider.behave()
    told = experiment(tmp_path, provider, method=method, seed=seed)
    found, seen = probed(tmp_path, told), provider.told()
    assert found.calls == seen.calls and found.cases == 20
    assert found.seen == (60 if method in ("tailored", "explain") else 20)
    provider.behave()
    tokens, dollars = ratios(found, launch(told, tmp_path / "run"))
    assert 0.8 < tokens < 1.2 and 0.8 < dollars < 1.2
    assert found.about.tokens == found.first.tokens == found.most.tokens, "one round: nothing is assumed"


def test_what_a_probe_foresees_is_its_own_sums_times_the_wrong_cases(
    tmp_path: Path, provider: Provider, no_power_cuts: None
) -> None:
    """`retry`: of right cases nobody asks anything, and every wrong one is taught."""
    provider.behave(faults={"500": 0.2})
    found = probed(tmp_path, experiment(tmp_path, provider, method="retry", teacher__limits={"tries": 20}))
    assert found.answers == 300, "all of the round"
    per_case = found.calls / 20, found.tokens_in / 20, found.tokens_out / 20
    expected = tuple(round(x * found.wrong) for x in per_case)
    assert (found.about.calls, found.about.tokens_in, found.about.tokens_out) == expected
    assert found.faults["server error"] == found.calls - 40 > 0, "a call without an answer is a call"
    assert found.dollars == pytest.approx((found.tokens_in * 0.25 + found.tokens_out * 2) / 1e6)


def test_cases_that_fail_are_told_with_why(tmp_path: Path, provider: Provider) -> None:
    provider.behave(faults={"refused": 1.0})
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(experiment(tmp_path, provider)))
    shown = CliRunner().invoke(app, ["plan", str(file), "--probe", "20"])
    assert "20 failed: 20 x refused" in shown.stdout


def test_later_rounds_are_assumed_as_plan_assumes_them_and_this_is_told(tmp_path: Path, provider: Provider) -> None:
    provider.behave()
    found = probed(tmp_path, experiment(tmp_path, provider, method="retry", rounds=3))
    assert found.about.tokens == pytest.approx(found.first.tokens * 1.75, rel=0.01), "1 + 1/2 + 1/4"
    assert found.most.tokens == pytest.approx(found.first.tokens * 3, rel=0.01)
    assert any("50% outlive a round (assumed: no probe can know)" in line for line in found.how)


def test_of_a_large_pool_the_student_answers_a_sample_and_the_share_has_an_interval(
    tmp_path: Path, provider: Provider
) -> None:
    provider.behave()
    found = probed(tmp_path, experiment(tmp_path, provider, course__practice=2000, method="retry"))
    assert found.answers == 400 and found.interval.low < found.wrong / 400 < found.interval.high
    assert any("95 %: " in line and "of the round's 2000" in line for line in found.how)
    calls = found.calls / 20 * 2000 * found.wrong / 400
    assert found.about.calls == pytest.approx(calls, abs=1)


def test_nothing_is_written_where_runs_are_and_the_run_asks_for_itself(
    tmp_path: Path, provider: Provider, no_power_cuts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    provider.behave()
    told = experiment(tmp_path, provider)
    probed(tmp_path, told)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "cache").exists()
    provider.behave()
    report = launch(told, tmp_path / "run")
    assert report.rounds[1].cost.calls == provider.told().calls == 300


def test_a_local_teacher_is_probed_too_and_says_so_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(small.experiment(tmp_path, rounds=2)))
    command = ["plan", f"{tmp_path}/mine.yaml", "--probe", "10"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.stderr
    assert "the teacher (scripted) is asked about 10 cases now: about 50 calls, which are paid" in shown.stderr
    assert "50 calls of the teacher were made" in shown.stdout and "nothing was written" in shown.stdout
    assert "unknown" not in shown.stdout, "nobody bills what a program on this machine says"
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["probe"]
    assert (found["calls"], found["cases"], found["seen"], found["dollars"]) == (50, 10, 30, None)
    assert "probe" not in CliRunner().invoke(app, command[:2]).stdout.split("\nestimate")[1].split("\n\n")[0]


def test_a_probe_stays_within_the_budget_and_names_it(tmp_path: Path, provider: Provider) -> None:
    provider.behave()
    with pytest.raises(ConfigError, match="takes more than the run may: the budget of 5 teacher calls"):
        probed(tmp_path, experiment(tmp_path, provider, budget__teacher_calls=5))
    assert provider.told().calls == 5


def test_where_fewer_are_wrong_than_the_probe_wants_it_asks_about_those(tmp_path: Path, provider: Provider) -> None:
    provider.behave()
    found = probed(tmp_path, experiment(tmp_path, provider, course__practice=20, method="retry"))
    assert 0 < found.cases == found.wrong < 20
