"""Hint, then retry: what the learner can almost do, in its own words.

for each round:
    attempt the practice pool; the teacher diagnoses each wrong work
    for each wrong case: the teacher gives the line that is due as a hint; the learner tries again
    what it now gets right is learnt without the hint, filled with rehearsal: SFT, then DPO over its first answer

Not covered: a right answer at the end of wrong steps is right (on the student that ships 10 of 375 that were learnt).
Where steps can be checked, `check: [steps]` asks for more.
"""

from .attempting import answer
from .checking import Sound
from .curating import corrections
from .hinting import HintThenRetry
from .rounds import Rounds
from .slots import Method
from .teaching import diagnose
from .triage import Balanced
from .updating import sft_then_dpo

METHOD = Method(
    name="retry",
    summary="a hint and another try; the learner's own right answer by SFT without the hint, then DPO over its first",
    citation="STaR: Bootstrapping Reasoning With Reasoning (NeurIPS 2022), its rationalisation",
    requires=("schema",),
    deviations=(
        "the hint is the line that is due, from a teacher who is not told the answer; only problems that were wrong "
        "are tried again; training goes on from the last state, where the paper starts from the base each time; DPO "
        "over the first answer follows; rounds have a fixed size, filled with rehearsal"
    ),
    attempt=answer,
    verify=diagnose,
    triage=Balanced(),
    teach=HintThenRetry(),
    check=Sound(kinds=("own",)),
    curate=corrections,
    update=sft_then_dpo,
    rounds=Rounds(times=5, rows=500, decay=0.8),
)
