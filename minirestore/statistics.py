"""How sure are we? Intervals over seeds, over photographs, and p-values corrected for many claims."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def significant(value: float, digits: int = 4) -> str:
    """``value`` with ``digits`` significant digits, trailing zeros kept: 0.5 -> "0.5000", 1234.5 -> "1234"."""
    return f"{value:#.{digits}g}".removesuffix(".")


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided confidence interval over ``n`` independent units (seeds, photographs).

    ``0 in interval`` asks whether the data are compatible with no effect.
    """

    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        mean, low, high = (significant(number) for number in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}] ({self.level * 100:g} %, n = {self.n})"


def _values(values: ArrayLike, name: str, minimum: int) -> np.ndarray:
    """A finite 1-D float64 array of at least ``minimum`` numbers; torch tensors are welcome."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected a 1-D sequence of numbers, got shape {array.shape}")
    if len(array) < minimum:
        raise ValueError(f"{name}: needs at least {minimum} values, got {len(array)}; run more seeds or images")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: contains NaN or infinite values; an interval over them means nothing")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}; 95 per cent is 0.95")


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent values, typically one per training seed.

    ``mean +- t_{(1 + level) / 2, n - 1} s / sqrt(n)`` with ``s`` the sample standard deviation (n - 1). Exact for
    normally distributed values, any n >= 2 (Student 1908). Not for crops or pixels of the same photograph, which
    are not independent: use `paired_bootstrap`.

    Raises:
        ValueError: fewer than two values, not 1-D, not finite, or a level outside (0, 1).
    """
    from scipy.special import stdtrit

    _check_level(level)
    array = _values(values, "values", 2)
    mean, n = array.mean(), len(array)
    half = stdtrit(n - 1, (1 + level) / 2) * array.std(ddof=1) / np.sqrt(n)
    return Interval(float(mean), float(mean - half), float(mean + half), n, level)


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p-value of Student's t test that paired differences (arm A minus arm B, same seed) have mean 0.

    ``p = 2 P(T_{n-1} > |mean| sqrt(n) / s)``. Equal differences give 0, or 1 if all are 0.
    """
    from scipy.special import stdtr

    array = _values(differences, "differences", 2)
    mean, error = array.mean(), array.std(ddof=1) / np.sqrt(len(array))
    if error == 0:
        return float(mean == 0)
    return float(2 * stdtr(len(array) - 1, -abs(mean) / error))


def paired_bootstrap(
    differences: ArrayLike,
    clusters: Sequence | np.ndarray,
    seed: int,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval for the mean paired difference, clustered (for example by photograph).

    Whole clusters are drawn with replacement, as many as there are; each resample's statistic is the mean of all
    differences in it, and the interval runs between its ``(1 - level) / 2`` and ``(1 + level) / 2`` quantiles. Crops of
    one photograph rise and fall together, so resampling crops would make the interval too narrow. With few clusters
    (below about ten) the percentile interval is itself somewhat too narrow: say n beside it.
    Source: Davison and Hinkley 1997, section 3.8 (strategy 1); Efron 1979.

    Args:
        differences: one paired difference per image or crop, (N,).
        clusters: the cluster of each, (N,) names or integers.
        seed: same seed, same interval (to rounding), whatever the order of the rows.
        resamples: number of bootstrap resamples, at least 100.

    Returns:
        `Interval` with n = number of clusters.

    Raises:
        ValueError: lengths that differ, fewer than two clusters, values that are not finite.
    """
    _check_level(level)
    array = _values(differences, "differences", 2)
    labels = np.asarray(clusters)
    if labels.shape != array.shape:
        raise ValueError(f"clusters: expected one per difference, {array.shape}, got shape {labels.shape}")
    if resamples < 100:
        raise ValueError(f"resamples: expected at least 100, got {resamples}; quantiles of fewer mean nothing")
    names, index = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"clusters: needs at least two, got {len(names)} ({names[0]}); measure more photographs")
    totals = np.bincount(index, weights=array)  # (K,)
    counts = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))  # (resamples, K)
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high), len(names), level)


def binomial_interval(answers: ArrayLike, level: float = 0.95) -> Interval:
    """Exact interval for the share of yes among independent answers, 1 or 0 each; n is their number.

    Contains the true share with a probability of at least ``level``, whatever it is. Source: Clopper and Pearson 1934.

    Raises:
        ValueError: fewer than two answers, not 1-D, neither 0 nor 1, or a level outside (0, 1).
    """
    from scipy.stats import binomtest

    _check_level(level)
    yes, n = _count_yes(answers)
    low, high = binomtest(yes, n).proportion_ci(level, "exact")
    return Interval(yes / n, float(low), float(high), n, level)


def binomial_p(answers: ArrayLike, share: float = 0.5) -> float:
    """Two-sided p-value of the exact test that independent answers, 1 or 0, are yes with probability ``share``.

    The probability of all counts that are no more likely than the one found. With one half it is the sign test: 5 yes
    of 6 give 14 / 64. Errors as `binomial_interval`; a share outside [0, 1].
    """
    from scipy.stats import binomtest

    if not 0 <= share <= 1:
        raise ValueError(f"share: must lie in [0, 1], got {share}")
    return float(binomtest(*_count_yes(answers), share).pvalue)


def _count_yes(answers: ArrayLike) -> tuple[int, int]:
    array = _values(answers, "answers", 2)
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"answers: expected 1 (yes) or 0 (no), got {array[~np.isin(array, (0, 1))][0]:g}")
    return int(array.sum()), len(array)


def clustered_intervals(
    differences: ArrayLike, clusters: Sequence[str], seed: int, level: float = 0.95
) -> tuple[Interval, Interval]:
    """Both intervals over few photographs: `paired_bootstrap`, and `t_interval` of the photographs' means.

    With six photographs the bootstrap is too narrow and t leans on a normal distribution; `verdict` asks for both.
    Arguments and errors as in `paired_bootstrap`.
    """
    bootstrap = paired_bootstrap(differences, clusters, seed, level=level)
    values, names = np.asarray(differences, dtype=np.float64), np.asarray(clusters)
    means = [values[names == name].mean() for name in dict.fromkeys(clusters)]
    return bootstrap, t_interval(means, level)


def verdict(*intervals: Interval, threshold: float = 0.0) -> str:
    """``"above"`` or ``"below"`` when every interval lies on that side of ``threshold``, else ``"not resolved"``."""
    if not intervals:
        raise ValueError("intervals: expected at least one")
    if all(interval.low > threshold for interval in intervals):
        return "above"
    if all(interval.high < threshold for interval in intervals):
        return "below"
    return "not resolved"


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given: reject where they are at most alpha.

    With ``p_(1) <= ... <= p_(m)``: ``p~_(k) = max_{j <= k} min(1, (m - j + 1) p_(j))``. Keeps the chance of even one
    false rejection among m claims at most alpha, whatever their dependence. Source: Holm 1979.

    Raises:
        ValueError: no value, not 1-D, or outside [0, 1].
    """
    p = _values(p_values, "p_values", 1)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"p_values: must lie in [0, 1], got [{p.min():.4g}, {p.max():.4g}]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
