"""Run the console script ``nesa``: parse the arguments, run one command, return its exit code.

    0    done
    1    the run failed
    2    the user's input is wrong
    130  interrupted (Ctrl-C), 143 terminated

Results go to stdout, progress and errors to stderr. Errors that a user can cause are printed without a traceback;
``--debug`` shows it. Everything heavy is imported inside the command that needs it.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesa.cli import parser
from nesa.cli.summaries import curriculum_notes, curriculum_summary, print_result, write_file
from nesa.errors import CurriculumError, NesaError, UserError

if TYPE_CHECKING:
    from nesa.config.curriculum import Curriculum

INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as Ctrl-C is, so that the same code saves state on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else a name that the terminal cannot write ends a command
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parser.parse(words)
    except SystemExit as stop:  # --help, --version, or a usage error that argparse has printed
        return stop.code if isinstance(stop.code, int) else 2
    args.words = words
    try:
        return COMMANDS[args.action](args)
    except KeyboardInterrupt as stop:
        if args.debug:
            raise
        terminated = isinstance(stop, Terminated)
        print("terminated" if terminated else "interrupted", file=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED
    except BrokenPipeError:  # `nesa tasks | head`: the reader has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except NesaError as error:
        if args.debug:
            raise
        lines = str(error) if isinstance(error, CurriculumError) else f"error: {error}"
        print(lines, file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if args.debug:
            raise
        from nesa.cli.environment_check import installation_problem

        if (problem := installation_problem(error)) is not None:
            print(f"error: {problem}", file=sys.stderr)
            return UserError.exit_code
        name = type(error).__name__
        print(f"error: unexpected {name}: {error}\nThis is a mistake in nesa: --debug shows where.", file=sys.stderr)
        return 1


# Commands -----------------------------------------------------------------------------------------------------------


def run_command(args: argparse.Namespace) -> int:
    """Train a curriculum, with one seed or several."""
    from nesa.config.loader import load
    from nesa.progress import Progress

    curriculum = load(args.curriculum, args.overrides)
    options = training_options(args)
    if args.seeds and len(args.seeds) > 1:
        return run_seeds(args, curriculum, options)
    seed = args.seeds[0] if args.seeds else curriculum.seed
    with terminable():
        from nesa.distributed import process_group
        from nesa.experiment.run import run

        with process_group(args.device) as rank:
            with Progress(rank.stream, quiet=args.quiet) as progress:
                seeded, options["device"] = replace(curriculum, seed=seed), rank.device
                folder = run(seeded, out=rank.out or args.out, name=args.name, seed=seed, progress=progress, **options)
            print_result([folder])
    return 0


def run_seeds(args: argparse.Namespace, curriculum: Curriculum, options: dict[str, Any]) -> int:
    """Train a curriculum once for each seed; with a name, runs of that name that are finished are skipped."""
    from nesa import distributed
    from nesa.experiment import multi_run
    from nesa.progress import Progress

    distributed.require_single_process("run with several seeds")
    planned = multi_run.seeded(curriculum, args.out or Path("runs"), args.name or curriculum.name, args.seeds)
    if args.name:
        multi_run.check(planned)
    folders = []
    with terminable():
        from nesa.experiment.run import run

        for number, (seeded, folder) in enumerate(planned, start=1):
            with Progress(quiet=args.quiet) as progress:
                progress.message(f"run {number} of {len(planned)}: {folder if args.name else f'seed {seeded.seed}'}")
                if not args.name:
                    folder = run(seeded, out=args.out, seed=seeded.seed, progress=progress, **options)
                elif not multi_run.ensure(seeded, folder, progress=progress, **options):
                    progress.message("finished before, skipped")
            folders.append(folder)
    print_result(folders)
    return 0


def sweep_command(args: argparse.Namespace) -> int:
    """Train a grid of curricula."""
    from nesa.distributed import require_single_process
    from nesa.experiment.sweep import plan, sweep, text

    require_single_process("sweep")
    rows = plan(args.curriculum, args.overrides, args.out or Path("runs"), args.name, args.seeds)
    with terminable():
        sweep(rows, quiet=args.quiet, **training_options(args))
    print(text(rows), end="")
    place = rows[0].folder.parent
    files = [name for name in ("sweep.csv", "front.png", "front.svg") if (place / name).exists()]
    print(f"sweep: {place} ({', '.join(files)})\nsee: tensorboard --logdir {place} --samples_per_plugin images=100")
    return 1 if any(row.status != "finished" for row in rows) else 0


def resume_command(args: argparse.Namespace) -> int:
    """Resume an interrupted run."""
    from nesa.progress import Progress

    with terminable():
        from nesa.distributed import require_single_process
        from nesa.experiment.run import resume

        require_single_process("resume")
        with Progress(quiet=args.quiet) as progress:
            resume(args.run, data=args.data, device=args.device, progress=progress, animate=not args.no_film)
    print_result([args.run])
    return 0


def extend_command(args: argparse.Namespace) -> int:
    """Add tasks to a finished run."""
    from nesa.progress import Progress

    with terminable():
        from nesa.distributed import require_single_process
        from nesa.experiment.run import extend

        require_single_process("extend")
        with Progress(quiet=args.quiet) as progress:
            extend(
                args.run,
                args.more,
                args.overrides,
                data=args.data,
                device=args.device,
                command=["nesa", *args.words],
                progress=progress,
                animate=not args.no_film,
            )
    print_result([args.run])
    return 0


def check_command(args: argparse.Namespace) -> int:
    """Check the environment, a curriculum, or both."""
    if args.environment:
        from nesa.cli.environment_check import print_environment_check

        code = print_environment_check(args.data)
        if code or args.curriculum is None:
            return code
    from nesa.config.loader import dump, load

    curriculum = load(args.curriculum, args.overrides)
    if args.print:
        print(dump(curriculum), end="")
        return 0
    print(f"{args.curriculum}: {curriculum_summary(curriculum)}")
    for note in curriculum_notes(curriculum):
        print(f"note: {note}")
    if args.estimate:
        from nesa.config.estimate import estimate, format_estimate

        print("\n".join(format_estimate(estimate(curriculum))))
    if args.preview is not None:
        from nesa.cli.previews import draw_curriculum

        print(draw_curriculum(curriculum, args.preview, args.data))
    return 0


def tasks_command(args: argparse.Namespace) -> int:
    """List the task sources, or draw samples of one."""
    from nesa.datasets import registry

    if args.preview is None:
        if args.overrides:
            raise UserError("key=value sets the parameters of a preview: add --preview PNG")
        print(registry.describe(args.name))
        return 0
    if args.name is None:
        raise UserError("--preview draws one source: give its name, such as nesa tasks shapes --preview shapes.png")
    from nesa.cli.previews import draw_source

    print(draw_source(args.name, args.overrides, args.preview, size=args.size, channels=args.channels, data=args.data))
    return 0


def verify_command(args: argparse.Namespace) -> int:
    """Check a stored run."""
    from nesa.verification.verify import verify

    checks = verify(args.run, data=args.data)
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.detail}".rstrip())
    failed = sum(not check.ok for check in checks)
    print(f"{len(checks)} checks, {failed} failed")
    return 1 if failed or not checks else 0


def prove_command(args: argparse.Namespace) -> int:
    """Compare a run's networks with the structure that was measured."""
    from nesa.verification.structure_proof import prove

    failed = 0
    for proof in prove(args.run, args.task, args.data):
        failed += not proof.holds
        print("\n".join(proof.lines()), flush=True)
    return 1 if failed else 0


def compare_command(args: argparse.Namespace) -> int:
    """Print runs side by side."""
    from nesa.analysis.comparison import compare, similarities
    from nesa.reports import comparison_report

    if len(args.runs) < 2:
        raise UserError("compare takes two runs or more; the figures of one are in its tables and its report")
    comparison = compare(args.runs)
    pairs = similarities(comparison)
    print(comparison_report.text(comparison, pairs), end="")
    if args.html:
        write_file(args.html, comparison_report.page(comparison, pairs))
    if args.markdown:
        write_file(args.markdown, comparison_report.markdown(comparison, pairs))
    if args.csv:
        write_file(args.csv, comparison_report.csv_text(comparison))
    overlaid = ",".join(f"{name}:{folder}" for name, folder in comparison_report.tensorboard_names(comparison))
    print(f"\nsee: tensorboard --samples_per_plugin images=100 --logdir_spec {shlex.quote(overlaid)}")
    return 0


def report_command(args: argparse.Namespace) -> int:
    """Write the report of a run."""
    from nesa.reports.run_report import report

    for path in report(args.run, args.out):
        print(path)
    return 0


def export_command(args: argparse.Namespace) -> int:
    """Export the network of one task."""
    from nesa.inference.export import export

    print(f"wrote {export(args.run, args.task, args.to)}")
    return 0


def schema_command(args: argparse.Namespace) -> int:
    """Print the JSON Schema of a curriculum."""
    import json

    from nesa.config.json_schema import schema

    print(json.dumps(schema(), indent=2))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run_command,
    "resume": resume_command,
    "sweep": sweep_command,
    "extend": extend_command,
    "check": check_command,
    "tasks": tasks_command,
    "verify": verify_command,
    "prove": prove_command,
    "compare": compare_command,
    "report": report_command,
    "export": export_command,
    "schema": schema_command,
}


def training_options(args: argparse.Namespace) -> dict[str, Any]:
    """Collect the options that all runs of a command share."""
    return {"device": args.device, "data": args.data, "command": ["nesa", *args.words], "animate": not args.no_film}


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated in the main thread on SIGTERM, inside this context."""

    def terminate(signum: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
