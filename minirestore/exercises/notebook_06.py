"""Checkers of notebook 06, conditioning, guidance and latents."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore.exercises import Exercise, choice, number

Operator = Callable[[Tensor], Tensor]


def guided(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str | None:
    """``answer(plain, conditional, guidance)`` must be plain + guidance (conditional - plain)."""
    plain, conditional = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    gap = conditional - plain
    for w in (3.0, 1.0, 0.0):
        got = answer(plain, conditional, w)
        if got.shape != plain.shape:
            return f"the shape is {tuple(got.shape)} for noises of {tuple(plain.shape)}; guidance keeps it"
        if torch.allclose(got, plain + w * gap):
            continue
        mistakes = (
            (conditional + w * gap, "that is the convention of Ho and Salimans, one less: here guidance = 1 is plain"),
            (
                conditional - w * gap,
                "plain and conditional are exchanged: guidance = 1 must give the conditional noise",
            ),
            (plain - w * gap, "the sign is turned round: a positive guidance moves towards the conditional noise"),
            (w * conditional, "the noise without the condition has no part in it; start there, then move"),
            (w * gap, "that is the step alone; add it to the noise without the condition"),
            (plain + w * conditional, "the direction is the difference of the two noises, not the conditional one"),
            (plain + min(w, 1.0) * gap, "guidance above 1 is allowed: the step goes past the conditional noise"),
        )
        near = [hint for value, hint in mistakes if torch.allclose(got, value)]
        return near[0] if near else f"at guidance = {w:g} the result differs; try guidance = 0 and 1, where it is known"
    return None


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _spread(y: Tensor) -> Tensor:
    return y.repeat_interleave(2, -1).repeat_interleave(2, -2)


def project(answer: Callable[[Tensor, Tensor, Operator, Operator], Tensor]) -> str | None:
    """``answer(x, y, A, pinv)`` must be the point nearest to x that satisfies A x = y."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    known = (torch.rand(4, 4, generator=generator) < 0.5).double()
    small = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    masked = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) * known
    cases = ((small, _average, _spread), (masked, lambda z: known * z, lambda z: known * z))
    for y, A, pinv in cases:
        got = answer(x, y, A, pinv)
        if got.shape != x.shape:
            return f"the shape is {tuple(got.shape)}, but an image of {tuple(x.shape)} must come back"
        if torch.allclose(got, x + pinv(y - A(x))):
            continue
        mistakes = (
            (pinv(y), "that is what y says alone; the null space of A is still free, and x has something to put there"),
            (x, "x came back as it was; its own A x has to be replaced by y"),
            (x + pinv(y), "what x itself says about y is still in it; take A+ A x away"),
            (x - pinv(A(x)), "only the null-space part is there; add what y says"),
            (pinv(y) + pinv(A(x)), "that keeps what A sees of x; keep what A does not see, x - A+ A x"),
            (x - pinv(y - A(x)), "the sign is turned round: this moves away from A x = y"),
            ((x + pinv(y)) / 2, "half of each is no solution of A x = y"),
        )
        near = [hint for value, hint in mistakes if torch.allclose(got, value)]
        if near:
            return near[0]
        worst = (A(got) - y).abs().max().item()
        return f"A of your result differs from y by up to {worst:.3g}; it must not differ at all"
    return None


EXERCISES = (
    Exercise(
        "06.shift",
        "predict",
        number(
            3.406,
            0.01,
            [
                (1.703, "the signal-to-noise ratio is one of powers: the deviation enters squared"),
                (-3.406, "latents that are too large drown later, not earlier; look at the sign"),
                (5.49, "that is the deviation; its square multiplies the ratio, and we ask for the logarithm"),
                (30.14, "that is the factor of the ratio itself; take its natural logarithm"),
                (14.79, "that is in decibels; the question asks for the natural logarithm"),
            ],
            too_small="the ratio is multiplied by the square of 1 / .18215; take the natural logarithm of that",
            too_large="the ratio is multiplied by the square of 1 / .18215; take the natural logarithm of that",
        ),
    ),
    Exercise(
        "06.one_token",
        "predict",
        choice(
            "b",
            {
                "a": "there is one token only; over how many items does each pixel's softmax run?",
                "c": "a softmax over the tokens sums to 1 for every pixel; it cannot be near 0 for all tokens",
                "d": "the softmax runs over the tokens, not over the pixels; pixels do not share one unit of attention",
            },
        ),
    ),
    Exercise("06.guidance", "code", guided, points=2),
    Exercise("06.project", "code", project, points=2),
    Exercise(
        "06.ceiling",
        "criticise",
        choice(
            "c",
            {
                "a": "seeds change a sample a little; the gap here has a cause that no seed and no prior can remove",
                "b": "more steps bring the sampler closer to its own distribution, but all it returns is still decoded",
                "d": "another metric shows other numbers; ask first what the two methods could have reached at best",
            },
        ),
    ),
)
