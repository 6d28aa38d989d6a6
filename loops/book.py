"""The book of a run: its journal, with what the cycle asks of it beside durable steps."""

from dataclasses import dataclass, field

from ..agents.cast import Cast
from ..agents.room import RoundRoom
from ..evals.pools import Course
from ..policies.rounds import Budget, Plan, Report, Reports
from ..policies.slots import Method
from .journal import Journal
from .slots import Slots


@dataclass
class Book(Journal):
    """A journal that hands out the verbs of a round, and closes the run."""

    budget: Budget = field(default_factory=Budget)
    failures: float = 0.2
    """Share of a table's items that may fail."""

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
