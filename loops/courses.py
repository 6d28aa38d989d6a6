"""From `course:` in an experiment to pools on disk."""

from pathlib import Path

from ..evals.arithmetic import profile, shipped, world
from ..evals.pools import Course, Split, make_course
from .config import ConfigError, CourseConfig, RoleConfig


def data_files(course: CourseConfig, folder: Path) -> list[Path]:
    """The files that the course is read from; their digests are part of the run's record."""
    named = [course.path, *(p for p in (course.practice, course.quiz, course.exam) if isinstance(p, str))]
    return [folder / name for name in named if name]


def make(course: CourseConfig, seed: int, student: RoleConfig, folder: Path, root: Path) -> Course:
    """Write the pools below the run folder.

    Raises:
        ConfigError: the data cannot be read, or is too small for what is asked.
        OverlappingPools: two pools share a problem.
    """
    if course.kind == "arithmetic":
        return _arithmetic(course, seed, student, folder, root)
    raise ConfigError(f"`course.kind` {course.kind!r} is not there yet")


def _arithmetic(course: CourseConfig, seed: int, student: RoleConfig, folder: Path, root: Path) -> Course:
    sizes = {"practice": course.practice, "quiz": course.quiz, "exam": course.exam}
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise ConfigError(f"`course.{name}` is {size!r}; the arithmetic course takes a number of problems.")
    model = folder / student.model if student.model else shipped()
    bugs = profile(model if (model / "provenance.json").exists() else shipped())
    try:
        made = world(
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
        name: (sheet.problems, sheet.gold)
        for name in ("practice", "quiz", "exam", "probe", "retention")
        if (sheet := getattr(made, name)).problems
    }
    return make_course("arithmetic", root, splits)
