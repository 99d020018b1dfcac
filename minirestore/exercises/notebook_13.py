"""Checkers of notebook 13, DiffBIR."""

from collections.abc import Callable

import torch
from torch import Tensor

from minirestore.exercises import Exercise, choice


def mean_of_candidates(answer: Callable[[Tensor, Tensor], tuple[Tensor, float]]) -> str | None:
    """``answer(candidates, weights)`` must be the weighted mean and the share of the expected energy that it keeps."""
    generator = torch.Generator().manual_seed(13)
    candidates = torch.rand(4, 3, 5, 6, generator=generator) - 0.3
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    got = answer(candidates.clone(), weights.clone())
    if not isinstance(got, tuple | list) or len(got) != 2:
        return "return two things, the image and the share of the energy"
    image, share = torch.as_tensor(got[0]), float(got[1])
    if image.shape != candidates.shape[1:]:
        return f"the image must be (C, H, W), like one candidate; yours has the shape {tuple(image.shape)}"
    mean = torch.einsum("k,kchw->chw", weights, candidates)
    if torch.allclose(image, candidates.mean(0), atol=1e-5):
        return "that is the plain mean; likely candidates must count more"
    if torch.allclose(image, candidates[3], atol=1e-5):
        return "that is the likeliest candidate: best if only a perfect hit counts, but not for the squared error"
    if not torch.allclose(image, mean, atol=1e-5):
        return "the expected squared error is least at the weighted mean of the candidates"
    energies = candidates.square().sum((1, 2, 3))
    expected = (weights * energies).sum()
    kept = mean.square().sum()
    if abs(share - (kept / expected).item()) < 1e-4:
        return None
    if abs(share - (kept / energies.mean()).item()) < 1e-4:
        return "the image is right; weight the candidates' energies, too, before you divide"
    if abs(share - (kept / energies.sum()).item()) < 1e-4:
        return "the image is right; divide by the mean energy of a candidate, not by that of all together"
    if abs(share - (kept / expected).sqrt().item()) < 1e-4:
        return "the image is right; energy is the sum of squares, without a root"
    if abs(share - (expected / kept).item()) < 1e-4:
        return "the image is right; the share is upside down"
    return (
        "the image is right; its share is its sum of squares over the weighted mean of the candidates' sums of squares"
    )


def widen(answer: Callable[[Tensor], Tensor]) -> str | None:
    """``answer(weight)`` must be the weights of a layer with twice the inputs that ignores the second half."""
    generator = torch.Generator().manual_seed(13)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    got = answer(weight.clone())
    if not isinstance(got, Tensor) or got.shape != (6, 8, 3, 3):
        return f"expected weights of the shape (6, 8, 3, 3) for an input of (6, 4, 3, 3), got {_shape(got)}"
    first, second = got.split(4, dim=1)
    if torch.equal(first, weight) and not second.any():
        return None
    if torch.equal(second, weight) and not first.any():
        return "the noisy latent comes first; your layer would read the condition in its place"
    if torch.equal(first, second) and torch.allclose(2 * first, weight):
        return "halves of the weights read the mean of both: the condition must not have any effect yet"
    if torch.equal(first, weight):
        return "the old weights are right; the new ones must be zero, or the condition has an effect from the beginning"
    return "the first four channels need the old weights, unchanged, so that the layer gives what it gave"


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def pull(answer: Callable[[float, int, float], float]) -> str | None:
    """``answer(rho, repeats, gain)`` must be the share of the distance by which the mean moves."""
    cases = ((0.05, 5, 0.5), (0.2, 1, 1.0), (0.2, 5, 0.5), (1.5, 3, 1.0))
    got = [float(answer(*case)) for case in cases]

    def like(formula: Callable[[float, int, float], float]) -> bool:
        return all(abs(value - formula(*case)) < 1e-9 for value, case in zip(got, cases, strict=True))

    if like(lambda rho, repeats, gain: gain * (1 - (1 - rho) ** repeats)):
        return None
    mistakes: tuple[tuple[Callable[[float, int, float], float], str], ...] = (
        (lambda r, n, g: g * n * r, "each step moves a share of what is left, so that the steps get smaller"),
        (lambda r, n, g: 1 - (1 - r) ** n, "that is the estimate; the mean moves by gain times as much"),
        (lambda r, n, g: g * (1 - r) ** n, "that is what is left of the distance; asked is what is gone"),
        (
            lambda r, n, g: (1 - r) ** n,
            "that is what is left of the distance of the estimate; asked is the mean's move",
        ),
        (lambda r, n, g: 1 - (1 - g * r) ** n, "gain does not slow the estimate down; it only scales the mean's share"),
        (lambda r, n, g: g * r, "that is the first step alone; repeat it"),
    )
    for formula, hint in mistakes:
        if like(formula):
            return hint
    return "after every step a share 1 - rho of the distance is left; what is gone in the end, times gain?"


FIRST = choice(
    "c",
    {
        "a": "what leaves the copy is zero, but a product with one factor 0 has a slope in that factor",
        "b": "the gradient on its way back passes the 1 x 1 weights, which are zero",
        "d": "the way back from the loss to the first layer leads through the zeros; ask what lies before them",
    },
)
COLOUR = choice(
    "c",
    {
        "a": "the shift in question is one against the image that it was given; look for what makes the two agree",
        "b": "the number is not the problem: with a million photographs the same step would still make them agree",
        "d": "that is a point about the rival; here even LAControlNet's own result says nothing, why?",
    },
)

EXERCISES = (
    Exercise("13.mean", "code", mean_of_candidates),
    Exercise("13.widen", "code", widen),
    Exercise("13.first", "predict", FIRST),
    Exercise("13.colour", "criticise", COLOUR),
    Exercise("13.pull", "code", pull, points=2),
)
