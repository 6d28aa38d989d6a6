"""A trial in lines of plain text. Whatever a student, a teacher or a policy wrote passes through `safe`."""

from collections.abc import Iterator

from ..evals.terminal import safe
from .trial import Exchange, Row, Trial, TriedCase
from .words import answer_lines, beside, lesson_line

LINES = 40
"""Of one text; the middle of a longer one is left out."""
WIDTH = 400
"""Characters of a line that are shown."""
MOST = 40_000
"""Characters of one text that are looked at."""


def trial_lines(trial: Trial) -> Iterator[str]:
    """Case by case: the work, who was asked what, the lessons, the rows that would be trained on. Then the totals."""
    for i, tried in enumerate(trial.tried, 1):
        yield from _case(tried, f"{i}/{trial.cases}")
        yield ""
    yield from _totals(trial)


def _case(tried: TriedCase, where: str) -> Iterator[str]:
    question, *more = _texts(tried.question) or [""]
    yield f"{where}  {safe(tried.case)}   {question}"
    yield from (f"   {line}" for line in more)
    yield from answer_lines(" recorded", tried.label, tried.work, tried.first_wrong, tried.reason)
    for exchange in tried.asks:
        yield from _exchange(exchange)
    for lesson in tried.lessons:
        yield beside("accepted" if lesson.accepted else "refused", lesson_line(lesson))
    for row in tried.rows:
        yield from _row(row)
    for failure in tried.failures:
        yield beside("failed", _cut(safe(" ".join(failure[:MOST].split()))))
    if tried.printed_characters:
        yield from _block("printed", _printed(tried.printed, tried.printed_characters))
    if not (tried.lessons or tried.failures):
        yield beside("said", "nothing")


def _exchange(exchange: Exchange) -> Iterator[str]:
    turns = [
        turn["content"] if turn["role"] == "user" else f"({turn['role']}) {turn['content']}" for turn in exchange.prompt
    ]
    if exchange.prefix:
        turns.append(f"(begun) {exchange.prefix}")
    if exchange.schema:
        turns.append(f"(to be filled) {exchange.schema}")
    what = "check" if exchange.slot == "check" else exchange.member
    yield from _block(safe(what), "\n".join(turns))
    reply = exchange.reply or "(nothing)"
    cut = {"stop": "", "length": " (cut off)", "error": " (failed)"}.get(exchange.finish, "")
    yield from _block("reused" if exchange.reused else "replied", reply + cut)


def _row(row: Row) -> Iterator[str]:
    if row.fault:
        yield beside("row", f"cannot be trained on: {_cut(safe(' '.join(row.fault.split())))}")
        return
    for text, weight in row.pieces or ((row.prompt, 0.0), (row.completion, 1.0)):
        named = {0.0: "masked", 1.0: "trained"}.get(weight, f"x {weight:g}")
        yield from _exactly(named, text)
    if row.rejected:
        yield from _exactly("over", row.rejected)


def _exactly(what: str, text: str) -> Iterator[str]:
    """A text character for character; its line breaks are written out, and made."""
    shown = text if len(text) <= MOST else f"{text[:MOST]}... ({len(text):,} characters)"
    lines = shown.split("\n")
    for i, line in enumerate(lines):
        yield beside("" if i else what, safe(line) + ("\\n" if i < len(lines) - 1 else ""))


def _block(what: str, text: str) -> Iterator[str]:
    for i, line in enumerate(_texts(text) or [""]):
        yield beside("" if i else what, line)


def _texts(text: str) -> list[str]:
    """Lines of a text as they can be printed, not too many and not too long."""
    if len(text) > MOST:
        text = f"{text[: MOST // 2]}\n...\n{text[-MOST // 2 :]}"
    lines = [_cut(safe(line)) for line in text.splitlines()]
    return lines if len(lines) <= LINES else [*lines[: LINES // 2], "...", *lines[-LINES // 2 + 1 :]]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[:WIDTH]}... ({len(line):,} characters)"


def _printed(beginning: str, n: int) -> str:
    more = f"\n... ({n:,} characters in all)" if n > len(beginning) else ""
    lines = beginning.splitlines()
    return "\n".join([*lines[:5], *(["..."] if len(lines) > 5 and not more else [])]) + more


def _totals(trial: Trial) -> Iterator[str]:
    whole = trial.whole_round
    yield (
        f"{trial.cases} of {whole.cases:,} cases of round {trial.round} of {safe(trial.run)}, taught by "
        f"{safe(trial.policy)} in {trial.seconds:.1f} s"
    )
    yield f"   accepted  {_lessons(trial.accepted)}"
    why = ", ".join(f"{n} {safe(by)}" for by, n in trial.rejected.items())
    yield f"   rejected  {_lessons(sum(trial.rejected.values()))}{f': {why}' if why else ''}"
    if trial.failures:
        yield f"   failed    {trial.failures}"
    student = f"; the student answered {trial.student_asks}" if trial.student_asks else ""
    yield f"   asks      {trial.asks:,} made, {trial.tokens:,} tokens; {trial.reused:,} reused{student}"
    yield f"   a round   {whole.cases:,} cases at this rate: {whole.asks:,} asks, {whole.tokens:,} tokens"
    if any(row.pieces is None for tried in trial.tried for row in tried.rows):
        yield "   masked, trained: as text; this student has neither chat template nor tokens"
    if trial.printed:
        yield from _block("printed", f"when it was read: {_printed(trial.printed, len(trial.printed))}")
    if trial.fault:
        yield f"   rows      none: {_cut(safe(' '.join(trial.fault.split())))}"


def _lessons(n: int) -> str:
    return f"{n} lesson{'' if n == 1 else 's'}"
