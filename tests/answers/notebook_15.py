"""Answers to the exercises of notebook 15."""

import torch

from answers import Answers


def stretched(r, valid, ends=(0.02, 0.98), of=None):
    low, high = torch.quantile(r[valid if of is None else of], torch.tensor(ends))
    return 2 * (r - low) / (high - low) - 1


def root(depth, valid):
    return 1 / torch.where(valid, depth, 1.0).sqrt()


def right_target(depth, valid):
    return torch.where(valid, stretched(root(depth, valid), valid).clamp(-1, 1), -1)


def by_the_package(depth, valid):
    from minirestore.papers.depthmaster import depth_target

    return depth_target(depth[None, None], valid[None, None])[0, 0]


def of(function):
    """A target with -1 in the holes."""
    return lambda depth, valid: torch.where(valid, function(depth, valid), -1)


def infinite(depth, valid):
    return stretched(depth**-0.5, valid)


def counting_holes(depth, valid):
    r = torch.where(valid, root(depth, valid), 0)
    return stretched(r, valid, of=torch.ones_like(valid)).clamp(-1, 1)


def huber_reversed(e, delta):
    slopes = [delta * (1 if x > 0 else -1) if abs(x) <= delta else x for x in e.tolist()]
    return torch.tensor(slopes)


def by_autograd(e, delta):
    from minirestore.papers.depthmaster import weighted_difference

    e = e.requires_grad_()
    return torch.autograd.grad(weighted_difference(e, "paper", delta).sum(), e)[0]


def line(p, a, b, forward):
    scale = (forward(a[1]) - forward(b[1])) / (a[0] - b[0])
    return scale * p + forward(b[1]) - scale * b[0]


def right_metres(p, a, b):
    return 1 / line(p, a, b, lambda d: d**-0.5) ** 2


def by_weights(p, a, b):
    """A mean of the ends."""
    share = (p - b[0]) / (a[0] - b[0])
    return (share * a[1] ** -0.5 + (1 - share) * b[1] ** -0.5) ** -2


ANSWERS = {
    "15.target": Answers(
        right=[right_target, by_the_package],
        wrong=[
            (lambda d, v: 1.0, "of the shape"),
            (infinite, "not finite"),
            (lambda d, v: torch.where(v, by_the_package(d, v), 0), "holes must be -1"),
            (of(lambda d, v: stretched(root(d, v), v)), "clip what lies"),
            (of(lambda d, v: stretched(d, v).clamp(-1, 1)), "for D itself"),
            (of(lambda d, v: stretched(1 / torch.where(v, d, 1), v).clamp(-1, 1)), "square root"),
            (of(lambda d, v: -right_target(d, v)), "exchanged"),
            (of(lambda d, v: (right_target(d, v) + 1) / 2), "in [0, 1]"),
            (of(lambda d, v: stretched(root(d, v), v, (0.0, 1.0))), "use the percentiles"),
            (counting_holes, "count the holes"),
            (of(lambda d, v: root(d, v)), "a straight line"),
        ],
    ),
    "15.oracle": Answers(
        right=["c", " C"], wrong=[("a", "a fall of"), ("b", "RMSE would"), ("d", "cannot be compared")]
    ),
    "15.step": Answers(right=["d", "D "], wrong=[("a", "its share"), ("b", "nothing is known"), ("c", "square root")]),
    "15.slope": Answers(
        right=[huber_reversed, by_autograd],
        wrong=[
            (lambda e, delta: e.sum(), "like e"),
            (lambda e, delta: torch.where(e.abs() <= delta, e, delta * e.sign()), "other way round"),
            (lambda e, delta: e.abs().clamp(min=delta), "errors below zero must"),
            (lambda e, delta: torch.where(e.abs() <= delta, delta, e), "small errors below"),
            (lambda e, delta: torch.where(e.abs() <= delta, e.sign(), e), "not 1"),
            (lambda e, delta: e, "squared error"),
            (lambda e, delta: e.sign(), "absolute error"),
            (
                lambda e, delta: torch.where(e.abs() <= delta, delta * e.abs(), (e**2 + delta**2) / 2),
                "not its slope",
            ),
            (lambda e, delta: delta * e, "up to delta"),
        ],
    ),
    "15.metres": Answers(
        right=[right_metres, by_weights],
        wrong=[
            (lambda p, a, b: 2.0, "like p"),
            (lambda p, a, b: line(p, a, b, lambda d: d**-0.5), "back into metres"),
            (lambda p, a, b: 1 / right_metres(p, a, b), "one step"),
            (lambda p, a, b: right_metres(p, a, b).sqrt(), "square it"),
            (lambda p, a, b: line(p, a, b, lambda d: d), "straight in D"),
            (lambda p, a, b: 1 / line(p, a, b, lambda d: 1 / d), "straight in 1 / D"),
            (lambda p, a, b: (p / a[0] / a[1] ** 0.5) ** -2, "a scale alone"),
            (lambda p, a, b: 3 * p, "the two distances"),
        ],
    ),
}
