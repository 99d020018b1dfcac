"""The command line: help that reads, errors that are one line, exit codes that mean something."""

import subprocess
import sys
from pathlib import Path

import pytest

from minirestore import cli
from minirestore.course import build, report, run, sources
from minirestore.course.run import Outcome
from minirestore.course.sources import Lesson

SOURCE = '# %% tags=["parameters"]\nprofile = "quick"\nseed = 0\nsteps = 3\n'


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A course of one notebook; nothing is executed."""
    lesson = Lesson("42_example", tmp_path / "notebooks")
    lesson.source.parent.mkdir(parents=True)
    lesson.source.write_text(SOURCE)
    monkeypatch.setattr(sources, "notebooks_root", lambda: lesson.root)
    monkeypatch.chdir(tmp_path)
    return lesson


def commands(parser, prefix=()):
    """Every command as a tuple of words, the empty one first."""
    yield prefix
    for action in parser._actions:
        if hasattr(action, "choices") and isinstance(action.choices, dict):
            for name, child in action.choices.items():
                yield from commands(child, (*prefix, name))


@pytest.mark.parametrize("words", list(commands(cli.build_parser())), ids=" ".join)
def test_every_command_explains_itself(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: minirestore {' '.join(words)}".strip())
    assert max(map(len, text.splitlines())) <= 120
    paragraphs = text.split("\n\n")
    assert any(part and part[0].isupper() for part in paragraphs[1:]) or not words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "77"], "notebook: got '77'; choose from 42"),
        (["run", "42", "--set", "step=1"], "did you mean steps?"),
        (["run", "42", "--set", "steps=1.5"], "steps: expected int"),
        (["run", "42", "--set", "steps"], "expected key=value"),
        (["run", "42", "--set", "profile=full"], "choose it with --profile"),
        (["run", "42", "--timeout", "0"], "timeout: expected a positive number"),
        (["run", "42", "--profile", "fast"], "argument --profile: invalid choice: 'fast'"),
        (["run", "42", "--colour"], "unrecognized arguments: --colour"),
        (["course", "run", "--jobs", "0"], "jobs: expected at least 1"),
        (["course", "build", "77"], "notebook: got '77'"),
        (["course"], "required: COMMAND"),
        ([], "required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(example, words, message, capsys):
    try:
        code = cli.main(words)
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_a_failing_cell_while_building_is_one_line(example, monkeypatch, capsys):
    def execute(notebook, lesson):
        raise RuntimeError("42_example: code cell 2 (x):\n  ZeroDivisionError")

    monkeypatch.setattr(build, "execute", execute)
    assert cli.main(["course", "build", "42"]) == 2
    assert capsys.readouterr().err == "minirestore: error: 42_example: code cell 2 (x): ZeroDivisionError\n"


def test_the_traceback_can_be_asked_for(example, monkeypatch):
    monkeypatch.setenv("MINIRESTORE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="notebook: got '77'"):
        cli.main(["run", "77"])


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed", 1), ("timeout", 1), ("died", 1)])
def test_run_reports_how_it_ended(example, monkeypatch, status, code, capsys):
    calls = []

    def fake(lesson, folder, **options):
        calls.append((lesson.name, folder, options))
        return Outcome(lesson.name, status, 1.25, Path("runs/x.ipynb"), "why")

    monkeypatch.setattr(run, "run", fake)
    assert cli.main(["run", "42", "--profile", "reduced", "--set", "steps=5", "--timeout", "9"]) == code
    options = {"profile": "reduced", "settings": {"steps": "5"}, "timeout": 9.0, "progress": False}
    assert calls == [("42_example", Path("runs"), options)]
    assert capsys.readouterr().out == f"42_example: {status} after 1.2 s: why\n"


def test_dry_run_prints_what_is_needed(example, monkeypatch, capsys):
    assert cli.main(["run", "42", "--profile", "full", "--dry-run"]) == 0
    assert "nothing is needed" in capsys.readouterr().out
    monkeypatch.setattr(run, "dry_run", lambda lesson, values: ([f"{values['steps']} steps"], ["weights"]))
    assert cli.main(["run", "42", "--profile", "full", "--set", "steps=7", "--dry-run"]) == 0
    assert capsys.readouterr().out == "7 steps\nmissing: weights\n"
    assert cli.main(["run", "42", "--set", "step=7", "--dry-run"]) == 2


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed", 1)])
def test_the_course_fails_if_one_notebook_fails(example, monkeypatch, status, code, capsys):
    outcome = Outcome("42_example", status, 2.0, Path("x.ipynb"), "code cell 2: KeyError")
    monkeypatch.setattr(report, "run_course", lambda lessons, folder, jobs: [outcome])
    assert cli.main(["course", "run"]) == code
    out = capsys.readouterr().out
    assert "notebook    seconds  status" in out
    assert ("KeyError" in out) == (code == 1)
    assert "figures: runs/course/index.html" in out


def test_build_writes_the_main_notebook_the_lab_and_the_export(example, monkeypatch, capsys):
    monkeypatch.setattr(build, "execute", lambda notebook, lesson: None)
    assert cli.main(["course", "build", "42", "--student", "--nbgrader", "exported"]) == 0
    assert example.notebook.is_file()
    assert example.lab.is_file()
    assert Path("exported/source/42_example/42_example.ipynb").is_file()
    assert cli.main(["course", "build", "42"]) == 0
    assert "42_example: up to date" in capsys.readouterr().out


def test_outside_a_clone_the_error_says_so(monkeypatch, capsys):
    monkeypatch.setattr("minirestore.config.repository_root", lambda: None)
    assert cli.main(["run", "03"]) == 2
    assert "run this inside a clone" in capsys.readouterr().err


def test_the_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "minirestore", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout.split()[0]) == (0, "minirestore")


def test_help_does_not_load_heavy_libraries():
    code = (
        "import sys; from minirestore import cli; cli.build_parser().format_help();"
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'nbformat', 'papermill') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
