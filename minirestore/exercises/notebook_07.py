"""Checkers of notebook 07, structure guidance."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore import diffusion, images
from minirestore.exercises import Exercise, choice, number

FIRST_BETA = 1e-6
SCHEDULES = ((30, 0.5), (500, 0.02), (10, 0.02))


def grey_small(answer: Callable[[Tensor, int], Tensor]) -> str | None:
    """``answer(y, k)`` must be the BT.601 luma averaged over squares of 2^k pixels."""
    y = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(7))  # float32, as in the notebook
    k = 2
    luma = images.luma(y)
    right = F.avg_pool2d(luma, 2**k)
    got = answer(y, k).to(y.dtype)
    if got.ndim == 4 and got.shape[1] == 3:
        return "three channels came back; the structure is grey, so weigh the colours and add them up first"
    if got.shape != right.shape:
        wanted = tuple(right.shape)
        return f"the shape is {tuple(got.shape)}, but k = {k} makes {wanted} of {tuple(y.shape)}: 1/2^k of every side"
    if torch.allclose(got, right):
        full = answer(y, 0).to(y.dtype)
        same = full.shape == luma.shape and torch.allclose(full, luma)
        return None if same else "right for k = 2; k = 0 must be the luma in full size"
    if torch.allclose(got, F.avg_pool2d(y.mean(1, keepdim=True), 2**k)):
        return "all colours weigh the same here; BT.601 gives red .299, green .587 and blue .114"
    if torch.allclose(got, luma[..., :: 2**k, :: 2**k]):
        return "that keeps one pixel of every square and drops the rest, an alias; take the mean of the square"
    if torch.allclose(got, right * 4**k):
        return "squares are added up; a constant picture must keep its value, so take the mean"
    if not torch.equal(got, answer(y, k).to(y.dtype)):
        return "a second call gave another answer: leave the noise n out here"
    return "compare with the mean of the top left square of luma, worked out by hand"


def start_level(answer: Callable[[int, float], float]) -> str | None:
    """``answer(T, beta_end)`` must be alpha_bar_T of the linear schedule from 1e-6 to beta_end."""
    for T, beta_end in SCHEDULES:
        betas = diffusion.make_betas("linear", T, FIRST_BETA, beta_end)
        got = answer(T, beta_end)
        if isinstance(got, Tensor) and got.numel() > 1:
            return f"{got.numel()} numbers came back; what is left after all T steps is one number"
        wanted, got = (1 - betas).prod().item(), float(got)
        if abs(got - wanted) <= 1e-3 * wanted:
            continue
        mistakes = {
            (1 - beta_end) ** T: "every step took the largest beta; they grow linearly from 1e-6 to beta_end",
            1 - beta_end: "that is what the last step alone leaves; all T of them multiply",
            wanted**0.5: "that is the factor of the image, sqrt(alpha_bar); the level is its square",
            1 - wanted: "that is the variance of the noise; the level says how much signal is left",
            torch.exp(-betas.sum()).item(): "exp(-sum) is close for small betas only; here some are large, so multiply",
        }
        near = [hint for value, hint in mistakes.items() if abs(got - value) <= 1e-3 * value]
        return near[0] if near else f"for T = {T} and beta_end = {beta_end} it should be {wanted:.4g}, got {got:.4g}"
    return None


EXERCISES = (
    Exercise("07.structure", "code", grey_small, points=2),
    Exercise(
        "07.halving",
        "predict",
        number(
            6.02,
            0.2,
            [
                (3.01, "averaging two values gives 3 dB; a square of 2 x 2 has four"),
                (12.04, "four independent values: the variance falls to a quarter, not to a sixteenth"),
                (0.0, "independent values cancel in a mean; by what factor does their variance fall?"),
            ],
            too_small="a mean of n independent values has 1/n of their variance; how many pixels are in a square?",
            too_large="one halving of both sides averages four pixels; convert the factor of the variance into dB",
        ),
    ),
    Exercise("07.start", "code", start_level, points=2),
    Exercise(
        "07.zeroed",
        "criticise",
        choice(
            "c",
            {
                "a": "PSNR sees a loss of guidance well enough; ask what the number is compared with",
                "b": "more photographs would narrow the interval, but around the answer to another question",
                "d": "one step gives the mean, for which PSNR is the right measure; the arm it is compared with is not",
            },
        ),
    ),
)
