"""Right and typical wrong answers to the exercises, one module per notebook; kept out of the package and the wheel."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answers:
    """At least two different right answers, and three wrong ones each with a fragment of the hint it must get."""

    right: list[Any]
    wrong: list[tuple[Any, str]]
