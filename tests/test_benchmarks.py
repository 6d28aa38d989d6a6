"""What the benchmarks say is what happened: sums by hand, and runs at toy size on scripted roles."""

import doctest
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def beside() -> Iterator[None]:
    """The scripts import one another, as they do when they are run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(BENCHMARKS)
        yield


@pytest.fixture
def timeline(beside: None) -> Any:
    return importlib.import_module("timeline")


@pytest.fixture
def overhead(beside: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("overhead", monkeypatch)


@pytest.fixture
def scale(beside: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("scale", monkeypatch)


@pytest.fixture
def journal(beside: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("journal", monkeypatch)


@pytest.fixture
def gpu(beside: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("gpu", monkeypatch)


@pytest.fixture
def engines(beside: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("engines", monkeypatch)


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec: Any = importlib.util.spec_from_file_location("benchmark", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark", module)  # not by its name: a checkout may be called so
    spec.loader.exec_module(module)
    return module


def told(name: str, folder: Path, *arguments: str) -> str:
    """What a benchmark prints, which it writes as well."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "--out", str(folder / "out.md")]
    printed: str = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (folder / "out.md").read_text(encoding="utf-8") == printed
    return printed


def rows(text: str, *first: str) -> list[list[str]]:
    """Cells of the table rows that begin with one of these."""
    lines = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| "))
    return [cells for cells in lines if cells[0] in first]


DRIVER, ROLE = 1, 2
ROUND = ("between steps", 100, 120, 9.0, DRIVER)
SPANS = [
    ("attempt", 90, 104, 0.0, DRIVER),  # began in the round before
    ("calls", 101, 104, 0.0, DRIVER),
    ("generation", 102, 103, 1.0, ROLE),
    ("train", 105, 115, 7.0, ROLE),
    ("construction", 106, 107, 1.0, ROLE),
    ("training", 108, 114, 5.0, ROLE),
    ("fsync", 113, 116, 0.5, DRIVER),  # in part while the learner trains
    ("handshake", 119, 125, 3.0, ROLE),  # ends in the next one
]


def spans(timeline: Any, *told: tuple[str, float, float, float, int]) -> list[Any]:
    names = ("kind", "start", "end", "cpu", "pid")
    return [timeline.Span(**dict(zip(names, t, strict=True))) for t in told]


def test_every_instant_of_a_round_is_given_to_one_kind(timeline: Any) -> None:
    (whole,) = spans(timeline, ROUND)
    assert timeline.shares(spans(timeline, *SPANS), whole) == {
        "attempt": 1,  # 100-101
        "calls": 2,  # 101-102, 103-104
        "generation": 1,
        "between steps": 4,  # 104-105, 116-119
        "train": 2,  # 105-106, 107-108; from 114 on it is the later fsync
        "construction": 1,
        "training": 6,  # 108-114, whatever else goes on
        "fsync": 2,  # 114-116
        "handshake": 1,  # 119-120
    }


def test_cpu_seconds_outside_are_those_of_all_processes_less_the_models_work(timeline: Any) -> None:
    (whole,) = spans(timeline, ROUND)
    # The driver's 9 have the fsync in them; the role's are generation and train; 1 + 1 + 5 of these are inside.
    assert timeline.cpu_outside(spans(timeline, *SPANS), whole) == 9 + (1 + 7) - (1 + 1 + 5)


def test_processes_write_what_they_do_and_one_reads_it(timeline: Any, tmp_path: Path) -> None:
    record = timeline.Recorder(tmp_path)

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError), record("outer"):
        record.timed("inner", fails)()
    inner, outer = timeline.read_spans(tmp_path)
    assert (inner.kind, outer.kind) == ("inner", "outer")
    assert outer.start <= inner.start <= inner.end <= outer.end and inner.pid == outer.pid


@pytest.mark.parametrize("name", ["timeline", "scale", "gpu", "overlap"])
def test_the_examples_hold(name: str, beside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    result = doctest.testmod(script(name, monkeypatch))
    assert result.attempted and not result.failed


def test_where_there_is_no_gpu_its_benchmark_says_so(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="nvidia-smi names no GPU here"):
        gpu.gpu_name()


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (0.9, 30.0, ["within the limit of 1 s", "3.0% of a process per phase, within that of 20%"]),
        (1.1, 30.0, ["OVER the limit of 1 s", "3.7% of a process per phase, within that of 20%"]),
        (0.9, 3.0, ["within the limit of 1 s", "30.0% of a process per phase, OVER that of 20%"]),
    ],
)
def test_what_is_said_of_the_limits_goes_by_the_medians(
    ours: float, theirs: float, told: list[str], overhead: Any
) -> None:
    def rounds(seconds: float) -> list[Any]:
        return [overhead.Round({"training": 50.0, "curate": s}, 0.0, 0.0, 0.5) for s in (seconds, 99.0, 0.0)]

    first, _ = overhead.verdicts({"ray": rounds(ours), "phases": rounds(theirs)})
    assert f"{ours:.2f} s of orchestration a round (median of 3;" in first
    assert all(words in first for words in told)


def test_the_overhead_of_a_toy_run_adds_up(tmp_path: Path) -> None:
    text = told("overhead", tmp_path, "--quick", "--ways", "local", "phases")
    ways = ["tutorloop in one process", "a process per phase"]
    found = rows(text, *ways)
    assert [row[0] for row in found] == ways
    for _, _, wall, *inside, orchestration, _, _, quiz in found:
        assert float(wall) > float(orchestration.strip("*")) > 0
        assert sum(map(float, (*inside, orchestration.strip("*")))) == pytest.approx(float(wall), abs=0.04)
        assert 0 < float(quiz) < 1
    where = [re.findall(r"^\| ([^|]+) \| [\d.]+ \|$", part, re.M) for part in text.split("Where it goes")[1:]]
    assert "driver: verify" in where[0] and "attempt: start and end of its process" in where[1]


def test_the_journal_is_measured_in_whole_and_torn_shards(tmp_path: Path) -> None:
    kinds = ("asks", "rows, 64 in a part", "rows, 4,096 in a part")
    text = told("journal", tmp_path, "--n", "100")
    found = rows(text, *kinds)
    assert [row[:2] for row in found] == [[kind, "100"] for kind in kinds]
    assert all(float(figure.replace(",", "")) > 0 for row in found for figure in row[1:] if figure)
    assert all(re.search(rf"^- {kind}: [\d,]+ a second, (within|BELOW) the wanted", text, re.M) for kind in kinds)


def test_what_stands_in_the_way_of_the_journal_is_told_where_it_is_too_slow(journal: Any) -> None:
    spent = {name: journal.Spent(wall=wall) for name, wall in (("spent", 2.0), ("disk", 0.5), ("arrow", 0.25))}
    slow = journal.Measured(what="rows", n=100, size=10, stored=1, wanted=51, **spent)
    (said,) = journal.verdicts([slow])
    # 100 rows in 2 s are 50 a second; of its ten parts each takes a tenth of the seconds
    assert said.startswith("- rows: 50 a second, BELOW the wanted 51.")
    assert "each 10 take 200.00 ms, of which 50.00 ms are the disk's alone and 25.00 ms Arrow's" in said
    (said,) = journal.verdicts([replace(slow, wanted=50)])
    assert said == "- rows: 50 a second, within the wanted 50."


def test_a_round_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    (row,) = rows(told("scale", tmp_path, "--sizes", "70"), "70")
    _, asks, wall, cpu, peak = map(float, row)
    assert asks > 70  # each wrong one is diagnosed, and some are taught
    assert wall > 0 and cpu > 0 and peak > 50


def test_pools_of_any_size_have_different_problems_with_right_answers(scale: Any, tmp_path: Path) -> None:
    found = dict(scale.questions(20_000))
    assert len(found) == 20_000
    assert all(answer == eval(question) for question, answer in found.items())
    scale.experiment(tmp_path, 3)
    sealed = [json.loads(line) for name in ("quiz", "exam") for line in (tmp_path / f"{name}.jsonl").open()]
    assert len({row["question"] for row in sealed}) == 600
    assert all(row["answer"] == eval(row["question"]) < 1899 for row in sealed)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ((400, 50.0, 109.0), ["1.09 times that at 100, within", "(100.00): 1.00 times that", "within"]),
        ((400, 50.0, 111.0), ["1.11 times that at 100, OVER", "(100.00): 1.00 times that", "within"]),
        ((400, 55.0, 105.0), ["1.05 times that at 100, within", "(125.00): 1.25 times that", "OVER"]),
    ],
)
def test_growth_is_judged_by_what_a_further_problem_takes(
    scale: Any, last: tuple[int, float, float], said: list[str]
) -> None:
    def run(problems: int, seconds: float, peak: float) -> Any:
        return scale.Measured(problems=problems, asks=problems, wall=seconds, cpu=seconds, peak=peak)

    memory, wall, cpu = scale.verdicts([run(100, 20.0, 100.0), run(200, 30.0, 105.0), run(*last)])
    assert said[0] in memory
    assert all(words in line for line in (wall, cpu) for words in said[1:])


def test_what_the_driver_says_of_the_gpu_is_read_while_it_is_watched(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nfor i in 1 2 3; do echo '25, 1024'; echo '75, 3072'; done\nexec sleep 60\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    watched = gpu.Gpu()
    with watched.watched():
        for _ in range(1000):
            if len(watched.seen) == 6:
                break
            time.sleep(0.01)
    first, *_, last = (at for at, _, _ in watched.seen)
    assert watched.between(first, last) == (0.5, 3.0)
    assert watched.between(last + 1, last + 2) == (None, None), "nobody looked"


def test_the_share_of_a_gpus_flops_is_that_of_a_lora_without_what_is_computed_twice(gpu: Any) -> None:
    times = {"wall": 20.0, "answering": 4.0, "training": 8.0, "publish": 0.5}
    tokens = {"answered": 1000, "sft": 5_000_000, "dpo": 2_000_000}
    one = gpu.Measured(student="0.5b", engine="vllm", parameters=10**6, busy=0.9, memory=7.25, **times, **tokens)
    # 1e6 x (4 x 5e6 + 6 x 2e6) = 3.2e13 in 8 s are 4 of 100 TFLOP/s
    assert list(gpu.table([one], 100.0))[-1] == (
        "| 0.5b | 1.0 M | vllm | 20.0 | 250 | 875,000 | 0.50 | 90.0% | 4.0% | 7.2 |"
    )
    assert list(gpu.table([replace(one, busy=None, memory=None)], None))[-1].endswith("| 0.50 |  |  |  |")


def test_peaks_are_those_of_the_gpu_that_is_named(gpu: Any) -> None:
    assert gpu.peak_of("NVIDIA H100 80GB HBM3, 570.1, 81559 MiB") == 989.0
    assert gpu.peak_of("NVIDIA something else") is None


def test_a_random_student_is_as_large_as_it_is_said_to_be_and_can_be_asked(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tutorloop.agents.models import can_be_asked

    monkeypatch.setitem(gpu.SIZES, "0.5b", (128, 2))
    folder = gpu.student("0.5b", tmp_path)
    can_be_asked(folder)
    # a layer: four squares for attention, three oblongs, two norms; at the end a norm and 102 words
    assert gpu.parameters(folder) == 2 * (4 * 128**2 + 3 * 128 * 512 + 2 * 128) + 128 + 102 * 128


@pytest.mark.slow
@pytest.mark.ray
def test_the_loop_of_the_gpus_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    text = told("gpu", tmp_path, "--device", "cpu", "--students", "tiny", "--engines", "transformers", "--quick")
    (row,) = rows(text, "tiny")
    assert all(float(figure.replace(",", "")) > 0 for figure in row[3:7])


@pytest.mark.slow
def test_asking_a_provider_is_measured_beside_langchain_with_faults_a_kill_and_a_second_round(tmp_path: Path) -> None:
    text = told(
        "teacher",
        tmp_path,
        *("--n", "60", "--latency", "0.03", "--flying", "8"),
        *("--deadline", "2"),
        "--placement=local",
    )
    assert len(rows(text, "the teach step, all in one process")) == len(rows(text, "`ChatOpenAI.abatch`")) == 2
    for row in rows(text, "the teach step, all in one process"):
        assert float(row[1]) > 0 and row[-2:] == ["0", "0"], "paid twice, lost"
    (again,) = re.findall(r"the next start repeated (\d+) calls, of at most 8 in flight; 0 lost", text)
    assert int(again) <= 8
    assert "42 of the 42 unchanged ones reused (100%)" in text


# ---- the engine vllm beside vLLM alone


def test_what_the_engine_vllm_gives_of_bare_vllm_is_judged_turn_by_turn(engines: Any) -> None:
    assert doctest.testmod(engines).failed == 0
    slow = {"bare": [100.0, 50.0, 100.0], "bare in shards": [1.0] * 3, "actor": [98.0, 49.0, 60.0]}
    assert engines.share(slow, "bare") == 0.98
    told = "\n".join(engines.lines({"base": slow}, {"vllm": [0.5, 1.5]}))
    assert "no less than the 0.97" in told and "in 1.50 s at most, OVER 1 s" in told
