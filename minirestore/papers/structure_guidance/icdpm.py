"""The method: its losses with warm start and ramp, and ancestral sampling on any schedule."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from minirestore import diffusion, images
from minirestore.papers.structure_guidance.config import StructureGuidanceConfig
from minirestore.papers.structure_guidance.guidance import GuidanceNet, StructurePyramid
from minirestore.papers.structure_guidance.unet import ICDPMUNet

LARGEST_START = 0.05  # more signal than this at the first step and a sample cannot start from pure noise


class StructureGuidance(nn.Module):
    """The guided icDPM (G and H), and by options the unguided one, predict-and-refine and the plain regressor.

    Images (B, 3, H, W) in [0, 1], any H, W >= 2.
    """

    scale = 1

    def __init__(self, config: StructureGuidanceConfig | None = None):
        super().__init__()
        c = self.config = config or StructureGuidanceConfig()
        if c.objective == "regression":
            self.unet = ICDPMUNet(c, in_channels=3, level=False)
            return
        self.unet = ICDPMUNet(c)
        self.pyramid = StructurePyramid(c)
        self.guidance = GuidanceNet(c) if c.uses_guidance else None
        if c.target == "refine":
            widths = c.predictor_widths or tuple(2 * width for width in c.widths)
            self.predictor = ICDPMUNet(c, in_channels=3, widths=widths, level=False)

    # ------------------------------------------------------------ what is diffused

    def base(self, y: Tensor) -> Tensor:
        """What the sample is added to, in [-1, 1]: 0, y, or the predictor's y + g(y)."""
        if self.config.target == "image":
            return torch.zeros_like(y)
        return y if self.config.target == "residual" else y + self.predictor(y).to(y.dtype)

    def predict(self, z_t: Tensor, y: Tensor, base: Tensor, alpha_bar: Tensor, added=None) -> tuple[Tensor, Tensor]:
        """Clean sample z_0 and noise expected behind ``z_t``, all (B, 3, H, W); x = base + z_0 / residual_scale."""
        out = self.unet(torch.cat([y, z_t], dim=1), alpha_bar, added).to(z_t.dtype)
        if self.config.prediction == "eps":
            z = diffusion.x0_from_eps(z_t, out, alpha_bar)
        else:
            z = out if self.config.prediction == "x0" else diffusion.x0_from_velocity(z_t, out, alpha_bar)
        if self.config.clip:
            s = self.config.residual_scale
            z = ((base + z / s).clamp(-1, 1) - base) * s
        return z, diffusion.eps_from_x0(z_t, z, alpha_bar)

    # ------------------------------------------------------------ losses

    def training_schedule(self) -> Tensor:
        """``alpha_bar_0 = 1, alpha_bar_1, ... alpha_bar_T`` of training, float64 ``(train_levels + 1,)``."""
        c = self.config
        levels = diffusion.make_alpha_bar(diffusion.make_betas("linear", c.train_levels, c.beta_start, c.beta_end))
        return torch.cat([levels.new_ones(1), levels])

    def draw_levels(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """One level per image: t uniform, then uniform between its two ends (SR3 lineage); ``(count,)`` float32."""
        position, share = diffusion.rand((count, 2), generator, device).unbind(1)
        schedule = self.training_schedule()
        if self.config.level_interpolation == "sqrt_alpha_bar":
            schedule = schedule.sqrt()
        schedule = schedule.to(device, torch.float32)
        t = 1 + (position * self.config.train_levels).long().clamp(max=self.config.train_levels - 1)
        level = schedule[t] + share * (schedule[t - 1] - schedule[t])
        return level.square() if self.config.level_interpolation == "sqrt_alpha_bar" else level

    def diffusion_weight(self, step: int) -> float:
        """w(step): 0 during the warm start of H, then a ramp to 1 (paper: 60k steps, then "gradually")."""
        if not self.config.uses_guidance:
            return 1.0
        beyond = step - self.config.warm_start
        position = min((beyond + 1) / max(self.config.ramp, 1), 1.0) if beyond >= 0 else 0.0
        return position if self.config.ramp_shape == "linear" else (1 - math.cos(math.pi * position)) / 2

    def guidance_loss(
        self, predictions: Mapping[int, Tensor], x: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """L_guid = sum_k |R(h_k) - phi_k(x)|^2, means over pixels; noise-free targets unless ``noisy_target``."""
        target = self.pyramid(x, generator if self.config.noisy_target else None)
        losses = []
        for k, prediction in predictions.items():
            error = (prediction.float() - target[k]).square()
            losses.append(error.mean() if self.config.guidance_loss == "mse" else error.flatten(1).sum(1).sqrt().mean())
        return torch.stack(losses).sum()

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """``loss`` = regression_weight * ``guidance`` + w(step) * ``diffusion``; during warm start the first alone.

        ``batch`` holds ``clean`` and ``degraded`` (B, 3, H, W) in [0, 1]. A regressor's loss is the mean squared error
        in units of the residual scale.
        """
        x, y = images.to_model_range(batch["clean"]), images.to_model_range(batch["degraded"])
        with self._seeded_dropout(generator):
            if self.config.objective == "regression":
                return {"loss": (self.config.residual_scale * (x - y) - self.unet(y).float()).square().mean()}
            losses, added, total = {}, None, 0.0
            if self.guidance is not None:
                features, predictions = self.guidance(self.pyramid(y, generator))
                losses["guidance"] = self.guidance_loss(predictions, x, generator)
                total = total + self.config.regression_weight * losses["guidance"]
                added = self.unet.project(self._drop_guidance(features, generator))
            weight = self.diffusion_weight(step)
            if weight > 0:
                losses["diffusion"] = self._diffusion_loss(x, y, added, generator)
                total = total + weight * losses["diffusion"]
        return {"loss": total, **losses}

    def _diffusion_loss(self, x: Tensor, y: Tensor, added, generator: torch.Generator) -> Tensor:
        """L_DPM = E |G(z_t, y, {h_k}, level) - eps|_1 (paper), or its options."""
        z = self.config.residual_scale * (x - self.base(y))
        alpha_bar = self.draw_levels(len(y), generator, y.device)
        eps = diffusion.randn(z.shape, generator, z.device)
        z_t = diffusion.add_noise(z, eps, alpha_bar)
        out = self.unet(torch.cat([y, z_t], dim=1), alpha_bar, added).float()
        kind = self.config.prediction
        error = out - (eps if kind == "eps" else z if kind == "x0" else diffusion.velocity(z, eps, alpha_bar))
        return error.abs().mean() if self.config.loss == "l1" else error.square().mean()

    def _drop_guidance(self, features: dict[int, Tensor], generator: torch.Generator) -> dict[int, Tensor]:
        if not self.config.guidance_dropout:
            return features
        first = next(iter(features.values()))
        keep = diffusion.rand((len(first),), generator, first.device) >= self.config.guidance_dropout
        return {k: h * keep[:, None, None, None] for k, h in features.items()}

    def _seeded_dropout(self, generator: torch.Generator):
        """nn.Dropout draws from PyTorch's global state; seed that from ``generator`` for the time of one step."""
        stack = ExitStack()
        if self.config.dropout and self.training:
            stack.enter_context(torch.random.fork_rng())
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        return stack

    # ------------------------------------------------------------ sampling

    def levels(self, steps: int, beta_end: float) -> Tensor:
        """Levels of the linear schedule of ``steps`` betas from ``beta_start`` to ``beta_end``, noisiest first.

        One step is a single call at the noisiest level of training: the estimate of the mean. float64 ``(steps + 1,)``.
        """
        if steps == 1:
            return self.training_schedule()[[-1, 0]]
        betas = diffusion.make_betas("linear", steps, self.config.beta_start, beta_end)
        return torch.cat([diffusion.make_alpha_bar(betas).flip(0), torch.ones(1, dtype=torch.float64)])

    @torch.no_grad()
    def restore(
        self,
        degraded: Tensor,
        generator: torch.Generator | None = None,
        steps: int = 0,
        beta_end: float = 0.0,
        samples: int = 1,
        eta: float = 1.0,
        guidance: float = 1.0,
        inconsistent: bool = False,
        structure: Tensor | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Deblur a batch of photographs by ancestral sampling.

        Args:
            degraded: ``(B, 3, H, W)`` in [0, 1], any H, W >= 2, any floating-point type.
            generator: source of all randomness; None seeds one with 0.
            steps, beta_end: T and beta_T of the sampling schedule, the perception-distortion knob; 0 takes the
                configuration's. ``steps=1`` is the estimate of the mean.
            samples: number of samples to average ("SA").
            eta: 1 is ancestral (paper), 0 deterministic given the first noise (DDIM).
            guidance: factor on h_k; 0 switches guidance off, values between are an extension of the paper.
            inconsistent: allow a (T, beta_T) that leaves signal at the level where sampling starts from pure noise.
            structure: read the guidance from this image instead, same shape as ``degraded`` (a control).
            callback: called as (step, z_t, predicted z_0), padded to the network's multiple.

        Returns:
            ``(B, 3, H, W)`` in [0, 1], type of ``degraded``. A regressor ignores everything but ``degraded``.

        Raises:
            ValueError: bad input, options out of range, guidance asked of an unguided network, or an inconsistent
                schedule.
        """
        images.check_images(degraded, "degraded", channels=(3,))
        steps, beta_end = steps or self.config.sampling_steps, beta_end or self.config.sampling_beta_end
        self._check_options(degraded, steps, beta_end, samples, guidance, inconsistent, structure)
        generator = diffusion.BatchGenerator(0, 0) if generator is None else generator
        dtype = next(self.parameters()).dtype
        y = images.to_model_range(degraded.to(dtype))
        regression = self.config.objective == "regression"
        source = y if structure is None or regression else images.to_model_range(structure.to(y))

        def run(pair: Tensor) -> Tensor:
            y, source = pair.chunk(2, dim=1)
            if regression:
                return y + self.unet(y) / self.config.residual_scale
            return self._sample(y, source, generator, self.levels(steps, beta_end), samples, eta, guidance, callback)

        restored = images.apply_padded(run, torch.cat([y, source], dim=1), self.unet.multiple)
        return images.to_unit_range(restored).to(degraded.dtype)

    def _sample(self, y, source, generator, levels, samples, eta, guidance, callback) -> Tensor:
        """Mean of ``samples`` samples; guidance is computed and projected once, before the loop."""
        draw = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))  # guided or not
        added = None
        if self.guidance is not None and guidance:
            noise = torch.Generator(generator.device).manual_seed(draw)
            features, _ = self.guidance(self.pyramid(source, noise))
            added = self.unet.project(features, guidance)
        base = self.base(y)

        def denoise(z_t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
            return self.predict(z_t, y, base, alpha_bar, added)

        total = torch.zeros_like(y)
        for _ in range(samples):
            z_T = diffusion.randn(y.shape, generator, y.device, y.dtype)
            total += diffusion.ddim(denoise, z_T, levels, eta, generator, callback)
        return base + total / samples / self.config.residual_scale

    def _check_options(self, degraded, steps, beta_end, samples, guidance, inconsistent, structure) -> None:
        if not all(isinstance(count, int) and count >= 1 for count in (steps, samples)):
            raise ValueError(f"steps and samples: must be integers and at least 1, got {steps!r} and {samples!r}")
        if self.config.objective == "regression":
            return
        start = self.levels(steps, beta_end)[0].item()
        if start > LARGEST_START and not inconsistent:
            raise ValueError(
                f"steps={steps}, beta_end={beta_end}: the schedule starts at alpha_bar = {start:.3g}, but sampling "
                f"starts from pure noise (at most {LARGEST_START}); take more steps or a larger beta_end, or set "
                "inconsistent=True to see what happens"
            )
        if not math.isfinite(guidance):
            raise ValueError(f"guidance: must be a finite number, got {guidance}")
        if self.guidance is None and (guidance != 1 or structure is not None):
            raise ValueError("guidance, structure: this network was trained without guidance; leave them out")
        if structure is not None:
            images.check_images(structure, "structure", channels=(3,))
            images.check_same_shape(degraded, structure, ("degraded", "structure"))
