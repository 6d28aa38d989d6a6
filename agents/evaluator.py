"""The evaluator: a student replica of its own, the graders, and the only key to the sealed pools.

What leaves it is what a sheet needs: problem, attempt, verdict, skill. Gold does not.
"""

from collections.abc import Sequence

from ..evals.graders import grade
from ..evals.pools import Pool, Sealed
from ..evals.records import Attempt, Gold, Problem, State
from ..policies.records import Marked
from .roles import Canary, Evidence, Hello, Readings, Reply, Request, Server


class Evaluator:
    """Implements `Examiner` with any engine's server."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def hello(self) -> Hello:
        return self.server.hello()

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        return self.server.read(state, canaries)

    def prove(self, evidence: Evidence) -> float:
        return self.server.prove(evidence)

    def generate(self, state: State, requests: Sequence[Request]) -> list[Reply]:
        return self.server.generate(state, requests)

    def sit(self, pool: Sealed, shard: int, state: State) -> list[Marked]:
        problems, gold = _open(pool.locked, shard)
        replies = self.server.generate(state, [Request(messages=p.messages) for p in problems])
        marked = []
        for problem, reply in zip(problems, replies, strict=True):
            truth = gold[problem.id]
            attempt = Attempt(
                problem=problem.id,
                text=reply.text,
                finish=reply.finish,
                state=state.digest,
                token_ids=reply.token_ids,
                logprobs=reply.logprobs,
            )
            verdict = grade(problem, truth, attempt)
            marked.append(Marked(problem=problem, attempt=attempt, verdict=verdict, skill=truth.skill))
        return marked


def _open(pool: Pool, shard: int) -> tuple[Sequence[Problem], dict[str, Gold]]:
    """One shard's problems and their gold; the other parts are not read."""
    if shard >= pool.problems.parts:
        raise ValueError(f"`{pool.name}` has {pool.problems.parts} shards; there is no shard {shard}.")
    problems = pool.problems.shard(shard)
    return problems, {g.problem: g for g in pool.gold.shard(shard)}  # `make_course` cuts gold like the problems
