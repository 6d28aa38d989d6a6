"""Asking a provider, through the teach step of a real run and beside plain LangChain.

    python benchmarks/teacher.py --out benchmarks/teacher.md

The provider is a process on this machine that answers over HTTP after a set latency (`tests/provider.py`), and counts
what it delivers. A run asks it once for every case, with the journal, its `fsync` and Ray; LangChain's `ChatOpenAI`
asks the same questions by `abatch` with as many in flight, and so does our client with nothing around it. What the
latency alone allows is the limit of all of them. It cannot be reached: 2,000 calls, 64 at a time, are 31.25 times the
latency and take 32 times, which is 97.7 % of it.

Then the same with faults; a run that is killed half way and started again; and a second round in which 30 % of the
cases are new. With faults a run takes longer than `abatch`: its rows are written in order with a few shards in memory,
so that an answer that never comes (here 25 times the latency, until it is given up) holds up those behind it.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from machine import machine

import tutorloop
from tutorloop.agents.completions import Completions
from tutorloop.agents.roles import Reply, Request, RoleSpec
from tutorloop.evals.records import user
from tutorloop.loops.asks import Entry, read_asks
from tutorloop.loops.documents import run_record
from tutorloop.loops.journal import Tick
from tutorloop.loops.plan import plan
from tutorloop.loops.show import read_run
from tutorloop.tests.policies_for_tests import once, small
from tutorloop.tests.provider import Delivered, Provider, running

FAULTS = {"429": 0.05, "500": 0.02, "malformed": 0.01, "slow": 0.01, "dropped": 0.01}
WANTED = 0.9
SEEDS = 5
"""Of what the latency allows."""
ANEW = """
async def policy(case, room):
    new = room.plan.number if int(case.id[4:]) % 10 < 3 else 1
    return await room.teacher.aask(f"{new}. Correct this.\\n{case.question}\\n{case.work}")
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    n: int
    """Calls."""
    latency: float
    flying: int
    placement: str
    deadline: float

    @property
    def limit(self) -> float:
        """Calls a second, if nothing took any time but the provider."""
        return self.flying / self.latency


@dataclass
class Spent:
    """Of one step, or of one batch."""

    wall: float = 0.0
    cpu: float = 0.0
    """Of this process."""
    role: float = 0.0
    """Of the teacher's."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What became of all questions."""

    who: str
    spent: Spent
    seen: Delivered
    lost: int
    """Questions that came to neither an answer nor an error."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Questions without an answer, by kind."""
    tries: Mapping[str, int] = field(default_factory=dict)
    """Calls without one."""

    @property
    def twice(self) -> int:
        """Answers that were paid for more than once."""
        return sum(n - 1 for n in self.seen.answered.values())


class Watch(Tick):
    """What the teach step takes, and who.

    Args:
        port: The provider's: whoever is connected to it is the teacher.
    """

    def __init__(self, port: int) -> None:
        self.port, self.spent = port, Spent()
        self.cpu, self.others = 0.0, dict[int, float]()

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        cpu, others = time.process_time(), dict[int, float]()
        role = 0.0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                others[process.pid] = sum(process.cpu_times()[:2])
                if name == "1/teach" and any(c.raddr and c.raddr.port == self.port for c in process.net_connections()):
                    role += others[process.pid] - self.others.get(process.pid, 0.0)
        if name == "1/teach":
            self.spent = Spent(seconds, cpu - self.cpu, role)
        self.cpu, self.others = cpu, others


def experiment(folder: Path, provider: Provider, told: Setting, **changes: Any) -> dict[str, Any]:
    usual = {
        "method": f"{once.__file__}:IN_TURN",
        "rounds": 1,
        "failures": 1.0,
        "placement": told.placement,
        "course": {"practice": told.n, "quiz": 20, "exam": 20, "twins": 0, "retention": 0},
        "teacher__engine": "chat",
        "teacher__url": provider.url,
        "teacher__model": "m-1",
        "teacher__deadline": told.deadline,
        "teacher__limits": {"concurrency": told.flying},
    }
    return small.experiment(folder, **{**usual, **changes})


def entries(root: Path) -> list[Entry]:
    run = run_record(root)["run"]
    return [e for path in (root / "asks").glob("*teach*") for e in read_asks(path, run)]


def ours(folder: Path, provider: Provider, told: Setting, faults: Mapping[str, float]) -> Asked:
    provider.behave(latency=told.latency, faults=faults, retry_after="1", slow=10 * told.deadline)
    watch, root = Watch(provider.port), folder / "run"
    tutorloop.launch(experiment(folder, provider, told), run_dir=root, tick=watch)
    failed = [*small.table(root, "1/teach").failures()]
    answered = [e for e in entries(root) if not e.fault]
    return Asked(
        who=f"the teach step, {'the teacher in an actor' if told.placement == 'ray' else 'all in one process'}",
        spent=watch.spent,
        seen=provider.told(),
        lost=told.n - len(answered) - len(failed),
        errors=Counter(f.kind or f.error for f in failed),
        tries=Counter(e.fault for e in entries(root) if e.fault),
    )


def bare(prompts: Sequence[str], provider: Provider, told: Setting) -> Asked:
    """Our client alone: nothing is on record, nobody waits for a disk."""
    provider.behave(latency=told.latency)
    spec = RoleSpec(role="teacher", engine="chat", root=Path(), model="m-1", url=provider.url, deadline=told.deadline)

    async def all_of_them() -> int:
        client, free = Completions(spec), asyncio.Semaphore(told.flying)

        async def one(prompt: str) -> bool:
            async with free:
                return isinstance(await client.complete(Request(messages=user(prompt))), Reply)

        try:
            return sum(await asyncio.gather(*map(one, prompts)))
        finally:
            await client.close()

    spent, wall, cpu = Spent(), time.perf_counter(), time.process_time()
    answered = asyncio.run(all_of_them())
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Asked(who="our client alone, nothing on record", spent=spent, seen=provider.told(), lost=told.n - answered)


def theirs(prompts: Sequence[str], provider: Provider, told: Setting, faults: Mapping[str, float]) -> Asked:
    from langchain_openai import ChatOpenAI

    provider.behave(latency=told.latency, faults=faults, retry_after="1", slow=10 * told.deadline)
    key: Any = "none"
    model: Any = ChatOpenAI(
        model="m-1", base_url=provider.url, api_key=key, timeout=told.deadline, temperature=0.0, max_retries=5
    )
    spent, wall, cpu = Spent(), time.perf_counter(), time.process_time()
    came = asyncio.run(model.abatch(list(prompts), config={"max_concurrency": told.flying}, return_exceptions=True))
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu
    errors = Counter(type(c).__name__ for c in came if isinstance(c, BaseException))
    return Asked(who="`ChatOpenAI.abatch`", spent=spent, seen=provider.told(), lost=0, errors=errors)


def killed(folder: Path, provider: Provider, told: Setting) -> str:
    """A run that is killed when half of the calls have come, and started again."""
    provider.behave(latency=told.latency)
    (folder / "killed.yaml").write_text(yaml.safe_dump(experiment(folder, provider, told)))
    command = [sys.executable, "-m", "tutorloop", "run", f"{folder}/killed.yaml", "--run-dir", f"{folder}/killed"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and provider.told().calls < told.n // 2:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(2 * told.latency)  # those in flight are answered to nobody
    before = provider.told()
    provider.behave(latency=told.latency)
    subprocess.run(command, check=True, capture_output=True)
    after = provider.told()
    again = before.deliveries.keys() & after.deliveries.keys()
    lost = told.n - len(before.deliveries.keys() | after.deliveries.keys())
    return (
        f"killed when {sum(before.deliveries.values()):,} of {told.n:,} calls had come: the next start repeated "
        f"{len(again)} calls, of at most {told.flying} in flight; {lost} lost. `abatch` keeps nothing: all would be "
        "repeated."
    )


def again(folder: Path, provider: Provider, told: Setting) -> str:
    """A second round in which 30 % of what is asked is new; the student has learnt nothing."""
    provider.behave(latency=told.latency)
    policy = small.policy(folder, ANEW)
    changes = {"rounds": 2, "teacher__policy": policy, "student__options": {"rows_to_unlearn": 10**9}}
    tutorloop.launch(experiment(folder, provider, told, **changes), run_dir=folder / "again")
    first, second = (small.report(folder / "again", n).cost for n in (1, 2))
    unchanged = first.calls - second.calls
    return (
        f"a second round in which {second.calls / first.calls:.0%} of {first.calls:,} requests were new: "
        f"{second.reused:,} of the {unchanged:,} unchanged ones reused ({second.reused / unchanged:.0%}), "
        f"{provider.told().calls:,} calls in both rounds."
    )


def foreseen(folder: Path, provider: Provider) -> str:
    """What a probe of twenty cases foresees of a round of the default method, beside what the round then takes."""
    provider.behave()
    of = {"tokens": list[float](), "cost": list[float]()}
    for seed in range(SEEDS):
        usual = {"method": "tailored", "rounds": 1, "seed": seed, "course__practice": 300, "teacher__engine": "chat"}
        usual |= {
            "teacher__url": provider.url,
            "teacher__model": "m-1",
            "teacher__price": {"input": 0.25, "output": 2.0},
        }
        (folder / "probed.yaml").write_text(yaml.safe_dump(small.experiment(folder, **usual)))
        probe = plan(folder / "probed.yaml", probe=20, tell=lambda line: None).probe
        tutorloop.launch(folder / "probed.yaml", run_dir=folder / f"probed-{seed}")
        bill = read_run(folder / f"probed-{seed}").bill
        assert probe is not None and probe.about.dollars and bill.dollars
        of["tokens"].append(probe.about.tokens / (bill.tokens_in + bill.tokens_out))
        of["cost"].append(probe.about.dollars / bill.dollars)
    told = "; ".join(f"of the {what} {', '.join(f'{x:.0%}' for x in sorted(found))}" for what, found in of.items())
    return (
        f"`plan --probe 20` has foreseen, for one round of `tailored` on 300 problems, seeds 0 to {SEEDS - 1}: {told}."
    )


def lines(told: Setting, found: Mapping[str, Sequence[Asked]], more: Sequence[str]) -> Iterator[str]:
    yield (
        f"{told.n:,} calls of {told.latency:g} s, {told.flying} in flight: the latency alone allows {told.limit:,.0f} "
        f"a second. Faults: {', '.join(f'{share:.0%} {kind}' for kind, share in FAULTS.items())}."
    )
    for title, rows in found.items():
        yield ""
        heads = ("seconds", "calls a second", "of the limit", "CPU ms a call", "the role's", "paid twice", "lost")
        yield f"| {title} | {' | '.join(heads)} |"
        yield "|---|---:|---:|---:|---:|---:|---:|---:|"
        for row in rows:
            rate, spent = told.n / row.spent.wall, row.spent
            cpu = 1000 * (spent.cpu + spent.role) / told.n
            yield (
                f"| {row.who} | {spent.wall:.2f} | {rate:,.0f} | {rate / told.limit:.1%} | {cpu:.2f} | "
                f"{1000 * spent.role / told.n:.2f} | {row.twice} | {row.lost} |"
            )
    for title, rows in found.items():
        for row in rows:
            if row.seen.faults.get("429"):
                yield ""
                failed = _counted({k: n for k, n in row.seen.faults.items() if k})
                yield (
                    f"- {title}, {row.who}: the provider was called {row.seen.calls:,} times and failed {failed}. On "
                    f"record as calls without an answer: {_counted(row.tries) or 'nothing'}. Questions without an "
                    f"answer: {_counted(row.errors) or 'none'}."
                )
    yield ""
    yield (
        "- with faults a run is the slower one: rows are written in order and few shards are in memory, so that a call "
        "that is given up only after its deadline holds up what comes behind. `abatch` has all of it in memory, and "
        "leaves questions unanswered."
    )
    yield from (f"- {line}" for line in more)
    mine = next(iter(found.values()))[0]
    share = told.n / mine.spent.wall / told.limit
    met = "within" if share >= WANTED else "BELOW"
    yield f"- without faults: {share:.1%} of the limit, {met} the wanted {WANTED:.0%}."


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(found.items()))


@contextmanager
def desk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tutorloop-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--n", type=int, default=2000, help="calls (2,000)")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds to an answer (0.2)")
    parser.add_argument("--flying", type=int, default=64, help="calls in flight (64)")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds that a call may take (5)")
    parser.add_argument("--placement", choices=["ray", "local"], default="ray")
    parser.add_argument("--out", type=Path, help="a Markdown file for the figures")
    chosen = parser.parse_args()
    told = Setting(
        n=chosen.n,
        latency=chosen.latency,
        flying=chosen.flying,
        placement=chosen.placement,
        deadline=chosen.deadline,
    )
    where, found = machine("ray", "aiohttp", "langchain-core", "langchain-openai"), dict[str, list[Asked]]()
    with running() as provider:
        for title, faults in (("without faults", {}), ("with faults", FAULTS)):
            with desk() as folder:
                mine = ours(folder, provider, told, faults)
                prompts = [
                    str(yaml.safe_load(e.request)["messages"][-1]["content"])
                    for e in entries(folder / "run")
                    if e.request
                ]
            found[title] = [mine, theirs(prompts, provider, told, faults)]
            if not faults:
                found[title].append(bare(prompts, provider, told))
        with desk() as folder:
            more = [killed(folder, provider, told), again(folder, provider, told), foreseen(folder, provider)]
    text = "\n".join(["# Asking a provider", "", where, "", *lines(told, found, more)])
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
