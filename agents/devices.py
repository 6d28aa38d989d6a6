"""How many GPUs roles take, and whether one is free that others had before.

Not covered: several machines' devices are counted as one heap, but for a role's own, which lie on one node.
"""

import time
from collections.abc import Sequence

from .roles import RoleSpec

PATIENCE = 30.0
"""Seconds after which memory that has not come back is said to be somebody's."""
NEARLY = 0.9
"""A share of a device is free when so much of it is: a driver keeps some for itself."""


def devices(specs: Sequence[RoleSpec], *, shared: bool = False) -> int:
    """How many GPUs roles take, whoever needs most first. A part of one lies on one device.

    Args:
        shared: The learner has them in turn with those who answer.

    >>> def role(gpus, replicas, role="student"):
    ...     return RoleSpec(role=role, engine="scripted", root=Path(), gpus=gpus, replicas=replicas)
    >>> from pathlib import Path
    >>> devices([role(0.5, 2)]), devices([role(0.4, 2), role(0.6, 2)]), devices([role(0.6, 3)]), devices([role(2, 1)])
    (1, 2, 3, 2)
    >>> all_of_them = [role(1, 3), role(0.5, 2, "evaluator"), role(2, 1, "learner")]
    >>> devices(all_of_them), devices(all_of_them, shared=True)
    (6, 4)
    """
    if shared:
        groups = [[spec for spec in specs if (spec.role == "learner") is learns] for learns in (True, False)]
        return max(map(devices, groups))
    whole, free = 0, list[float]()
    for part in sorted((s.gpus for s in specs for _ in range(s.replicas * s.workers) if s.gpus), reverse=True):
        fits = [i for i, left in enumerate(free) if left >= part - 1e-9]
        if part >= 1:
            whole += int(part)
        elif fits:
            free[fits[0]] -= part
        else:
            free.append(1 - part)
    return whole + len(free)


def scraps(part: float, whole: float) -> float:
    """What is left of a whole when parts have been taken from it.

    >>> [round(scraps(part, 1), 2) for part in (0.5, 0.3, 0.75)]
    [0.0, 0.1, 0.25]
    """
    return max(0.0, whole - part * int(whole / part + 1e-6))


def await_memory(gpus: float) -> None:
    """Wait until the GPUs of this process have its share of memory to give: who had them before it is gone.

    CUDA is asked, which knows this process's devices by its own numbers. Where there is none, nothing is waited for.

    Raises:
        ValueError: somebody still has it.
    """
    import torch

    end = time.monotonic() + PATIENCE
    for device in range(torch.cuda.device_count() if gpus else 0):
        while True:
            free, total = torch.cuda.mem_get_info(device)
            if free >= NEARLY * min(gpus, 1.0) * total:
                break
            if time.monotonic() >= end:
                raise ValueError(
                    f"of GPU {device} {free / 2**30:.1f} of {total / 2**30:.1f} GB are free, and {min(gpus, 1.0):g} of "
                    "it was to be. Another process has it: look at nvidia-smi, or ask for a smaller part."
                )
            time.sleep(0.5)
