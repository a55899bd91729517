"""Parse the command line of ``nesa``: commands, options, their help and examples.

argparse alone, because ``nesa --help`` answers in under 0.3 s. nesa.cli.commands carries the commands out.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from nesa import __version__
from nesa.config.curriculum import NAME_PATTERN

_EPILOG = """examples:
  nesa check curricula/vision.yaml
  nesa run curricula/quickstart.yaml
  nesa run curricula/vision.yaml training.epochs=3 tasks.shapes.training.lr=1e-3 --seeds 0,1,2
  nesa resume runs/vision-20250101-120000
  nesa extend runs/vision-20250101-120000 more.yaml
  nesa verify runs/vision-20250101-120000
  nesa prove runs/vision-20250101-120000
  nesa compare runs/vision-20250101-120000 runs/mine --html compare.html
  nesa report runs/vision-20250101-120000

exit codes: 0 done, 1 the run failed, 2 wrong input, 130 interrupted, 143 terminated
"""
_RUN = """examples:
  nesa run curricula/quickstart.yaml
  nesa run curricula/vision.yaml --data ~/data --device cuda
  torchrun --standalone --nproc-per-node 2 -m nesa run curricula/vision.yaml --device cuda
  nesa run curricula/vision.yaml learner.name=ewc learner.params.lambda=10 --name ewc --seeds 0,1,2
"""
_SWEEP = """example:
  nesa sweep curricula/quickstart.yaml penalties.weight=1e-5,3e-5,1e-4 training.epochs=6,12 --seeds 0,1,2

A key with one value holds for all runs. The same command goes on where it was stopped and skips what is finished.
The runs, sweep.csv and the Pareto front of accuracy against size (front.png) lie in runs/NAME.
"""
_OVERRIDES = (
    "changes of single keys, such as training.epochs=3, tasks[1].source=digits or tasks.shapes.training.lr=1e-3"
)
_SEEDS = "one run for each seed, NAME-seed0 and so on; with --name, the same command skips those that are finished"
_DATA = "folder with data sets; before $NESA_DATA and the cache directory"


def parse(words: list[str]) -> argparse.Namespace:
    """Parse a command line to a namespace: ``action`` names the command, ``overrides`` lists all key=value.

    Raises SystemExit as argparse does: 0 after --help and --version, 2 after a mistake that it has printed.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(words)
    # argparse takes positional arguments in one group; key=value may also stand behind options.
    unknown = [word for word in rest if word.startswith("-") or not hasattr(args, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    optional = {"check": "curriculum", "tasks": "name"}.get(args.action, "action")
    if rest and getattr(args, optional) is None:  # argparse has left out an optional one that stands behind options
        setattr(args, optional, rest.pop(0))
    args.overrides = [*getattr(args, "overrides", []), *rest]
    if args.action == "check" and args.curriculum is None and not args.environment:
        parser.error("the following arguments are required: CURRICULUM.yaml, or --environment")
    return args


def _parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser = argparse.ArgumentParser(
        prog="nesa",
        description="Train a curriculum of tasks on one recursive network and see the structure that accumulates.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(debug=False)
    parser.add_argument("--version", action="version", version=f"nesa {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, help: str, epilog: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=epilog,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.set_defaults(action=name)
        return made

    run = command("run", "train a whole curriculum", _RUN)
    _add_curriculum(run)
    run.add_argument("--out", type=Path, metavar="DIR", help="folder that holds the runs (default: runs)")
    run.add_argument("--name", type=_name, help="name of the run's folder (default: the curriculum's and the time)")
    run.add_argument("--seeds", type=_seeds, metavar="0,1,2", help=_SEEDS)
    _add_training(run)

    sweep = command("sweep", "train a grid of curricula, one run for each combination of values", _SWEEP)
    _add_curriculum(sweep, "key=value,value")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="folder that holds the sweep (default: runs)")
    sweep.add_argument("--name", type=_name, help="name of the sweep's folder (default: the curriculum's, and -sweep)")
    sweep.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="each combination with each of these seeds")
    _add_training(sweep)

    resume = command("resume", "go on with an interrupted run", "example:\n  nesa resume runs/vision-seed0\n")
    resume.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    _add_training(resume)

    extend = command(
        "extend",
        "add tasks to a finished run",
        "examples:\n  nesa extend runs/mine more.yaml\n  nesa extend runs/mine more.yaml training.epochs=3\n\n"
        "MORE.yaml lists the new tasks, under new names; training and penalties in it hold for\nthem, over the run's. "
        "All else is the run's and is left out, or says the same; only\nlearner.grow may become true. The answers of "
        "the earlier tasks stay as they are, bit\nfor bit. Interrupted, it goes on with nesa resume.\n",
    )
    extend.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run of neural_pruning")
    extend.add_argument("more", type=Path, metavar="MORE.yaml", help="the further tasks")
    extend.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=_OVERRIDES)
    _add_training(extend)

    check = command(
        "check",
        "validate a curriculum without training, or this machine with --environment",
        "examples:\n  nesa check curricula/vision.yaml\n  nesa check curricula/vision.yaml seed=3 --print\n"
        "  nesa check curricula/vision.yaml --preview tasks.png\n  nesa check --environment\n",
    )
    _add_curriculum(check, optional=True)
    check.add_argument("--print", action="store_true", help="print the resolved curriculum")
    check.add_argument(
        "--estimate", action="store_true", help="neurons, memory and time that the run needs on this machine's CPU"
    )
    check.add_argument("--preview", type=Path, metavar="PNG", help="draw a sheet of samples of all tasks")
    check.add_argument(
        "--environment",
        action="store_true",
        help="check this machine: Python, torch with torchvision, disk space, folders, CUDA",
    )
    check.add_argument("--data", type=Path, metavar="DIR", help=_DATA)

    tasks = command(
        "tasks",
        "list the task sources with their parameters, or draw samples of one",
        "examples:\n  nesa tasks\n  nesa tasks edges\n  nesa tasks shapes --preview shapes.png\n"
        "  nesa tasks folder path=photos --preview photos.png --size 64,64 --channels 3\n",
    )
    tasks.add_argument("name", nargs="?", metavar="NAME", help="show this source only")
    tasks.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="parameters of the source, for --preview"
    )
    tasks.add_argument("--preview", type=Path, metavar="PNG", help="draw a sheet of samples with their labels")
    tasks.add_argument("--size", type=_size, metavar="H,W", help="input.size of the samples (default: 32,32)")
    tasks.add_argument("--channels", type=int, default=1, metavar="1|3", help="grey (default) or colour images")
    tasks.add_argument("--data", type=Path, metavar="DIR", help=_DATA)

    verify = command("verify", "check a stored run again, from its files", "example:\n  nesa verify runs/mine\n")
    verify.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    verify.add_argument("--data", type=Path, metavar="DIR", help=_DATA)

    prove = command(
        "prove",
        "keep only the synapses that a run's structure names, and compare the outputs",
        "example:\n  nesa prove runs/mine --task edges\n\nFor each task: the blocks from each level to the next alone, "
        "then with the skip,\nlateral and feedback blocks that the structure names, then the network as plain dense\n"
        "layers. Exit code 1 when one of the last two gives another prediction on some sample,\nor outputs more than "
        "1e-5 away.\n",
    )
    prove.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    prove.add_argument("--task", metavar="NAME", help="this task only")
    prove.add_argument("--data", type=Path, metavar="DIR", help=_DATA)
    compare = command(
        "compare",
        "show runs side by side, task by task, with their differences",
        "examples:\n  nesa compare runs/first runs/alone\n"
        "  nesa compare runs/first-seed* runs/alone-seed* --html compare.html\n\n"
        "Runs of one curriculum with different seeds become one column of means and spreads.\n",
    )
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folders of at least two runs")
    for kind, what in (("html", "one page with curves, for any browser"), ("markdown", "the tables as Markdown")):
        compare.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"write {what}, too")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write every number in full, too")
    report = command(
        "report",
        "write a run's tables and figures into report.md and one self-contained report.html",
        "examples:\n  nesa report runs/mine\n  nesa report runs/mine --out reports/mine\n\n"
        "A run that is still going or has stopped is reported as far as it is.\n",
    )
    report.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    report.add_argument("--out", type=Path, metavar="DIR", help="folder for the report (default: the run's)")

    export = command(
        "export",
        "write the network of one task as a file that needs nothing of this project",
        "examples:\n  nesa export runs/mine --task shapes --to shapes.pt2\n"
        "  nesa export runs/mine --task shapes --to shapes.onnx\n\n"
        ".pt2 is torch.export's format, .onnx wants `pip install 'nesa[onnx]'`. Raw samples in, logits out.\n",
    )
    export.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    export.add_argument("--task", required=True, metavar="T", help="a finished task of the run")
    export.add_argument("--to", required=True, type=Path, metavar="FILE", help="where to write, .pt2 or .onnx")

    command(
        "schema",
        "print the JSON Schema of a curriculum, for editors",
        "example:\n  nesa schema > curricula/schema.json\n\nA curriculum that begins with\n"
        "  # yaml-language-server: $schema=schema.json\nis completed and checked by editors that know YAML.\n",
    )
    return parser


def _add_curriculum(parser: argparse.ArgumentParser, override: str = "key=value", *, optional: bool = False) -> None:
    """Add the arguments CURRICULUM.yaml and key=value."""
    number = "?" if optional else None
    parser.add_argument("curriculum", nargs=number, metavar="CURRICULUM.yaml", help="the curriculum")
    parser.add_argument("overrides", nargs="*", default=[], metavar=override, help=_OVERRIDES)


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that trains."""
    parser.add_argument("--device", type=_device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--data", type=Path, metavar="DIR", help=_DATA)
    parser.add_argument("--no-film", action="store_true", help="no animation of the structure in training")
    parser.add_argument("--quiet", action="store_true", help="messages and warnings only, no progress")


def _name(text: str) -> str:
    if not re.fullmatch(NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder's name: letters, digits, '_', '-' and '.'")
    return text


def _seeds(text: str) -> list[int]:
    seeds = [int(part) for part in text.split(",")] if re.fullmatch(r"\d{1,9}(,\d{1,9})*", text) else []
    if not seeds or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different whole numbers, such as 0,1,2")
    return seeds


def _size(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: H,W of images, such as 32,32, or D of vectors")
    return tuple(map(int, text.split(",")))


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not cpu, cuda or cuda:N")
    return text
