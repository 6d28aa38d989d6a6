"""Everything that reads a student's text, on text made to break it: `reader, text, what came of it` on each line.

A reader that takes two seconds of processor time over one text is killed, in the middle of a regular expression too.
"""

import signal
from collections.abc import Callable

from tutorloop.agents.tutor import find
from tutorloop.evals.arithmetic import check_work, explained_by
from tutorloop.evals.graders import boolean, choice, final_answer, number, strict_number, text
from tutorloop.evals.graders.verdicts import Grader
from tutorloop.evals.records import Attempt, Gold, Kind, Problem, user
from tutorloop.evals.steps import check_steps

DEADLINE = 2.0  # seconds of this process's own time, whatever else the machine does; ordinary text takes 0.0004
MANY = 100_000

TEXTS = {
    "nothing": "",
    "many digits": "9" * MANY,
    "many digits, marked": "I think\n=" + "9" * MANY,
    "many digits behind a point": "#### 0." + "9" * MANY,
    "more digits than `int` takes": "#### " + "9" * 5_000 + "/" + "9" * 5_000,
    "digits of another script": "#### " + "٩" * MANY,
    "digits in circles": "#### " + "①" * MANY,
    "digits between invisible characters": "#### " + "9\u200b" * MANY,
    "400 boxes": r"\boxed{41}" * 399 + r" \boxed{43}",
    "nested boxes": r"\boxed{" * 2_800,
    "nested boxes, closed": r"\boxed{" * 2_000 + "41" + "}" * 2_000,
    "nested braces": r"\boxed{" + "{" * MANY + "41" + "}" * MANY + "}",
    "nested parentheses": "#### " + "(" * MANY + "41" + ")" * MANY,
    "nested fractions": r"\frac{1}{" * 2_000 + "41" + "}" * 2_000,
    "a tower of exponents": "#### 9^9^9^9^9^9^9",
    "a tower of exponents in braces": r"\boxed{9^{9^{9^{9^{9}}}}}",
    "a tower as raised digits": "#### 9⁹⁹⁹⁹⁹⁹⁹",
    "a power of Python": "=9**9**9**9",
    "a factorial": "#### " + "9" * 300 + "!" * 300,
    "a huge exponent": "The answer is 1e999999999",
    "a huge power": r"\boxed{1 \times 10^{999999999}}",
    "an exponent of many digits": "=1e" + "9" * MANY,
    "exponents as large as are read": "#### 1e400/7e-400",
    "exponents beyond that": "=1e99999/3",
    "many exponents": "1e400 " * 4_000,
    "many marks": "the answer is " * 1_400,
    "marks that deny": "the answer is not 5 " * 1_000,
    "a mark of many words": "answer to " * 1_900,
    "a mark that is never closed": "answers (" * 2_000,
    "many solutions": "Answer: so 1 = 1 " * 1_100,
    "many hashes": "#" * MANY,
    "many tags": "<answer>" * MANY,
    "many thoughts": "<think>" * MANY + "</think>" * MANY,
    "many sums": "1+" * 9_000,
    "many sums in words": "1 plus " * 2_800,
    "many minuses": "-" * MANY + "5",
    "many dollars": "$-$-" * 5_000 + "5",
    "many slashes": "1/" * 9_000,
    "many mixed numbers": "1 and 1/2 " * 2_000,
    "many results": "= 5 " * 4_900,
    "many commas": "1,111" * 3_900,
    "one number of many commas": "#### 1" + ",111" * 25_000 + "1",
    "many points": "1." * MANY,
    "many groups": "111 " * MANY,
    "many percents": "5%" * MANY,
    "many fractions": r"\frac{" * 3_300,
    "a fraction of many points": r"\frac{" + "1." * 9_000,
    "many wrappers": r"\text{" * 3_300,
    "many stars": "**" * MANY,
    "megabytes of blanks": " " * 3_000_000 + "x",
    "megabytes of blanks behind a mark": "answer" + " " * 3_000_000 + "x",
    "a million lines": "=" + "\n" * 1_000_000,
    "wide blanks": "\u3000\t\r\n\u2028" * MANY,
    "letters that unfold": "\ufdfa " * 9_000,
    "accents piled up": "a" + "\u0323\u0301" * MANY,
    "accents piled out of order": "#### 5" + "\u0301" * 9_000 + "\u0323" * 9_000,
    "half a letter": "\ud800\x00 7",
    "every control character": "".join(map(chr, range(32))) * 3_000 + "\x7f\x9b",
    "many options": "(A)(B) " * 15_000,
    "many apostrophes": "A'" * MANY,
    "many truths": "no, false " * 10_000,
    "many quotes": "\"'`" * MANY,
    "many columns": "1 put 1\n" * MANY,
    "columns that put two digits": "1 put 99\n" * MANY,
    "a column of many operands": "1+" * MANY + "1 put 1",
    "a column that almost ends": "2-8 put 6" + " " * MANY + "x",
    "columns in another script": "٢-٨ put ٦\n=٦",
    "an answer of many digits": "2-8 take 12 put 4\n=" + "3" * MANY,
    "many answers": "=34\n" * MANY,
    "a question of many digits": "1" * MANY + "-" + "1" * MANY,
    "a label of many stars": "52-18\n" + "* " * MANY + "x\n2-8 put 6",
}


def graded(by: Grader, kind: Kind, gold: str) -> Callable[[str], str]:
    def read(said: str) -> str:
        return by(
            Problem(id="a", messages=user("52-18"), kind=kind),
            Gold(problem="a", answer=gold),
            Attempt(problem="a", text=said, finish="stop", state=""),
        ).label

    return read


def as_gold(said: str) -> str:
    try:
        return graded(number, "number", said)("#### 77")
    except ValueError as error:
        return "unreadable" if "cannot be read by the grader" in str(error) else "raised"


def as_question(said: str) -> str:
    return number(
        Problem(id="a", messages=user(said)),
        Gold(problem="a", answer="77"),
        Attempt(problem="a", text="=84/12", finish="stop", state=""),
    ).label


def final(kind: Kind) -> Callable[[str], str]:
    return lambda said: final_answer(Problem(id="a", messages=user("52-18"), kind=kind), said) and "wrong"


def stepwise(said: str) -> str:
    found = check_steps(Problem(id="a", messages=user("52-18"), domain="arithmetic"), said)
    return "right" if found is None or found.sound else "wrong"


READERS: dict[str, Callable[[str], object]] = {
    "number": graded(number, "number", "77"),
    "strict_number": graded(strict_number, "number", "77"),
    "choice": graded(choice, "choice", "Q"),
    "boolean": graded(boolean, "boolean", "yes"),
    "text": graded(text, "text", "Rome"),
    "gold": as_gold,
    "question": as_question,
    **{f"final_answer, {kind}": final(kind) for kind in ("number", "choice", "boolean", "text")},
    "check_steps": stepwise,
    "check_work": lambda said: "right" if check_work(said, "=34").sound else "wrong",
    "explained_by": lambda said: explained_by("52-18", said) and "wrong",
    "tutor.find": lambda said: find(said) and "wrong",
}

if __name__ == "__main__":
    for reader, read in READERS.items():
        for name, said in TEXTS.items():
            print(reader, name, sep="\t", end="\t", flush=True)
            signal.setitimer(signal.ITIMER_VIRTUAL, DEADLINE)
            try:
                answer = read(said) or "unparsed"
            except Exception as error:
                answer = f"raised {type(error).__name__}: {error!s:.200}"
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            print(answer)
