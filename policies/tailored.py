"""Tailored tutoring: correct the learner's own work, practise the mistake that shows, rehearse what is known.

for each round:
    attempt the practice pool; the teacher diagnoses each wrong work
    mistakes take turns: correction from the first wrong step, new problems for just that step
    learn what survives the check, filled with rehearsal: SFT, then DPO correction > own mistake
"""

from .attempting import answer
from .checking import Sound
from .curating import corrections
from .rounds import Rounds
from .slots import Method
from .teaching import CorrectAndPractise, diagnose
from .triage import Balanced
from .updating import sft_then_dpo

METHOD = Method(
    name="tailored",
    summary="corrections and targeted practice by SFT, then DPO of the correction over the learner's own mistake",
    citation="Democratizing Reasoning Ability: Tailored Learning from Large Language Model (EMNLP 2023)",
    requires=("schema",),
    deviations=(
        "lessons are checked before they are learnt, and the teacher is not told the answer; DPO takes the place of "
        "the paper's triplet loss; rounds have a fixed size, filled with rehearsal"
    ),
    attempt=answer,
    verify=diagnose,
    triage=Balanced(each=16, undiagnosed=48),
    teach=CorrectAndPractise(practice=4),
    check=Sound(kinds=("steps", "own", "gold")),
    curate=corrections,
    update=sft_then_dpo,
    rounds=Rounds(times=5, rows=500, decay=0.8),
)
