"""Residual shifting: a diffusion from the clean image to the degraded one, and SinSR's deterministic way back.

Ordinary diffusion ends in pure noise. Here ``x_t`` moves from ``x_0`` to ``y``: a fraction ``eta_t`` of the residual
``y - x_0`` is shifted by step t, and the noise grows with it:

    q(x_t | x_0, y) = N(x_0 + eta_t (y - x_0), kappa^2 eta_t I)                                  (ResShift)

A sampler thus starts from ``y`` with noise, and 15 steps are enough. The network predicts ``x_0``.

Indices t run from 0 to T - 1 as in the released code; the papers count from 1. Index 0 leads to x_0. Images, or their
latents, are (B, C, H, W); t is one index or (B,) of them. Tables are float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minirestore import diffusion
from minirestore.papers.resshift.config import SPACINGS, ShiftConfig

# scaled x_t (B, C, H, W) and network times (B,), floats -> x_0 (B, C, H, W)
PredictX0 = Callable[[Tensor, Tensor], Tensor]


def visited_steps(T: int, steps: int, spacing: str = "trailing") -> list[int]:
    """The ``steps`` indices of 0..T - 1 that a sampler visits, increasing.

    ``trailing`` and ``linspace`` as in `diffusion.timesteps`: both include T - 1, where sampling starts. ``released``
    counts up from 0, ``int(T / steps * k)``: of 15 steps, 5 visit 0, 3, 6, 9, 12. The sample then starts as ``y`` at a
    step where training has mixed in a third of ``x_0``; and a single step visits index 0, where ``y`` never occurs.

    Raises:
        ValueError: unknown spacing, or ``steps`` outside 1..T.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"spacing: expected one of {', '.join(SPACINGS)}, got {spacing!r}")
    if spacing != "released":
        return diffusion.timesteps(T, steps, spacing)[::-1]
    if not 1 <= steps <= T:
        raise ValueError(f"steps: must lie in 1..{T}, got {steps}")
    return [int(T / steps * k) for k in range(steps)]


class ShiftSchedule:
    """The tables of a schedule, and what they do with images; made by `make_schedule`, fewer by `respaced`.

    Attributes:
        sqrt_eta, eta: the noise level over kappa, and the fraction of the residual that is shifted; ``(T,)``.
        eta_previous, alpha: eta one step before (0 before the first), and the step between them.
        times: what the network is told, the index in the schedule of its training; int64.
        posterior_x_t, posterior_x0, posterior_variance: of q(x_{t-1} | x_t, x_0), see `posterior`.
        step_x0, step_x_t, step_y: k, m and j of SinSR's step, see `deterministic_step`.
    """

    def __init__(self, sqrt_eta: Tensor, times: Tensor, kappa: float, input_scale: str):
        self.sqrt_eta, self.times, self.kappa, self.input_scale = sqrt_eta, times, kappa, input_scale
        self.eta = sqrt_eta.square()
        self.eta_previous = torch.cat([self.eta.new_zeros(1), self.eta[:-1]])
        self.alpha = self.eta - self.eta_previous
        self.posterior_x_t = self.eta_previous / self.eta
        self.posterior_x0 = self.alpha / self.eta
        self.posterior_variance = kappa**2 * self.posterior_x_t * self.alpha
        shared = (self.eta_previous * self.eta).sqrt()
        self.step_x_t = (self.eta_previous / self.eta).sqrt()
        self.step_y = self.eta_previous - shared
        self.step_x0 = 1 - self.eta_previous + shared - self.step_x_t

    def __len__(self) -> int:
        return len(self.eta)

    def _at(self, table: Tensor, t: int | Tensor, like: Tensor) -> Tensor:
        """Entries of a table as (1 or B, 1, 1, 1) in the type of ``like``."""
        t = torch.as_tensor(t, device="cpu")
        if t.is_floating_point() or t.min() < 0 or t.max() >= len(self) or t.numel() not in (1, len(like)):
            count = f"one index in 0..{len(self) - 1}, or {len(like)} of them, one per image"
            raise ValueError(f"t: expected {count}, got {t.tolist()}")
        return diffusion.broadcast_level(table[t], like)

    def respaced(self, steps: int, spacing: str = "trailing") -> "ShiftSchedule":
        """The schedule of fewer, larger steps, for the same network; see `visited_steps`."""
        chosen = visited_steps(len(self), steps, spacing)
        return ShiftSchedule(self.sqrt_eta[chosen], self.times[chosen], self.kappa, self.input_scale)

    @property
    def vlb_weight(self) -> Tensor:
        """Weight of a squared error of x_0 in the variational bound, ``(T,)``; training ignores it (released code).

        ``posterior_x0^2 / (2 posterior_variance)``, where the variance at index 0, which is 0, is replaced by the next.
        """
        variance = torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]])
        return self.posterior_x0.square() / (2 * variance)

    # ------------------------------------------------------------ ResShift: the way to y

    def marginal(self, x0: Tensor, y: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, C, H, W) and variance (1 or B, 1, 1, 1) of q(x_t | x_0, y) (ResShift)."""
        eta = self._at(self.eta, t, x0)
        return x0 + eta * (y - x0), self.kappa**2 * eta

    def q_sample(self, x0: Tensor, y: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        """x_t, from standard normal ``noise`` of the same shape."""
        mean, _ = self.marginal(x0, y, t)
        return mean + self.kappa * self._at(self.sqrt_eta, t, x0) * noise

    def prior_sample(self, y: Tensor, noise: Tensor) -> Tensor:
        """x_T: ``y`` exactly, as if eta_T were 1, with the last step's noise."""
        return y + self.kappa * self._at(self.sqrt_eta, len(self) - 1, y) * noise

    def scale_input(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """x_t as the network sees it, of about the same size at every step (released code).

        ``latent``: divided by sqrt(kappa^2 eta_t + 1). ``pixel``: by 3 kappa sqrt(eta_t) + 1.
        """
        if self.input_scale == "latent":
            return x_t / self._at((self.kappa**2 * self.eta + 1).sqrt(), t, x_t)
        return x_t / self._at(3 * self.kappa * self.sqrt_eta + 1, t, x_t)

    # ------------------------------------------------------------ what else a network may predict

    def x0_from_eps(self, x_t: Tensor, eps: Tensor, y: Tensor, t: int | Tensor, *, scaled: bool = False) -> Tensor:
        """x_0 behind x_t if its noise is ``eps``; ``scaled``: if kappa sqrt(eta_t) times its noise is ``eps``."""
        eta = self._at(self.eta, t, x_t)
        noise = eps if scaled else self.kappa * self._at(self.sqrt_eta, t, x_t) * eps
        return (x_t - noise - eta * y) / (1 - eta)

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, y: Tensor, t: int | Tensor) -> Tensor:
        """The noise that takes x_0 to x_t."""
        mean, _ = self.marginal(x0, y, t)
        return (x_t - mean) / (self.kappa * self._at(self.sqrt_eta, t, x_t))

    @staticmethod
    def x0_from_residual(residual: Tensor, y: Tensor) -> Tensor:
        """x_0 if ``residual`` is y - x_0."""
        return y - residual

    # ------------------------------------------------------------ ResShift: the way back

    def posterior(self, x0: Tensor, x_t: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_{t-1} | x_t, x_0), shapes as in `marginal`; ``y`` does not appear (ResShift).

        Mean: eta_{t-1} / eta_t x_t + alpha_t / eta_t x_0. Variance: kappa^2 eta_{t-1} / eta_t alpha_t, 0 at index 0.
        """
        mean = self._at(self.posterior_x_t, t, x_t) * x_t + self._at(self.posterior_x0, t, x_t) * x0
        return mean, self._at(self.posterior_variance, t, x_t)

    def posterior_sample(self, x0: Tensor, x_t: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        """x_{t-1}, from standard normal ``noise``; x_0 itself at index 0."""
        mean, variance = self.posterior(x0, x_t, t)
        return mean + variance.sqrt() * noise

    # ------------------------------------------------------------ SinSR: without noise

    def deterministic_step(self, x0: Tensor, x_t: Tensor, y: Tensor, t: int | Tensor) -> Tensor:
        """x_{t-1} with the noise that x_t has if ``x0`` is right: ``k x_0 + m x_t + j y``, k + m + j = 1 (SinSR).

        m = sqrt(eta_{t-1} / eta_t), j = eta_{t-1} - sqrt(eta_{t-1} eta_t) <= 0, k = 1 - m - j; at index 0 x_0 itself.
        """
        k, m, j = (self._at(table, t, x_t) for table in (self.step_x0, self.step_x_t, self.step_y))
        return k * x0 + m * x_t + j * y

    def deterministic_inverse(self, x0: Tensor, x_previous: Tensor, y: Tensor, t: int | Tensor) -> Tensor:
        """x_t from x_{t-1} and the ``x0`` of that step (SinSR).

        Raises:
            ValueError: t is 0, from where nothing of x_t is left.
        """
        k, m, j = (self._at(table, t, x_previous) for table in (self.step_x0, self.step_x_t, self.step_y))
        if (torch.as_tensor(t) == 0).any():
            raise ValueError("t: the step of index 0 keeps nothing of x_t and has no inverse; use indices from 1")
        return (x_previous - k * x0 - j * y) / m


def make_schedule(config: ShiftConfig) -> ShiftSchedule:
    """The schedule of all T steps.

    ``sqrt(eta_t) = sqrt(eta_1) (sqrt(eta_T) / sqrt(eta_1))^(((t - 1) / (T - 1))^p)``, t = 1..T (ResShift).
    """
    c = config
    position = torch.linspace(0, 1, c.T, dtype=torch.float64) ** c.p
    sqrt_eta = c.sqrt_eta_start * (c.sqrt_eta_end / c.sqrt_eta_start) ** position
    return ShiftSchedule(sqrt_eta, torch.arange(c.T), c.kappa, c.input_scale)


def sampling_schedule(config: ShiftConfig, steps: int = 0, spacing: str = "") -> ShiftSchedule:
    """The schedule of ``steps`` network calls; 0 and "" take what ``config`` says.

    Raises:
        ValueError: as `visited_steps`.
    """
    return make_schedule(config).respaced(steps or config.sampling_steps or config.T, spacing or config.spacing)


# ---------------------------------------------------------------- samplers

Callback = Callable[[int, Tensor, Tensor], None]


def stochastic_chain(
    schedule: ShiftSchedule,
    predict_x0: PredictX0,
    x_T: Tensor,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """ResShift's sampler: every next sample is drawn from the posterior under the predicted x_0.

    Args:
        schedule: all steps of the network's training (`make_schedule`), or fewer (`sampling_schedule`).
        predict_x0: see `PredictX0`; its input is scaled already.
        x_T: ``(B, C, H, W)`` from `ShiftSchedule.prior_sample`.
        generator: source of the noise of all steps but the last, which adds none.
        callback: called as (index, x_t, predicted x_0) after every network call.

    Returns:
        ``(B, C, H, W)``, not clipped.
    """

    def move(x0: Tensor, x_t: Tensor, t: int) -> Tensor:
        return schedule.posterior_sample(x0, x_t, t, diffusion.randn(x_t.shape, generator, x_t.device, x_t.dtype))

    return _chain(schedule, predict_x0, x_T, move, callback)


def deterministic_chain(
    schedule: ShiftSchedule, predict_x0: PredictX0, y: Tensor, x_T: Tensor, callback: Callback | None = None
) -> Tensor:
    """SinSR's sampler: a fixed map from ``x_T`` to x_0, which its student learns to do in one call; differentiable.

    Arguments as in `stochastic_chain`; ``y`` as ``x_T``. On ``schedule.respaced(1)`` it is SinSR's one-step inference.
    """
    return _chain(schedule, predict_x0, x_T, lambda x0, x_t, t: schedule.deterministic_step(x0, x_t, y, t), callback)


def _chain(schedule, predict_x0, x_T, move, callback) -> Tensor:
    x = x_T
    for t in reversed(range(len(schedule))):
        times = torch.full((len(x),), float(schedule.times[t]), device=x.device)
        x0 = predict_x0(schedule.scale_input(x, t), times)
        if callback is not None:
            callback(t, x, x0)
        x = x0 if t == 0 else move(x0, x, t)
    return x
