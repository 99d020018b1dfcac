"""Checkers of notebook 08, the claims of structure guidance."""

from collections.abc import Callable, Sequence

from minirestore.exercises import Exercise, choice, number


def missing_mean(answer: Callable[[float, Sequence[float], int], float]) -> str | None:
    """``answer(average, known, count)`` must be the mean of the values that are not known."""
    cases = [((5.0, [2.0, 4.0, 6.0], 4), 8.0), ((3.0, [1.0], 3), 4.0), ((7.0, [], 2), 7.0)]
    got = [float(answer(*arguments)) for arguments, _ in cases]
    if all(abs(a - right) < 1e-9 for a, (_, right) in zip(got, cases, strict=True)):
        return None
    if abs(got[0] - 8) < 1e-9 and abs(got[1] - 8) < 1e-9:
        return "right when one value is missing; when two are, their sum must be shared"
    if abs(got[0] - 1) < 1e-9:
        return "the average less the mean of the known is no mean; go back from averages to sums first"
    if abs(got[0] - 5) < 1e-9:
        return "that is the average over all sets; the known ones pull it, so the others must pull it back"
    if abs(got[0] - 4) < 1e-9:
        return "that is the mean of the known values; the question is about the others"
    if abs(got[0] - 2) < 1e-9:
        return "the sum of the missing is right, but it was divided by the number of all sets"
    return "the average times count is the sum of all; take the known ones off, then divide by how many are left"


def verdict(answer: Callable[[Sequence[float], float], str]) -> str | None:
    """``answer(differences, smallest)`` must follow the ledger's rule."""
    cases = {
        "clear": (([0.30, 0.32, 0.31, 0.29, 0.33], 0.1), "supported"),
        "small": (([0.030, 0.032, 0.031, 0.029, 0.033], 0.1), "contradicted"),
        "wide": (([0.9, -0.6, 0.4, -0.1, 0.5], 0.1), "not resolved"),
        "reverse": (([-0.30, -0.32, -0.31, -0.29, -0.33], 0.1), "contradicted"),
        "straddling": (([0.06, 0.14, 0.08, 0.13, 0.07], 0.1), "not resolved"),
        "reaching": (([0.8, 1.6, 1.1, 1.4, 1.0], 1.0), "supported"),
    }
    got = {name: answer(list(differences), smallest) for name, ((differences, smallest), _) in cases.items()}
    wrong = {name for name, (_, right) in cases.items() if got[name] != right}
    if not wrong:
        return None
    if not all(isinstance(word, str) for word in got.values()):
        return "return one of the words 'supported', 'contradicted', 'not resolved'"
    if got["small"] == "supported":
        return "five tiny but steady gains came out as supported: the estimate must also reach the smallest effect"
    if got["wide"] == "contradicted":
        return "one scattered result is called contradicted: an interval that still holds the effect excludes nothing"
    if got["wide"] == "supported":
        return "a scattered result came out as supported: ask where the interval lies, not only where the mean does"
    if got["reverse"] != "contradicted":
        return "a clear effect in the wrong direction is contradicted: its whole interval is below the smallest effect"
    if got["small"] != "contradicted":
        return "a steady effect far below the smallest one of interest is contradicted, although it is above 0"
    if got["straddling"] != "not resolved":
        return "an estimate just below the smallest effect, whose interval reaches beyond it, decides nothing"
    if got["reaching"] == "not resolved":
        return "only the estimate must reach the smallest effect; of the interval it is enough to lie above 0"
    return "the rules: interval above 0 and estimate large enough; interval below the smallest effect; everything else"


EXERCISES = (
    Exercise("08.missing", "code", missing_mean, points=1),
    Exercise("08.verdict", "code", verdict, points=2),
    Exercise(
        "08.unit",
        "criticise",
        choice(
            "c",
            {
                "a": "another metric would change the number, not what the interval is an interval of",
                "b": "true, and the interval should be clustered; but would even independent crops license the word "
                "'generalises'?",
                "d": "small effects can be real; the question is what would vary if the experiment were repeated",
            },
        ),
    ),
    Exercise(
        "08.averaging",
        "predict",
        number(
            2.4988,
            0.02,
            [
                (3.01, "that is the gain of infinitely many samples; eight leave an eighth of the variance"),
                (9.03, "averaging divides only the variance by eight, not the bias"),
                (0.51, "that is what is still missing to infinitely many; subtract it from 3.01"),
                (4.77, "no average can gain more than 3.01 dB here; what stays when the variance is gone?"),
            ],
            too_small="one sample has error b + v = 2 b; eight have b + b / 8; take the ratio in dB",
            too_large="the bias stays however many samples are averaged, so 3.01 dB is the limit",
        ),
    ),
)
