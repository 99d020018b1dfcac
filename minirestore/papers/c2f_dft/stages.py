"""The method: coarse training on noise, fine training through the sampler, and restoring images of any size."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minirestore import diffusion, images
from minirestore.papers.c2f_dft.config import C2FDFTConfig
from minirestore.papers.c2f_dft.losses import fine_loss
from minirestore.papers.c2f_dft.sampler import implicit_chain, make_schedule, visited_times
from minirestore.papers.c2f_dft.transformer import DFT


def antithetic_times(count: int, T: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """``count`` time indices in pairs of neighbours: t uniform in 0..T - 1, and its mirror image T - 1 - t.

    Released code, in another order within the batch. Each index is uniform, and every batch covers early and late times
    alike. Pairs are made in the whole batch, of which ``generator`` (a `diffusion.BatchGenerator`) may name a slice.
    ``(count,)`` int64.
    """
    shards, shard = getattr(generator, "world_size", 1), getattr(generator, "rank", 0)
    t = (torch.rand(count * shards, generator=generator, device=generator.device) * T).long().clamp(max=T - 1)
    t[1::2] = T - 1 - t[0 : len(t) - 1 : 2]
    return t[shard * count : (shard + 1) * count].to(device)


class C2FDFT(nn.Module):
    """C2F-DFT in one of its stages, or the regression control; images (B, 3, H, W) in [0, 1], any H, W >= 2.

    All stages have the same parameters, ``network.*``, so that the weights of one start another.
    """

    scale = 1

    def __init__(self, config: C2FDFTConfig | None = None):
        super().__init__()
        self.config = config or C2FDFTConfig()
        self.network = DFT(self.config)
        with torch.no_grad():
            self.network.output.weight.mul_(self.config.output_scale)

    def forward(self, y: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The predicted noise; y and x_t (B, 3, H, W), t (B,)."""
        return self.network(y, x_t, t).to(x_t.dtype)

    def regress(self, y: Tensor) -> Tensor:
        """The control: one call at t = 0 without a noisy sample gives what to add to ``y``."""
        return y + self(y, torch.zeros_like(y), y.new_zeros(len(y)))

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Coarse: mean absolute error of the noise. Fine: `fine_loss` of a sample. Regression: mean absolute error.

        ``batch`` holds ``clean`` and ``degraded`` (B, 3, H, W) in [0, 1].
        """
        c = self.config
        x0, y = images.to_model_range(batch["clean"]), images.to_model_range(batch["degraded"])
        if c.stage == "regression":
            return {"loss": (self.regress(y) - x0).abs().mean()}
        noise = diffusion.randn(x0.shape, generator, x0.device)
        schedule = make_schedule(c)
        if c.stage == "coarse":
            t = antithetic_times(len(x0), c.T, generator)
            x_t = diffusion.add_noise(x0, noise, schedule[t])
            return {"loss": (self(y, x_t, t.to(y)) - noise).abs().mean()}
        times = visited_times(c.sampling_steps, c.step_rule, c.T)
        restored = implicit_chain(self, y, noise, schedule, times, checkpointing=c.checkpointing)
        return fine_loss(restored, x0, c.ssim, c.ssim_range, c.ssim_weight)

    @torch.no_grad()
    def restore(
        self,
        degraded: Tensor,
        generator: torch.Generator | None = None,
        steps: int = 0,
        step_rule: str = "",
        samples: int = 1,
        clip: bool = False,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Restore a batch of photographs, whole: attention between channels costs the same per pixel at any size.

        Args:
            degraded: ``(B, 3, H, W)`` in [0, 1], of any floating-point type; computed in the type of the weights.
            generator: source of the first noise, the only randomness; None seeds one with 0.
            steps, step_rule: see `visited_times`; 0 and "" take those of the training.
            samples: number of samples to average.
            clip: clip every predicted clean image to [-1, 1].
            callback: called as (call, x_t, predicted clean image), in [-1, 1] units, padded to multiples of 8.

        Returns:
            ``(B, 3, H, W)`` in [0, 1], type of ``degraded``. The regression control ignores all other arguments.

        Raises:
            ValueError: not such images, or an option out of range.
        """
        images.check_images(degraded, "degraded", channels=(3,))
        c = self.config
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples: must be an integer and at least 1, got {samples!r}")
        times = visited_times(steps or c.sampling_steps, step_rule or c.step_rule, c.T)
        generator = diffusion.BatchGenerator(0, 0) if generator is None else generator
        schedule = make_schedule(c)

        def run(y: Tensor) -> Tensor:
            if c.stage == "regression":
                return self.regress(y)
            total = torch.zeros_like(y)
            for _ in range(samples):
                x_T = diffusion.randn(y.shape, generator, y.device, y.dtype)
                total += implicit_chain(self, y, x_T, schedule, times, clip=clip, callback=callback)
            return total / samples

        y = images.to_model_range(degraded.to(next(self.parameters()).dtype))
        return images.to_unit_range(images.apply_padded(run, y, DFT.multiple)).to(degraded.dtype)
