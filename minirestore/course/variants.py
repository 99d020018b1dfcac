"""Other forms of a built notebook: the student build and the export for nbgrader.

A solution cell is tagged ``solution`` and marks what the learner writes::

    # %% tags=["solution"]
    def energy(x):
        ### BEGIN SOLUTION
        return (x**2).sum()
        ### END SOLUTION

The cell below it holds only ``check(...)`` calls. A markdown cell tagged ``solution`` explains the solution and appears
only in the main notebook.
"""

import ast
import copy
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from minirestore.course.build import write
from minirestore.course.sources import Lesson, tags
from minirestore.exercises import find

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SECTION = re.compile(rf"^(?P<indent> *){BEGIN}\n(?P<body>.*?)^ *{END}$", re.MULTILINE | re.DOTALL)


def solutions(source: str) -> list[str]:
    """The text of every marked solution in a cell; ValueError when the cell marks none."""
    found = [match["body"] for match in SECTION.finditer(source)]
    if not found or source.count(BEGIN) != len(found) or source.count(END) != len(found):
        raise ValueError(
            f"a cell tagged solution needs {BEGIN!r} and {END!r} around what the learner writes: {source!r}"
        )
    return found


def stub(source: str) -> str:
    """The cell as the learner gets it: ``...`` in place of every solution, ``name = ...`` for an assigned answer."""
    solutions(source)

    def replace(match: re.Match) -> str:
        indent = match["indent"]
        names = [] if indent else assigned_names(match["body"])
        return "\n".join(f"{name} = ...  # your answer" for name in names) or f"{indent}...  # your code"

    return SECTION.sub(replace, source)


def assigned_names(source: str) -> list[str]:
    """Names that the cell binds at its top level, in order."""
    names = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.append(statement.name)
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        for target in filter(None, targets):
            names += [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(names))


def checked(source: str) -> list[str]:
    """Names of the exercises that a code cell checks: the first argument of every ``check(...)`` call."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "check" and call.args]
    return [ast.literal_eval(call.args[0]) for call in calls]


def is_check(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(checked(cell.source))


def is_solution(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and "solution" in tags(cell)


def student(notebook: NotebookNode) -> NotebookNode:
    """The notebook with stubs for solutions and without outputs: students see their own, and copies stay small."""
    lab = copy.deepcopy(notebook)
    lab.cells = [cell for cell in lab.cells if cell.cell_type == "code" or "solution" not in tags(cell)]
    lab.metadata.minirestore.variant = "student"
    for cell in lab.cells:
        if is_solution(cell):
            cell.source = stub(cell.source)
            cell.metadata = NotebookNode(tags=["exercise"])
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return lab


def nbgrader(notebook: NotebookNode) -> NotebookNode:
    """The instructor's source for ``nbgrader generate_assignment``: solutions in place, checks graded and locked."""
    export = copy.deepcopy(notebook)
    export.cells = [cell for cell in export.cells if cell.cell_type == "code" or "solution" not in tags(cell)]
    export.metadata.minirestore.variant = "nbgrader"
    for cell in export.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if is_solution(cell):
            cell.metadata = NotebookNode(nbgrader=_grading(f"solution-{cell.id}", solution=True))
        elif is_check(cell):
            names = checked(cell.source)
            points = sum(find(name).points for name in names)
            cell.source = "from minirestore.exercises import require as check\n\n" + cell.source
            grade_id = "-".join(names).replace(".", "-")
            cell.metadata = NotebookNode(nbgrader=_grading(grade_id, grade=True, locked=True, points=points))
    return export


def _grading(grade_id: str, **fields: bool | int) -> NotebookNode:
    defaults = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    return NotebookNode({**defaults, "grade_id": grade_id, **fields})


def write_student(lesson: Lesson) -> Path:
    """Write ``notebooks/labs/NN_name.ipynb`` from the built notebook."""
    write(student(nbformat.read(lesson.notebook, as_version=4)), lesson.lab)
    return lesson.lab


def write_nbgrader(lesson: Lesson, folder: Path) -> Path:
    """Write ``folder/source/NN_name/NN_name.ipynb``, the layout of an nbgrader course, from the built notebook."""
    path = folder / "source" / lesson.name / f"{lesson.name}.ipynb"
    write(nbgrader(nbformat.read(lesson.notebook, as_version=4)), path)
    return path
