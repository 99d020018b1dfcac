"""The small conditional diffusion model of notebook 05, and the same network as a plain regressor.

The model restores ``y`` (degraded) to ``x0`` (clean) by sampling ``p(x0 | y)``. Its network F corrects a blend ``b`` of
the noisy sample and ``y``, preconditioned as in EDM (Karras et al. 2022, section 5) applied to the residual x0 - y:

    b = c_skip * x_t / sqrt(alpha_bar) + (1 - c_skip) * y,     x0_hat = b + c_out * F(b, y, alpha_bar)
    c_skip = s^2 / (s^2 + sigma^2),   c_out = s * sigma / sqrt(s^2 + sigma^2),   sigma^2 = (1 - alpha_bar) / alpha_bar

with s the typical size of x0 - y. Where noise drowns the sample (sigma >> s) b is ``y``, and F does regression; where
the sample is nearly clean (sigma << s) b is the sample. The target of F has unit scale at every level.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minirestore import diffusion, images
from minirestore.networks import UNet

OBJECTIVES = ("diffusion", "regression")


@dataclass(frozen=True)
class DenoiserConfig:
    """Size and objective of a `Denoiser`.

    Attributes:
        objective: ``diffusion`` samples p(x0 | y); ``regression`` is the same network trained for E[x0 | y].
        widths, blocks, unshuffle, embedding_width: see `networks.UNet`.
        residual_scale: s above, the root mean square of x0 - y in [-1, 1] units (noise sigma 25/255 gives 0.196).
        log_snr_range: training levels are uniform in log-SNR over this range.
        sigma_start, sigma_end: levels of the second and of the last network call when sampling.
    """

    objective: str = "diffusion"
    widths: tuple[int, ...] = (48, 96)
    blocks: int = 2
    unshuffle: int = 2
    embedding_width: int = 96
    residual_scale: float = 0.2
    log_snr_range: tuple[float, float] = (-6.0, 8.0)
    sigma_start: float = 1.0
    sigma_end: float = 0.02

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if len(self.widths) == 0 or min(self.widths) < 1:
            raise ValueError(f"widths: expected at least one level, each of 1 channel or more, got {self.widths}")
        for name in ("blocks", "unshuffle", "embedding_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not self.residual_scale > 0:
            raise ValueError(f"residual_scale: must be positive, got {self.residual_scale}")
        if len(self.log_snr_range) != 2 or not self.log_snr_range[0] < self.log_snr_range[1]:
            raise ValueError(f"log_snr_range: expected two increasing numbers, got {self.log_snr_range}")
        if not 0 < self.sigma_end <= self.sigma_start:
            sigmas = f"sigma_end={self.sigma_end}, sigma_start={self.sigma_start}"
            raise ValueError(f"sigma_end and sigma_start: expected 0 < sigma_end <= sigma_start, got {sigmas}")


class Denoiser(nn.Module):
    """Conditional diffusion restorer (see the module's docstring); images (B, 3, H, W) in [0, 1], any H, W >= 2."""

    scale = 1

    def __init__(self, config: DenoiserConfig | None = None):
        super().__init__()
        self.config = config or DenoiserConfig()
        c = self.config
        self.network = UNet(6, 3, c.widths, c.blocks, c.unshuffle, c.embedding_width, c.log_snr_range)

    # ------------------------------------------------------------ the network

    def forward(self, blend: Tensor, y: Tensor, alpha_bar: Tensor) -> Tensor:
        """F: blend b and condition in [-1, 1], levels (B,) -> (B, 3, H, W) of unit scale."""
        return self.network(torch.cat([blend, y], dim=1), alpha_bar)

    def preconditioning(self, alpha_bar: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``c_skip / sqrt(alpha_bar)`` (finite at alpha_bar = 0), ``1 - c_skip`` and ``c_out``, each (B, 1, 1, 1)."""
        level = diffusion.broadcast_level(alpha_bar, like)
        s = self.config.residual_scale
        total = level * s**2 + 1 - level  # alpha_bar * (s^2 + sigma^2)
        return level.sqrt() * s**2 / total, (1 - level) / total, s * ((1 - level) / total).sqrt()

    def predict_x0(self, x_t: Tensor, y: Tensor, alpha_bar: Tensor) -> Tensor:
        """The clean image expected behind ``x_t`` and ``y``, all in [-1, 1]."""
        skip, keep, out = self.preconditioning(alpha_bar, y)
        blend = skip * x_t + keep * y
        return blend + out * self(blend, y, alpha_bar).to(y.dtype)

    # ------------------------------------------------------------ training

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Mean squared error of F at random levels (diffusion) or at pure noise only (regression).

        ``batch`` holds ``clean`` and ``degraded`` (B, 3, H, W) in [0, 1].
        """
        x0, y = images.to_model_range(batch["clean"]), images.to_model_range(batch["degraded"])
        if self.config.objective == "regression":
            alpha_bar, x_t = y.new_zeros(len(y)), torch.zeros_like(y)
        else:
            low, high = self.config.log_snr_range
            alpha_bar = torch.sigmoid(low + (high - low) * diffusion.rand((len(y),), generator, y.device))
            x_t = diffusion.add_noise(x0, diffusion.randn(x0.shape, generator, x0.device), alpha_bar)
        skip, keep, out = self.preconditioning(alpha_bar, y)
        blend = skip * x_t + keep * y
        return {"loss": (self(blend, y, alpha_bar).float() - (x0 - blend) / out).square().mean()}

    # ------------------------------------------------------------ restoring

    def levels(self, steps: int) -> Tensor:
        """Noise levels visited by `restore`: pure noise, then equal steps in log-SNR, then clean; ``(steps + 1,)``."""
        first = torch.zeros(1, dtype=torch.float64)
        if steps == 1:
            return torch.cat([first, first + 1])
        bounds = [1 / (1 + sigma**2) for sigma in (self.config.sigma_start, self.config.sigma_end)]
        return torch.cat([first, diffusion.log_snr_levels(steps - 1, alpha_bar_min=bounds[0], alpha_bar_max=bounds[1])])

    @torch.no_grad()
    def restore(
        self,
        degraded: Tensor,
        generator: torch.Generator | None = None,
        steps: int = 16,
        eta: float = 0.0,
        samples: int = 1,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Restore a batch of photographs.

        Args:
            degraded: ``(B, 3, H, W)`` in [0, 1], of any floating-point type; computed in the type of the weights.
            generator: source of all randomness; None seeds one with 0.
            steps: network calls per sample; 1 gives the estimate of the mean E[x0 | y].
            eta: 0 is deterministic given the initial noise (DDIM), 1 redraws noise at every step (DDPM).
            samples: number of samples to average; many approach the mean.
            callback: called as (step, x_t, predicted x0), both in [-1, 1], padded to the network's multiple.

        Returns:
            ``(B, 3, H, W)`` in [0, 1], type of ``degraded``. A regressor ignores everything but ``degraded``.
        """
        images.check_images(degraded, "degraded", channels=(3,))
        if not all(isinstance(count, int) and count >= 1 for count in (steps, samples)):
            got = f"steps={steps!r}, samples={samples!r}"
            raise ValueError(f"steps and samples: must be integers and at least 1, got {got}")
        if generator is None:
            generator = diffusion.BatchGenerator(0, 0)

        def run(y: Tensor) -> Tensor:
            if self.config.objective == "regression":
                return self.predict_x0(torch.zeros_like(y), y, y.new_zeros(len(y)))

            def denoise(x_t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
                x0 = self.predict_x0(x_t, y, alpha_bar)
                return x0, diffusion.eps_from_x0(x_t, x0, alpha_bar)

            total = torch.zeros_like(y)
            for _ in range(samples):
                x_T = diffusion.randn(y.shape, generator, y.device, y.dtype)
                total += diffusion.ddim(denoise, x_T, self.levels(steps), eta, generator, callback)
            return total / samples

        y = images.to_model_range(degraded.to(next(self.parameters()).dtype))
        return images.to_unit_range(images.apply_padded(run, y, self.network.multiple)).to(degraded.dtype)
