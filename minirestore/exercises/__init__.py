"""Exercises with instant checks.

A notebook asks, the learner writes an answer, and ``check("03.energy", answer)`` in the cell below replies at once:
correct, not answered yet, or a hint chosen by what is wrong. The checkers of notebook NN live in the module
``minirestore.exercises.notebook_NN`` as a tuple ``EXERCISES``; each is a function that takes the answer and
returns a hint, or None when the answer is right.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("code", "predict", "criticise")


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        name: ``"NN.word"``: the notebook's number and a word, as used in ``check``.
        kind: ``code`` (write a function or expression), ``predict`` (say what happens before running it) or
            ``criticise`` (judge a claim or figure); the last two are answered by a choice or a number.
        checker: takes the answer, returns a hint (one sentence) or None when the answer is right.
        points: weight in an nbgrader export.
    """

    name: str
    kind: str
    checker: Callable[[Any], str | None]
    points: int = 1

    def __post_init__(self) -> None:
        number, _, word = self.name.partition(".")
        if not (len(number) == 2 and number.isdigit() and word.isidentifier()):
            raise ValueError(f"name: expected 'NN.word' such as '03.energy', got {self.name!r}")
        if self.kind not in KINDS:
            raise ValueError(f"kind: got {self.kind!r}; choose one of {', '.join(KINDS)}")


class Unanswered(Exception):
    """Raised inside a checker when the learner's function returns nothing yet."""


def choice(correct: str, hints: Mapping[str, str]) -> Callable[[Any], str | None]:
    """Checker of a multiple-choice answer such as ``"b"``; every wrong option has its own hint."""
    options = sorted([correct, *hints])

    def checker(answer: Any) -> str | None:
        letter = answer.strip().lower() if isinstance(answer, str) else answer
        if letter == correct:
            return None
        if not isinstance(letter, str) or letter not in hints:
            return f"answer with one of the letters {', '.join(options)} in quotes"
        return hints[letter]

    return checker


def number(
    value: float | Callable[[], float],
    tolerance: float,
    mistakes: Sequence[tuple[float, str]] = (),
    *,
    too_small: str,
    too_large: str,
) -> Callable[[Any], str | None]:
    """Checker of a numeric answer.

    Args:
        value: the right answer, or a function that computes it when it is first needed.
        tolerance: largest accepted absolute difference.
        mistakes: well-known wrong answers with the hint each deserves (same tolerance).
        too_small, too_large: hints for all other answers.
    """

    def checker(answer: Any) -> str | None:
        try:
            got = float(answer)
        except (TypeError, ValueError, RuntimeError):
            return f"answer with one number, got {answer!r}"
        if not math.isfinite(got):
            return f"answer with one number, got {answer!r}"
        right = value() if callable(value) else value
        if abs(got - right) <= tolerance:
            return None
        for wrong, hint in mistakes:
            if abs(got - wrong) <= tolerance:
                return hint
        return too_small if got < right else too_large

    return checker


def exercises_of(notebook: str) -> dict[str, Exercise]:
    """The exercises of notebook ``"NN"``, by name; empty when it has none."""
    module = f"{__name__}.notebook_{notebook}"
    if importlib.util.find_spec(module) is None:
        return {}
    found = {exercise.name: exercise for exercise in importlib.import_module(module).EXERCISES}
    strangers = [name for name in found if not name.startswith(f"{notebook}.")]
    if strangers:
        raise ValueError(f"{module}: exercise {strangers[0]!r} must start with '{notebook}.'")
    return found


def find(name: str) -> Exercise:
    """The exercise called ``"NN.word"``; ValueError with the list of right names when there is none."""
    found = exercises_of(str(name)[:2])
    if name not in found:
        known = ", ".join(found) or "none in this notebook"
        raise ValueError(f"unknown exercise {name!r} (known: {known})")
    return found[name]


def hint_for(name: str, answer: Any) -> str | None:
    """Check one answer: None when it is right, else one sentence that says what to look at.

    Raises:
        Unanswered: the answer is ``...`` or None, or the learner's function returns that.
        ValueError: there is no such exercise.
    """
    checker = find(name).checker
    if answer is None or answer is ...:
        raise Unanswered
    try:
        return checker(_guarded(answer) if callable(answer) else answer)
    except Unanswered:
        raise
    except Exception as error:
        return f"your answer stops with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _guarded(function: Callable) -> Callable:
    """The learner's function, reporting a missing answer where it returns nothing."""

    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if result is None or result is ...:
            raise Unanswered
        return result

    return call


def check(name: str, answer: Any) -> None:
    """Print at once whether ``answer`` solves exercise ``name``: correct, not answered yet, or a hint."""
    try:
        hint = hint_for(name, answer)
    except Unanswered:
        print(f"{name}: not answered yet")
        return
    print(f"{name}: correct" if hint is None else f"{name}: not yet. Hint: {hint}")


def require(name: str, answer: Any) -> None:
    """Like `check`, but raise AssertionError unless the answer is right; used where a tool grades the notebook."""
    try:
        hint = hint_for(name, answer)
    except Unanswered:
        raise AssertionError(f"{name}: not answered yet") from None
    if hint is not None:
        raise AssertionError(f"{name}: {hint}")
