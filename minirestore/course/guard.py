"""What a committed notebook must fulfil; ``problems(lesson)`` lists what it does not."""

import re
from collections.abc import Iterator

import nbformat
from nbformat import NotebookNode

from minirestore import plots
from minirestore.course.build import figure_texts, is_fresh
from minirestore.course.sources import Lesson, tags
from minirestore.course.variants import assigned_names, checked, is_check, is_solution, solutions
from minirestore.exercises import find

LARGEST_BYTES = 500_000
FEWEST_NUMBERS = 20
LONGEST_CELL = 25
FEWEST_EXERCISES = {"code": 2, "predict": 1, "criticise": 1}
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~])/(?:home|root|Users|tmp|work|usr|var|opt|mnt|private|content)/|\b[A-Z]:\\\w")
IGNORED = re.compile(r"nbval|raises-exception|skip-execution", re.IGNORECASE)
IGNORE_COMMENT = re.compile(r"#\s*(NBVAL_|PYTEST_VALIDATE_)")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?", re.IGNORECASE)


def problems(lesson: Lesson) -> list[str]:
    """Everything that is wrong with the lesson's committed notebook, one sentence each; empty when all is well."""
    if not lesson.notebook.is_file():
        return [f"{lesson.name}: not built; run: minirestore course build {lesson.number}"]
    notebook = nbformat.read(lesson.notebook, as_version=4)
    found = [] if is_fresh(lesson) else [f"stale: the source has changed; run minirestore course build {lesson.number}"]
    size = lesson.notebook.stat().st_size
    if size > LARGEST_BYTES:
        found.append(f"size: {size} bytes, more than {LARGEST_BYTES}; show smaller or fewer figures")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for check in (_execution, _outputs, _style, _numbers, _exercises):
        found += check(code)
    found += _paths(notebook)
    return [f"{lesson.name}: {problem}" for problem in found]


def _execution(code: list[NotebookNode]) -> Iterator[str]:
    counts = [cell.execution_count for cell in code]
    if None in counts:
        yield f"unexecuted: code cell {counts.index(None) + 1} has no execution count"
    elif counts != list(range(1, len(code) + 1)):
        yield f"out of order: execution counts are {counts}"


def _outputs(code: list[NotebookNode]) -> Iterator[str]:
    for position, cell in enumerate(code, 1):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"error: code cell {position} ends with {output.ename}"
            if output.get("name") == "stderr":
                yield f"stderr: code cell {position} prints {output.text.strip()[:80]!r}; avoid the warning"
            if any("widget" in kind for kind in output.get("data", {})):
                yield f"widget: code cell {position} stores a live widget; use explore"
        for text in figure_texts(cell):
            if not text.startswith((plots.FIGURE_PREFIX, plots.COST_PREFIX)):
                yield f"figure without text alternative: code cell {position}; use show(fig, alt=...)"


def _style(code: list[NotebookNode]) -> Iterator[str]:
    for position, cell in enumerate(code, 1):
        ignored = [tag for tag in tags(cell) if IGNORED.search(tag)]
        if ignored or IGNORE_COMMENT.search(cell.source):
            yield f"ignored: code cell {position} asks not to be compared ({', '.join(ignored) or 'comment'})"
        lines = len(cell.source.splitlines())
        if lines > LONGEST_CELL:
            yield f"long: code cell {position} has {lines} lines, more than {LONGEST_CELL}; move code into the package"
        if re.search(r"\b(interact|interactive)\(", cell.source):
            yield f"interact: code cell {position} uses a bare interact; use explore"
    source = "\n".join(cell.source for cell in code)
    for function in ("explore", "show_cost"):
        if f"{function}(" not in source:
            yield f"incomplete: {function}(...) is not called"


def _numbers(code: list[NotebookNode]) -> Iterator[str]:
    texts = [
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in code
        for output in cell.outputs
    ]
    count = sum(len(NUMBER.findall(text)) for text in texts)
    if count < FEWEST_NUMBERS:
        yield f"numbers: {count} compared numbers in the outputs, fewer than {FEWEST_NUMBERS}"


def _exercises(code: list[NotebookNode]) -> Iterator[str]:
    names = [name for cell in code for name in checked(cell.source)]
    kinds = [find(name).kind for name in names]
    for kind, fewest in FEWEST_EXERCISES.items():
        if kinds.count(kind) < fewest:
            yield f"exercises: {kinds.count(kind)} of kind {kind}, fewer than {fewest}"
    printed = "\n".join(output.get("text", "") for cell in code if is_check(cell) for output in cell.outputs)
    for name in names:
        if f"{name}: correct" not in printed:
            yield f"exercises: the solution of {name} is not accepted by its own check"
    yield from _dependencies(code)


def _dependencies(code: list[NotebookNode]) -> Iterator[str]:
    """Solutions must be marked, checked in the next cell, and used nowhere else, so that stubs run to the end."""
    own: set[str] = set()
    for position, cell in enumerate(code, 1):
        if is_solution(cell):
            solutions(cell.source)
            own |= set(assigned_names(cell.source))
            if position == len(code) or not is_check(code[position]):
                yield f"exercises: code cell {position} is a solution without a check(...) cell below it"
        elif not is_check(cell):
            used = sorted(name for name in own if re.search(rf"\b{name}\b", cell.source))
            if used:
                yield f"exercises: code cell {position} uses {used[0]}, which the learner writes"


def _paths(notebook: NotebookNode) -> Iterator[str]:
    for position, cell in enumerate(notebook.cells, 1):
        outputs = cell.get("outputs", [])
        texts = [cell.source, *(output.get("text", "") for output in outputs)]
        texts += [output.get("data", {}).get("text/plain", "") for output in outputs]
        for text in texts:
            match = ABSOLUTE_PATH.search(text)
            if match:
                yield f"absolute path: cell {position} holds {text[match.start() : match.start() + 40]!r}"
