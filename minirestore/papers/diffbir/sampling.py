"""The sampler: DDPM on few of the timesteps ("spaced"), with latent image guidance."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from minirestore import diffusion
from minirestore.papers.diffbir.guidance import Guidance

Predict = Callable[[Tensor, Tensor], Tensor]


def spaced_ddpm(
    predict: Predict,
    z_T: Tensor,
    alpha_bar: Tensor,
    steps: int = 50,
    guidance: Guidance | None = None,
    target: Tensor | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Latents (B, C, h, w), drawn from z_T by ``steps`` calls of the network.

    The timesteps are spread evenly from T - 1 to 0. Every step draws from the posterior of its neighbours; the variance
    is that of the posterior ("fixed small"), and the last step adds no noise.

    Args:
        predict: ``(z_t, t) -> eps``, t (B,).
        z_T: pure noise. alpha_bar: (T,), levels of the training.
        guidance, target, decode: see `Guidance`.
        generator: source of the noise.
        callback: called as (index, z_t, estimate of z_0), guided, after every call.
    """
    times = diffusion.timesteps(len(alpha_bar), steps, "linspace")
    levels = diffusion.sampling_levels(alpha_bar, steps, "linspace")
    z = z_T
    for index, (t, (now, then)) in enumerate(zip(times, itertools.pairwise(levels), strict=True)):
        eps = predict(z, torch.full((len(z),), t, device=z.device))
        estimate = diffusion.x0_from_eps(z, eps, now)
        mean, variance = diffusion.posterior(estimate, z, now, then)
        if guidance is not None and guidance.active(t):
            move = guidance.move(estimate, target, decode)
            estimate, mean = estimate + move, mean + guidance.gain * move
        if callback is not None:
            callback(index, z, estimate)
        z = mean
        if then < 1:
            z = z + variance.sqrt() * diffusion.randn(z.shape, generator, z.device, z.dtype)
    return z
