"""Runs and histories in lines of plain text. Whatever a student or a teacher wrote passes through `safe`.

Every accuracy has its n, its interval, and the share of answers that could not be read; above 2 % it warns.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from ..evals.terminal import safe
from .bill import bill_rows
from .history import Chapter, History, Told
from .listing import RunLine, spoken
from .picking import Listing
from .show import Change, Masked, RoundLine, RunView, Skilled

UNREADABLE = 0.02
"""Share of truncated and unparsed answers above which an accuracy is printed with a warning."""
LINES = 12
"""Of one answer; the middle of a longer one is left out."""

NONE_OF_ITS_OWN = "; it has none of its own, so no change has had any effect on its student"


def columns(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """A table without lines, as wide as it must be; the columns in `right` are flush right.

    >>> columns([["a", "n"], ["bcd", "10"]], right=[1])
    ['a     n', 'bcd  10']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    flush = set(right)
    return [
        "  ".join(
            cell.rjust(width) if i in flush else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# ---- a run


def run_lines(view: RunView) -> Iterator[str]:
    """The rounds of a run, and its exam."""
    why = f": {safe(view.why)}" if view.why else ""
    yield f"{safe(view.run)}  {view.status}{why}"
    yield f"method {safe(spoken(view.method))}{f', taught by {safe(view.policy)}' if view.policy else ''}"
    if view.parent:
        own = "" if not view.rounds or view.rounds[-1].round > view.shared else NONE_OF_ITS_OWN
        yield f"fork of {safe(view.parent)}, whose rounds up to {view.shared} it shares{own}"
    yield ""
    if not view.rounds:
        yield "no round is done yet"
        return
    yield from _rounds(view.rounds)
    yield "95 %: Wilson interval; unread: cut off or not to be parsed; fixed, regressed: of the quiz, in this round"
    yield ""
    yield from _bill(view)
    yield from _exams(view)
    if view.masked is not None and len(view.rounds) > 2:  # what was masked can show from the second time on
        yield from _masked(view.masked)
    notes = [*_verdicts(view.rounds), *run_warnings(view)]
    if notes:
        yield ""
        yield from notes


def _rounds(rounds: Sequence[RoundLine]) -> list[str]:
    table = [["round", "quiz", "95 %", "n", "unread", "fixed", "regressed", "kept", "cases", "sound lessons"]]
    table[0] += ["trained on", "asks", "tokens", "s"]
    for r in rounds:
        cells = [f"{r.round}", f"{r.quiz_accuracy:.3f}", f"{r.quiz_low:.3f}-{r.quiz_high:.3f}", f"{r.quiz_n}"]
        cells.append(f"{(r.truncated + r.unparsed) / max(1, r.quiz_n):.1%}")
        did = [f"{r.fixed}", f"{r.regressed}", "yes" if r.kept else "NO", f"{r.cases}", f"{r.accepted}/{r.lessons}"]
        trained = 0 if r.proof == "unchanged" else r.examples  # recorded answers learn nothing from them
        did += [f"{trained}", f"{r.teacher_calls}", f"{r.teacher_tokens:,}", f"{r.seconds:.1f}"]
        table.append([*cells, *(did if r.round else [""] * len(did))])
    return columns(table, right=range(len(table[0])))


def _bill(view: RunView) -> Iterator[str]:
    """What a teacher has cost that costs."""
    if view.teacher != "chat" and view.bill.dollars is None:
        return
    told = [(f"round {r.round}", r.bill) for r in view.rounds if r.round]
    done = sum(r.bill.calls for r in view.rounds)
    more = "" if done == view.bill.calls else f", {view.bill.calls - done} asks of an open round too"
    yield from columns(bill_rows([*told, (f"all{more}", view.bill)]), right=(1, 2, 3, 4, 6))
    if view.bill.unmetered:
        yield f"of {view.bill.unmetered} answers the provider did not say the tokens: they are in no sum"
    yield ""


def _exams(view: RunView) -> Iterator[str]:
    if not view.finals:
        yield "the exam was not sat yet"
        return
    first = view.finals[min(view.finals)]
    last = view.finals[max(view.finals)] if view.exam.after is not None else {}
    rows = [["", "before", "95 %", "after", "95 %", "n", "unread before", "after"]]
    for pool, before in first.items():
        after = last.get(pool)
        cells = [pool, f"{before['accuracy']:.3f}", f"{before['low']:.3f}-{before['high']:.3f}"]
        cells += [f"{after['accuracy']:.3f}", f"{after['low']:.3f}-{after['high']:.3f}"] if after else ["-", "-"]
        rows.append([*cells, f"{before['n']:.0f}", f"{_unread(before):.1%}", f"{_unread(after):.1%}" if after else "-"])
    rows += _scored(view)
    yield from columns(rows, right=range(1, 8))
    if view.scores:
        yield "strict, flexible: of the exam, as the task gsm8k of lm-evaluation-harness reads the same answers"
    if (changed := view.transitions) is not None:
        yield (
            f"exam: {changed['fixed']:.0f} fixed, {changed['regressed']:.0f} regressed, {changed['persistent']:.0f} "
            f"still wrong, {changed['kept_right']:.0f} still right; p = {changed['p']:.2g} (exact McNemar, two-sided)"
        )
    yield from _skills("probe (twins of practice problems, never taught)", view.probe)
    yield from _skills("retention (mastered skills, operands never seen)", view.retention)
    for number in sorted(view.finals)[1:-1]:
        exam = view.finals[number].get("exam", {})
        yield f"an earlier end, after round {number}: exam {exam.get('accuracy', 0):.3f}"


def _scored(view: RunView) -> Iterator[list[str]]:
    """The exam by others' rules, in the same columns."""
    if not view.scores:
        return
    first = view.scores[min(view.scores)]
    last = view.scores[max(view.scores)] if view.exam.after is not None else {}
    for name, before in first.items():
        cells = [f"  {safe(name)}"]
        for told in (before, last.get(name)):
            cells += [f"{told['accuracy']:.3f}", f"{told['low']:.3f}-{told['high']:.3f}"] if told else ["-", "-"]
        yield [*cells, f"{before['n']:.0f}", "", ""]


def _skills(title: str, pool: Skilled | None) -> Iterator[str]:
    if pool is None or pool.after is None or not pool.skills:
        return
    yield f"{title}, by skill:"
    told = [f"{safe(name)} {_arrow(change)} of {change.n}" for name, change in pool.skills.items()]
    yield from (
        f"  {line}"
        for line in columns([told[i : i + 3] + [""] * (3 - len(told[i : i + 3])) for i in range(0, len(told), 3)])
    )


def _arrow(change: Change) -> str:
    return " -> ".join("-" if x is None else f"{x:.2f}" for x in (change.before, change.after))


def _masked(masked: Masked) -> Iterator[str]:
    examples = f" (e.g. {', '.join(map(safe, masked.examples[:3]))})" if masked.examples else ""
    yield (
        f"masked: {masked.asked} practice problems are wrong for two reasons; in {masked.shown} a second error came "
        f"into the open{examples}, in {masked.by_cause} of them the second reason's own line; "
        f"{masked.cured} were right when last asked"
    )


def _verdicts(rounds: Sequence[RoundLine]) -> Iterator[str]:
    for r in rounds:
        if not r.kept:
            yield f"round {r.round}: {r.why}"
        elif r.why not in ("kept", "before teaching"):
            yield f"round {r.round}: {safe(r.why)}"
        if r.rejected:
            told = ", ".join(f"{n} {safe(why)}" for why, n in r.rejected.items())
            yield f"round {r.round}: {sum(r.rejected.values())} of {r.lessons} lessons were not accepted: {told}"


def run_warnings(view: RunView) -> Iterator[str]:
    """What whoever reads the numbers should know first."""
    yield from _forgotten(view)
    for r in view.rounds:
        yield from _unreadable(f"round {r.round}, quiz", r.truncated, r.unparsed, r.quiz_n)
    for number, sheets in view.finals.items():
        for pool, told in sheets.items():
            truncated, unparsed, n = (int(told[name]) for name in ("truncated", "unparsed", "n"))
            yield from _unreadable(f"{pool} after round {number}", truncated, unparsed, n)


def _forgotten(view: RunView) -> Iterator[str]:
    """Mastered skills that the teaching has cost, where the intervals before and after do not even touch."""
    kept = view.retention
    if kept is None or kept.before is None or kept.after is None:
        return
    before, after = view.finals[min(view.finals)]["retention"], view.finals[max(view.finals)]["retention"]
    if after["high"] < before["low"]:
        worst = min(
            kept.skills,
            default="",
            key=lambda name: (kept.skills[name].after or 0.0) - (kept.skills[name].before or 0.0),
        )
        told = f", most of all {safe(worst)} {_arrow(kept.skills[worst])}" if kept.skills else ""
        yield f"warning: mastered skills were lost: retention {kept.before:.3f} -> {kept.after:.3f}{told}"


def _unreadable(where: str, truncated: int, unparsed: int, n: int) -> Iterator[str]:
    if n and (truncated + unparsed) / n > UNREADABLE:
        yield (
            f"warning: {where}: {truncated} of {n} answers were cut off and {unparsed} could not be read; they count "
            "as not right. Raise `student.max_tokens`, or look at what was written."
        )


def _unread(told: Mapping[str, float]) -> float:
    return (told["truncated"] + told["unparsed"]) / told["n"] if told["n"] else 0.0


def listed_lines(told: Listing) -> Iterator[str]:
    """Problems of one kind, a line each."""
    which = {"wrong": "not right", "fixed": "right and were not before", "regressed": "not right and were right before"}
    n = len(told.problems)
    yield f"{n} of {told.asked} practice problems that were asked are {which[told.only]}, each as last asked"
    rows = [["problem", "round", "so far", "question", "answer", "wrong for"]]
    for x in told.problems:
        step = f"first wrong step {x.first_wrong + 1}" if x.first_wrong is not None else ""
        why = " · ".join(x for x in (step, safe(x.diagnosed)) if x)
        labels = " ".join(safe(label) for label in x.labels)
        rows.append([safe(x.problem), f"{x.round}", labels, _one_line(x.question, 48), _one_line(x.answer), why])
    if n:
        yield from columns(rows, right=[1])
        yield "round: in which it was last asked, before that round's training"


def _one_line(text: str, most: int = 72) -> str:
    """A text of several lines, or its beginning and its end.

    >>> _one_line("17+25\\n\\n=42"), _one_line("a" * 30 + "=42", 20)
    ('17+25 / =42', 'aaaaaaaaaa ... aa=42')
    """
    said = safe(" / ".join(line for line in text.splitlines() if line.strip()))
    return said if len(said) <= most else f"{said[: most // 2]} ... {said[5 + most // 2 - most :]}"


# ---- one problem


def history_lines(history: History) -> Iterator[str]:
    """One problem from round to round."""
    answer = f" = {safe(history.answer)}" if history.answer and history.pool == "practice" else ""
    question, *more = [safe(line) for line in history.question.splitlines()] or [""]
    yield "   ".join(x for x in (safe(history.problem), question + answer, safe(history.skill)) if x)
    yield from (f"   {line}" for line in more)
    if history.misconceptions:
        yield f"   wrong at first because of {', then '.join(map(safe, history.misconceptions))} (nobody was told)"
    if (twins := history.twins) is not None:
        after = f" -> {twins.after}/{twins.n} after" if twins.after is not None else ""
        yield f"   probe twins right: {twins.before}/{twins.n} before{after} (never taught)"
    if history.pool != "practice":
        yield f"   in the {history.pool}: never taught"
    for chapter in history.rounds:
        yield ""
        yield from _chapter(chapter)
    for sat in history.sittings:
        yield ""
        yield from answer_lines(f" after round {sat.after_round}", sat.label, sat.work, sat.first_wrong, "")


def _chapter(chapter: Chapter) -> Iterator[str]:
    says = [chapter.diagnosed, "masked until now" if chapter.masked else ""]
    yield from answer_lines(
        f" round {chapter.round}", chapter.label, chapter.work, chapter.first_wrong, ", ".join(x for x in says if x)
    )
    if chapter.attempts > 1:
        yield beside("attempts", f"{chapter.right} of {chapter.attempts} right; the first is shown")
    if chapter.picked or chapter.lessons or chapter.asks:
        yield beside("teacher", "; ".join(_teacher(chapter)))
    if chapter.label not in ("right", "") and not chapter.picked and chapter.kept is not None:
        yield beside("triage", "left it out this time")
    for lesson in chapter.lessons:
        yield beside("accepted" if lesson.accepted else "refused", lesson_line(lesson))
    if chapter.taught or chapter.rehearsed:
        told = [f"{n} {safe(act)}" for act, n in chapter.taught.items()]
        told += [f"{n} rehearsed ({origin})" for origin, n in chapter.rehearsed.items()]
        n = sum(chapter.taught.values()) + sum(chapter.rehearsed.values())
        yield beside("taught", f"{n} example{'s' if n > 1 else ''}: {', '.join(map(safe, told))}")
    if chapter.kept is None:
        yield beside("outcome", "the round is still open")
    elif chapter.quiz is not None:
        kept = "kept" if chapter.kept else "rolled back"
        yield beside(
            "outcome",
            f"quiz {chapter.quiz[0]:.3f} -> {chapter.quiz[1]:.3f}, {kept}; regressed elsewhere: {chapter.regressed} of "
            f"{chapter.were_right} that were right",
        )


def answer_lines(when: str, label: str, work: str, first_wrong: int | None, says: str) -> Iterator[str]:
    """What was written, with the first wrong step marked."""
    head = f"{when:<9} {label or 'not asked':<10}"
    rows = [safe(line) for line in work.splitlines() if line.strip()]  # a step is a line with something on it
    marked = first_wrong is not None and 0 <= first_wrong < len(rows)
    at = (first_wrong or 0) if marked else 0
    told = [f"first wrong step {at + 1}" if marked else "", safe(says)]
    if mark := " · ".join(x for x in told if x):
        width = min(80, max((len(row) for row in rows), default=0))
        rows = rows or [""]
        rows[at] = f"{rows[at]:<{width}}  <- {mark}"
    for i, row in enumerate(_shortened(rows or [""], at)):
        yield (head if i == 0 else " " * len(head)) + row


def _shortened(rows: Sequence[str], at: int) -> list[str]:
    """Beginning, end, and what stands around `at`.

    >>> _shortened([str(i) for i in range(20)], 10)
    ['0', '1', '...', '8', '9', '10', '11', '12', '...', '18', '19']
    """
    shown: list[str] = []
    kept = worth_showing(len(rows), at)
    for i, before in zip(kept, [-1, *kept], strict=False):
        shown += [rows[i]] if i == before + 1 else ["...", rows[i]]
    return shown


def worth_showing(n: int, at: int) -> list[int]:
    """Which of `n` lines of an answer are shown, when `at` is the one that matters.

    >>> worth_showing(3, 0), worth_showing(20, 3)
    ([0, 1, 2], [0, 1, 2, 3, 4, 5, 18, 19])
    """
    if n <= LINES:
        return list(range(n))
    return [i for i in range(n) if i <= 1 or i >= n - 2 or abs(i - at) <= 2]


def beside(what: str, told: str) -> str:
    """A line of what belongs to the answer above it."""
    return f"{'':<10}{what:<10}{told}".rstrip()


def _teacher(chapter: Chapter) -> Iterator[str]:
    gold = "and the gold answer" if chapter.gold_seen else "not the answer"
    saw = f"saw {' and '.join(chapter.saw)}" if chapter.saw else "was not asked"
    yield f"{saw}, {gold}"
    if chapter.asks:
        yield f"{chapter.asks} ask{'s' if chapter.asks > 1 else ''}, {chapter.tokens} tokens"
    yield f"diagnosed {safe(chapter.diagnosed)}" if chapter.diagnosed else "no diagnosis"


def lesson_line(lesson: Told) -> str:
    """A lesson, and why it was accepted or refused."""
    asked = f"{safe(' / '.join(lesson.question.splitlines()))}: " if lesson.question else ""
    said = safe(" / ".join((lesson.target or lesson.text).splitlines()))
    said = said if len(said) <= 72 else f"{said[:69]}..."
    told = f"{safe(lesson.act)}  {asked}{said}" if asked or said else safe(lesson.act)
    evidence = f": {safe(' '.join(lesson.evidence.split()))}" if lesson.evidence else ""
    return f"{told}   ({'evidence ' if lesson.accepted else ''}{safe(lesson.by)}{evidence})"


# ---- all runs


def listing_lines(lines: Sequence[RunLine]) -> Iterator[str]:
    rows = [["run", "status", "method", "rounds", "last quiz", "exam before", "after", "n"]]
    for depth, line in _tree(lines):
        quiz = "" if line.quiz is None else f"{line.quiz:.3f}"
        exam = ["" if x is None else f"{x:.3f}" for x in (line.exam.before, line.exam.after)]
        n = str(line.exam.n) if line.exam.n else ""
        method = ", ".join(safe(x) for x in (spoken(line.method), line.policy) if x)
        rows.append([f"{'  ' * depth}{safe(line.run)}", line.status, method, str(line.rounds), quiz, *exam, n])
    yield from columns(rows, right=range(3, 8))
    for line in lines:
        if line.parent:
            gone = "" if Path(line.parent).exists() else ", which is gone"
            yield f"{safe(line.run)}: shares the rounds up to {line.shared} of {safe(line.parent)}{gone}"
        if line.fault or line.why:
            yield f"{safe(line.run)}: {safe(line.fault or line.why)}"


def _tree(lines: Sequence[RunLine]) -> Iterator[tuple[int, RunLine]]:
    """Each run with how deep it stands below the one that nobody forked; forks come after their parent."""
    below, told = defaultdict[str, list[RunLine]](list), set[str]()
    for line in lines:
        below[line.parent].append(line)

    def under(line: RunLine, depth: int) -> Iterator[tuple[int, RunLine]]:
        if (here := str(Path(line.run).resolve())) not in told:
            told.add(here)
            yield depth, line
            for fork in below[here]:
                yield from under(fork, depth + 1)

    folders = {str(Path(line.run).resolve()) for line in lines}
    # Where a run was forked into the folder that its own parent had, each is below the other: they come last.
    for line in sorted(lines, key=lambda line: line.parent in folders):
        yield from under(line, 0)


def method_lines(methods: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for method in methods:
        yield f"{method['name']}: {method['summary']}"
        if method["citation"]:
            yield f"    {method['citation']}"
        if method["requires"]:
            yield f"    requires {', '.join(method['requires'])}"
        yield from (f"    {line}" for line in wrap(method["rounds"], 110))
        if method["deviations"]:
            yield from wrap(f"deviates: {method['deviations']}", 110, initial_indent="    ", subsequent_indent="    ")
