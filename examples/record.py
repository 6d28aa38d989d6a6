"""Records a student's answers to every problem of an experiment, as `student.engine: replay` reads them.

    python examples/record.py examples/replay.yaml "student={engine: transformers}" --out answers.jsonl

What stands in the file: evals/answers.py. Greedy answers are the same on every machine of a kind; with a `temperature`,
`--samples 4` records four to each problem.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tutorloop.agents.build import build
from tutorloop.agents.roles import Evidence, Request
from tutorloop.loops.courses import read_course
from tutorloop.loops.launch import prepare, role_specs

SHARD = 64


def record(experiment: Path, overrides: list[str], samples: int) -> list[dict[str, object]]:
    """A row for each problem of all pools: id, question, answers."""
    ready = prepare(experiment, overrides)
    data = read_course(ready.experiment.course, ready.experiment.seed, ready.experiment.student, ready.folder)
    problems = [problem for split in data.splits.values() for problem, _ in split]
    with tempfile.TemporaryDirectory() as root:
        student = build(role_specs(ready, Path(root))["student"])
        base = student.hello().base
        student.prove(Evidence(state=base, canaries=(), before=(), after=(), noise=0.0))
        asked = [Request(messages=p.messages, sample=i) for p in problems for i in range(samples)]
        replies = [r for i in range(0, len(asked), SHARD) for r in student.generate(base, asked[i : i + SHARD])]
    said = [[r.text for r in replies[i : i + samples]] for i in range(0, len(replies), samples)]
    return [
        {"id": problem.id, "question": problem.question, "answers": texts}
        for problem, texts in zip(problems, said, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = record(args.experiment, args.overrides, args.samples)
    args.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{args.out}: {len(rows)} problems, {args.samples} each")


if __name__ == "__main__":
    main()
