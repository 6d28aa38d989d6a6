"""The grader of each kind of problem, and answers fit to stand as a gold."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ..harness import scores
from ..records import Attempt, Gold, Kind, Problem, Verdict
from .numbers import read_number, readings
from .numeric import final_number, number
from .spelling import tidy
from .verdicts import Grader
from .words import boolean, choice, final_words, letter, text, truth

GRADERS: Mapping[Kind, Grader] = MappingProxyType(
    {"number": number, "choice": choice, "boolean": boolean, "text": text}
)
"""One per kind that can be graded without running or asking anything."""


def grade(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    r"""The grader of this kind of problem, applied; for GSM8K with the scores that others print (`evals/harness.py`).

    >>> problem, gold = Problem(id="a", messages=()), Gold(problem="a", answer="324")
    >>> grade(problem, gold, Attempt(problem="a", text="ones: 12-8=4\n=324", finish="stop", state="")).label
    'right'
    """
    if not problem.id == gold.problem == attempt.problem:
        raise ValueError(
            f"an attempt at {attempt.problem!r} met the question {problem.id!r} and the gold of {gold.problem!r}; "
            "a verdict on them would be about nothing. Look all three up by one id."
        )
    verdict = GRADERS[_gradable(problem)](problem, gold, attempt)
    return replace(verdict, scores=scores(gold.answer, attempt.text)) if problem.domain == "gsm8k" else verdict


def final_answer(problem: Problem, said: str) -> str:
    r"""What these words give as the answer, fit to stand as a gold; empty if nothing can be read.

    >>> problem = Problem(id="a", messages=())
    >>> final_answer(problem, "ones: 12-8=4\n=324"), final_answer(problem, "no idea")
    ('324', '')
    """
    kind, said = _gradable(problem), tidy(said)
    if kind == "choice":
        return letter(said)
    if kind == "boolean":
        return truth(said)
    if kind == "text":
        return final_words(said)
    return final_number(said, problem.question)


def gives_away(problem: Problem, told: str, said: str) -> bool:
    """Whether the answer of `said` stands in what was told before. Only numbers are looked for: a letter or a word of
    an answer stands in many a hint that does not give it away.

    >>> problem = Problem(id="a", messages=())
    >>> gives_away(problem, "2-8 take 12 put 4", "2-8 take 12 put 4\\n5-1-1 put 3\\n=34")
    False
    >>> gives_away(problem, "It comes to 34.", "2-8 take 12 put 4\\n5-1-1 put 3\\n=34")
    True
    """
    answer = read_number(final_answer(problem, said)) if problem.kind == "number" else None
    return answer is not None and any(answer.equals(reading) for reading in readings(tidy(told)))


def _gradable(problem: Problem) -> Kind:
    if problem.kind in GRADERS:
        return problem.kind
    raise ValueError(
        f"problem {problem.id!r} is of kind {problem.kind!r}, and there is no grader for that yet "
        f"(only for {', '.join(GRADERS)}); give the problem set a grader of its own."
    )
