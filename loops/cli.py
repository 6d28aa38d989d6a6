"""The command line. Each command imports what it needs when it is called, so that help answers at once.

Exit codes: 0 done; 1 a bug, or a role that is lost or serves another state than it should: its traceback in the run's
`logs/` (also a policy that failed in every case of a try); 2 something to mend in the experiment, the folder,
the command or the machine; 3 stopped, by the budget or by failures; 130 and 143 paused, by SIGINT and SIGTERM.
"""

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .telling import logged, say, told, warnings

if TYPE_CHECKING:
    from ..policies.rounds import Report

app = typer.Typer(
    help="Teach one language model with another, in rounds.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

File = Annotated[Path, typer.Argument(help="An experiment: arithmetic, scripted, a YAML file, or the folder of a run.")]
Run = Annotated[Path, typer.Argument(help="A run's folder.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields in place of the file's: rounds=3.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, for programs.")]


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"tutorloop {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    file: File,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/<name of FILE>.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Toy scale: limit=8, in <run folder>-quick, anew.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run an experiment. The same command resumes it; with more rounds or a larger budget it continues."""
    from .launch import launch, place

    root = run_dir or (file if (file / "run.json").exists() else Path("runs") / file.stem)
    given = [*(overrides or ()), *(["limit=8"] if quick else [])]
    with told():
        root, _ = place(file, given, root)
    command = ["tutorloop", "run", str(file), "--run-dir", str(root), *given]
    _go(root, partial(launch, file, root, given), command, quiet, as_json)


@app.command()
def fork(
    run: Run,
    run_dir: Annotated[Path, typer.Option(help="The fork's own folder.")],
    from_round: Annotated[int, typer.Option(min=0, help="The last round that both share.")],
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Go on from a round of a run with a change, in a run of its own that shares what came before. Resumes too."""
    from .fork import fork as forked

    given = list(overrides or ())
    command = ["tutorloop", "fork", str(run), "--from-round", str(from_round), "--run-dir", str(run_dir), *given]
    _go(run_dir, partial(forked, run, run_dir, from_round, given), command, quiet, as_json)


@app.command()
def teach(
    run: Run,
    problem: Annotated[str | None, typer.Argument(help="Id of a practice problem.")] = None,
    work: Annotated[Path | None, typer.Option(help="A file with the right work; by default $EDITOR opens.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last correction back.")] = False,
    run_dir: Annotated[Path | None, typer.Option(help="Where it is taught; by default RUN-taught.")] = None,
    as_json: AsJson = False,
) -> None:
    """Teach one correction, now, on top of a run that stays as it is; and see what it did."""
    from . import by_hand
    from .live import folder_of

    if (problem is None) != undo:
        raise typer.BadParameter("name a problem to teach, or --undo the last correction")
    with told():
        root = folder_of(run, run_dir)
    with told(root), warnings():
        if problem is None:
            state = by_hand.undo(run, run_dir)
            _print(state, [f"the student is {state.name} again, sha256 {state.digest}"], as_json)
        else:
            taught = by_hand.teach(run, problem, work, run_dir)
            _print(taught, by_hand.taught_lines(taught), as_json)


def _go(root: Path, start: Callable[..., "Report"], command: Sequence[str], quiet: bool, as_json: bool) -> None:
    """Let a run go, and show what it came to."""
    with told(root):
        code = _going(root, start, command, quiet)
        if not code:
            _report(root, quiet)
        if as_json or not quiet:
            _show(root, as_json)
        if not (as_json or quiet):
            from .quick import toy_lines

            _lines(toy_lines(root))
    raise typer.Exit(code)


def _going(root: Path, start: Callable[..., "Report"], command: Sequence[str], quiet: bool) -> int:
    """Start, resume or continue; the exit code."""
    from .launch import Interrupted
    from .progress import progress
    from .slots import TooManyFailures

    try:
        with progress(root, quiet) as tick, warnings():
            report = start(tick=tick)
    except Interrupted as e:
        say(f"paused in {root}: {e}:")
        say(f"  {shlex.join(command)}")
        return 128 + e.number
    except TooManyFailures as e:
        say(f"stopped in {root}: {e}")
        return 3
    if report.status == "stopped":
        say(f"stopped in {root}: {report.why}.")
        return 3
    return 0


def _report(root: Path, quiet: bool) -> None:
    """Write the page of a run that is over; whatever becomes of the page, the run is finished."""
    from .report import write_report

    try:
        page = write_report(root)
    except Exception as e:
        say(f"the run is finished; its report was not written: {e} (traceback in {logged(root)})")
        return
    if not quiet:
        say(f"report: {page} ({page.stat().st_size / 1000:.0f} kB)")


@app.command()
def show(
    run: Run,
    problem: Annotated[str | None, typer.Argument(help="Id of a problem, for its whole history.")] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="wrong|fixed|regressed", help="List the practice problems that are so, as last asked."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a run's rounds, one problem's history, or a list of problems: also while the run goes on."""
    if problem is not None and only is not None:
        raise typer.BadParameter("name one problem, or list --only some")
    with told():
        if only is not None:
            from .picking import listed
            from .words import listed_lines

            found = listed(run, only)
            _print(found, listed_lines(found), as_json)
            return
        if problem is None:
            _show(run, as_json)
            return
        from .history import read_history
        from .words import history_lines

        history = read_history(run, problem)
        _print(history, history_lines(history), as_json)


def _show(root: Path, as_json: bool) -> None:
    from .show import read_run
    from .words import run_lines

    view = read_run(root)
    _print(view, run_lines(view), as_json)


@app.command("try")
def try_(
    policy: Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A teaching policy.")],
    on: Annotated[Path, typer.Option(help="A run's folder; nothing in it is changed.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Of a policy that is a dataclass.")
    ] = None,
    number: Annotated[int | None, typer.Option("--round", help="By default the first that has cases.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many cases, in triage's order.")] = 20,
    case: Annotated[list[str] | None, typer.Option(help="Id of a case; may be given again.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Without movement, after which a policy is given up.")] = 10.0,
    watch: Annotated[bool, typer.Option("--watch", help="Try again whenever the file is saved. Ctrl-C ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try a teaching policy on recorded cases of a run, which stays as it is. What is known is not asked again.

    Exit code 1: the policy raised, hung or returned nonsense in every case.
    """
    from .catching import catch
    from .trial import Trial
    from .trying import trials
    from .trying_words import trial_lines

    listen, in_vain = catch(), False
    found = trials(policy, on, options or (), number=number, n=n, ids=case or (), seconds=seconds, watch=watch)
    with told(), suppress(*[KeyboardInterrupt] if watch else []):
        try:
            for trial in found:
                listen()
                if isinstance(trial, Trial):
                    _clear(watch and not as_json)
                    _print(trial, trial_lines(trial), as_json)
                    in_vain = not watch and trial.in_vain
                else:
                    say(f"tutorloop: {' '.join(str(trial).split())}")
        finally:
            listen()
    raise typer.Exit(1 if in_vain else 0)


def _clear(wanted: bool) -> None:
    """Begin anew at the top of a terminal."""
    if wanted and sys.__stdout__ is not None and sys.__stdout__.isatty():
        sys.__stdout__.write("\x1b[2J\x1b[3J\x1b[H")


@app.command()
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default report.html in the run's folder.")
    ] = None,
) -> None:
    """Write a run as one page for a browser: curve, flow, problems with their histories, cost, settings."""
    from .report import write_report

    with told():
        page = write_report(run, out)
        typer.echo(f"{page} ({page.stat().st_size / 1000:.0f} kB)")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, A.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another's, B.")],
    as_json: AsJson = False,
) -> None:
    """Set two runs side by side, problem by problem: a paired test, what differs, what each has cost."""
    from .compare import compare as compared
    from .compare import comparison_lines

    with told():
        found = compared(first, second)
        _print(found, comparison_lines(found), as_json)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the runs are.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs below a folder, those that are damaged or cannot be read with their fault."""
    from .documents import JournalError
    from .listing import listing
    from .words import listing_lines

    with told():
        if not folder.is_dir() and folder != Path("runs"):
            raise JournalError(f"there is no folder {folder}")
        found = listing(folder)
    _print(found, listing_lines(found) if found else [f"no runs below {folder}"], as_json)


@app.command()
def plan(
    file: File,
    overrides: Overrides = None,
    probe: Annotated[
        int, typer.Option(metavar="N", min=0, help="Ask the teacher about N real cases, which is paid for.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Say what an experiment would do, and who set each setting. Starts nothing, writes nothing; with --probe N it asks
    N real cases first, and says by them what the whole run would take."""
    with told(), warnings():
        from .plan import plan as planned
        from .plan import plan_lines

        made = planned(file, list(overrides or ()), probe, say)
    _print(made, plan_lines(made), as_json)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods that ship. One of your own is named by import path: my_methods:METHOD."""
    from ..policies.methods import METHODS
    from .words import method_lines

    found = [
        {
            "name": name,
            "citation": stages[0].citation,
            "requires": sorted({need for m in stages for need in m.requires}),
            "summary": "; then ".join(m.summary for m in stages),
            "deviations": stages[0].deviations,
            "rounds": "; then ".join(m.rounds.words() for m in stages),
        }
        for name, stages in METHODS.items()
    ]
    _print(found, method_lines(found), as_json)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the runs are, or will be.")] = Path("runs"),
    cluster: Annotated[str, typer.Option(metavar="HOST:PORT", help="A Ray cluster to look at as well.")] = "",
    experiment: Annotated[Path | None, typer.Option(metavar="FILE", help="Whose models are to fit into GPUs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether this machine is fit to run, and what to mend. Exit code 2 if anything must be."""
    from .doctor import doctor_lines, examine
    from .launch import prepare, role_specs

    with told():
        specs = [*role_specs(prepare(experiment), folder).values()] if experiment else []
    found = examine(folder, cluster, specs)
    _print(found, doctor_lines(found), as_json)
    raise typer.Exit(2 if any(f.status == "fail" for f in found) else 0)


def _print(value: Any, lines: Iterable[str], as_json: bool) -> None:
    if as_json:
        from pydantic_core import to_json

        typer.echo(to_json(value, indent=1).decode())  # as text: bytes would pass by what makes it harmless
    else:
        typer.echo("\n".join(lines))


def _lines(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)
