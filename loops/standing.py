"""The student of a run as it stood after a round, to be asked outside of the run (`chat_model.py`).

The run is only read, and may be going on. What answers has shown before, by the evidence that the run has stored, that
it is the state that is on record there: the digest of its tensors, its modules, and its log-probabilities.

Not covered: the state between the SFT and the DPO of one round, which was never published; a round that is still open.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..agents.build import build
from ..agents.cast import evidence_of, proof_file
from ..agents.roles import Evidence, PublishError, RoleSpec
from ..evals.files import Checksum, whole
from ..evals.records import State
from .config import ConfigError
from .launch import Prepared, configured, role_specs
from .show import RunFolder


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A state of the student, and all that it takes to ask it. Nothing is loaded yet."""

    spec: RoleSpec
    state: State
    evidence: Evidence
    note: str
    """What to warn of; empty: nothing."""

    def proven(self) -> Any:
        """A server that has proven the state, in this process.

        Raises:
            ConfigError: there is no such model here, or what lies here is not that state.
        """
        root = self.spec.root
        try:
            server = build(_fitting(self.spec))
        except (ValueError, OSError) as e:
            raise ConfigError(f"the student of {root} cannot be built: {e}") from e
        try:
            server.prove(self.evidence)
        except (PublishError, ValueError, KeyError, OSError) as e:
            why = str(e) if isinstance(e, PublishError) else f"{self.state.name} cannot be read: {e}."
            raise ConfigError(
                f"{why} So it is not asked. Restore {root} from a copy, or ask the student of another round."
            ) from e
        return server


def standing(root: Path, number: int | None = None) -> Standing:
    """The state that a round's update left, kept or not; `None`: the one that serves after the last round.

    Raises:
        JournalError: there is no run, or it is damaged.
        ConfigError: there is no such round, or a student that cannot be asked; says what there is.
    """
    run = RunFolder(root)
    config, folder = configured(root)
    if config.student.engine == "replay":
        raise ConfigError(
            f"{root} has a student of recorded answers, which has nothing to say to any other question. Take a run "
            "with a student that answers."
        )
    reports = {report.number: report for report in run.reports}
    if (number if number is not None else 0) not in reports:
        raise ConfigError(f"{root} has no finished round{'' if number is None else f' {number}'}; {_there(run)}.")
    report = reports[max(reports) if number is None else number]
    state = report.serving["student"] if number is None else report.candidate
    note = ""
    if state != report.serving["student"]:
        serves = report.serving["student"].name
        note = f"round {number} of {root} was rolled back. Here answers what it left, {state.name}; {serves} served on."
    ready = Prepared(experiment=config, stages=(), sources={}, folder=folder)
    spec = role_specs(ready, root.resolve())["student"]
    return Standing(spec=spec, state=state, evidence=_evidence(run, state), note=note)


def _there(run: RunFolder) -> str:
    if not run.reports:
        return "it has none yet, not even round 0"
    back = [str(report.number) for report in run.reports if not report.kept]
    rolled = f", of which {', '.join(back)} {'were' if len(back) > 1 else 'was'} rolled back" if back else ""
    return f"it has 0 to {run.reports[-1].number}{rolled}"


def _evidence(run: RunFolder, state: State) -> Evidence:
    """As it was stored.

    Raises:
        ConfigError: it is not there, or is not what was stored.
    """
    file = proof_file(state)
    files = {path: known for record in run.documents.records() for path, known in record["files"].items()}
    if file not in files:
        raise ConfigError(f"{run.root} has no evidence of {state.name} ({file}), so nothing could show that it is it.")
    try:
        whole(run.root / file, Checksum(*files[file]))
        return evidence_of(run.root, state)
    except (ValueError, OSError) as e:
        raise ConfigError(f"the evidence of {state.name} cannot be gone by: {e}") from None


def _fitting(spec: RoleSpec) -> RoleSpec:
    """On a device that is here: a CPU where the run had a GPU and there is none. The proof says if that will do."""
    if not spec.gpus:
        return spec
    import torch

    return spec if torch.cuda.is_available() else replace(spec, gpus=0.0)
