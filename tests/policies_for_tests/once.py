"""A method whose teacher is asked by the policy alone: once for every case, right or wrong."""

from collections.abc import Sequence
from dataclasses import replace

from tutorloop import Case, Room
from tutorloop.policies.checking import Sound
from tutorloop.policies.tailored import METHOD as TAILORED
from tutorloop.policies.updating import sft


async def once(case: Case, room: Room) -> str:
    return await room.teacher.aask(f"Correct this from its first wrong step.\n{case.question}\n{case.work}")


METHOD = replace(
    TAILORED, name="once", requires=(), verify=None, triage=None, teach=once, check=Sound(kinds=("steps",)), update=sft
)


def every(cases: Sequence[Case], room: Room) -> Sequence[Case]:
    return cases


IN_TURN = replace(METHOD, name="in turn", triage=every)
"""The same, and nobody is asked before all problems are answered."""
