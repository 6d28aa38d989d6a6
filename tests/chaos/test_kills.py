"""Whoever is killed, and when: the same command ends as if nothing had been.

Not covered: power cuts (what was written survives a kill), several machines, GPUs.
"""

import os
import random

import pytest

from tutorloop.tests.chaos.grid import Dice, Lab, Replacing
from tutorloop.tests.chaos.start import DAEMONS, PHASES, ROLES, SERVERS

pytestmark = pytest.mark.kill

SEED = int(os.environ.get("KILL_SEED", "0"))
"""Of the random part."""


def test_an_undisturbed_run_comes_through_every_phase(local: Lab) -> None:
    assert {m.phase for m in local.start.moments} >= {*PHASES}
    assert {m.who for m in local.start.moments} == {"driver", *ROLES}
    assert sum(local.paid.values()) > 100


@pytest.mark.parametrize("lab", ["local", "long"], indirect=True)
def test_a_driver_is_killed_in_every_phase(lab: Lab) -> None:
    run = lab.run("driver")
    run.each_phase("driver")
    run.finish()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_killed_in_every_phase_of_one_run_and_replaced_each_time(role: str, long: Lab) -> None:
    run = long.run(role)
    plan = Replacing(run, dict.fromkeys(PHASES, role))
    start = run.start(plan)
    run.same(start)
    assert not plan.todo
    plan.tell(start)


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_of_ray_is_killed_in_every_phase(server: str, long: Lab) -> None:
    run = long.run(server)
    run.each_phase(server)
    run.finish()


@pytest.mark.parametrize("agent", sorted({*DAEMONS} - {*SERVERS}))
def test_an_agent_of_ray_is_killed_and_its_raylet_ends_itself(agent: str, long: Lab) -> None:
    run = long.run(agent)
    run.each_phase(agent, phases=("begin", "attempt", "train sft", "gate"))
    run.finish()


def test_the_roles_of_a_real_student_are_killed_and_replaced(real: Lab) -> None:
    where = {"begin": "evaluator", "attempt": "student", "teach": "teacher", "train sft": "learner"}
    more = {"train dpo": "learner", "publish": "student", "quiz": "evaluator"}
    run = real.run("roles")
    plan = Replacing(run, {**where, **more})
    start = run.start(plan)
    run.same(start)
    assert not plan.todo
    plan.tell(start)


def test_a_run_on_real_trl_is_killed_again_and_again(real: Lab) -> None:
    run = real.run("again")
    run.each_phase("driver", phases=("attempt", "train sft", "train dpo", "quiz"))
    run.each_phase("gcs_server", phases=("train sft",))
    run.each_phase("raylet", phases=("publish",))
    run.finish()


@pytest.mark.parametrize("lab, kills", [("local", 5), ("ray", 10), ("real", 4)], indirect=["lab"])
def test_anybody_is_killed_at_random_moments(kills: int, lab: Lab) -> None:
    run = lab.run(f"random-{SEED}")
    victims = ["driver"] if lab.reference is None else ["driver", *ROLES, *DAEMONS]
    dice = Dice(run, random.Random(f"{SEED}/{lab.world}"), victims, kills)
    while run.cut(dice, dice.ended).code != 0:
        assert len(run.starts) <= kills
    run.same(run.starts[-1])
    lab.tell(seed=SEED, kills=dice.hits, starts=len(run.starts))
