"""The console script ``nesa``: arguments in, exit code out.

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
from nesa.errors import CurriculumError, NesaError, RunFailed, UserError

if TYPE_CHECKING:
    from nesa.config.curriculum import Curriculum

INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: like Ctrl-C to everyone who saves state on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot write must not end a command
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
    except BrokenPipeError:  # `nesa tasks | head`: the reader has gone, and nothing is left to say
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
        name = type(error).__name__
        print(f"error: unexpected {name}: {error}\nThis is a mistake in nesa: --debug shows where.", file=sys.stderr)
        return 1


# Commands -----------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    from nesa.config.loader import load
    from nesa.progress import Progress

    curriculum = load(args.curriculum, args.overrides)
    options = {"device": args.device, "data": args.data, "command": ["nesa", *args.words], "film": not args.no_film}
    if args.seeds and len(args.seeds) > 1:
        return _run_seeds(args, curriculum, options)
    seed = args.seeds[0] if args.seeds else curriculum.seed
    with _terminable():
        from nesa.distributed import joined
        from nesa.experiment.run import run

        with joined(args.device) as rank:
            with Progress(rank.stream, quiet=args.quiet) as progress:
                seeded, options["device"] = replace(curriculum, seed=seed), rank.device
                folder = run(seeded, out=rank.out or args.out, name=args.name, seed=seed, progress=progress, **options)
            _where([folder])
    return 0


def _run_seeds(args: argparse.Namespace, curriculum: Curriculum, options: dict[str, Any]) -> int:
    """Without a name each run is a new one, named after the time and the fallbacks; with one, what is there counts."""
    from nesa import distributed
    from nesa.experiment import multi_run
    from nesa.progress import Progress

    distributed.alone("run with several seeds")
    planned = multi_run.seeded(curriculum, args.out or Path("runs"), args.name or curriculum.name, args.seeds)
    if args.name:
        multi_run.check(planned)
    folders = []
    with _terminable():
        from nesa.experiment.run import run

        for number, (seeded, folder) in enumerate(planned, start=1):
            with Progress(quiet=args.quiet) as progress:
                progress.message(f"run {number} of {len(planned)}: {folder if args.name else f'seed {seeded.seed}'}")
                if not args.name:
                    folder = run(seeded, out=args.out, seed=seeded.seed, progress=progress, **options)
                elif not multi_run.ensure(seeded, folder, progress=progress, **options):
                    progress.message("finished before, skipped")
            folders.append(folder)
    _where(folders)
    return 0


def _sweep(args: argparse.Namespace) -> int:
    from nesa.distributed import alone
    from nesa.experiment.sweep import plan, sweep, text

    alone("sweep")
    rows = plan(args.curriculum, args.overrides, args.out or Path("runs"), args.name, args.seeds)
    with _terminable():
        options = {"device": args.device, "data": args.data, "command": ["nesa", *args.words], "film": not args.no_film}
        sweep(rows, quiet=args.quiet, **options)
    print(text(rows), end="")
    place = rows[0].folder.parent
    files = [name for name in ("sweep.csv", "front.png", "front.svg") if (place / name).exists()]
    print(f"sweep: {place} ({', '.join(files)})\nsee: tensorboard --logdir {place} --samples_per_plugin images=100")
    return 1 if any(row.status != "finished" for row in rows) else 0


def _resume(args: argparse.Namespace) -> int:
    from nesa.progress import Progress

    with _terminable():
        from nesa.distributed import alone
        from nesa.experiment.run import resume

        alone("resume")
        with Progress(quiet=args.quiet) as progress:
            resume(args.run, data=args.data, device=args.device, progress=progress, film=not args.no_film)
    _where([args.run])
    return 0


def _extend(args: argparse.Namespace) -> int:
    from nesa.progress import Progress

    with _terminable():
        from nesa.distributed import alone
        from nesa.experiment.run import extend

        alone("extend")
        with Progress(quiet=args.quiet) as progress:
            extend(
                args.run,
                args.more,
                args.overrides,
                data=args.data,
                device=args.device,
                command=["nesa", *args.words],
                progress=progress,
                film=not args.no_film,
            )
    _where([args.run])
    return 0


def _check(args: argparse.Namespace) -> int:
    from nesa.config.loader import dump, load

    curriculum = load(args.curriculum, args.overrides)
    if args.print:
        print(dump(curriculum), end="")
        return 0
    print(f"{args.curriculum}: {_summary(curriculum)}")
    for note in _notes(curriculum):
        print(f"note: {note}")
    if args.estimate:
        from nesa.config.estimate import estimate, lines

        print("\n".join(lines(estimate(curriculum))))
    return 0


def _tasks(args: argparse.Namespace) -> int:
    from nesa.datasets import registry

    if args.preview is None:
        print(registry.describe(args.name))
        return 0
    if args.name is None:
        raise UserError("--preview draws one source: give its name, such as nesa tasks shapes --preview shapes.png")
    from nesa.progress import Progress

    with Progress() as progress:
        data = registry.DataDirs(args.data)
        print(registry.preview(args.name, {}, args.preview, data=data, progress=progress))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from nesa.verification.verify import verify

    checks = verify(args.run, data=args.data)
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.detail}".rstrip())
    failed = sum(not check.ok for check in checks)
    print(f"{len(checks)} checks, {failed} failed")
    return 1 if failed or not checks else 0


def _prove(args: argparse.Namespace) -> int:
    from nesa.verification.structure_proof import prove

    failed = 0
    for found in prove(args.run, args.task, args.data):
        failed += not found.holds
        print("\n".join(found.lines()), flush=True)
    return 1 if failed else 0


def _compare(args: argparse.Namespace) -> int:
    from nesa.analysis.comparison import compare, similarities
    from nesa.reports import comparison_report

    if len(args.runs) < 2:
        raise UserError("compare takes two runs or more; the figures of one are in its tables and its report")
    comparison = compare(args.runs)
    pairs = similarities(comparison)
    print(comparison_report.text(comparison, pairs), end="")
    if args.html:
        _write(args.html, comparison_report.page(comparison, pairs))
    if args.markdown:
        _write(args.markdown, comparison_report.markdown(comparison, pairs))
    if args.csv:
        _write(args.csv, comparison_report.csv_text(comparison))
    overlaid = ",".join(f"{name}:{folder}" for name, folder in comparison_report.board_names(comparison))
    print(f"\nsee: tensorboard --samples_per_plugin images=100 --logdir_spec {shlex.quote(overlaid)}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from nesa.reports.run_report import report

    for path in report(args.run, args.out):
        print(path)
    return 0


def _export(args: argparse.Namespace) -> int:
    from nesa.inference.export import export

    print(f"wrote {export(args.run, args.task, args.to)}")
    return 0


def _schema(args: argparse.Namespace) -> int:
    import json

    from nesa.config.json_schema import schema

    print(json.dumps(schema(), indent=2))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "resume": _resume,
    "sweep": _sweep,
    "extend": _extend,
    "check": _check,
    "tasks": _tasks,
    "verify": _verify,
    "prove": _prove,
    "compare": _compare,
    "report": _report,
    "export": _export,
    "schema": _schema,
}


# Words --------------------------------------------------------------------------------------------------------------


def _summary(curriculum: Curriculum) -> str:
    net = curriculum.network
    if net.grid is not None:
        neurons = f"grid {' x '.join(map(str, net.grid))}"
    elif net.layers is not None:
        neurons = f"layers of {', '.join(map(str, net.layers))}"
    else:
        neurons = f"{net.neurons:,} neurons"
    names = ", ".join(task.name for task in curriculum.tasks)
    plural = "" if len(curriculum.tasks) == 1 else "s"
    learner = curriculum.learner.name
    return f"fine. {len(curriculum.tasks)} task{plural} ({names}), {neurons}, I = {net.iterations}, learner {learner}"


def _notes(curriculum: Curriculum) -> list[str]:
    from nesa.config.validation import source_called

    notes = []
    for task in curriculum.tasks:
        notes += [
            f"task {task.name} calls your own function {source}, which `run` imports and `check` has not"
            for source in (task.source, task.fallback)
            if (found := source_called(source)) is not None and found.foreign
        ]
        if task.fallback is not None:
            notes.append(f"task {task.name} falls back to {task.fallback}, loudly, where {task.source} cannot be had")
    return notes


def _where(folders: Sequence[Path]) -> None:
    """What came of a run, or of several seeds of one curriculum, and where it lies."""
    from nesa.analysis.comparison import together
    from nesa.reports import comparison_report

    print(comparison_report.summary(together(folders)))
    print("\n".join(f"run: {folder}" for folder in folders))
    shown = f"--logdir {folders[0]}" if len(folders) == 1 else f"--logdir {folders[0].parent}"
    print(f"see: tensorboard {shown} --samples_per_plugin images=100")
    runs = " ".join(map(str, folders))
    print(f"     nesa report {runs}" if len(folders) == 1 else f"     nesa compare {runs}")


def _write(path: Path, text: str) -> None:
    """A file that the user asked for by name, whole, with a line that says where it is."""
    from nesa.run_folder.layout import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except (OSError, RunFailed) as error:
        reason = error.__cause__ or error
        raise UserError(f"{path}: cannot be written ({getattr(reason, 'strerror', reason)})") from None
    print(f"wrote {path}")


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated in the main thread."""

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
