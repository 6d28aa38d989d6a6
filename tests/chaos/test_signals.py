"""Signals pause a run; a role that hangs is reported and replaced."""

import signal

import pytest

from tutorloop.tests.chaos.grid import Lab, flying
from tutorloop.tests.chaos.start import Moment, Once, Reply, Start, strike

pytestmark = pytest.mark.kill

DEADLINE = 15
"""Seconds that a role may take here; a busy machine starts one in less."""
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@SIGNALS
def test_a_signal_pauses_the_run_in_every_phase(number: signal.Signals, local: Lab) -> None:
    run = local.run(number.name)
    run.each_phase(number.name, strike("driver", number), run.paused(number))
    run.finish()


@SIGNALS
def test_a_signal_pauses_a_run_on_ray(number: signal.Signals, ray: Lab) -> None:
    """To the driver alone; and, as Ctrl-C and a scheduler do, to every process of its group."""

    def send(start: Start, moment: Moment) -> Reply:
        return start.signal(number, whole=moment.phase == "teach")

    run = ray.run(number.name)
    run.each_phase(number.name, send, run.paused(number), phases=("attempt", "teach", "train dpo"))
    run.finish()


@pytest.mark.parametrize(
    "role, where, how",
    [
        ("student", "attempt", "asleep"),
        ("learner", "train sft", "stopped"),
        ("teacher", "teach", "stopped"),
        ("evaluator", "quiz", "asleep"),
    ],
)
def test_a_role_that_hangs_is_reported_and_replaced_once(role: str, where: str, how: str, ray: Lab) -> None:
    def hang(start: Start, _: Moment) -> Reply:
        if how == "asleep":
            return {"sleeps": 3600}
        start.strike(role, signal.SIGSTOP)
        run.flying.append(flying(run.root))
        return None

    run = ray.run(f"{how}-{role}", f"{role}.deadline={DEADLINE}")
    start = run.start(Once(lambda _, m: m.phase == where and m.who == role, hang))
    run.same(start)
    assert start.said.count(f"{role}/0 did not answer") == start.said.count(f"A new {role}/0 takes its place.") == 1
    assert f"within {DEADLINE} s and was ended" in start.said
    assert ("A signal had stopped it." in start.said) == (how == "stopped")
    # One that was stopped goes on when it is let: it may have come further than where it was.
    assert ("in sleeps_in_a_call" if how == "asleep" else "in _watched") in start.said, "its own traceback"


def test_a_second_loss_in_one_call_ends_the_run_and_the_same_command_goes_on(ray: Lab) -> None:
    def strike_each(start: Start, moment: Moment) -> Reply:
        if moment.phase == "attempt" and moment.event == "call generate":
            start.strike("student")
        return {}

    run = ray.run("twice")
    start = run.cut(strike_each, run.killed("student"))
    assert start.said.splitlines()[-1].startswith("tutorloop: RoleDied: student/0 (pid ")
    run.finish()
