"""Answers to the exercises of notebook 08."""

import math

from answers import Answers
from minirestore import statistics


def verdict_by_bounds(differences, smallest):
    interval = statistics.t_interval(differences)
    if interval.high < smallest:
        return "contradicted"
    if interval.low > 0 and interval.mean >= smallest:
        return "supported"
    return "not resolved"


def verdict_by_hand(differences, smallest):
    n = len(differences)
    mean = sum(differences) / n
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    half = 2.776 * deviation / math.sqrt(n)
    if mean - half > 0 and mean >= smallest:
        return "supported"
    return "contradicted" if mean + half < smallest else "not resolved"


def verdict_without_smallest(differences, smallest):
    interval = statistics.t_interval(differences)
    return "supported" if interval.low > 0 else "contradicted" if interval.high < 0 else "not resolved"


def verdict_by_mean(differences, smallest):
    return "supported" if sum(differences) / len(differences) >= smallest else "contradicted"


def verdict_of_two(differences, smallest):
    interval = statistics.t_interval(differences)
    return "supported" if interval.low > 0 and interval.mean >= smallest else "contradicted"


def verdict_against_zero(differences, smallest):
    interval = statistics.t_interval(differences)
    if interval.low > 0 and interval.mean >= smallest:
        return "supported"
    return "contradicted" if interval.high < 0 else "not resolved"


def verdict_too_strict(differences, smallest):
    interval = statistics.t_interval(differences)
    if interval.low > smallest:
        return "supported"
    return "contradicted" if interval.high < smallest else "not resolved"


ANSWERS = {
    "08.missing": Answers(
        right=[
            lambda average, known, count: (average * count - sum(known)) / (count - len(known)),
            lambda average, known, count: average + sum(average - value for value in known) / (count - len(known)),
        ],
        wrong=[
            (lambda average, known, count: average * count - sum(known), "when two are"),
            (lambda average, known, count: average - sum(known) / max(len(known), 1), "sums first"),
            (lambda average, known, count: average, "over all sets"),
            (lambda average, known, count: sum(known) / max(len(known), 1), "of the known"),
            (lambda average, known, count: (average * count - sum(known)) / count, "divided by the number of all"),
            (lambda average, known, count: sum(known), "times count"),
        ],
    ),
    "08.verdict": Answers(
        right=[verdict_by_bounds, verdict_by_hand],
        wrong=[
            (verdict_without_smallest, "tiny but steady"),
            (verdict_by_mean, "ask where the interval lies"),
            (verdict_of_two, "excludes nothing"),
            (verdict_against_zero, "far below the smallest"),
            (verdict_too_strict, "only the estimate must reach"),
            (lambda differences, smallest: "not resolved", "wrong direction"),
            (lambda differences, smallest: 0.5, "one of the words"),
        ],
    ),
    "08.unit": Answers(right=["c", "C "], wrong=[("a", "another metric"), ("b", "clustered"), ("d", "repeated")]),
    "08.averaging": Answers(
        right=[10 * math.log10(2 / 1.125), "2.5"],
        wrong=[
            (3.01, "infinitely many"),
            (9.03, "only the variance"),
            (0.51, "subtract"),
            (1.0, "ratio"),
            (6, "limit"),
        ],
    ),
}
