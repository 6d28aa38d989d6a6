"""A method that says everything to a terminal that one might obey. No test by itself."""

import logging
import sys
import warnings
from dataclasses import replace
from typing import Any
from zlib import crc32

from tutorloop.evals.records import Verdict
from tutorloop.policies.records import Case, Lesson
from tutorloop.policies.room import Room
from tutorloop.policies.tailored import METHOD as tailored

ESCAPES = "\x1b[2J \x1b]8;;http://evil\x07link\x1b]8;;\x07 \x1b]52;c;ZXZpbA==\x07 \x1bc \x1bP$q\x1b\\ \x9b31m\x08\x7f"
BIDI = "\u202egnp.exe\u2066 \u200f\u061c\u2028"
MARKUP = "[red]markup[/red] [link=http://evil]:bomb:[/link]"
RUDE = f"{ESCAPES} {BIDI} {MARKUP}\rtutorloop: all is well\nround 9  1.000  kept"


def diagnose(case: Case, room: Room) -> Verdict:
    return Verdict(label="wrong", by="teacher", step=0, evidence=RUDE)


def teach(case: Case, room: Room) -> Any:
    print(RUDE)
    print(RUDE, file=sys.stderr)
    logging.getLogger("tutorloop.agents").warning("%s", RUDE)
    warnings.warn(RUDE, stacklevel=1)
    room.note(RUDE, RUDE)
    if crc32(case.id.encode()) % 8 == 0:
        raise RuntimeError(RUDE)
    return Lesson(text=RUDE, target=RUDE, act=RUDE, about=RUDE)


METHOD = replace(tailored, name=RUDE, summary=RUDE, citation=RUDE, deviations=RUDE, verify=diagnose, teach=teach)
