"""The embedded world: column arithmetic with misconceptions, made so that teaching can be measured.

>>> from tutorloop.evals.arithmetic import check_work, why_wrong, work
>>> bugs = ("smaller-from-larger", "borrow-from-zero")
>>> work("502-178", bugs).splitlines()
['2-8 put 6', '0-7 put 7', '5-1 put 4', '=476']
>>> why_wrong("502-178", bugs)
('smaller-from-larger', 'borrow-from-zero')
>>> check_work("502-178", work("502-178", bugs)).first_wrong
0
"""

from .bugs import BUGS, TEACHER_KNOWS, TEACHER_LACKS, Bug
from .columns import Exercise, Line, WorkCheck, check_work, read, solve
from .course import MIX, Sheet, World, beyond_teacher, mastered, needs, world, wrong_cases
from .profiles import draw_profile, profile, shipped
from .skills import SKILLS, Skill, again, anything, clean, digest, exercised_by, fresh, side, unseen
from .working import Slip, explained_by, slips, why_wrong, work

__all__ = [
    "BUGS",
    "MIX",
    "SKILLS",
    "TEACHER_KNOWS",
    "TEACHER_LACKS",
    "Bug",
    "Exercise",
    "Line",
    "Sheet",
    "Skill",
    "Slip",
    "WorkCheck",
    "World",
    "again",
    "anything",
    "beyond_teacher",
    "check_work",
    "clean",
    "digest",
    "draw_profile",
    "exercised_by",
    "explained_by",
    "fresh",
    "mastered",
    "needs",
    "profile",
    "read",
    "shipped",
    "side",
    "slips",
    "solve",
    "unseen",
    "why_wrong",
    "work",
    "world",
    "wrong_cases",
]
