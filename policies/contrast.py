"""Contrastive pairs: right work against the learner's own wrong work, which share all lines before the first wrong one.

for each round:
    attempt the practice pool; the teacher diagnoses each wrong work
    for each wrong case: the learner's own work, corrected from the first wrong step
    SFT rehearses what the learner has right; corrections are learnt by DPO over the mistake alone
"""

from .attempting import answer
from .checking import Sound
from .curating import corrections
from .rounds import Rounds
from .slots import Method
from .teaching import CorrectAndPractise, diagnose
from .triage import Balanced
from .updating import rehearse_then_dpo

METHOD = Method(
    name="contrast",
    summary="DPO of the correction over the learner's own mistake, without SFT on it; SFT rehearses own right answers",
    citation="SuperCorrect (ICLR 2025), its cross-model DPO",
    requires=("schema",),
    deviations=(
        "its second stage only; what is rejected is the first attempt and not a self-correction; pairs are whole works "
        "that share their right beginning; a term for the right work's own likelihood keeps that from falling (Pang "
        "et al. 2024); rehearsal by SFT"
    ),
    attempt=answer,
    verify=diagnose,
    triage=Balanced(),
    teach=CorrectAndPractise(practice=0),
    check=Sound(kinds=("steps", "own", "gold")),
    curate=corrections,
    update=rehearse_then_dpo,
    rounds=Rounds(
        times=5,
        rows=500,
        decay=0.8,
        settings={
            "dpo": {
                "loss_type": ["sigmoid", "sft"],
                "per_device_train_batch_size": 8,
                "learning_rate": 1e-3,  # by itself this would destroy the student; beside the `sft` term it teaches
                "num_train_epochs": 2,
            }
        },
    ),
)
