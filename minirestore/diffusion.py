"""Noise schedules and samplers: the forward process, DDPM and DDIM on any list of noise levels.

Notation follows DDPM (Ho et al. 2020) and DDIM (Song et al. 2021): ``alpha_bar`` is the cumulative product of
``1 - beta``, a noisy image is ``x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps``, and images live in [-1, 1].

A sampler here is given the noise levels it is to visit (``alpha_bars``, rising from nearly 0 to 1), not a
step count, so each update uses the level the sample really has next. Schedules and named step spacings agree with
diffusers' schedulers wherever those are self-consistent; `timesteps` says where they are not.

The network's contract: ``denoise(x_t, alpha_bar) -> (x0, eps)`` with ``x_t`` (B, C, H, W) and ``alpha_bar`` (B,).
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minirestore import images

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SPACINGS = ("trailing", "leading", "linspace")
SCHEDULES = ("linear", "scaled_linear", "cosine")


# ---------------------------------------------------------------- randomness


class BatchGenerator(torch.Generator):
    """A generator for step ``step`` of a run, which knows which slice of the global batch this process holds.

    Every process draws the numbers of the whole batch and keeps its own rows, so that a run on two processes sees
    exactly the noise of a run on one.
    """

    def __new__(cls, seed: int, step: int, *, rank: int = 0, world_size: int = 1, device: str = "cpu"):
        self = super().__new__(cls, device=device)
        self.rank, self.world_size = rank, world_size
        self.manual_seed(_mix(seed, step))
        return self

    def __init__(self, seed: int, step: int, *, rank: int = 0, world_size: int = 1, device: str = "cpu"):
        pass  # torch.Generator takes its arguments in __new__


def _mix(seed: int, step: int) -> int:
    """A 63-bit seed from (seed, step); neighbouring steps and seeds land far apart (SplitMix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 1


def _draw(fn: Callable, shape: Sequence[int], generator: torch.Generator | None, device, dtype) -> Tensor:
    """Draw for the global batch on the generator's device, keep this process's rows, move to ``device``."""
    world_size, rank = getattr(generator, "world_size", 1), getattr(generator, "rank", 0)
    source = generator.device if generator is not None else device
    rows = shape[0]
    values = fn((rows * world_size, *shape[1:]), generator=generator, device=source, dtype=dtype)
    return values[rank * rows : (rank + 1) * rows].to(device)


def randn(shape: Sequence[int], generator: torch.Generator | None, device="cpu", dtype=torch.float32) -> Tensor:
    """Standard normal numbers of ``shape`` (first axis = batch) from ``generator``."""
    return _draw(torch.randn, shape, generator, device, dtype)


def rand(shape: Sequence[int], generator: torch.Generator | None, device="cpu", dtype=torch.float32) -> Tensor:
    """Uniform numbers in [0, 1) of ``shape`` (first axis = batch) from ``generator``."""
    return _draw(torch.rand, shape, generator, device, dtype)


def random_times(count: int, T: int, generator: torch.Generator | None, device="cpu") -> Tensor:
    """``count`` indices, uniform in 0..T - 1, one per image of the batch; ``(count,)`` int64."""
    return (rand((count,), generator, device) * T).long().clamp(max=T - 1)


# ---------------------------------------------------------------- schedules


def make_betas(schedule: str = "linear", T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Variances ``beta_1..beta_T``, float64 ``(T,)``.

    ``linear`` is DDPM's (1e-4 to 0.02), ``scaled_linear`` is linear in sqrt(beta) (Stable Diffusion: .00085, .012),
    ``cosine`` is Nichol & Dhariwal 2021, equation 17 (s = .008, beta <= .999; the two ends are ignored).
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if T < 1:
        raise ValueError(f"T: must be at least 1, got {T}")
    if schedule != "cosine" and not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise ValueError(f"beta_start and beta_end: must lie between 0 and 1, got {beta_start} and {beta_end}")
    if schedule == "linear":
        return torch.linspace(beta_start, beta_end, T, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2
    position = (torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008
    level = torch.cos(position * math.pi / 2) ** 2
    return (1 - level[1:] / level[:-1]).clamp(max=0.999)


def make_alpha_bar(betas: Tensor, *, zero_terminal_snr: bool = False) -> Tensor:
    """``alpha_bar_t = prod_{s <= t} (1 - beta_s)``, ``(T,)``.

    With ``zero_terminal_snr`` the square roots are shifted and scaled so that the last level is pure noise
    (Lin et al. 2024, algorithm 1); noise prediction is impossible there, predict x0 or v instead.
    """
    alpha_bar = (1 - betas).cumprod(0)
    if zero_terminal_snr:
        root = alpha_bar.sqrt()
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return alpha_bar


def timesteps(T: int, steps: int, spacing: str = "trailing") -> list[int]:
    """The ``steps`` training indices that a sampler visits, decreasing, the first always ``T - 1``.

    ``trailing`` counts down from T in strides of T / steps, ``linspace`` includes both T - 1 and 0, ``leading`` counts
    up from 0. A sample starts as pure noise, so the first call must happen at T - 1: diffusers' ``leading`` starts
    lower (with one step it asks the network about t = 0, a clean image), hence the first index is raised here.
    diffusers' DDIM also steps to ``t - T // steps`` rather than to the next index of its own list, which is wrong for
    ``linspace``, and for ``trailing`` where steps does not divide T; our samplers go to the next index.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"spacing: expected one of {', '.join(SPACINGS)}, got {spacing!r}")
    if not 1 <= steps <= T:
        raise ValueError(f"steps: must lie in 1..{T}, got {steps}")
    if spacing == "linspace":
        return [round(T - 1 - i * (T - 1) / max(steps - 1, 1)) for i in range(steps)]
    if spacing == "trailing":
        return [round(T - i * T / steps) - 1 for i in range(steps)]
    stride = T // steps
    return [T - 1, *(stride * i for i in reversed(range(steps - 1)))]


def sampling_levels(alpha_bar: Tensor, steps: int, spacing: str = "trailing") -> Tensor:
    """Noise levels for a sampler: ``alpha_bar`` at `timesteps`, then 1 (a clean image); ``(steps + 1,)``."""
    chosen = alpha_bar[timesteps(len(alpha_bar), steps, spacing)]
    return torch.cat([chosen, chosen.new_ones(1)])


def log_snr_levels(steps: int, alpha_bar_max: float = 0.9995, alpha_bar_min: float = 1e-4) -> Tensor:
    """Noise levels equally spaced in log signal-to-noise ratio, noisiest first, then 1; float64 ``(steps + 1,)``.

    For networks trained on continuous levels. The extremes are where the first and the last network call happen; a
    single step visits ``alpha_bar_min`` alone.
    """
    if steps < 1:
        raise ValueError(f"steps: must be at least 1, got {steps}")
    if steps == 1:
        alpha_bar_max = alpha_bar_min
    if not 0 < alpha_bar_min < 1 or (steps > 1 and not alpha_bar_min < alpha_bar_max < 1):
        bounds = f"alpha_bar_min={alpha_bar_min}, alpha_bar_max={alpha_bar_max}"
        raise ValueError(f"alpha_bar_min and alpha_bar_max: expected 0 < min < max < 1, got {bounds}")
    low, high = (math.log(level / (1 - level)) for level in (alpha_bar_min, alpha_bar_max))
    levels = torch.sigmoid(torch.linspace(low, high, steps, dtype=torch.float64))
    return torch.cat([levels, levels.new_ones(1)])


# ---------------------------------------------------------------- forward process and conversions


def broadcast_level(alpha_bar: Tensor, like: Tensor) -> Tensor:
    """Levels ``(B,)`` or a single one as ``(B, 1, 1, 1)`` in the type of ``like``; other counts raise ValueError."""
    if alpha_bar.numel() not in (1, len(like)):
        raise ValueError(f"alpha_bar: expected one level or {len(like)}, one per image, got {alpha_bar.numel()}")
    return alpha_bar.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """``q(x_t | x_0)``: ``sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps`` (DDPM, equation 4)."""
    images.check_same_shape(x0, eps, ("x0", "eps"))
    level = broadcast_level(alpha_bar, x0)
    return level.sqrt() * x0 + (1 - level).sqrt() * eps


def eps_from_x0(x_t: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise that takes ``x0`` to ``x_t``; undefined at alpha_bar = 1."""
    level = broadcast_level(alpha_bar, x_t)
    return (x_t - level.sqrt() * x0) / (1 - level).sqrt()


def x0_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The clean image behind ``x_t`` if its noise is ``eps`` (DDPM, equation 15); undefined at alpha_bar = 0."""
    level = broadcast_level(alpha_bar, x_t)
    return (x_t - (1 - level).sqrt() * eps) / level.sqrt()


def velocity(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """``v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0`` (Salimans & Ho 2022)."""
    level = broadcast_level(alpha_bar, x0)
    return level.sqrt() * eps - (1 - level).sqrt() * x0


def x0_from_velocity(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """``x0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v``, defined at every level."""
    level = broadcast_level(alpha_bar, x_t)
    return level.sqrt() * x_t - (1 - level).sqrt() * v


def eps_from_velocity(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """``eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x_t``, defined at every level."""
    level = broadcast_level(alpha_bar, x_t)
    return level.sqrt() * v + (1 - level).sqrt() * x_t


def posterior(x0: Tensor, x_t: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``q(x_s | x_t, x_0)`` for a cleaner level ``s`` (DDPM, equations 6 and 7).

    ``alpha_bar`` is the level of ``x_t``, ``alpha_bar_next`` > ``alpha_bar`` that of ``x_s``; they need not be
    neighbours of the training schedule.
    """
    now, nxt = broadcast_level(alpha_bar, x_t), broadcast_level(alpha_bar_next, x_t)
    alpha = now / nxt
    mean = (nxt.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - nxt) * x_t) / (1 - now)
    return mean, (1 - nxt) * (1 - alpha) / (1 - now)


# ---------------------------------------------------------------- samplers


def ddpm(
    denoise: Denoise,
    x_T: Tensor,
    alpha_bars: Tensor,
    generator: torch.Generator | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """DDPM, algorithm 2, on any levels: draw each next sample from ``q(x_s | x_t, x0 = prediction)``.

    Args:
        denoise: see the module's contract.
        x_T: ``(B, C, H, W)`` noise at level ``alpha_bars[0]``.
        alpha_bars: increasing levels ``(steps + 1,)`` ending in 1, from `sampling_levels` or `log_snr_levels`.
        generator: source of the added noise.
        callback: called with (step, x_t, predicted x0) after every network call.

    Returns:
        The sample ``(B, C, H, W)``, range of the network (not clipped).
    """
    return _run(denoise, x_T, alpha_bars, 1.0, generator, callback)


def ddim(
    denoise: Denoise,
    x_T: Tensor,
    alpha_bars: Tensor,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """DDIM (equation 12): ``eta = 0`` is deterministic, ``eta = 1`` is `ddpm`. Arguments as there."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: must lie in [0, 1], got {eta}")
    return _run(denoise, x_T, alpha_bars, eta, generator, callback)


def _run(denoise, x_T, alpha_bars, eta, generator, callback) -> Tensor:
    if alpha_bars.ndim != 1 or len(alpha_bars) < 2 or alpha_bars[0] < 0 or alpha_bars[-1] != 1:
        raise ValueError("alpha_bars: expected at least two levels in [0, 1], ending in 1")
    if not (alpha_bars.diff() > 0).all():  # also false for NaN
        raise ValueError(f"alpha_bars: expected strictly increasing levels, got {alpha_bars.tolist()}")
    x = x_T
    for step, (now, nxt) in enumerate(itertools.pairwise(alpha_bars)):
        x0, eps = denoise(x, now.expand(len(x)).to(x.device, x.dtype))
        if callback is not None:
            callback(step, x, x0)
        # variance of the DDPM posterior, scaled by eta^2; the rest of the noise budget keeps the direction of eps
        variance = eta**2 * (1 - nxt) / (1 - now) * (1 - now / nxt)
        x = nxt.sqrt().item() * x0 + (1 - nxt - variance).clamp(min=0).sqrt().item() * eps
        if variance > 0:
            x = x + variance.sqrt().item() * randn(x.shape, generator, x.device, x.dtype)
    return x
