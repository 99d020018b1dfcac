"""Checkers of notebook 05, diffusion from first principles."""

from collections.abc import Callable

import torch
from torch import Tensor

from minirestore import diffusion
from minirestore.exercises import Exercise, choice, number


def _example() -> tuple[Tensor, Tensor, Tensor]:
    """Two clean images and two noises (2, 3, 4, 2), and one level per image (2,)."""
    x0, eps = torch.randn(2, 2, 3, 4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return x0, eps, torch.tensor([0.36, 0.84], dtype=torch.float64)


def noisy_at(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str | None:
    """``answer(x0, eps, alpha_bar)`` must be a draw of q(x_t | x_0), with one level per image."""
    x0, eps, alpha_bar = _example()
    level = alpha_bar[:, None, None, None]
    right = diffusion.add_noise(x0, eps, alpha_bar)
    got = answer(x0, eps, alpha_bar)
    if got.shape != right.shape:
        return f"the shape is {tuple(got.shape)} for images of {tuple(x0.shape)}; nothing should be added or lost"
    if torch.allclose(got, right):
        return None
    if torch.allclose(got, alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps):
        return "the levels ran along the columns of the picture; there is one per image, so reshape to (B, 1, 1, 1)"
    if torch.allclose(got, level * x0 + (1 - level) * eps):
        return "that is a cross-fade: its variance dips in between; which factors keep the sum of their squares at 1?"
    if torch.allclose(got, (1 - level).sqrt() * x0 + level.sqrt() * eps):
        return "signal and noise are exchanged: at alpha_bar = 1 the image must be clean"
    if torch.allclose(got, x0 + (1 - level).sqrt() * eps):
        return "the noise is right but the image is not dimmed, so the variance grows beyond 1"
    if torch.allclose(got, diffusion.add_noise(x0, eps, alpha_bar[:1].expand(2))):
        return "every image came at the level of the first; there is one level per image"
    if not torch.equal(got, answer(x0, eps, alpha_bar)):
        return "a second call gave another answer: draw nothing here, use the given eps"
    return "compare with the formula for q(x_t | x_0) at alpha_bar = 0, 0.5 and 1"


def ddim_step(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str | None:
    """``answer(x_t, eps, now, nxt)`` must be one deterministic DDIM step to the cleaner level ``nxt``."""
    x0, eps, _ = _example()
    now, nxt = (torch.tensor(level, dtype=torch.float64) for level in (0.36, 0.84))
    x_t = diffusion.add_noise(x0, eps, now)
    got = answer(x_t, eps, now, nxt)
    if got.shape != x_t.shape:
        return f"the shape is {tuple(got.shape)} for a sample of {tuple(x_t.shape)}; a step keeps it"
    if torch.allclose(got, diffusion.add_noise(x0, eps, nxt)):
        return None
    if torch.allclose(got, x0):
        return "you returned the predicted clean image; put it back on the next level, with the same noise direction"
    if torch.allclose(got, x_t):
        return "the sample came back unchanged: the second half of the step must use the next level"
    if torch.allclose(got, nxt.sqrt() * x0):
        return "the noise is gone; at the next level a share of it remains, in the direction of eps"
    if torch.allclose(got, nxt.sqrt() * (x_t - (1 - now).sqrt() * eps) + (1 - nxt).sqrt() * eps):
        return "the predicted image is too dim: it was multiplied by something on the way to x_t, so divide by it"
    if not torch.equal(got, answer(x_t, eps, now, nxt)):
        return "a second call gave another answer: eta = 0 means no new noise"
    return "predict x0 from x_t and eps at the level now, then apply the forward formula at the level nxt"


EXERCISES = (
    Exercise("05.forward", "code", noisy_at, points=2),
    Exercise("05.ddim_step", "code", ddim_step, points=2),
    Exercise(
        "05.told",
        "predict",
        number(
            749,
            0.5,
            [
                (666, "that is what the network is told; follow the formula for where the step went"),
                (750, "the first entry of the list is the last training index; is that 1000?"),
                (332, "that is where the second step goes to when it believes the list; answer for the first step"),
            ],
            too_small="the first step goes down by a quarter of the training schedule; from where?",
            too_large="the sample has already made one step towards lower t",
        ),
    ),
    Exercise(
        "05.sample_error",
        "predict",
        choice(
            "c",
            {
                "a": "the mean is what minimises the expected squared error; can a draw do as well?",
                "b": "it costs something, but write the error of a draw as two independent parts of equal size",
                "d": "a sample is a plausible picture, not noise; its error is bounded by the spread of the posterior",
            },
        ),
    ),
    Exercise(
        "05.detail",
        "criticise",
        choice(
            "b",
            {
                "a": "both energies are measured against the same clean photograph, so brightness cancels; "
                "ask what else energy leaves out",
                "c": "equal budgets were used here, and a longer training would not change what the measure can see",
                "d": "one draw does leave scatter, but averaging draws would not rescue the word 'recovered'",
            },
        ),
    ),
)
