"""The control without diagnosis: right work for practice problems of every skill alike, right or wrong, and fresh ones.

Same rounds, rows, rehearsal and recipe as `tailored` and `gold`. Nobody looks at what the learner gets wrong: a problem
is drawn for its skill, and a mistake serves only as what DPO puts below the right work. So `gold` less `uniform` is the
worth of picking the wrong cases, and `tailored` less `uniform` that of tailoring as a whole.

Not covered: drawing evenly where gold has no `skill` (all problems are then one skill), and fresh practice where the
package cannot write problems: there, rounds have fewer new rows than those of `gold`.
"""

from collections.abc import Sequence
from itertools import islice

from ..evals.rows import where
from .attempting import answer
from .checking import Sound
from .curating import corrections
from .gold import GoldWork
from .records import Case
from .room import Room
from .rounds import Rounds
from .slots import Method
from .triage import taking_turns, whole, wrong
from .updating import sft_then_dpo


def evenly(cases: Sequence[Case], room: Room) -> list[Case]:
    """As many cases as are wrong, but any, right ones too: the skills take turns, each in an order of its own."""
    turns = taking_turns(where(cases, whole), lambda case: room.gold(case).skill, room.rng)
    return list(islice(turns, len(wrong(cases, room))))


METHOD = Method(
    name="uniform",
    summary="control: right work for problems of every skill alike, no diagnosis, by SFT, then DPO over what was wrong",
    requires=("gold",),
    attempt=answer,
    triage=evenly,
    teach=GoldWork(),
    check=Sound(kinds=("gold", "steps")),
    curate=corrections,
    update=sft_then_dpo,
    rounds=Rounds(times=5, rows=500, decay=0.8),
)
