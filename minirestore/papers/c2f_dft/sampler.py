"""The implicit sampler: a few calls of the network, differentiable from end to end.

With ``u = x / sqrt(alpha_bar)`` and ``sigma = sqrt((1 - alpha_bar) / alpha_bar)`` a step of DDIM (eta = 0) is Euler's
method: ``u' = u + (sigma' - sigma) eps``. `euler_weights` are those differences: how much an error of the predicted
noise counts at every call.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minirestore import diffusion
from minirestore.papers.c2f_dft.config import STEP_RULES, C2FDFTConfig


def make_schedule(config: C2FDFTConfig) -> Tensor:
    """``alpha_bar_t`` for t = 0 .. T - 1, float64 ``(T,)``."""
    return diffusion.make_alpha_bar(diffusion.make_betas("linear", config.T, config.beta_start, config.beta_end))


def visited_times(steps: int, rule: str = "endpoints", T: int = 1000) -> list[int]:
    """The time indices of the network calls, decreasing.

    ``endpoints``: ``steps`` indices from T - 1 to 0, equally spaced. ``released``: multiples of ``T // steps`` below T,
    so that ``steps`` is no number of calls: 3 makes the four calls 999, 666, 333, 0, and 4 makes four that never see
    pure noise (750, 500, 250, 0). ``paper`` (Algorithm 1): ``(j - 1) T / (steps - 1) + 1`` for j = 1 .. steps, counted
    from 1; rounded, and its first index, T + 1, lowered to T. With more than about 2 T / 3 steps that would be the
    second index as well.

    Raises:
        ValueError: unknown rule, ``steps`` outside 1..T, or so many that rule ``paper`` repeats an index.
    """
    if rule not in STEP_RULES:
        raise ValueError(f"rule: expected one of {', '.join(STEP_RULES)}, got {rule!r}")
    if rule == "endpoints":
        return diffusion.timesteps(T, steps, "linspace")
    if not 1 <= steps <= T:
        raise ValueError(f"steps: must lie in 1..{T}, got {steps}")
    if rule == "released":
        return list(range(0, T, T // steps))[::-1]
    if steps == 1:
        return [T - 1]
    times = [min(round(j * T / (steps - 1)), T - 1) for j in reversed(range(steps))]
    if times[0] == times[1]:
        raise ValueError(f"steps: rule paper visits t = {T - 1} twice with {steps} steps; take fewer, or endpoints")
    return times


def euler_weights(alpha_bar: Tensor, times: Sequence[int]) -> Tensor:
    """``sigma' - sigma`` of every call, ``(len(times),)``; the last step goes to sigma = 0."""
    visited = alpha_bar[list(times)]
    sigma = ((1 - visited) / visited).sqrt()
    return torch.cat([sigma, sigma.new_zeros(1)]).diff()


def implicit_chain(
    predict_noise: Callable[[Tensor, Tensor, Tensor], Tensor],
    y: Tensor,
    x_T: Tensor,
    alpha_bar: Tensor,
    times: Sequence[int],
    *,
    checkpointing: bool = False,
    clip: bool = False,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Sample from ``x_T`` through the network calls at ``times``; gradients flow through all of them.

    Args:
        predict_noise: ``(y, x_t, t) -> eps``, t ``(B,)`` float.
        y, x_T: condition and first noise, ``(B, 3, H, W)`` each.
        alpha_bar: the schedule ``(T,)``. times: decreasing indices into it.
        checkpointing: keep only the samples between calls for the backward pass.
        clip: clip every predicted clean image to [-1, 1] (the noise is then changed to agree with it). It cuts the
            gradient where it acts, so it is no option of training.
        callback: called as (call, x_t, predicted clean image).

    Returns:
        ``(B, 3, H, W)``, the clean image that the last call predicts.
    """
    levels = torch.cat([alpha_bar[list(times)], alpha_bar.new_ones(1)])
    calls = iter(times)  # ddim asks once per level, in this order

    def denoise(x_t: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.full((len(x_t),), float(next(calls)), device=x_t.device)
        if checkpointing and torch.is_grad_enabled():
            eps = checkpoint(predict_noise, y, x_t, t, use_reentrant=False)
        else:
            eps = predict_noise(y, x_t, t)
        x0 = diffusion.x0_from_eps(x_t, eps, level)
        if clip:
            x0 = x0.clamp(-1, 1)
            eps = diffusion.eps_from_x0(x_t, x0, level)
        return x0, eps

    return diffusion.ddim(denoise, x_T, levels, callback=callback)
