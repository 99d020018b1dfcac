"""From a percent script to an executed notebook that looks the same whenever it is built."""

import os
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from minirestore import config, plots
from minirestore.course.sources import (
    LANGUAGE_INFO,
    Lesson,
    parameter_defaults,
    read_configuration,
    read_source,
    source_hash,
    tags,
)


def kernel_environment() -> dict[str, str]:
    """Environment of every kernel the course starts: one thread, no front end, this package importable."""
    environment = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
    package = str(Path(__file__).resolve().parents[2])
    path = environment.get("PYTHONPATH", "")
    environment.update(
        OMP_NUM_THREADS="1",
        MINIRESTORE_HEADLESS="1",
        PYTHONPATH=path if package in path.split(os.pathsep) else os.pathsep.join(filter(None, [path, package])),
    )
    return environment


def is_fresh(lesson: Lesson) -> bool:
    """Whether the built notebook carries the hash of the present source."""
    if not lesson.notebook.is_file():
        return False
    built = nbformat.read(lesson.notebook, as_version=4)
    return built.metadata.get("minirestore", {}).get("source_sha256") == source_hash(lesson)


def build(lesson: Lesson, *, force: bool = False, log: Callable[[str], None] = print) -> bool:
    """Execute the lesson's source and write its notebook; return False when it was already fresh.

    Raises:
        RuntimeError: a cell failed; the message names the cell and the error, and nothing is written.
        ValueError: the parameters cell or the configuration is wrong.
    """
    if not force and is_fresh(lesson):
        log(f"{lesson.name}: up to date")
        return False
    parameter_defaults(lesson)
    read_configuration(lesson)
    notebook = read_source(lesson)
    execute(notebook, lesson)
    finish(notebook)
    write(notebook, lesson.notebook)
    log(f"{lesson.name}: built, {lesson.notebook.stat().st_size // 1000} KB")
    return True


def execute(notebook: NotebookNode, lesson: Lesson) -> None:
    """Run all cells in a fresh kernel whose working directory is ``notebooks``."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    timeout = read_configuration(lesson).timeout
    resources = {"metadata": {"path": str(lesson.root)}}
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources=resources,
        extra_arguments=["--log-level=ERROR"],
    )
    try:
        client.execute(env=kernel_environment())
    except CellExecutionError as error:
        raise RuntimeError(f"{lesson.name}: {failure(notebook) or error.ename}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise RuntimeError(f"{lesson.name}: {str(error).splitlines()[0]}") from None


def failure(notebook: NotebookNode) -> str | None:
    """``cell 7 (first line): NameError: ...`` for the first failed code cell, or None."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for position, cell in enumerate(code, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                line = cell.source.splitlines()[0]
                return f"code cell {position} ({line}): {output.ename}: {output.evalue}"
    return None


def finish(notebook: NotebookNode) -> None:
    """Remove what differs from run to run, hide solutions, and give myst-nb the text alternatives."""
    notebook.metadata.language_info = NotebookNode(LANGUAGE_INFO)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = _merged_streams(cell.outputs)
        if "solution" in tags(cell):
            cell.metadata.tags = [*tags(cell), "hide-input"]
            cell.metadata.jupyter = NotebookNode(source_hidden=True)
        alts = [text.removeprefix(plots.FIGURE_PREFIX) for text in figure_texts(cell)]
        if alts:
            cell.metadata.mystnb = NotebookNode(image=NotebookNode(alt="; ".join(alts)))


def _merged_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where a stream is cut depends on timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        same = merged and output.output_type == merged[-1].output_type == "stream" and output.name == merged[-1].name
        if same:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def figure_texts(cell: NotebookNode) -> list[str]:
    """The ``text/plain`` of every PNG among the cell's outputs ("" where there is none)."""
    data = [output.data for output in cell.get("outputs", []) if "data" in output]
    return [bundle.get("text/plain", "") for bundle in data if "image/png" in bundle]


def write(notebook: NotebookNode, path: Path) -> None:
    """Write atomically, with sorted keys and a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    nbformat.validate(notebook)
    partial.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    partial.replace(path)


def relative(path: Path) -> str:
    """``path`` as seen from the repository, for messages."""
    root = config.repository_root()
    return str(path.relative_to(root)) if root and path.is_relative_to(root) else str(path)
