"""Building and running notebooks: deterministic, strict about parameters, never stuck, never half written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from minirestore.course import build, report, run, sources, variants
from minirestore.course.run import Outcome
from minirestore.course.sources import Lesson

HEADER = '# %% tags=["parameters"]\nprofile = "quick"\nseed = 0\nsteps = 3\nrate = 0.5\n\n'


def lesson_from(root: Path, *cells: str, configuration: str = "", header: str = HEADER) -> Lesson:
    lesson = Lesson("42_example", root)
    lesson.source.parent.mkdir(parents=True, exist_ok=True)
    lesson.configuration.parent.mkdir(exist_ok=True)
    lesson.source.write_text(header + "".join(f"{cell}\n\n" for cell in cells))
    lesson.configuration.write_text(configuration)
    return lesson


# Sources


def test_cell_ids_depend_only_on_the_text(tmp_path):
    first = sources.read_source(lesson_from(tmp_path, "# %%\na = 1", "# %%\na = 1", "# %% [markdown]\n# text"))
    second = sources.read_source(lesson_from(tmp_path, "# %%\nb = 2", "# %%\na = 1", "# %% [markdown]\n# text"))
    ids = [cell.id for cell in first.cells]
    assert len(set(ids)) == len(ids) == 4
    assert ids[2] == f"{ids[1]}-2"
    assert [cell.id for cell in second.cells][2:] == [ids[1], ids[3]]


def test_line_endings_do_not_make_a_notebook_stale(tmp_path):
    lesson = lesson_from(tmp_path, "# %%\na = 1")
    digest = sources.source_hash(lesson)
    lesson.source.write_bytes(lesson.source.read_bytes().replace(b"\n", b"\r\n"))
    assert sources.source_hash(lesson) == digest
    lesson.source.write_text(lesson.source.read_text() + "# more\n")
    assert sources.source_hash(lesson) != digest


def test_the_notebook_zero_is_found_by_its_short_number():
    assert sources.lessons(["0"])[0].number == "00"


@pytest.mark.parametrize("wanted", ["3", "03", "03_wavelets"])
def test_notebooks_are_found_by_number_or_name(wanted):
    assert [lesson.name for lesson in sources.lessons([wanted])] == ["03_wavelets"]


@pytest.mark.parametrize("wanted", ["77", "wavelets", "03_other", "", "003"])
def test_unknown_notebooks_are_refused(wanted):
    with pytest.raises(ValueError, match=r"notebook: got .*choose from .*03"):
        sources.lessons([wanted])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("# %%\nseed = 0\n\n", "first code cell must be headed"),
        ('# %% tags=["parameters"]\nseed = 0\n\n', "must set profile"),
        ('# %% tags=["parameters"]\nprofile = "full"\nseed = 0\n\n', 'profile = "quick"'),
        ('# %% tags=["parameters"]\nprofile = "quick"\nseed = int(0)\n\n', "only name = literal, got 'seed = int"),
        ('# %% tags=["parameters"]\nimport math\n\n', "only name = literal, got 'import math'"),
    ],
)
def test_the_parameters_cell_is_checked(tmp_path, header, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sources.parameter_defaults(lesson_from(tmp_path, header=header))


def test_parameters_come_from_the_cell_then_the_profile_then_the_settings(tmp_path):
    lesson = lesson_from(tmp_path, configuration="reduced: {steps: 40, rate: 1}\n")
    assert sources.parameters(lesson) == {"profile": "quick", "seed": 0, "steps": 3, "rate": 0.5}
    reduced = sources.parameters(lesson, "reduced", {"steps": "50"})
    assert reduced == {"profile": "reduced", "seed": 0, "steps": 50, "rate": 1.0}
    assert sources.parameters(lesson, "full")["steps"] == 3


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"step": "5"}, ValueError, r"did you mean steps\? \(known: seed, steps, rate\)"),
        ({"steps": "5.5"}, TypeError, "steps: expected int"),
        ({"profile": "full"}, ValueError, "choose it with --profile"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        sources.parameters(lesson_from(tmp_path), "quick", settings)


@pytest.mark.parametrize(
    ("configuration", "error", "message"),
    [
        ("quick: {steps: 1}", ValueError, "'quick'"),
        ("reduced: {step: 1}", ValueError, "'step'"),
        ("full: {steps: many}", TypeError, "steps: expected int"),
        ("timeout: soon", TypeError, "timeout: expected int"),
        ("[1, 2]", ValueError, "expected names and values"),
        ("a: [", ValueError, "not valid YAML"),
    ],
)
def test_wrong_configurations_are_refused(tmp_path, configuration, error, message):
    with pytest.raises(error, match=message):
        sources.read_configuration(lesson_from(tmp_path, configuration=configuration))


# Build

CELLS = (
    "# %% [markdown]\n# A title",
    '# %%\nimport sys\nprint("one", flush=True)\nprint("two", flush=True)\nprint(steps)',
    '# %% tags=["solution"]\n### BEGIN SOLUTION\nanswer = "b"\n### END SOLUTION',
    "# %%\nfrom minirestore import plots\nf, a = plots.subplots()\nplots.show(f, alt='An empty figure with 1 axis')",
)


def test_building_twice_gives_the_same_bytes(tmp_path):
    lesson = lesson_from(tmp_path, *CELLS)
    lines = []
    assert build.build(lesson, log=lines.append)
    first = lesson.notebook.read_bytes()
    assert not build.build(lesson, log=lines.append)
    assert build.build(lesson, force=True, log=lines.append)
    assert lesson.notebook.read_bytes() == first
    assert lines[1] == "42_example: up to date"

    built = nbformat.read(lesson.notebook, as_version=4)
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert [output.text for output in code[1].outputs] == ["one\ntwo\n3\n"]
    assert code[2].metadata == {"tags": ["solution", "hide-input"], "jupyter": {"source_hidden": True}}
    assert code[3].metadata.mystnb.image.alt == "An empty figure with 1 axis"
    assert b"execution" not in first.replace(b"execution_count", b"")

    lesson.source.write_text(lesson.source.read_text() + "# a change\n")
    assert not build.is_fresh(lesson)


def test_a_failing_cell_is_named_and_nothing_is_written(tmp_path):
    lesson = lesson_from(tmp_path, "# %%\nvalue = 1", "# %%\n# divide\nvalue / 0")
    with pytest.raises(RuntimeError, match=r"code cell 3 \(# divide\): ZeroDivisionError: division by zero"):
        build.build(lesson)
    assert not lesson.notebook.exists()
    assert not list(tmp_path.glob("*.partial"))


def test_kernels_have_one_thread_no_front_end_and_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "someone's notebook")
    cell = (
        "# %%\nimport os, socket\n"
        'print(os.environ["OMP_NUM_THREADS"], os.environ.get("JPY_SESSION_NAME"))\n'
        'try:\n    socket.create_connection(("192.0.2.1", 80), timeout=1)\nexcept OSError as error:\n    print(error)\n'
        "from minirestore.widgets import reader_present\nprint(reader_present())"
    )
    lesson = lesson_from(tmp_path, cell)
    build.build(lesson)
    text = nbformat.read(lesson.notebook, as_version=4).cells[1].outputs[0].text
    assert text == "1 None\nnetwork access is blocked in tests: 192.0.2.1\nFalse\n"


def test_the_network_is_blocked_but_loopback_is_not():
    code = (
        "import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname()).close()\n"
        "calls = lambda: socket.create_connection(('192.0.2.1', 80), 1), lambda: socket.getaddrinfo('a.test', 80)\n"
        "for call in calls:\n"
        "    try:\n        call()\n    except OSError as error:\n        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        f"network access is blocked in tests: {host}" for host in ("192.0.2.1", "a.test")
    ]


# Variants


def test_stubs_keep_signature_and_docstring():
    source = 'def soft(x, t):\n    """Shrink."""\n    ### BEGIN SOLUTION\n    y = x\n    return y\n    ### END SOLUTION'
    assert variants.stub(source) == 'def soft(x, t):\n    """Shrink."""\n    ...  # your code'


def test_stubs_keep_every_assigned_name():
    source = "### BEGIN SOLUTION\na, b = 1, 2\nc: int = 3\ndef f(x):\n    d = x\n### END SOLUTION\nprint(1)"
    names = [f"{name} = ...  # your answer" for name in ("a", "b", "c", "f")]
    assert variants.stub(source) == "\n".join([*names, "print(1)"])


@pytest.mark.parametrize("source", ["x = 1", "### BEGIN SOLUTION\nx = 1", "x = 1\n### END SOLUTION"])
def test_solutions_must_be_marked(source):
    with pytest.raises(ValueError, match="BEGIN SOLUTION"):
        variants.stub(source)


def test_checks_are_found_by_their_call():
    assert variants.checked('check("03.soft", soft)\ncheck("03.energy", "b")') == ["03.soft", "03.energy"]
    assert variants.checked('metrics.check("x", 1)\nprint("check(1)")') == []


def exercise_notebook(tmp_path):
    lesson = lesson_from(
        tmp_path,
        '# %% tags=["solution"]\n### BEGIN SOLUTION\nanswer = "b"\n### END SOLUTION',
        '# %%\ncheck("03.spread", answer)',
        '# %% [markdown] tags=["solution"]\n# Because noise is rotated.',
    )
    notebook = sources.read_source(lesson)
    for count, cell in enumerate([cell for cell in notebook.cells if cell.cell_type == "code"], 1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", text="03.spread: correct\n")]
    return notebook


def test_the_student_build_drops_solutions_and_their_traces(tmp_path):
    lab = variants.student(exercise_notebook(tmp_path))
    parameters, task, check = lab.cells
    assert parameters.outputs == []
    assert task.source == "answer = ...  # your answer"
    assert task.metadata == {"tags": ["exercise"]}
    assert check.source == 'check("03.spread", answer)'
    assert task.outputs == check.outputs == []
    assert task.execution_count is check.execution_count is None


def test_the_nbgrader_export_grades_the_checks(tmp_path, monkeypatch):
    _, solution, check = variants.nbgrader(exercise_notebook(tmp_path)).cells
    assert "BEGIN SOLUTION" in solution.source
    assert solution.metadata.nbgrader == {
        "schema_version": 3, "grade": False, "solution": True, "locked": False, "task": False,
        "grade_id": f"solution-{solution.id}",
    }  # fmt: skip
    assert check.metadata.nbgrader == {
        "schema_version": 3, "grade": True, "solution": False, "locked": True, "task": False, "points": 1,
        "grade_id": "03-spread",
    }  # fmt: skip
    exec(check.source, {"answer": "b"})
    with pytest.raises(AssertionError, match=r"03\.spread: "):
        exec(check.source, {"answer": "a"})


# Run


def test_run_changes_parameters_and_keeps_the_output(tmp_path):
    lesson = lesson_from(tmp_path, "# %%\nprint(profile, steps, rate)", configuration="reduced: {rate: 2.5}")
    outcome = run.run(lesson, tmp_path / "runs", profile="reduced", settings={"steps": "7"})
    assert outcome.status == "ok", outcome.message
    assert outcome.output == tmp_path / "runs" / "42_example-reduced.ipynb"
    assert "reduced 7 2.5\n" in outcome.output.read_text().replace("\\n", "\n")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [outcome.output.name]


def test_the_whole_course_makes_a_table_and_an_index(tmp_path):
    figure = "# %%\nfrom minirestore import plots\nf, a = plots.subplots()\nplots.show(f, alt='An axis & <1> figure')"
    good = lesson_from(tmp_path, figure)
    bad = Lesson("43_broken", tmp_path)
    bad.source.write_text(HEADER + "# %%\nraise KeyError('gone')\n")
    outcomes = report.run_course([good, bad], tmp_path / "runs", log=lambda line: None)
    assert [outcome.status for outcome in outcomes] == ["ok", "failed"]
    header, first, second = report.table(outcomes).splitlines()
    assert header.split() == ["notebook", "seconds", "status"]
    assert re.fullmatch(r"42_example +[\d.]+  ok", first)
    assert re.fullmatch(r"43_broken +[\d.]+  failed  code cell 2 .*KeyError: 'gone'", second)
    index = (tmp_path / "runs" / "index.html").read_text()
    assert index.count('<img alt="An axis &amp; &lt;1&gt; figure" src="data:image/png;base64,') == 1
    assert 'href="43_broken.ipynb"' in index


def test_a_hanging_notebook_is_stopped_twice_and_leaves_nothing_behind(tmp_path):
    cell = '# %%\nimport os\nwith open("pid", "w") as file:\n    file.write(str(os.getpid()))\nwhile True:\n    pass'
    lesson = lesson_from(tmp_path, cell)
    lines = []
    outcome = run.run(lesson, tmp_path / "runs", timeout=6, log=lines.append)
    assert (outcome.status, outcome.message) == ("timeout", "stopped after 6 s")
    assert lines == ["42_example: stopped after 6 s; trying once more"]
    assert not list((tmp_path / "runs").glob(".*"))
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("endings", "expected"),
    [
        (["ok"], "ok"),
        (["failed", "ok"], "failed"),
        (["died", "ok"], "ok"),
        (["timeout", "ok"], "ok"),
        (["timeout", "died", "ok"], "died"),
    ],
)
def test_only_hangs_and_dead_kernels_are_repeated_once(tmp_path, monkeypatch, endings, expected):
    lesson = lesson_from(tmp_path)
    remaining = iter(endings)
    monkeypatch.setattr(run, "_attempt", lambda *args: Outcome(lesson.name, next(remaining), 1.0, tmp_path, "why"))
    assert run.run(lesson, tmp_path, log=lambda line: None).status == expected


def test_a_dead_kernel_is_not_a_failed_cell(tmp_path):
    lesson = lesson_from(tmp_path, "# %%\nimport os\nos._exit(3)")
    outcome = run._attempt(lesson, {}, tmp_path / "out.ipynb", 60, False)
    assert outcome.status == "died"
    assert "died" in outcome.message.lower()


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_the_timeout_must_be_positive(tmp_path, timeout):
    with pytest.raises(ValueError, match="timeout: expected a positive number"):
        run.run(lesson_from(tmp_path), tmp_path, timeout=timeout)


def test_full_scale_stops_with_the_list_of_what_is_missing(tmp_path, monkeypatch):
    lesson = lesson_from(tmp_path, configuration="networks: true\nfull: {steps: 1000}")

    class Recipes:
        @staticmethod
        def dry_run(number, values):
            assert (number, values["steps"], values["profile"]) == ("42", 1000, "full")
            return ["U-Net: 3 parameters"], ["data set DIV2K", "weights of the prior"]

    monkeypatch.setitem(sys.modules, "minirestore.recipes", Recipes)
    monkeypatch.setattr("minirestore.recipes", Recipes, raising=False)
    with pytest.raises(FileNotFoundError, match="missing: data set DIV2K; weights of the prior"):
        run.run(lesson, tmp_path / "runs", profile="full")
    assert not (tmp_path / "runs").exists()


def test_a_notebook_without_networks_needs_nothing(tmp_path):
    lines, missing = run.dry_run(lesson_from(tmp_path), {})
    assert "nothing is needed" in lines[0]
    assert missing == []
