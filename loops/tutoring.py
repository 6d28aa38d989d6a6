"""The tutoring cycle, on one screen. Everything else in this package is a detail of `run`."""

from ..agents.cast import Cast
from ..agents.purse import BudgetSpent
from ..evals.pools import Course
from ..policies.gate import gate, next_round
from ..policies.rounds import Report, Tables
from ..policies.slots import Stages
from .book import Book


def run(course: Course, stages: Stages, cast: Cast, book: Book) -> Report:
    """Tutor a student; report an exam that it was neither taught from nor steered by.

        final -> [ select attempt verify triage teach check curate update publish quiz gate ]* -> final

    Every step is durable: interrupt the run anywhere, call `run` again, and it goes on with the first unfinished one.
    """
    # fmt: off
    reports = [book.step("0", cast.begin, course)]                   # round 0: the states before any teaching
    before = book.step("final/0", cast.sit_all, course.final, reports[0].serving)
    reports = book.shared(reports, cast)                             # in a fork: the rounds of the run that it left

    # `next_round` is pure. None: enough rounds, patience gone, or the last round had nothing to learn.
    while plan := next_round(stages, reports, seed=book.seed):       # stage, learner, start, reference, rows
        do = book.slots(stages[plan.stage], plan, course, cast, reports)    # each verb: rows on disk -> rows on disk
        try:
            problems = do.select(course.practice)                    # what is asked this round
            answered = do.attempt(problems)                          # what the learner reveals; graded
            answered = do.verify(answered)                           # where it goes wrong
            cases    = do.triage(answered)                           # who gets the teacher's time
            lessons  = do.teach(cases)                               # a user's policy, case by case
            lessons  = do.check(lessons)                             # is it sound?
            examples = do.curate(lessons)                            # pairs, mixes; then filled with rehearsal
            state    = do.update(examples)                           # SFT, DPO, or a recipe of one's own
            proof    = book.step(plan.key("publish"), cast.publish, plan, state, examples)   # the serving student is it
        except BudgetSpent as why:                                   # the round stays open; a larger budget goes on
            return book.close(Report(before=before, rounds=reports, status="stopped", why=str(why)))

        # Keep, or roll back: states are values, so rolling back costs nothing.
        quiz   = book.step(plan.key("quiz"), cast.sit, course.quiz, plan.serves(state))
        tables = Tables(answered=answered, cases=cases, lessons=lessons, examples=examples)
        cost, notes = book.spent(f"{plan.number}/"), book.notes(plan.number)
        reports.append(book.step(plan.key("gate"), gate, plan, reports, quiz, proof, tables, cost, notes))

    after = book.step(f"final/{reports[-1].number}", cast.sit_all, course.final, reports[-1].serving)
    return book.close(Report(before=before, after=after, rounds=reports))
