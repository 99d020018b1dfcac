"""Every exercise of every notebook: right answers pass, each typical mistake gets its own hint."""

import importlib

import pytest

from minirestore import exercises
from minirestore.course import sources
from minirestore.exercises import Exercise, choice, number

NUMBERS = [lesson.number for lesson in sources.lessons()]
ALL = [name for number in NUMBERS for name in exercises.exercises_of(number)]


def answers(name):
    return importlib.import_module(f"answers.notebook_{name[:2]}").ANSWERS[name]


@pytest.mark.parametrize("notebook", NUMBERS)
def test_every_notebook_has_four_exercises_and_answers_for_each(notebook):
    found = exercises.exercises_of(notebook)
    kinds = [exercise.kind for exercise in found.values()]
    assert kinds.count("code") >= 2
    assert {"predict", "criticise"} <= set(kinds)
    assert set(importlib.import_module(f"answers.notebook_{notebook}").ANSWERS) == set(found)


@pytest.mark.parametrize("name", ALL)
def test_right_answers_pass(name):
    right = answers(name).right
    assert len(right) >= 2
    assert [exercises.hint_for(name, answer) for answer in right] == [None] * len(right)


@pytest.mark.parametrize("name", ALL)
def test_typical_mistakes_get_their_own_hint(name):
    wrong = answers(name).wrong
    assert len(wrong) >= 3
    hints = [exercises.hint_for(name, answer) for answer, _ in wrong]
    for hint, (_, fragment) in zip(hints, wrong, strict=True):
        assert hint is not None
        assert fragment in hint
        assert "stops with" not in hint or "stops with" in fragment
    assert len(set(hints)) == len(hints)


@pytest.mark.parametrize("name", ALL)
def test_unanswered_is_not_wrong(name, capsys):
    exercises.check(name, ...)
    exercises.check(name, None)
    assert capsys.readouterr().out == f"{name}: not answered yet\n" * 2


@pytest.fixture
def example(monkeypatch):
    """A made-up notebook 99 with one exercise of each form."""

    def double(answer):
        return None if answer(3) == 6 else "try it with 3"

    table = {
        "99.double": Exercise("99.double", "code", double),
        "99.letter": Exercise("99.letter", "predict", choice("a", {"b": "hint b", "c": "hint c"})),
        "99.share": Exercise(
            "99.share", "criticise",
            number(lambda: 0.25, 0.01, [(4.0, "inverse")], too_small="more", too_large="less"),
        ),
    }  # fmt: skip
    monkeypatch.setattr(exercises, "exercises_of", lambda notebook: table if notebook == "99" else {})


@pytest.mark.parametrize(
    ("name", "answer", "printed"),
    [
        ("99.double", lambda x: 2 * x, "correct"),
        ("99.double", lambda x: x, "not yet. Hint: try it with 3"),
        ("99.double", lambda x: None, "not answered yet"),
        ("99.double", lambda x: ..., "not answered yet"),
        ("99.double", lambda x: x / 0, "not yet. Hint: your answer stops with ZeroDivisionError: division by zero"),
        ("99.letter", " A ", "correct"),
        ("99.letter", "c", "not yet. Hint: hint c"),
        ("99.letter", "d", "not yet. Hint: answer with one of the letters a, b, c in quotes"),
        ("99.letter", 1, "not yet. Hint: answer with one of the letters a, b, c in quotes"),
        ("99.share", 0.255, "correct"),
        ("99.share", "0.25", "correct"),
        ("99.share", 4, "not yet. Hint: inverse"),
        ("99.share", 0.1, "not yet. Hint: more"),
        ("99.share", 0.5, "not yet. Hint: less"),
        ("99.share", float("nan"), "not yet. Hint: answer with one number, got nan"),
        ("99.share", [1, 2], "not yet. Hint: answer with one number, got [1, 2]"),
    ],
)
def test_check_answers_at_once(example, name, answer, printed, capsys):
    exercises.check(name, answer)
    assert capsys.readouterr().out == f"{name}: {printed}\n"


def test_require_raises_with_the_hint(example):
    exercises.require("99.letter", "a")
    with pytest.raises(AssertionError, match=r"99\.letter: hint b"):
        exercises.require("99.letter", "b")
    with pytest.raises(AssertionError, match="not answered yet"):
        exercises.require("99.letter", ...)


def test_unknown_exercises_are_refused(example):
    with pytest.raises(ValueError, match=r"'99.tripel' \(known: 99.double, 99.letter, 99.share\)"):
        exercises.check("99.tripel", 1)
    with pytest.raises(ValueError, match="none in this notebook"):
        exercises.check("98.double", 1)


@pytest.mark.parametrize("name", ["3.soft", "soft", "03soft", "03.not a word"])
def test_exercise_names_have_one_form(name):
    with pytest.raises(ValueError, match=r"expected 'NN\.word'"):
        Exercise(name, "code", print)


def test_exercise_kinds_are_known():
    with pytest.raises(ValueError, match="choose one of code, predict, criticise"):
        Exercise("03.soft", "quiz", print)
