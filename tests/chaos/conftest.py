"""The experiments that the chaos grid disturbs, each in the worlds where its roles may live."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tutorloop.tests.chaos.grid import Lab
from tutorloop.tests.policies_for_tests import small

if sys.platform != "linux":  # it finds processes in /proc
    collect_ignore_glob = ["test_*.py"]

ROWS = Path(os.environ["KILL_ROWS"]).absolute() if "KILL_ROWS" in os.environ else None

POLICY = """
from tutorloop import Lesson
from tutorloop.tests.policies_for_tests.shapes import prompt

async def policy(case, room):
    await room.teacher.aask("First a word about\\n" + case.question, fresh=True)
    text = await room.teacher.aask(prompt(case))
    again = await room.aretry(case, context=text.splitlines()[0])
    room.note("last", [case.id, again.right])
    await room.teacher.aask("The same for everybody.")
    return Lesson(text=text, target=text, act="correction", rejected=case.work)
"""


def scripted(folder: Path, **changes: Any) -> dict[str, Any]:
    """Every phase is a step, tables have two parts, a case asks the teacher three times, a round unlearns a little."""
    return small.experiment(
        folder,
        course={"practice": 70, "quiz": 30, "exam": 70, "twins": 1, "retention": 2},
        schedule={"rows": 70, "ask": 66},
        triage="tutorloop.policies.triage:wrong",
        teacher__policy=small.policy(folder, POLICY),
        placement="ray",
        **changes,
    )


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Lab]]:
    """`opened(told, world)`: an experiment, its roles in one process; with `ray=` of that lab, the same in actors."""
    labs: list[Lab] = []

    def open_lab(told: dict[str, Any], world: str, ray: Lab | None = None) -> Lab:
        folder = tmp_path_factory.mktemp("lab")
        labs.append(Lab(folder, told, world, () if ray else ("placement=local",), ROWS, ray))
        return labs[-1]

    yield open_lab
    for lab in labs:
        lab.close()


@pytest.fixture(scope="session")
def local(opened: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Scripted roles in the driver's process."""
    return opened(scripted(tmp_path_factory.mktemp("told")), "scripted, one process")


@pytest.fixture(scope="session")
def ray(opened: Callable[..., Lab], local: Lab) -> Lab:
    """Scripted roles in actors."""
    return opened(local.told, "scripted, Ray", ray=local)


@pytest.fixture(scope="session")
def long(opened: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The same on Ray with a student that learns slowly, so that each phase comes again and again."""
    told = scripted(tmp_path_factory.mktemp("told"), rounds=14, student__options={"rows_to_unlearn": 24})
    return opened(told, "scripted, Ray", ray=opened(told, ""))


@pytest.fixture(scope="session")
def real(opened: Callable[..., Lab]) -> Lab:
    """The shipped student, transformers, PEFT and TRL, in actors."""
    told = {
        "rounds": 2,
        "course": {"practice": 100, "quiz": 40, "exam": 20, "twins": 0, "retention": 1},
        "schedule": {"rows": 32},
        "placement": "ray",
    }
    return opened(told, "real TRL, Ray", ray=opened(told, ""))


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Lab:
    found: Lab = request.getfixturevalue(request.param)
    return found
