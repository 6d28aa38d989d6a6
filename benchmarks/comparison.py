"""Students that are each taught by several methods: protocol, runs, data, and what the data say.

A comparison is a script, `<name>.py`, with its protocol `<name>.md` beside it and its data `<name>.csv`. The protocol's
YAML block is what is run; its sha256 stands in every row of the data, of which there is one for each student and arm:
rows of two protocols are not mixed.

    python benchmarks/<name>.py               runs what is missing, prints the tables; the same command goes on
    python benchmarks/<name>.py --table       only prints, from the rows that there are
    python benchmarks/<name>.py --students    only makes the students (minutes each)
    python benchmarks/<name>.py --pilot 1 2   other students, into the folder of runs and not into the data

Everything runs in this process, on one thread. A student is made once and found again by the digest of its weights.
Not covered: several machines at once; other methods than the protocol's.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from pydantic import TypeAdapter

import tutorloop
from tutorloop.evals.arithmetic import draw_profile
from tutorloop.evals.statistics import t_interval, verdict
from tutorloop.policies.rounds import Report

CACHE = Path.home() / ".cache" / "tutorloop" / "students"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one student in one arm. Counts of right answers, not shares; tokens and rows over all rounds."""

    seed: int
    """Of the student and of the run."""
    arm: str
    student: str
    """sha256 of its weights."""
    exam_n: int
    exam_before: int
    exam_after: int
    probe_n: int
    probe_before: int
    probe_after: int
    worst_skill: str
    """Of the skills that the student had mastered, the one with the fewest right answers after the run."""
    worst_n: int
    worst_before: int
    worst_after: int
    unread: int
    """Answers of the last exam that were truncated or could not be read."""
    rounds: int
    rolled_back: int
    rows: int
    """Trained on."""
    new: int
    """Of these, lessons of the same round; the rest is rehearsal."""
    sft_tokens: int
    """Prompt and completion of all rows over all epochs."""
    dpo_tokens: int
    """Prompt with right and with wrong answer, of all pairs."""
    teacher_tokens: int
    """In and out."""
    version: str
    protocol: str
    """Its sha256."""

    @property
    def exam(self) -> float:
        return self.exam_after / self.exam_n

    @property
    def probe(self) -> float:
        return self.probe_after / self.probe_n

    @property
    def worst(self) -> float:
        return self.worst_after / self.worst_n

    @property
    def tokens(self) -> int:
        """Of the optimizer."""
        return self.sft_tokens + self.dpo_tokens


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What the YAML block of the protocol says."""

    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    experiment: dict[str, Any]
    """For `tutorloop.launch`; student, seed and method come from the row."""
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Overrides for one arm alone, `key=value`, by its name."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and where that is written."""

    name: str
    file: Path
    """The protocol, as Markdown."""
    data: Path
    pairs: tuple[tuple[str, str], ...]
    """Arms, of which the first is said to be better; the first pair is the primary comparison."""

    @classmethod
    def beside(cls, script: Path, *pairs: tuple[str, str]) -> "Comparison":
        return cls(name=script.stem, file=script.with_suffix(".md"), data=script.with_suffix(".csv"), pairs=pairs)

    def protocol(self) -> Protocol:
        (block,) = re.findall(r"```yaml\n(.*?)```", self.file.read_text(encoding="utf-8"), re.DOTALL)
        return TypeAdapter(Protocol).validate_python(yaml.safe_load(block))

    def digest(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()


# ---- students


def student(seed: int, cache: Path) -> Path:
    """The folder of the student with this seed, called by the digest of its weights; made if there is none.

    Raises:
        SystemExit: the weights in the cache are not those that were put there.
    """
    from tutorloop.agents import pretrain

    cache.mkdir(parents=True, exist_ok=True)
    wanted = {"seed": seed, "bugs": list(draw_profile(seed)), "recipe": asdict(pretrain.Recipe())}
    for folder in sorted(p.parent for p in cache.glob("[0-9a-f]*/provenance.json")):
        stated = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        if all(stated[key] == value for key, value in wanted.items()):
            if pretrain.digest(folder) != folder.name:
                raise SystemExit(f"{folder} holds other weights than it is called after. Remove it: it is remade.")
            return folder
    part = cache / f".{seed}.{os.getpid()}"
    # In a process of its own: it sets torch's switches and its chance.
    command = [sys.executable, "-m", "tutorloop.agents.pretrain", "--out", str(part), "--seed", str(seed)]
    subprocess.run([*command, "--threads", "1"], check=True)
    return part.rename(cache / pretrain.digest(part))


# ---- runs


def taught(it: Comparison, seed: int, arm: str, folder: Path, runs: Path) -> Row:
    """One student in one arm: run, resumed, or read from its run folder if it is finished."""
    told = it.protocol()
    asked = {**told.experiment, "seed": seed, "method": arm, "student": {"model": str(folder)}, "placement": "local"}
    root = runs / f"{seed}-{arm}"
    report = tutorloop.launch(asked, root, told.only.get(arm, ()))
    return row(report, root, seed=seed, arm=arm, student=folder.name, protocol=it.digest())


def row(report: Report, root: Path, *, seed: int, arm: str, student: str, protocol: str) -> Row:
    """What the data keep of a finished run."""
    assert report.after is not None, "a finished run has sat its exam"
    before, after = report.before, report.after
    skill = worst(after["retention"].skills)
    tokens = {"sft": 0, "dpo": 0}
    for step in root.glob("steps/*/train-*.json"):
        tokens[step.stem.rpartition("-")[2]] += json.loads(step.read_bytes())["value"]["tokens"]
    rounds = report.rounds[1:]
    origins = [r.origins for r in rounds]
    return Row(
        seed=seed,
        arm=arm,
        student=student,
        exam_n=after["exam"].n,
        exam_before=before["exam"].right,
        exam_after=after["exam"].right,
        probe_n=after["probe"].n,
        probe_before=before["probe"].right,
        probe_after=after["probe"].right,
        worst_skill=skill,
        worst_n=after["retention"].skills[skill][1],
        worst_before=before["retention"].skills[skill][0],
        worst_after=after["retention"].skills[skill][0],
        unread=after["exam"].truncated + after["exam"].unparsed,
        rounds=len(rounds),
        rolled_back=sum(not r.kept for r in rounds),
        rows=sum(sum(o.values()) for o in origins),
        new=sum(o.get("lesson", 0) + o.get("gold", 0) for o in origins),
        sft_tokens=tokens["sft"],
        dpo_tokens=tokens["dpo"],
        teacher_tokens=sum(r.cost.tokens for r in rounds),
        version=tutorloop.__version__,
        protocol=protocol,
    )


def worst(skills: Mapping[str, tuple[int, int]]) -> str:
    """The one with the smallest share, from right answers and n by skill."""
    return min(skills, key=lambda name: skills[name][0] / skills[name][1])


# ---- data


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return TypeAdapter(list[Row]).validate_python(list(csv.DictReader(file)))


def append(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))
        file.flush()
        os.fsync(file.fileno())


# ---- what the data say

OUTCOMES: Mapping[str, Callable[[Row], float]] = {
    "exam": lambda row: row.exam,
    "probe": lambda row: row.probe,
    "worst retention": lambda row: row.worst,
}
"""The first is the primary one."""
UNEQUAL = 0.02
"""Of optimizer tokens: arms that differ by more are not called equal."""
SAYS = {
    "confirmed": "{arm} ends above {other} in {outcome}",
    "refuted": "{arm} ends below {other} in {outcome}",
    "equivalent": "{arm} and {other} end within 0.02 of one another in {outcome}",
}


def differences(rows: Sequence[Row], arm: str, other: str, outcome: str) -> list[float]:
    """Arm less other, for each student that both arms have."""
    value = OUTCOMES[outcome]
    found = {(r.seed, r.arm): value(r) for r in rows}
    seeds = sorted({r.seed for r in rows})
    return [found[s, arm] - found[s, other] for s in seeds if (s, arm) in found and (s, other) in found]


def word(found: Sequence[float], students: int) -> str:
    """`confirmed`, `equivalent`, `not settled`, and for a claim whose opposite is confirmed, `refuted`.

    While a student is missing nothing is settled, whatever the others say.
    """
    if len(found) < students:
        return "not settled"
    said = verdict(found)
    return "refuted" if said == "not settled" and verdict([-d for d in found]) == "confirmed" else said


Pairs = Sequence[tuple[str, str]]


def tables(rows: Sequence[Row], seeds: Sequence[int], arms: Sequence[str], pairs: Pairs) -> str:
    """Students, differences, cost, and what follows, as Markdown."""
    if not rows:
        return f"None of {len(seeds)} students has been taught yet."
    parts = (
        _students(rows, arms),
        _differences(rows, len(seeds), pairs),
        _cost(rows, arms),
        _sentences(rows, seeds, pairs),
    )
    return "\n\n".join("\n".join(part) for part in parts)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _students(rows: Sequence[Row], arms: Sequence[str]) -> Iterator[str]:
    found = {(r.seed, r.arm): r for r in rows}
    yield _line("student", "exam before", *(f"{outcome}: {', '.join(arms)}" for outcome in OUTCOMES))
    yield "|---" * (2 + len(OUTCOMES)) + "|"
    for seed in sorted({r.seed for r in rows}):
        some = next(r for r in rows if r.seed == seed)
        cells = [
            ", ".join(f"{value(found[seed, arm]):.3f}" if (seed, arm) in found else "none" for arm in arms)
            for value in OUTCOMES.values()
        ]
        yield _line(str(seed), f"{some.exam_before / some.exam_n:.3f}", *cells)


def _differences(rows: Sequence[Row], students: int, pairs: Pairs) -> Iterator[str]:
    yield _line("mean difference, 95 % t interval", *OUTCOMES)
    yield "|---" * (1 + len(OUTCOMES)) + "|"
    for arm, other in pairs:
        cells = []
        for outcome in OUTCOMES:
            found = differences(rows, arm, other, outcome)
            interval = "[{:+.3f}, {:+.3f}]".format(*t_interval(found)) if len(found) > 1 else ""
            cells.append(f"{fmean(found):+.3f} {interval} {word(found, students)}" if found else "none")
        yield _line(f"{arm} less {other}", *cells)


def _cost(rows: Sequence[Row], arms: Sequence[str]) -> Iterator[str]:
    yield _line("per student", "rows", "new", "rehearsed", "SFT tokens", "DPO tokens", "in all", "teacher tokens")
    yield "|---" * 8 + "|"
    for arm in arms:
        if mine := [r for r in rows if r.arm == arm]:
            counts = [
                [r.rows, r.new, r.rows - r.new, r.sft_tokens, r.dpo_tokens, r.tokens, r.teacher_tokens] for r in mine
            ]
            yield _line(arm, *(f"{fmean(column):,.0f}" for column in zip(*counts, strict=True)))


def unequal(rows: Sequence[Row], arm: str, other: str) -> float:
    """By what share of `other`'s the optimizer tokens of `arm` differ, over the students that both have."""
    spent = {(r.seed, r.arm): r.tokens for r in rows}
    both = [s for s in {r.seed for r in rows} if (s, arm) in spent and (s, other) in spent]
    return abs(sum(spent[s, arm] for s in both) / sum(spent[s, other] for s in both) - 1) if both else 0.0


def _sentences(rows: Sequence[Row], seeds: Sequence[int], pairs: Pairs) -> Iterator[str]:
    arms = {arm for pair in pairs for arm in pair}
    done = [s for s in seeds if {r.arm for r in rows if r.seed == s} >= arms]
    apart = {f"{a} and {b}": unequal(rows, a, b) for a, b in pairs}
    most = max(apart, key=lambda pair: apart[pair])
    equal = "equal" if apart[most] <= UNEQUAL else "**not equal**"
    yield (
        f"{len(done)} of {len(seeds)} students. Rows are equal; optimizer tokens are {equal}: {most} differ most, by "
        f"{apart[most]:.1%}."
    )
    settled, open_ = list[str](), list[str]()
    for arm, other in pairs:
        for outcome in OUTCOMES:
            said = word(differences(rows, arm, other, outcome), len(seeds))
            names = dict(arm=arm, other=other, outcome=outcome)
            if said in SAYS:
                settled.append(SAYS[said].format(**names))
            else:
                open_.append("{arm} against {other} in {outcome}".format(**names))
    yield ""
    yield f"**What these data support:** {'; '.join(settled) or 'neither a difference nor an equality of any two'}."
    yield ""
    yield (
        f"**What they do not:** {'any verdict on ' + '; '.join(open_) + '; ' if open_ else ''}"
        "anything about students that are language models, teachers that err, or longer schedules."
    )


def main(it: Comparison, arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=f"{it.name}: see {it.file.name}")
    parser.add_argument("--table", action="store_true", help="only print")
    parser.add_argument("--students", action="store_true", help="only make the students")
    parser.add_argument("--pilot", type=int, nargs="+", default=[], metavar="SEED", help="other students, no data")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"of students ({CACHE})")
    parser.add_argument("--runs", type=Path, default=Path("runs") / it.name, help="folder of the runs (%(default)s)")
    chosen = parser.parse_args(arguments)
    told, digest = it.protocol(), it.digest()
    seeds, data = (chosen.pilot, chosen.runs / "pilot.csv") if chosen.pilot else (told.seeds, it.data)
    rows = read(data)
    if other := {r.protocol for r in rows} - {digest}:
        raise SystemExit(f"{data} has rows of another protocol ({min(other)[:12]}): they are not mixed. Use another.")
    failed: list[str] = []
    for seed in () if chosen.table else seeds:
        folder = student(seed, chosen.cache)
        print(f"student {seed}: {folder.name[:12]}", flush=True)
        for arm in () if chosen.students else told.arms:
            if not any((r.seed, r.arm) == (seed, arm) for r in rows):
                try:
                    rows.append(taught(it, seed, arm, folder, chosen.runs))
                except Exception as e:  # a training that diverges must not keep the other students from their turn
                    failed.append(f"{seed} {arm}: {type(e).__name__}: {e}")
                    continue
                append(data, rows[-1])
                print(f"  {arm}: exam {rows[-1].exam:.3f}", flush=True)
    print(tables(rows, seeds, told.arms, it.pairs))
    for line in failed:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failed else 0
