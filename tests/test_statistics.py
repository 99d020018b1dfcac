"""Intervals and corrections against scipy, worked examples and their own promise: coverage."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from minirestore import statistics
from minirestore.statistics import Interval, holm, paired_bootstrap, paired_t, significant, t_interval

RNG = np.random.default_rng(0)
VALUES = RNG.normal(3, 2, 7)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_t_interval_equals_scipy(level):
    interval = t_interval(VALUES, level)
    expected = stats.t.interval(level, len(VALUES) - 1, VALUES.mean(), stats.sem(VALUES))
    np.testing.assert_allclose([interval.low, interval.high], expected, rtol=1e-12)
    assert (interval.mean, interval.n, interval.level) == (pytest.approx(VALUES.mean()), 7, level)


def test_t_interval_of_two_values_by_hand():
    interval = t_interval([1.0, 3.0])  # t_{.975, 1} = 12.706, s / sqrt(2) = 1
    assert (interval.low, interval.high) == (pytest.approx(2 - 12.7062, abs=1e-4), pytest.approx(2 + 12.7062, abs=1e-4))


def test_t_interval_covers_the_truth_at_its_level():
    samples = np.random.default_rng(1).normal(5, 3, (4000, 4))
    covered = np.mean([5 in t_interval(sample, 0.9) for sample in samples])
    assert covered == pytest.approx(0.9, abs=0.015)  # standard error .005


def test_paired_t_equals_scipy_and_agrees_with_the_interval():
    assert paired_t(VALUES) == pytest.approx(stats.ttest_1samp(VALUES, 0).pvalue, rel=1e-10)
    low = t_interval(VALUES).low
    assert paired_t(VALUES - low) == pytest.approx(0.05)
    assert paired_t([2.0, 2.0]) == 0 and paired_t([0.0, 0.0]) == 1


def clustered_sample(rng, clusters=25, crops=4):
    """Differences of true mean 1 whose photographs vary much more than their crops."""
    return (1 + rng.normal(0, 1, (clusters, 1)) + rng.normal(0, 0.3, (clusters, crops))).ravel()


def test_bootstrap_covers_only_when_it_respects_the_clusters():
    rng = np.random.default_rng(2)
    photographs = np.repeat(np.arange(25), 4)
    samples = [clustered_sample(rng) for _ in range(300)]
    by_photograph = np.mean([1 in paired_bootstrap(s, photographs, 0, resamples=500) for s in samples])
    by_crop = np.mean([1 in paired_bootstrap(s, np.arange(100), 0, resamples=500) for s in samples])
    assert 0.90 <= by_photograph <= 0.98
    assert by_crop < 0.80


def test_bootstrap_enumerates_like_a_small_exact_bootstrap():
    differences, clusters = np.array([0.0, 1.0, 5.0, 6.0, 7.0]), ["a", "a", "b", "b", "c"]
    groups = [[0.0, 1.0], [5.0, 6.0], [7.0]]
    exact = [np.mean(np.concatenate(draw)) for draw in itertools.product(groups, repeat=3)]
    interval = paired_bootstrap(differences, clusters, 0, resamples=50_000, level=0.8)
    low, high = np.quantile(exact, [0.1, 0.9], method="inverted_cdf")
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert interval.mean == pytest.approx(differences.mean()) and interval.n == 3


def test_bootstrap_is_reproducible_and_ignores_the_order_of_rows():
    differences, names = RNG.normal(size=24), np.repeat(["moon", "cat", "cup", "rocket", "bike", "portrait"], 4)
    first = paired_bootstrap(torch.from_numpy(differences), names, seed=3)
    order = np.random.default_rng(4).permutation(24)
    shuffled = paired_bootstrap(differences[order], names[order], seed=3)
    assert paired_bootstrap(differences, list(names), seed=3) == first
    np.testing.assert_allclose(dataclasses.astuple(shuffled), dataclasses.astuple(first), rtol=1e-12)
    assert paired_bootstrap(differences, names, seed=5) != first


def test_holm_worked_example():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1, 1])
    np.testing.assert_allclose(holm([0.02]), [0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
@settings(deadline=None, max_examples=60)
def test_holm_equals_the_step_down_procedure(p_values, alpha):
    rejected, still = [False] * len(p_values), True
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        still = still and p_values[index] * (len(p_values) - step) <= alpha
        rejected[index] = still
    adjusted = holm(p_values)
    assert (adjusted <= alpha).tolist() == rejected
    assert (adjusted >= p_values).all() and (adjusted <= 1).all()


def test_holm_keeps_the_family_error_where_raw_p_values_do_not():
    p = np.random.default_rng(5).random((4000, 6))
    family = np.mean([(holm(row) <= 0.05).any() for row in p])
    assert family == pytest.approx(0.05, abs=0.012)
    assert (p <= 0.05).any(1).mean() > 0.2


def test_intervals_print_four_significant_digits():
    assert str(Interval(1.5, -0.00123456, 12345.6, 6)) == "1.500 [-0.001235, 1.235e+04] (95 %, n = 6)"
    assert str(t_interval([1, 2, 3], level=0.9)).endswith("(90 %, n = 3)")
    assert [significant(x) for x in (0.5, 1234.4, 0, 99.999, -2)] == ["0.5000", "1234", "0.000", "100.0", "-2.000"]
    assert significant(3.14159, 2) == "3.1"


def test_intervals_are_frozen_and_answer_membership():
    interval = Interval(1, 0.5, 1.5, 3)
    assert 0.5 in interval and 1.5 in interval and 0 not in interval and 1.6 not in interval
    with pytest.raises(dataclasses.FrozenInstanceError):
        interval.low = 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_interval([1.0]), "values: needs at least 2 values, got 1"),
        (lambda: t_interval([[1.0, 2.0]]), r"values: expected a 1-D .* \(1, 2\)"),
        (lambda: t_interval([1.0, np.nan]), "values: contains NaN"),
        (lambda: t_interval([1.0, 2.0], level=95), "level: .*0.95"),
        (lambda: paired_t([1.0]), "differences: needs at least 2"),
        (lambda: paired_bootstrap([1.0, 2.0], ["a"], 0), "clusters: expected one per difference"),
        (lambda: paired_bootstrap([1.0, 2.0], ["a", "a"], 0), r"at least two, got 1 \(a\)"),
        (lambda: paired_bootstrap([1.0, np.inf], ["a", "b"], 0), "differences: contains NaN or infinite"),
        (lambda: paired_bootstrap([1.0, 2.0], ["a", "b"], 0, resamples=10), "resamples: .* at least 100"),
        (lambda: paired_bootstrap([1.0, 2.0], ["a", "b"], 0, level=0), "level"),
        (lambda: statistics.binomial_interval([1]), "answers: needs at least 2"),
        (lambda: statistics.binomial_interval([1, 0], level=95), "level"),
        (lambda: statistics.binomial_p([1, 0.5]), r"answers: expected 1 \(yes\) or 0 \(no\), got 0.5"),
        (lambda: statistics.binomial_p([1, 0], 2), r"share: must lie in \[0, 1\]"),
        (lambda: holm([]), "p_values: needs at least 1"),
        (lambda: holm([0.5, 1.5]), r"p_values: must lie in \[0, 1\]"),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_five_of_six_by_hand():
    answers = [1, 1, 0, 1, 1, 1]
    assert statistics.binomial_p(answers) == pytest.approx(14 / 64)
    assert statistics.binomial_p(answers, 5 / 6) == pytest.approx(1)
    found = statistics.binomial_interval(answers)
    assert (found.mean, found.n) == (5 / 6, 6)
    at_least_five = 6 * found.low**5 * (1 - found.low) + found.low**6
    at_most_five = 1 - found.high**6
    assert (at_least_five, at_most_five) == pytest.approx((0.025, 0.025))


def test_the_binomial_interval_covers_any_share():
    from scipy.stats import binom

    for share in (0.03, 0.3, 0.5, 0.9):
        covered = 0.0
        for yes in range(9):
            answers = [1.0] * yes + [0.0] * (8 - yes)
            covered += binom.pmf(yes, 8, share) * (share in statistics.binomial_interval(answers))
        assert covered >= 0.95


def test_clustered_intervals_are_the_bootstrap_and_t_over_the_means_of_photographs():
    differences = [1.0, 3.0, 2.0, 4.0, 9.0, 5.0]
    clusters = ["a", "a", "b", "b", "c", "c"]
    bootstrap, t = statistics.clustered_intervals(differences, clusters, 0)
    assert bootstrap == statistics.paired_bootstrap(differences, clusters, 0)
    assert t == statistics.t_interval([2.0, 3.0, 7.0])
    assert t.n == 3


def test_a_verdict_needs_every_interval_on_one_side():
    inside, high, higher, low = (statistics.Interval(0, a, b, 3) for a, b in ((-1, 1), (0.5, 2), (3, 4), (-4, -3)))
    assert statistics.verdict(high, higher) == "above"
    assert statistics.verdict(high, inside) == "not resolved"
    assert statistics.verdict(low) == "below"
    assert statistics.verdict(low, high) == "not resolved"
    assert statistics.verdict(high, higher, threshold=2.5) == "not resolved"
    assert statistics.verdict(higher, threshold=2.5) == "above"
    with pytest.raises(ValueError, match="at least one"):
        statistics.verdict()
