"""The committed notebooks: the guard passes on every one and refuses each kind of damage; nbval sees one digit."""

import contextlib
import copy
import io
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from minirestore.course import build, guard, sources, variants
from minirestore.course.sources import Lesson

LESSONS = sources.lessons()


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_the_guard_passes(lesson):
    assert guard.problems(lesson) == []


def test_every_notebook_has_a_source():
    root = sources.notebooks_root()
    names = {lesson.name for lesson in LESSONS}
    assert {path.stem for path in root.glob("*.ipynb")} == names
    assert {path.stem for path in (root / "labs").glob("*.ipynb")} == names
    assert {path.stem for path in (root / "configs").glob("*.yaml")} <= names


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_every_configuration_is_valid(lesson):
    for profile in ("quick", "reduced", "full"):
        assert sources.parameters(lesson, profile)["profile"] == profile


@pytest.fixture
def damaged(tmp_path):
    """A copy of notebook 03 and a function that writes a damaged version and returns what the guard says."""
    (original,) = sources.lessons(["03"])
    lesson = Lesson(original.name, tmp_path)
    lesson.source.parent.mkdir()
    shutil.copy(original.source, lesson.source)
    notebook = nbformat.read(original.notebook, as_version=4)

    def problems(damage):
        broken = copy.deepcopy(notebook)
        damage(broken, [cell for cell in broken.cells if cell.cell_type == "code"])
        build.write(broken, lesson.notebook)
        return "\n".join(guard.problems(lesson))

    assert problems(lambda notebook, code: None) == ""
    problems.lesson = lesson
    return problems


def first_output(code, kind):
    return next(output for cell in code for output in cell.outputs if kind in output or kind in output.get("data", {}))


def add_line(code, line):
    code[-1].source += f"\n{line}"


def add_output(code, **fields):
    code[-1].outputs.append(nbformat.v4.new_output(**fields))


def clear_text(code):
    for cell in code:
        cell.outputs = [output for output in cell.outputs if "data" in output and "[cost]" in output.data["text/plain"]]


DAMAGE = {
    "stale": lambda nb, code: nb.metadata.minirestore.update(source_sha256="0"),
    "unexecuted": lambda nb, code: code[3].update(execution_count=None),
    "out of order": lambda nb, code: code[3].update(execution_count=99),
    "error": lambda nb, code: add_output(code, output_type="error", ename="KeyError", evalue="", traceback=[]),
    "stderr": lambda nb, code: add_output(code, output_type="stream", name="stderr", text="a warning"),
    "absolute path: cell": lambda nb, code: add_line(code, 'folder = "/home/someone/data"'),
    "absolute path: .*tmp/x": lambda nb, code: add_output(code, output_type="stream", text="wrote '/tmp/x'"),
    "size": lambda nb, code: nb.metadata.update(padding="x" * guard.LARGEST_BYTES),
    "numbers: ": lambda nb, code: clear_text(code),
    "ignored: .*nbval-ignore-output": lambda nb, code: code[2].metadata.update(tags=["nbval-ignore-output"]),
    "ignored: .*raises-exception": lambda nb, code: code[2].metadata.update(tags=["raises-exception"]),
    "ignored: .*comment": lambda nb, code: add_line(code, "# NBVAL_IGNORE_OUTPUT"),
    "long: ": lambda nb, code: code[2].update(source="x = 1\n" * (guard.LONGEST_CELL + 1)),
    "figure without text": lambda nb, code: first_output(code, "image/png").data.update({"text/plain": "<Figure>"}),
    "widget: ": lambda nb, code: first_output(code, "image/png").data.update(
        {"application/vnd.jupyter.widget-view+json": {}}
    ),
    "interact: ": lambda nb, code: add_line(code, "interact(print, x=3)"),
    "explore.* is not called": lambda nb, code: [
        cell.update(source=cell.source.replace("explore(", "f(")) for cell in code
    ],
    "show_cost.* is not called": lambda nb, code: code[-1].update(source="pass"),
    "exercises: 1 of kind code": lambda nb, code: [
        cell.update(source="pass") for cell in code if "03.soft" in variants.checked(cell.source)
    ],
    "exercises: 0 of kind predict": lambda nb, code: [
        cell.update(source="pass") for cell in code if "03.spread" in variants.checked(cell.source)
    ],
    "not accepted by its own check": lambda nb, code: [
        cell.update(outputs=[]) for cell in code if variants.is_check(cell)
    ],
    "without a check": lambda nb, code: [
        cell.update(source="pass") for cell in code if "03.soft" in variants.checked(cell.source)
    ],
    "uses soft, which the learner writes": lambda nb, code: add_line(code, "soft(clean, 0.1)"),
}  # fmt: skip


@pytest.mark.parametrize("expected", DAMAGE)
def test_the_guard_refuses(expected, damaged):
    assert re.search(expected, damaged(DAMAGE[expected]))


def test_the_guard_refuses_a_missing_notebook(damaged):
    damaged.lesson.notebook.unlink()
    assert "not built" in guard.problems(damaged.lesson)[0]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_the_student_build_is_up_to_date(lesson, tmp_path):
    copied = Lesson(lesson.name, tmp_path)
    shutil.copy(lesson.notebook, copied.notebook)
    assert variants.write_student(copied).read_bytes() == lesson.lab.read_bytes()


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_no_solution_leaks(lesson):
    lab = lesson.lab.read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in lab
    texts = "\n".join(cell.source for cell in nbformat.reads(lab, as_version=4).cells)
    squeezed = re.sub(r"\s", "", texts)
    found = 0
    for cell in nbformat.read(lesson.notebook, as_version=4).cells:
        if "solution" not in sources.tags(cell):
            continue
        parts = variants.solutions(cell.source) if cell.cell_type == "code" else [cell.source]
        for part in parts:
            found += 1
            for line in [part, *(line for line in part.splitlines() if len(line.strip()) > 15)]:
                assert re.sub(r"\s", "", line) not in squeezed
    assert found >= 4


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_stubs_run_to_the_end(lesson, monkeypatch):
    """Parameters, setup, stubs and checks; the other cells are the main notebook's and use none of the answers."""
    monkeypatch.chdir(lesson.root)
    code = [cell for cell in nbformat.read(lesson.lab, as_version=4).cells if cell.cell_type == "code"]
    namespace, printed = {"__name__": "__main__"}, io.StringIO()
    names = []
    for cell in code:
        if {"parameters", "setup", "exercise"} & set(sources.tags(cell)) or variants.is_check(cell):
            names += variants.checked(cell.source)
            with contextlib.redirect_stdout(printed):
                exec(compile(cell.source, lesson.name, "exec"), namespace)
    for name in names:
        assert f"{name}: not answered yet\n" in printed.getvalue()
    assert len(names) >= 4


def test_the_student_build_executes_as_a_whole(tmp_path):
    (lesson,) = sources.lessons(["03"])
    lab = nbformat.read(lesson.lab, as_version=4)
    build.execute(lab, lesson)
    assert build.failure(lab) is None
    main = nbformat.read(lesson.notebook, as_version=4)
    expected = {
        cell.id: cell.outputs for cell in main.cells if cell.cell_type == "code" and not variants.is_check(cell)
    }
    build.finish(lab)
    for cell in lab.cells:
        if cell.cell_type == "code" and not variants.is_check(cell):
            texts = [output.get("text") or output.data["text/plain"] for output in cell.outputs]
            assert texts == [output.get("text") or output.data["text/plain"] for output in expected[cell.id]]


def test_printed_numbers_may_differ_in_their_last_places_alone():
    from conftest import Printed

    for stored, other, same in (
        ("ends 1.235, n = 6", "ends 1.234, n = 6", True),
        ("ends 7.356e-06", "ends 7.354e-06", True),
        ("ends 7.356e-06", "ends 7.354e-05", False),
        ("ends 1.235", "ends 1.241", False),
        ("off by 1.357e-07", "off by 1.863e-07", True),
        ("off by 1.357e-07", "off by 1.357e-05", False),
        ("1.23", "1.24", False),
        ("n = 1234", "n = 1235", False),
        ("-1.234 below", "1.234 below", False),
        ("1.234 above", "1.234 below", False),
    ):
        assert (Printed(stored) == other) == same and (Printed(stored) != other) != same, (stored, other)


def nbval(path):
    plugins = [f"-p{name}" for name in ("conftest", "no:cacheprovider", "no:xdist")]
    place = ["-c", "/dev/null", "--rootdir", str(path.parent), str(path)]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--nbval", "--nbval-current-env", *place]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("printed", "stored", "passes"),
    [
        ("3.142", "3.142", True),
        ("3.142", "3.143", True),
        ("3.142", "3.242", False),
        ("angle of 60", "angle of 61", False),
    ],
)
def test_nbval_sees_one_changed_digit(printed, stored, passes, tmp_path):
    """One stored number, and one number in a figure's text alternative; a last place is not enough, see `Printed`."""
    lesson = Lesson("90_digits", tmp_path)
    lesson.source.parent.mkdir()
    lesson.source.write_text(
        '# %% tags=["parameters"]\nprofile = "quick"\nseed = 0\n\n# %%\nimport math\nprint(f"{math.pi:.4g}")\n\n'
        "# %%\nfrom IPython.display import display\n"
        'display({"image/png": "", "text/plain": f"[figure] angle of {60}"}, raw=True)\n'
    )
    build.build(lesson)
    before, after = lesson.notebook.read_text().split('"outputs"', 1)
    assert printed in after
    lesson.notebook.write_text(before + '"outputs"' + after.replace(printed, stored))
    result = nbval(lesson.notebook)
    assert ("3 passed" if passes else "1 failed, 2 passed") in result.stdout, result.stdout
    assert result.returncode == (0 if passes else 1)
