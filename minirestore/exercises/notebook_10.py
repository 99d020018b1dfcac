"""Checkers of notebook 10, the claims of C2F-DFT."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from minirestore.exercises import Exercise, choice, number

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor"], "Tensor"]


def budget(answer: Callable[[Sequence[tuple[int, int]], int], int]) -> str | None:
    """``answer(stages, calls)`` must be the whole steps that the evaluations of all stages allow."""
    cases = [(([(1000, 1), (300, 4)], 4), 550), (([(1000, 1), (300, 4)], 1), 2200), (([(50, 3)], 4), 37)]
    got = [answer(list(stages), calls) for (stages, calls), _ in cases]
    right = [value for _, value in cases]
    if got == right:
        return None
    if got[:2] == [325, 1300]:
        return "a step of the second stage makes four calls: count evaluations, not steps"
    if got[:2] == [2200, 2200]:
        return "these are the evaluations; a step of the control may need several"
    if got[:2] == [300, 1200]:
        return "the first stage's evaluations belong to the budget, too: the control does not have to make them"
    if got[0] == 8800:
        return "calls of the control make its steps dearer: divide by them"
    if got[:2] == right[:2]:
        return "only whole steps: 150 evaluations are 37 steps of four calls"
    return "sum steps times calls over the stages, then ask how many steps of the control that pays for"


def agreement(answer: Callable[[Loss, Loss, "Tensor"], float]) -> str | None:
    """``answer(loss_a, loss_b, image)`` must be the cosine of the gradients at ``image``."""
    import torch

    image = torch.tensor([[[[0.3, -0.4], [0.5, 0.1]], [[-0.2, 0.6], [0.7, -0.9]]]])

    def quadratic(z):
        return (z**2).sum()

    def absolute(z):
        return z.abs().sum()

    def scaled(z):
        return 50 * (z**2).sum() + 3

    def product(z):
        return (z[:, 0] * z[:, 1]).sum()

    losses = {"same": (quadratic, scaled), "L1": (quadratic, absolute), "opposite": (quadratic, lambda z: -scaled(z))}
    losses["product"] = (quadratic, product)
    got = {name: answer(a, b, image.clone()) for name, (a, b) in losses.items()}
    if any(torch.is_tensor(value) and value.numel() > 1 for value in got.values()):
        return "one number for the whole image: flatten both gradients first"
    got = {name: float(value) for name, value in got.items()}
    a = 2 * image.flatten()
    right = {
        "same": 1.0,
        "L1": (a @ a.sign() / (a.norm() * a.sign().norm())).item(),
        "opposite": -1.0,
        "product": (a @ image.flip(1).flatten() / (a.norm() * image.norm())).item(),
    }
    wrong = [name for name, value in right.items() if not abs(got[name] - value) < 1e-4]
    if not wrong:
        leaf = image.clone()
        answer(quadratic, absolute, leaf)
        return "the image was changed: it requires gradients now; work on a copy" if leaf.requires_grad else None
    if "opposite" in wrong and abs(got["opposite"] - 1) < 1e-4:
        return "two losses that pull in opposite directions have cosine -1: keep the sign"
    if abs(got["same"] - 1) > 1e-4 and abs(got["same"] - 50 * (a @ a).item()) < 0.1:
        return "that is the inner product; divide by both lengths, so that scaling a loss changes nothing"
    if abs(got["same"]) < 1e-4:
        return "a loss and fifty times that loss pull the same way, cosine 1: take no difference and no average away"
    if abs(got["L1"] - 1) < 1e-4:
        return "the values of the losses or the signs of the gradients are not enough: compare the gradients themselves"
    return "take torch.autograd.grad of each loss at a copy of the image, flatten, inner product over both lengths"


EXERCISES = (
    Exercise("10.budget", "code", budget, points=1),
    Exercise(
        "10.controls",
        "criticise",
        choice(
            "b",
            {
                "a": "five are few, but the interval says what they allow, and it is far from zero",
                "c": "true, but another metric would not say what the first stage contributes either",
                "d": "both arms make four calls, so that does not explain their difference",
            },
        ),
    ),
    Exercise(
        "10.averaging",
        "predict",
        number(
            0.1396,
            0.008,
            [
                (3.01, "that holds if the variance is half of the squared error; here it is far less"),
                (1.7, "squared errors subtract, not errors: take the squares of both"),
                (0.0, "not nothing: the variance is a small share of the squared error, but it is one"),
            ],
            too_small="squared error before: 10^(-25/10); after: less (2.55 / 255)^2; take the ratio in dB",
            too_large="only the variance (2.55 / 255)^2 leaves the squared error 10^(-25/10); the rest is bias",
        ),
    ),
    Exercise(
        "10.oracle",
        "criticise",
        choice(
            "c",
            {
                "a": "an oracle at all four calls would only hand out the answer four times",
                "b": "where it is measured does not change what the oracle knows",
                "d": "precision is no obstacle: ask what else follows from knowing x_T and its noise",
            },
        ),
    ),
    Exercise("10.agreement", "code", agreement, points=2),
)
