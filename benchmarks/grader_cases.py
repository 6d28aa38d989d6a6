"""Do the graders agree with the labels that other projects gave to answers of real models?

    python benchmarks/grader_cases.py FOLDER/grader_cases_public.jsonl

Each row of the file has a question, a gold, an answer, and a label. Printed are the counts of each kind, false accepts
(we say right, the label says wrong) and false rejects apart, and every row on which we disagree; docs/graders.md says
who is right there. Exit code 1 if fewer than 99.5 % of the numeric final answers agree.

Not covered: rows about whole solutions (their labels judge the work, not the answer) and mathematical equality.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tutorloop.evals.graders import grade
from tutorloop.evals.records import Attempt, Gold, Kind, Problem, user

KINDS: dict[str, Kind] = {"numeric": "number", "choice": "choice", "text": "text"}
LEAST = 0.995


@dataclass(frozen=True, kw_only=True)
class Compared:
    id: str
    group: str
    """`final answers, number`: answers of models; `pairs, number`: cases of other projects' own tests."""
    ours: str
    right: bool
    """What the label says."""

    @property
    def agrees(self) -> bool:
        return (self.ours == "right") == self.right


def compare(path: Path) -> Iterator[Compared]:
    """Every row of a kind that we grade."""
    sorts = {"final_answer": "final answers", "pair": "pairs"}
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if row["kind"] in sorts and row["answer_type"] in KINDS:
            kind = KINDS[row["answer_type"]]
            ours = _label(kind, row.get("question", ""), row["gold"], row["output"])
            yield Compared(id=row["id"], group=f"{sorts[row['kind']]}, {kind}", ours=ours, right=row["expected"])


def _label(kind: Kind, question: str, gold: str, answer: str) -> str:
    try:
        return grade(
            Problem(id="row", messages=user(question), kind=kind),
            Gold(problem="row", answer=gold),
            Attempt(problem="row", text=answer, finish="stop", state=""),
        ).label
    except ValueError:  # nobody could be right; the course would have said so before round 1
        return "gold unreadable"


def report(rows: Sequence[Compared]) -> Iterator[str]:
    """Two tables, as they stand in docs/graders.md."""
    groups: dict[str, list[Compared]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    yield "| rows | n | agree | false accepts | false rejects |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for group, found in groups.items():
        accepts, rejects = (sum(not r.agrees and r.right is right for r in found) for right in (False, True))
        share = 1 - (accepts + rejects) / len(found)
        yield f"| {group} | {len(found):,} | {share:.2%} | {accepts} | {rejects} |"
    yield ""
    yield "| row | we say | label |"
    yield "| --- | --- | --- |"
    for row in rows:
        if not row.agrees:
            yield f"| {row.id} | {row.ours} | {'right' if row.right else 'wrong'} |"


def main(path: Path) -> int:
    rows = list(compare(path))
    print("\n".join(report(rows)))
    numeric = [row.agrees for row in rows if row.group == "final answers, number"]
    return int(sum(numeric) < LEAST * len(numeric))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER/grader_cases_public.jsonl")
    sys.exit(main(Path(sys.argv[1])))
