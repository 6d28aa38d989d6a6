"""Socratic hints in order of strength: where to look, the line that is due, and only then the whole work.

for each round:
    attempt the practice pool; the teacher diagnoses each wrong work
    for each wrong case: hints from the weakest on, a try after each; who still errs is told the corrected work
    own right answers (without the hint) and corrections are learnt, filled with rehearsal: SFT, then DPO
"""

from .attempting import answer
from .checking import Sound
from .curating import corrections
from .hinting import Socratic
from .rounds import Rounds
from .slots import Method
from .teaching import diagnose
from .triage import Balanced
from .updating import sft_then_dpo

METHOD = Method(
    name="socratic",
    summary="hints from weak to strong, then the correction; own right answers and corrections by SFT, then DPO",
    citation="MathDial: A Dialogue Tutoring Dataset with Rich Pedagogical Properties (Findings of EMNLP 2023)",
    requires=("schema",),
    deviations=(
        "the paper trains tutors on dialogues with a student that is a prompted model; here the student learns, from "
        "its own answer to the weakest hint that suffices; no dialogue: each hint takes the weaker one's place"
    ),
    attempt=answer,
    verify=diagnose,
    triage=Balanced(),
    teach=Socratic(),
    check=Sound(kinds=("own", "steps")),
    curate=corrections,
    update=sft_then_dpo,
    rounds=Rounds(times=5, rows=500, decay=0.8),
)
