"""Answers to the exercises of notebook 14."""

import numpy as np
import torch
from scipy.special import stdtrit

from answers import Answers
from minirestore import metrics
from minirestore.statistics import t_interval
from minirestore.wavelets import dwt2


def each_seed(a, b, c, d):
    return np.subtract(a, b) - np.subtract(c, d)


def around(values, factor, middle=None):
    mean = np.mean(values) if middle is None else middle
    return mean, mean - factor, mean + factor


def by_library(*four):
    found = t_interval(each_seed(*four))
    return found.mean, found.low, found.high


def by_hand(*four, quantile=0.975, spent=1, ddof=1):
    values = each_seed(*four)
    n = len(values)
    return around(values, stdtrit(n - spent, quantile) * values.std(ddof=ddof) / n**0.5)


def with_factor(factor):
    def answer(*four):
        values = each_seed(*four)
        return around(values, factor(len(values)) * values.std(ddof=1))

    return answer


def independent(*four):
    n = len(four[0])
    return around(each_seed(*four), stdtrit(n - 1, 0.975) * sum(np.var(v, ddof=1) / n for v in four) ** 0.5)


def swapped(*four):
    mean, low, high = by_library(*four)
    return mean, high, low


def lopsided(*four):
    mean, _, high = by_library(*four)
    return mean, mean, high


def of_five(*four):
    values = each_seed(*four)
    return around(values, 2.7764451051977987 * values.std(ddof=1) / len(values) ** 0.5)


def reordered(*order):
    return lambda *four: by_library(*(four[i] for i in order))


def severe_alone(a, b, c, d):
    return by_library(a, b, np.zeros(len(a)), np.zeros(len(a)))


def one_arm(a, b, c, d):
    return by_library(a, c, np.zeros(len(a)), np.zeros(len(a)))


def added(a, b, c, d):
    return by_library(a, b, d, c)


def ratio(a, b, c, d):
    return around([np.subtract(a, b).mean() / np.subtract(c, d).mean()], 0.1)


def details(x):
    return torch.stack(dwt2(x)[1])


def parts(module, painted, clean):
    d_m, d_p, d_0 = map(details, (module, painted, clean))
    return d_0 - d_m, d_p - d_m


def unclipped(*images):
    gap, step = parts(*images)
    return ((gap * step).sum() / step.square().sum()).item()


def by_parabola(*images):
    return min(1.0, max(0.0, unclipped(*images)))


def by_search(module, painted, clean):
    shares = torch.linspace(0, 1, 401)
    errors = [metrics.high_frequency_error(module + w * (painted - module), clean).item() for w in shares]
    return shares[int(np.argmin(errors))]


def in_pixels(module, painted, clean):
    step = painted - module
    return ((clean - module) * step).sum() / step.square().sum()


def over(divisor):
    def answer(*images):
        gap, step = parts(*images)
        return ((gap * step).sum() / divisor(gap, step)).item()

    return answer


def not_squared(*images):
    return min(1.0, over(lambda gap, step: step.norm())(*images))


def painted_alone(module, painted, clean):
    d_p, d_0 = details(painted), details(clean)
    return (d_0 * d_p).sum() / d_p.square().sum()


ANSWERS = {
    "14.table": Answers(
        right=["b", " B"], wrong=[("a", "sets, not pairs"), ("c", "thirty such sets"), ("d", "one ruler")]
    ),
    "14.growth": Answers(
        right=[by_library, by_hand, lambda *four: list(by_hand(*map(np.array, four)))],
        wrong=[
            (lambda *four: by_library(*four)[1:], "three numbers"),
            (reordered(1, 0, 3, 2), "by how much it shrinks"),
            (severe_alone, "gain under severe damage"),
            (one_arm, "two severities of one arm"),
            (added, "added the two gains"),
            (ratio, "ratio of gains"),
            (lambda *four: (0.5, 0.4, 0.6), "for each seed"),
            (lopsided, "as far down as up"),
            (swapped, "ends are swapped"),
            (independent, "as independent"),
            (with_factor(lambda n: stdtrit(n - 1, 0.975)), "divide by the root of n"),
            (lambda *four: by_hand(*four, ddof=0), "not by n"),
            (with_factor(lambda n: 1.96 / n**0.5), "Student's t"),
            (lambda *four: by_hand(*four, quantile=0.95), "at each end"),
            (lambda *four: by_hand(*four, spent=0), "one degree of freedom"),
            (with_factor(lambda n: n**-0.5), "the standard error"),
            (with_factor(lambda n: 3.0), "t sd / sqrt(n) away"),
            (of_five, "not for three"),
        ],
    ),
    "14.fix": Answers(
        right=[-0.02, "-.02", 0.04 - 0.06],
        wrong=[
            (0.04, "lowest frequency"),
            (0, "does that have the true ones"),
            (0.02, "mind the sign"),
            (0.06, "before the fix"),
            (0.01, "does not average"),
            (-0.06, "come from"),
            (0.5, "what stays"),
        ],
    ),
    "14.length": Answers(
        right=["c", "C "], wrong=[("a", "nothing to see"), ("b", "scatter little"), ("d", "the gap stays")]
    ),
    "14.mix": Answers(
        right=[by_parabola, by_search],
        wrong=[
            (lambda *images: 1 - by_parabola(*images), "share of the module"),
            (in_pixels, "all pixels"),
            (over(lambda gap, step: gap.square().sum()), "the way that w goes"),
            (not_squared, "squared norm"),
            (painted_alone, "begins at the module"),
            (over(lambda gap, step: 2 * step.square().sum()), "half of it"),
            (lambda *images: -unclipped(*images), "the sign"),
            (lambda *images: 0.123, "solve for it"),
            (unclipped, "only harms"),
            (lambda *images: max(0.0, unclipped(*images)), "give 1"),
        ],
    ),
}
