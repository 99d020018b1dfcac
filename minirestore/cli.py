"""The command line: ``minirestore`` or ``python -m minirestore``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import minirestore
from minirestore import config

EPILOG = """\
An error is one line on stderr and exit code 2; set MINIRESTORE_TRACEBACK=1 to see where it came from.
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help keeps its paragraphs and whose errors are one line."""

    def __init__(self, **options: object) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def build_parser() -> Parser:
    """The parser of all commands; every command stores its handler in ``handler``."""
    parser = Parser(prog="minirestore", description=minirestore.__doc__, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"minirestore {minirestore.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_run(commands)
    add_course(commands)
    add_methods(commands)
    add_restore(commands)
    add_depth(commands)
    add_params(commands)
    add_train(commands)
    add_claims(commands)
    return parser


def add_run(commands: argparse._SubParsersAction) -> None:
    """``minirestore run NN``."""
    parser = commands.add_parser(
        "run",
        help="run one notebook at a profile",
        description="Run one notebook of the course and keep the executed copy in runs/.\n\n"
        "The profile decides how much is trained:\n"
        "  quick    any CPU, no network: the notebook as committed (default)\n"
        "  reduced  one GPU: trains its models from scratch in minutes\n"
        "  full     paper scale: published sizes, real data sets and official weights\n\n"
        "Parameters come from the notebook's first code cell, then from notebooks/configs, then from --set.\n"
        "A run that hangs or whose kernel dies is repeated once; a cell that raises is not.",
        epilog="examples:\n"
        "  minirestore run 03\n"
        "  minirestore run 03 --profile reduced --set seed=1\n"
        "  minirestore run 05 --profile full --dry-run\n",
    )
    parser.add_argument("notebook", help="number of the notebook, such as 03")
    parser.add_argument(
        "--profile", default="quick", choices=config.PROFILES, help="how much to train (default: quick)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter; repeatable"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="time limit (default: from notebooks/configs)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters per part, memory, data, weights and a time estimate, and stop",
    )
    parser.add_argument("--output", type=Path, default=Path("runs"), metavar="FOLDER", help="default: runs")
    parser.set_defaults(handler=run_command)


def run_command(arguments: argparse.Namespace) -> int:
    from minirestore.course import run, sources

    (lesson,) = sources.lessons([arguments.notebook])
    settings = config.parse_settings(arguments.set)
    if arguments.dry_run:
        lines, missing = run.dry_run(lesson, sources.parameters(lesson, arguments.profile, settings))
        print("\n".join([*lines, *(f"missing: {item}" for item in missing)]))
        return 0
    outcome = run.run(
        lesson,
        arguments.output,
        profile=arguments.profile,
        settings=settings,
        timeout=arguments.timeout,
        progress=sys.stderr.isatty(),
    )
    print(f"{outcome.name}: {outcome.status} after {outcome.seconds:.1f} s: {outcome.message}")
    return 0 if outcome.status == "ok" else 1


def add_course(commands: argparse._SubParsersAction) -> None:
    """``minirestore course build`` and ``minirestore course run``."""
    course = commands.add_parser(
        "course", help="build or run the whole course", description="Build the notebooks, or run all of them."
    )
    steps = course.add_subparsers(title="commands", required=True, metavar="COMMAND")
    build = steps.add_parser(
        "build",
        help="write the executed notebooks from their sources",
        description="Execute notebooks/src/NN_name.py and write notebooks/NN_name.ipynb. Notebooks whose source\n"
        "has not changed are left alone. Building twice gives the same file, apart from the bytes of its pictures.\n"
        "Building all of them also brings the course map and the picture in README.md up to date.",
        epilog="examples:\n  minirestore course build\n  minirestore course build 03 --force --student\n",
    )
    build.add_argument("notebooks", nargs="*", metavar="NN", help="numbers of the notebooks (default: all)")
    build.add_argument("--force", action="store_true", help="build although the source has not changed")
    build.add_argument("--student", action="store_true", help="also write notebooks/labs: stubs instead of solutions")
    build.add_argument(
        "--nbgrader",
        type=Path,
        metavar="FOLDER",
        help="also write FOLDER/source/NN_name/NN_name.ipynb for nbgrader generate_assignment",
    )
    build.set_defaults(handler=build_command)
    run = steps.add_parser(
        "run",
        help="run every notebook and index its figures",
        description="Run the notebooks at profile quick and write the executed copies and an index.html with every\n"
        "figure. Prints notebook, seconds and status; the exit code is 1 when a notebook fails.",
    )
    run.add_argument("notebooks", nargs="*", metavar="NN", help="numbers of the notebooks (default: all)")
    run.add_argument("--jobs", type=int, default=2, help="notebooks side by side (default: 2)")
    run.add_argument("--output", type=Path, default=Path("runs/course"), metavar="FOLDER", help="default: runs/course")
    run.set_defaults(handler=course_run_command)


def build_command(arguments: argparse.Namespace) -> int:
    from minirestore.course import build, readme, sources, variants

    lessons = sources.lessons(arguments.notebooks)
    for lesson in lessons:
        build.build(lesson, force=arguments.force)
        if arguments.student:
            print(f"{lesson.name}: wrote {build.relative(variants.write_student(lesson))}")
        if arguments.nbgrader:
            print(f"{lesson.name}: wrote {variants.write_nbgrader(lesson, arguments.nbgrader)}")
    if not arguments.notebooks:
        readme.write(lessons[0].root.parent, lessons)
    return 0


def course_run_command(arguments: argparse.Namespace) -> int:
    from minirestore.course import report, sources

    outcomes = report.run_course(sources.lessons(arguments.notebooks), arguments.output, jobs=arguments.jobs)
    print(f"\n{report.table(outcomes)}\n\nfigures: {arguments.output / 'index.html'}")
    return 0 if all(outcome.status == "ok" for outcome in outcomes) else 1


def add_methods(commands: argparse._SubParsersAction) -> None:
    """``minirestore methods``."""
    parser = commands.add_parser(
        "methods",
        help="list the methods",
        description="List every method that restores images or predicts depth: its name, its task (denoise, deblur,\n"
        "derain, sr, restore or depth), output pixels per input pixel, and the checkpoint it loads.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.set_defaults(handler=methods_command)


def methods_command(arguments: argparse.Namespace) -> int:
    from minirestore import recipes

    rows = [
        {"name": recipe.name, "task": recipe.task, "scale": recipe.scale, "checkpoint": recipe.checkpoint}
        for recipe in recipes.METHODS.values()
    ]
    if arguments.json:
        print(json.dumps(rows))
        return 0
    lines = [tuple(rows[0]), *(tuple(map(str, row.values())) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes that loads a method and runs it."""
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--checkpoint", metavar="NAME", help="another checkpoint: a name or a .safetensors file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="method option; repeatable")


def add_restore(commands: argparse._SubParsersAction) -> None:
    """``minirestore restore``."""
    parser = commands.add_parser(
        "restore",
        help="restore a photograph",
        description="Restore one photograph of any size and write the result.\n\n"
        "IN is any file Pillow reads (grey, palette, alpha, 16 bit and EXIF rotation are understood); OUT is written\n"
        "whole or not at all, in the format of its ending. The same seed gives the same pixels.",
        epilog="examples:\n"
        "  minirestore restore --method denoiser noisy.jpg clean.png\n"
        "  minirestore restore --method denoiser noisy.jpg clean.png --steps 10 --set samples=8 --tile 256\n",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="photograph to restore")
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write, such as out.png")
    parser.add_argument("--method", required=True, help="a name from `minirestore methods`")
    parser.add_argument("--steps", type=int, help="network calls per sample (default: the method's)")
    parser.add_argument(
        "--tile", type=int, metavar="PIXELS", help="work on overlapping tiles of this side, to bound memory"
    )
    add_method_options(parser)
    parser.set_defaults(handler=restore_command)


def restore_command(arguments: argparse.Namespace) -> int:
    from minirestore import photos, recipes

    options = dict(config.parse_settings(arguments.set))
    if arguments.steps is not None:
        options["steps"] = arguments.steps
    photos.check_output(arguments.output)
    recipes.find_recipe(arguments.method)
    degraded = photos.read_image(arguments.input, max_side=None)
    method = recipes.load_method(arguments.method, arguments.checkpoint, arguments.device)
    bar = config.progress_bar(1, arguments.method)

    def on_tile(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    restored = recipes.restore(method, degraded, seed=arguments.seed, tile=arguments.tile, on_tile=on_tile, **options)
    bar.close()
    photos.write_image(restored, arguments.output)
    height, width = restored.shape[-2:]
    print(f"{arguments.output}: {width} x {height} pixels")
    return 0


def add_depth(commands: argparse._SubParsersAction) -> None:
    """``minirestore depth``."""
    parser = commands.add_parser(
        "depth",
        help="predict the depth of a photograph",
        description="Predict the depth of one photograph of any size and write OUT/NAME_depth.png (16 bit),\n"
        "OUT/NAME_colour.png (near red, far blue) and OUT/NAME_depth.npz.\n\n"
        "The depth is relative: scale and shift are unknown. Two or more known distances turn it into metres;\n"
        "they are planar, measured along the axis of the camera.",
        epilog="examples:\n"
        "  minirestore depth my_photo.jpg out/\n"
        "  minirestore depth my_photo.jpg out/ --known 120,400=2.5 --known 600,80=11\n",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="photograph")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write into, made if needed")
    parser.add_argument("--method", default="depthmaster", help="default: depthmaster")
    parser.add_argument(
        "--known",
        action="append",
        default=[],
        metavar="COLUMN,ROW=METRES",
        help="distance of a pixel, counted from the top left; twice or more for metres",
    )
    add_method_options(parser)
    parser.set_defaults(handler=depth_command)


def depth_command(arguments: argparse.Namespace) -> int:
    from minirestore import depth_maps, photos, recipes
    from minirestore.papers.depthmaster import to_metres

    points = [_known_point(text) for text in arguments.known]
    options = config.parse_settings(arguments.set)
    if arguments.output.exists() and not arguments.output.is_dir():
        raise ValueError(f"OUT: {arguments.output} is a file; name a folder")
    recipe = recipes.find_recipe(arguments.method)
    if recipe.task != "depth":
        raise ValueError(f"method: {arguments.method} does not predict depth, its task is {recipe.task}")
    image = photos.read_image(arguments.input, max_side=None)
    method = recipes.load_method(arguments.method, arguments.checkpoint, arguments.device)
    relative = recipes.predict(method, image, seed=arguments.seed, **options)
    metres = to_metres(relative, points, method.config.space) if points else None
    for path in depth_maps.write(arguments.output, arguments.input.stem, relative, method.near_is, metres):
        print(path)
    print(f"relative depth: {method.near_is} is near, {1 - method.near_is} is far; scale and shift are unknown")
    if metres is not None:
        print(f"metres: {metres.min():.3g} (nearest) to {metres.max():.3g} (furthest)")
    return 0


def _known_point(text: str) -> tuple[int, int, float]:
    """``120,400=2.5`` as column, row, metres."""
    try:
        place, metres = text.split("=")
        column, row = place.split(",")
        return int(column), int(row), float(metres)
    except ValueError:
        raise ValueError(f"--known: expected COLUMN,ROW=METRES such as 120,400=2.5, got {text!r}") from None


def add_params(commands: argparse._SubParsersAction) -> None:
    """``minirestore params``."""
    parser = commands.add_parser(
        "params",
        help="count a model's parameters",
        description="Count the parameters of each part of a model at a profile, without allocating them.",
        epilog="examples:\n  minirestore params denoiser --profile full --json\n",
    )
    parser.add_argument("model", metavar="METHOD", help="a method, or features, autoencoder, vq, prior")
    parser.add_argument("--profile", default="reduced", choices=config.PROFILES, help="default: reduced")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="network setting; repeatable")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    parser.set_defaults(handler=params_command)


def params_command(arguments: argparse.Namespace) -> int:
    from minirestore import recipes, resources

    recipe = recipes.find_recipe(arguments.model, recipes.MODELS)
    network, _, _ = recipes.plan(recipe, arguments.profile, config.parse_settings(arguments.set))
    counts = resources.parameters_per_part(recipes.build(recipe, network, device="meta"))
    counts["total"] = sum(counts.values())
    if arguments.json:
        print(json.dumps(counts))
        return 0
    for name, count in counts.items():
        print(f"{name:<12} {count:>14,}")
    return 0


def add_train(commands: argparse._SubParsersAction) -> None:
    """``minirestore train``."""
    parser = commands.add_parser(
        "train",
        help="train a model by its recipe",
        description="Train a model and write its checkpoint and card. A run that was stopped, by --minutes or by\n"
        "anything else, goes on where it was saved when the same command is given again.\n\n"
        "Several GPUs: accelerate launch -m minirestore train METHOD ...",
        epilog="examples:\n"
        "  minirestore train denoiser --profile quick\n"
        "  minirestore train denoiser --profile reduced --minutes 10\n"
        "  minirestore train denoiser --profile reduced --set objective=regression --set seed=1\n"
        "  minirestore train c2f_dft --set task=deblur --output runs/coarse\n"
        "  minirestore train c2f_dft --set task=deblur --set stage=fine --start runs/coarse/c2f_dft.safetensors \\\n"
        "      --output runs/fine\n"
        "  minirestore train prior --set autoencoder=runs/autoencoder-reduced/autoencoder\n",
    )
    parser.add_argument("model", metavar="METHOD", help="a method, or features, autoencoder, vq, prior")
    parser.add_argument("--profile", default="reduced", choices=config.PROFILES, help="default: reduced")
    parser.add_argument("--minutes", type=float, metavar="N", help="stop after so much time; the run can be resumed")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="network, data or training setting; repeatable"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: runs/METHOD-PROFILE")
    parser.add_argument(
        "--start",
        metavar="NAME",
        help="begin with the weights of a checkpoint (a name, a file, or a folder such as prior/vae), or with the last "
        "ones of a run's folder",
    )
    parser.set_defaults(handler=train_command)


def train_command(arguments: argparse.Namespace) -> int:
    from minirestore import recipes

    folder = arguments.output or Path("runs") / f"{arguments.model}-{arguments.profile}"
    _, result = recipes.train(
        arguments.model,
        arguments.profile,
        config.parse_settings(arguments.set),
        run_dir=folder,
        device=arguments.device,
        minutes=arguments.minutes,
        start=arguments.start,
    )
    if not result.is_main_process:
        return 0
    losses = result.history.get("loss", [])
    tail = losses[-max(len(losses) // 10, 1) :]
    mean = f", mean loss of the last tenth {sum(tail) / len(tail):.4g}" if tail else ""
    state = "finished" if result.finished else "stopped; give the same command to go on"
    print(f"{arguments.model}: {state} after {result.steps_done} steps{mean}; {folder}")
    return 0


def add_claims(commands: argparse._SubParsersAction) -> None:
    """``minirestore claims list``, ``run`` and ``report``."""
    claims = commands.add_parser(
        "claims",
        help="what the papers claim, and what of it survives",
        description="Every claim of every paper is a row of a ledger: what was measured, the effect with its 95 %\n"
        "interval, and a verdict: supported, contradicted, not resolved, stale, not run, or not testable here.",
    )
    steps = claims.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = steps.add_parser(
        "list",
        help="list the claims and their verdicts",
        description="List claims with tier (cpu: minutes on a laptop, gpu: one GPU, full: paper scale), verdict,\n"
        "effect, and whether the verdict survives Holm's correction for all claims of its paper at 5 %.",
        epilog="examples:\n  minirestore claims list\n  minirestore claims list --paper structure_guidance --json\n",
    )
    listing.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    listing.set_defaults(handler=claims_list_command)
    run = steps.add_parser(
        "run",
        help="measure claims and write them to the ledger",
        description="Measure claims, arm by arm and seed by seed. Every finished job is kept in runs/claims, so a run\n"
        "that was stopped, by --minutes or by anything else, goes on when the same command is given again.\n"
        "A claim enters the ledger when all of its jobs are done; one that is there and up to date is left alone.\n\n"
        "  quick    a rehearsal of seconds that exercises the code; nothing is written to the ledger\n"
        "  reduced  the protocol (default)\n"
        "  full     the protocol of claims that need paper scale",
        epilog="examples:\n"
        "  minirestore claims run sg.A8\n"
        "  minirestore claims run sg.A1 sg.A2 --minutes 25 --device cuda\n"
        "  minirestore claims run sg.A8 --ledger runs/my-ledger\n",
    )
    run.add_argument("ids", nargs="*", metavar="ID", help="claims, such as sg.A7; or use --paper")
    run.add_argument("--profile", default="reduced", choices=config.PROFILES, help="default: reduced")
    run.add_argument("--minutes", type=float, metavar="N", help="stop after so much time; the run can be resumed")
    run.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    run.set_defaults(handler=claims_run_command)
    report = steps.add_parser(
        "report",
        help="print the verdicts in full and draw them",
        description="Print what each claim says, the paper's effect, ours with its interval, and how the verdict came\n"
        "about; with --output also draw the forest plot, each row in its own smallest effect of interest.",
        epilog="examples:\n  minirestore claims report --paper structure_guidance --output forest.png\n",
    )
    report.add_argument("--output", type=Path, metavar="FILE.png", help="write the forest plot there")
    report.set_defaults(handler=claims_report_command)
    for parser in (listing, run, report):
        parser.add_argument("--paper", metavar="PAPER", help="the claims of this paper, such as structure_guidance")
        parser.add_argument("--ledger", type=Path, metavar="FOLDER", help="default: the shipped ledger")


def claims_list_command(arguments: argparse.Namespace) -> int:
    from minirestore.claims import report

    rows = report.status_rows(arguments.paper, arguments.ledger)
    print(json.dumps(rows) if arguments.json else "\n".join(report.list_lines(rows)))
    return 0


def claims_run_command(arguments: argparse.Namespace) -> int:
    from minirestore import claims

    if bool(arguments.ids) == bool(arguments.paper):
        raise ValueError("claims run: name the claims, such as sg.A7, or all of a paper with --paper; not both")
    claims.run_claims(
        arguments.ids,
        arguments.paper,
        profile=arguments.profile,
        minutes=arguments.minutes,
        device=arguments.device,
        ledger=arguments.ledger,
    )
    return 0


def claims_report_command(arguments: argparse.Namespace) -> int:
    from minirestore import checkpoints, claims, photos, plots

    if arguments.output:
        if photos.check_output(arguments.output) != "PNG":
            raise ValueError(f"--output: expected a name that ends in .png, got {arguments.output.name}")
        figure = claims.forest(arguments.paper, arguments.ledger)
        checkpoints.write_atomically(arguments.output, plots.png_bytes(figure))
    claims.print_report(arguments.paper, arguments.ledger)
    if arguments.output:
        print(f"\nforest plot: {arguments.output}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a notebook failed, 2 wrong use or missing input."""
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.handler(arguments)
    except KeyboardInterrupt:
        print("minirestore: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError, LookupError) as error:
        if os.environ.get("MINIRESTORE_TRACEBACK"):
            raise
        print(f"minirestore: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
