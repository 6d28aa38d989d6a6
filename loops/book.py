"""The book of a run: its journal, with what the cycle asks of it beside durable steps."""

from dataclasses import dataclass, field
from itertools import chain

from ..agents.cast import Cast
from ..agents.room import RoundRoom
from ..evals.pools import Course
from ..policies.rounds import Budget, Plan, Report, Reports, RoundReport
from ..policies.slots import Method
from .documents import Fork
from .journal import Journal
from .slots import Slots


@dataclass
class Book(Journal):
    """A journal that hands out the verbs of a round, and closes the run."""

    budget: Budget = field(default_factory=Budget)
    failures: float = 0.2
    """Share of a table's items that may fail."""
    fork: Fork | None = None

    def shared(self, reports: list[RoundReport], cast: Cast) -> list[RoundReport]:
        """Round 0, and what a fork has of the run that it left: on record, and not to be gone through again.

        Its own config may say otherwise about these rounds; the teacher may be another from here on.
        """
        if self.fork is None:
            return reports
        names = [f"{number}/gate" for number in range(1, self.fork.round + 1)]
        found = (self.documents.value(self.documents.step(name), RoundReport) for name in names)
        *earlier, last = chain(reports, found)
        return [*earlier, self.step(f"fork/{self.fork.round}", cast.join, last)]

    def slots(self, method: Method, plan: Plan, course: Course, cast: Cast, reports: Reports) -> Slots:
        room = RoundRoom(
            plan=plan,
            course=course,
            cast=cast,
            ledger=self,
            history=[r.practice for r in reports],
            run_seed=self.seed,
            budget=self.budget,
        )
        return Slots(method=method, plan=plan, room=room, book=self, reports=reports, failure_share=self.failures)

    def close(self, report: Report) -> Report:
        self.settle(report.status, report.why)
        return report
