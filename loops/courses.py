"""From `course:` in an experiment to pools, in memory: read, drawn and checked before a run folder exists.

    arithmetic   the embedded world, made for the student's misconceptions
    gsm8k        GSM8K's rows, from a file or the hub
    jsonl        rows of one's own: `evals/jsonl.py` says which fields

A pool of the last two is a number of problems, drawn by the experiment's seed from `path` (or `hub`), or a file of its
own, all of it. So GSM8K's training file can be practised and quizzed on, and its test file be the exam.

A file of a pool's own is read row by row, however long. Not covered: drawing from a file that does not fit into memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

from ..evals import gsm8k, harness, jsonl
from ..evals.answers import Answers, answers_of
from ..evals.arithmetic import profile, shipped, world
from ..evals.files import checksum
from ..evals.jsonl import Asked, BadData, Row
from ..evals.pools import Split, disjoint
from ..evals.records import Gold, Problem, content_digest, user
from .config import ConfigError
from .parts import CourseConfig, RoleConfig

Shots = tuple[tuple[str, str], ...]
"""Questions with their answers that are shown before each question."""
POOLS = ("practice", "quiz", "exam")
MEANT_FOR = {
    "twins": ("arithmetic",),
    "retention": ("arithmetic",),
    "path": ("gsm8k", "jsonl"),
    "hub": ("gsm8k",),
    "split": ("gsm8k",),
    "revision": ("gsm8k",),
    "prompt": ("gsm8k",),
    "shots": ("gsm8k",),
    "answer": ("jsonl",),
}
"""Keys that only some kinds of course look at."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a course is made of. Nothing is written yet."""

    splits: Mapping[str, Split] = field(repr=False)
    sources: Mapping[str, str]
    """sha256 of each file, or hub data set, that was read, by its name in the experiment."""
    answers: Answers | None = field(default=None, repr=False)
    """What the student of recorded answers has to say; `None`: it is another."""


def read_course(course: CourseConfig, seed: int, student: RoleConfig, folder: Path, limit: int | None = None) -> Data:
    """Read, draw and check the pools. `limit`: of each only the first so many.

    Raises:
        ConfigError: the data cannot be read, or is too small for what is asked.
        OverlappingPools: two pools share a problem.
    """
    for key, kinds in MEANT_FOR.items():
        if course.kind not in kinds and getattr(course, key) != CourseConfig.model_fields[key].default:
            raise ConfigError(
                f"`course.{key}` says nothing to a course of kind {course.kind!r}, only to {' and '.join(kinds)}. "
                "Leave it out."
            )
    for name in POOLS:
        if isinstance(size := getattr(course, name), int) and size < 1:
            raise ConfigError(f"`course.{name}` must be at least 1 problem, got {size}.")
    try:
        if course.kind == "arithmetic":
            data = _arithmetic(course, seed, student, folder)
        else:
            data = _rows(course, seed, folder)
        if limit is not None:
            data = replace(data, splits={name: list(islice(split, limit)) for name, split in data.splits.items()})
        for _ in disjoint(course.kind, data.splits):
            pass
        if student.engine == "replay":
            data = _recorded(student, folder, data)
    except BadData as e:
        raise ConfigError(str(e)) from None
    return data


def file_sources(course: CourseConfig, folder: Path) -> dict[str, str]:
    """sha256 of each file that a course is made of, by its name in the experiment.

    What a hub gives is not looked at again: the pools of a run that was begun lie in its folder.

    Raises:
        ConfigError: a file is not there.
    """
    found: dict[str, str] = {}
    for key in ("path", *POOLS):
        if isinstance(name := getattr(course, key), str) and name:
            path = folder / name
            if not path.is_file():
                raise ConfigError(f"`course.{key}` is {name!r}, and there is no file {path}.")
            found[name] = checksum(path).sha256
    return found


def answers_source(student: RoleConfig, folder: Path) -> dict[str, str]:
    """sha256 of the file of recorded answers, by its name in the experiment; nothing for another student.

    Raises:
        ConfigError: it is not named, or not there.
    """
    if student.engine != "replay":
        return {}
    if not student.model:
        raise ConfigError("`student.engine: replay` answers from a file; name it: student.model=answers.jsonl")
    if not (folder / student.model).is_file():
        raise ConfigError(f"`student.model` is {student.model!r}, and there is no file {folder / student.model}.")
    return {student.model: checksum(folder / student.model).sha256}


def _recorded(student: RoleConfig, folder: Path, data: Data) -> Data:
    """The data with the answers to it. Every problem has one: a pool without some of its problems is another exam."""
    source = answers_source(student, folder)
    found = answers_of(jsonl.rows_of(folder / student.model), (p for split in data.splits.values() for p, _ in split))
    lacking = {name: [p for p, _ in split if p.digest not in found.texts] for name, split in data.splits.items()}
    if n := sum(map(len, lacking.values())):
        first = next(problems[0] for problems in lacking.values() if problems)
        told = ", ".join(f"{len(problems)} of `{name}`" for name, problems in lacking.items() if problems)
        raise ConfigError(
            f"{n} problems have no recorded answer in {student.model} ({told}; e.g. {first.id}, "
            f"{first.question[:60]!r}); of its {found.rows} rows {found.others} are on problems that the course does "
            "not ask. Nobody knows how the student would have done on them, and an exam without them is another exam. "
            "Record them, or make the course of what was recorded: course.practice=a.jsonl, and so for quiz and exam."
        )
    return replace(data, sources={**data.sources, **source}, answers=found)


def _arithmetic(course: CourseConfig, seed: int, student: RoleConfig, folder: Path) -> Data:
    for name in POOLS:
        if not isinstance(size := getattr(course, name), int):
            raise ConfigError(f"`course.{name}` is {size!r}; the arithmetic course takes a number of problems.")
    model = folder / student.model if student.model else shipped()
    try:
        bugs = profile(model if (model / "provenance.json").exists() else shipped())
        made = _world(
            seed,
            student=bugs,
            practice=int(course.practice),
            quiz=int(course.quiz),
            exam=int(course.exam),
            twins=course.twins,
            retention=course.retention,
        )
    except ValueError as e:
        raise ConfigError(f"`course`: {e}") from None
    splits: dict[str, Split] = {
        name: [(problem, sheet.gold[problem.id]) for problem in sheet.problems]
        for name in (*POOLS, "probe", "retention")
        if (sheet := getattr(made, name)).problems
    }
    return Data(splits=splits, sources={})


_world = lru_cache(maxsize=2)(world)  # seconds; asked for when an experiment is checked, and when it begins


def _rows(course: CourseConfig, seed: int, folder: Path) -> Data:
    sizes = {name: size for name in POOLS if isinstance(size := getattr(course, name), int)}
    files = {name: file for name in POOLS if isinstance(file := getattr(course, name), str)}
    sources = file_sources(course, folder)
    for name in sources:
        if next(jsonl.rows_of(folder / name), None) is None:
            raise ConfigError(f"{folder / name} has no rows; a pool needs at least one problem.")
    if course.shots and course.prompt == "plain":
        raise ConfigError("`course.shots` are shown in the prompt of `course.prompt: lm-eval`; a plain one shows none.")
    drawn: dict[str, Split] = {}
    shots: Shots = ()
    if sizes or course.shots:
        name, rows = _common(course, folder, sources)
        begun = iter(rows)
        shots = gsm8k.shots_of(islice(begun, course.shots))
        asked = _problems(course, begun, "", shots)
        if sizes:
            drawn = dict(jsonl.divided(jsonl.distinct(asked, name), sizes, seed=seed, source=name))
    elif course.path or course.hub:
        raise ConfigError("`course.path` and `course.hub` are for pools given as numbers; here each has its own file.")
    for pool, file in files.items():
        drawn[pool] = _OwnFile(course=course, path=folder / file, pool=pool, shots=shots)
    return Data(splits={name: drawn[name] for name in POOLS}, sources=sources)


@dataclass(frozen=True, kw_only=True)
class _OwnFile:
    """A pool that is a whole file, read anew each time: it may be larger than memory."""

    course: CourseConfig
    path: Path
    pool: str
    shots: Shots

    def __iter__(self) -> Iterator[tuple[Problem, Gold]]:
        asked = _problems(self.course, jsonl.rows_of(self.path), self.pool, self.shots)
        return ((one.problem, one.gold) for one in jsonl.distinct(asked, getattr(self.course, self.pool)))


def _common(course: CourseConfig, folder: Path, sources: dict[str, str]) -> tuple[str, Iterable[Row]]:
    """Rows from which pools are drawn, and what they are called."""
    if course.path:
        return course.path, jsonl.rows_of(folder / course.path)
    if course.hub:
        rows = gsm8k.from_hub(course.hub, split=course.split, revision=course.revision)
        sources[course.hub] = gsm8k.digest(rows)
        return course.hub, rows
    hub = ", or `course.hub: openai/gsm8k`" if course.kind == "gsm8k" else ""
    raise ConfigError(
        f"a course of kind {course.kind!r} needs rows: `course.path: rows.jsonl`{hub}, or for each of "
        f"{', '.join(POOLS)} a file in place of a number."
    )


def _problems(course: CourseConfig, rows: Iterable[Row], pool: str, shots: Shots) -> Iterator[Asked]:
    """Rows as problems; those of a pool's own file are called after it."""
    if course.kind == "gsm8k":
        put = partial(harness.prompt, shots=shots) if course.prompt == "lm-eval" else str
        asked = gsm8k.problems_of(rows, prefix=f"gsm8k-{pool}" if pool else "gsm8k", put=put)
        return _unshown(asked, shots, pool)
    return jsonl.problems_of(rows, kind=course.answer, prefix=pool or "row")


def _unshown(asked: Iterable[Asked], shots: Shots, pool: str) -> Iterator[Asked]:
    """Those that no prompt shows solved.

    Raises:
        BadData: a pool that is not taught from has such a problem in its own file.
    """
    shown = {content_digest(user(question)) for question, _ in shots}
    for one in asked:
        if one.problem.digest not in shown:
            yield one
        elif pool in ("quiz", "exam"):
            raise BadData(
                f"{one.where}: `{pool}` has a problem that every prompt shows solved (`course.shots`). Give it another "
                "file, or fewer shots."
            )
