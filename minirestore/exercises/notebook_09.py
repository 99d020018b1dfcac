"""Checkers of notebook 09, C2F-DFT."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore.exercises import Exercise, choice, number
from minirestore.papers import c2f_dft as paper

ROUTES = ([999, 666, 333, 0], [750, 500, 250, 0])


def mix_channels(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> str | None:
    """``answer(q, k, v, tau)`` must be softmax(tau cos(q, k)) v, with rows of q and k as vectors of pixels."""
    generator = torch.Generator().manual_seed(9)
    q, k, v = (torch.randn(6, 40, generator=generator) + 0.5 for _ in range(3))
    tau, (a, b) = 2.5, (F.normalize(z, dim=1) for z in (q, k))
    right = torch.softmax(tau * a @ b.T, dim=1) @ v
    got = answer(q, k, v, tau)
    if tuple(got.shape) != tuple(v.shape):
        return f"the shape is {tuple(got.shape)}, but 6 channels of 40 pixels must come back: the matrix is 6 x 6"
    got = got.to(v.dtype)
    if torch.allclose(got, right, atol=1e-5):
        return None
    lengths = [F.normalize(z, dim=0) for z in (q, k)]
    mistakes = (
        ((tau * a @ b.T) @ v, "the softmax is missing: the weights of a row must be positive and sum to 1"),
        (torch.softmax(tau * q @ k.T, 1) @ v, "the lengths of the rows still count; divide q and k by them first"),
        (torch.softmax(tau * lengths[0] @ lengths[1].T, 1) @ v,
         "q and k are normalised over the channels of a pixel; normalise each row, over its pixels"),
        (torch.softmax(tau * a @ b.T, 0) @ v, "here the columns sum to 1; the softmax runs along each row"),
        (torch.softmax(a @ b.T, 1) @ v, "tau has no effect; it multiplies the cosines before the softmax"),
        (torch.softmax(a @ b.T / tau, 1) @ v, "that divides by tau; in the formula above it multiplies"),
        (torch.softmax(tau * b @ a.T, 1) @ v, "queries and keys are exchanged: rows belong to q, columns to k"),
        ((v.T @ torch.softmax(tau * a @ b.T, 1)).T, "the values are weighed by the columns of A; it is A times v"),
        ((v @ torch.softmax(tau * lengths[0].T @ lengths[1], 1).T),
         "that is attention between pixels: 40 x 40; here the items are the 6 channels"),
    )  # fmt: skip
    for value, hint in mistakes:
        if value.shape == got.shape and torch.allclose(got, value, atol=1e-5):
            return hint
    return "compute one row by hand: six cosines, times tau, softmax, then the weighted mean of the rows of v"


def step_weights(answer: Callable[[Tensor, list[int]], Tensor]) -> str | None:
    """``answer(alpha_bar, times)`` must be the differences of sigma along the route, down to 0."""
    alpha_bar = paper.make_schedule(paper.C2FDFTConfig())
    for times in ROUTES:
        right = paper.euler_weights(alpha_bar, times)
        got = torch.as_tensor(answer(alpha_bar, times)).to(right)
        if got.numel() == len(times) - 1:
            return "one weight is missing: the last call goes down to sigma = 0"
        if got.shape != right.shape:
            return f"the shape is {tuple(got.shape)}; give one weight per call, {len(times)} of them"
        if torch.allclose(got, right, rtol=1e-4):
            continue
        visited = alpha_bar[times]
        sigma, root = ((1 - visited) / visited).sqrt(), (1 - visited).sqrt()
        mistakes = (
            (-right, "the sign is turned round: the next sigma minus the present one, so all weights are negative"),
            (right.flip(0), "the order is turned round: the first weight belongs to the first call, the noisiest"),
            (torch.cat([root, root.new_zeros(1)]).diff(),
             "sqrt(1 - alpha_bar) is the noise in x_t; u is x_t divided by sqrt(alpha_bar), and so is its noise"),
            (torch.cat([sigma**2, sigma.new_zeros(1)]).diff(), "those are differences of sigma squared"),
            (-sigma, "a call does not jump to sigma = 0, except the last: subtract where it goes from where it is"),
        )  # fmt: skip
        near = [hint for value, hint in mistakes if torch.allclose(got, value, rtol=1e-4)]
        return near[0] if near else f"at times {times} the first weight should be {right[0]:.4g}, got {got[0]:.4g}"
    return None


EXERCISES = (
    Exercise("09.channels", "code", mix_channels, points=2),
    Exercise("09.weights", "code", step_weights, points=2),
    Exercise(
        "09.first_error",
        "predict",
        number(
            1.479,
            0.006,
            [
                (0.155, "so far moves the next sample; the restored image is what that becomes at alpha_bar = 1"),
                (1.574, "that multiplies by sigma itself; the step does not go down to 0 but to the next sigma"),
                (0.01, "an error of the noise is not one of the image; look at the weight of that call"),
                (0.0803, "that is the weight of the second call"),
                (147.9, "that is the weight; multiply it by the error"),
                (0.74, "no need to halve: the scale from -1 to 1 is the one the sampler works in"),
            ],
            too_small="the restored image is a weighted sum of the noises; take the weight of t = 999 from the table",
            too_large="the restored image is a weighted sum of the noises; multiply the weight of t = 999 by .01",
        ),
    ),
    Exercise(
        "09.similarity",
        "criticise",
        choice(
            "c",
            {
                "a": "another weight of a term that does nothing does nothing, too; look at the gradients",
                "b": "a better measure would still not say which part of the training caused the gain",
                "d": "one more number about the result says nothing about its cause",
            },
        ),
    ),
)
