"""How a learner reveals itself."""

from ..evals.records import Attempt, Problem
from .room import Room


async def answer(problem: Problem, room: Room) -> Attempt:
    """One plain answer. The shard's answers are generated as one batch."""
    return await room.learner.aattempt(problem)
