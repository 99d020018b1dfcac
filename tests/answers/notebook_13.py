"""Answers to the exercises of notebook 13."""

import torch

from answers import Answers


def by_sum(candidates, weights):
    mean = (weights[:, None, None, None] * candidates).sum(0)
    return mean, mean.square().sum() / (weights * candidates.square().sum((1, 2, 3))).sum()


def by_variance(candidates, weights):
    """The energy that is lost is the variance."""
    w = weights.view(-1, 1, 1, 1)
    mean = (w * candidates).sum(0)
    expected = (w * candidates.square()).sum()
    return [mean, 1 - ((w * (candidates - mean).square()).sum() / expected).item()]


def shares(share):
    """The right image with another share."""
    return lambda c, w: (by_sum(c, w)[0], share(by_sum(c, w)[0].square().sum(), c.square().sum((1, 2, 3)), w))


def padded(weight):
    return torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, 4))


def right_pull(rho, repeats, gain):
    moved = 0.0
    for _ in range(repeats):
        moved += gain * rho * (1 - moved / gain)
    return moved


ANSWERS = {
    "13.mean": Answers(
        right=[by_sum, by_variance],
        wrong=[
            (lambda c, w: by_sum(c, w)[1].item(), "two things"),
            (lambda c, w: (c, 1.0), "like one candidate"),
            (lambda c, w: (c.mean(0), 0.5), "count more"),
            (lambda c, w: (c[w.argmax()], 1.0), "perfect hit"),
            (lambda c, w: (c.median(0).values, 0.5), "at the weighted mean"),
            (shares(lambda kept, energies, w: kept / energies.mean()), "energies, too"),
            (shares(lambda kept, energies, w: kept / energies.sum()), "all together"),
            (shares(lambda kept, energies, w: (kept / (w * energies).sum()).sqrt()), "without a root"),
            (shares(lambda kept, energies, w: (w * energies).sum() / kept), "upside down"),
            (shares(lambda kept, energies, w: 0.123), "sums of squares"),
        ],
    ),
    "13.widen": Answers(
        right=[padded, lambda w: torch.cat([w, torch.zeros_like(w)], dim=1)],
        wrong=[
            (lambda w: torch.cat([w, torch.zeros_like(w)]), "of the shape"),
            (lambda w: 1.0, "got float"),
            (lambda w: torch.cat([torch.zeros_like(w), w], dim=1), "comes first"),
            (lambda w: torch.cat([w, w], dim=1) / 2, "mean of both"),
            (lambda w: torch.cat([w, w], dim=1), "must be zero"),
            (lambda w: torch.cat([0 * w, 0 * w], dim=1), "unchanged"),
        ],
    ),
    "13.first": Answers(right=["c", "C "], wrong=[("a", "one factor 0"), ("b", "which are zero"), ("d", "way back")]),
    "13.colour": Answers(
        right=["c", " C"], wrong=[("a", "the two agree"), ("b", "a million"), ("d", "LAControlNet's own")]
    ),
    "13.pull": Answers(
        right=[lambda rho, n, gain: gain * (1 - (1 - rho) ** n), right_pull],
        wrong=[
            (lambda rho, n, gain: gain * n * rho, "get smaller"),
            (lambda rho, n, gain: 1 - (1 - rho) ** n, "gain times as much"),
            (lambda rho, n, gain: gain * (1 - rho) ** n, "asked is what is gone"),
            (lambda rho, n, gain: (1 - rho) ** n, "the mean's move"),
            (lambda rho, n, gain: 1 - (1 - gain * rho) ** n, "slow the estimate"),
            (lambda rho, n, gain: gain * rho, "first step alone"),
            (lambda rho, n, gain: 0.3, "is left"),
        ],
    ),
}
