"""The rivals of the single step: depth by denoising, as in Marigold, and the U-Net called again on its own result.

Both see the latents of the picture beside others, so the first convolution of their U-Net has twice the channels.

Marigold learns to denoise the latents of the depth map. Depth maps are smooth, and white noise leaves their coarse
structure visible until late; multi-resolution noise hides all scales. It is annealed, so that the last steps see white
noise. In 2023 its sampler spaced the timesteps from the clean end (``leading``): a single step then asks about
timestep 1, where training had almost no noise, and shows it nothing else. The rivals of the paper's table II are
sampled so. The repaired one spaces from the noisy end (``trailing``) and is trained up to pure noise.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore.diffusion import make_alpha_bar, make_betas, rand, randn

STRENGTH = 0.9
MOST_LEVELS = 10
SPACINGS = ("leading", "trailing")


def multi_resolution_noise(
    shape: tuple[int, int, int, int], t: Tensor, T: int, generator: torch.Generator, strength: float = STRENGTH
) -> Tensor:
    """White noise (B, C, h, w) plus coarser and coarser noise, enlarged bilinearly, divided by its deviation.

    Level i counts ``s ** i``, s = strength * t / T; level 0, as fine as the first noise, counts whole. From one level
    to the next the sides shrink by r ** i, r drawn from U[2, 4] (released code of Marigold).

    Args:
        t: (B,), timesteps. T: their number.
    """
    B, C, H, W = shape
    factor = (strength * t.float() / T).view(-1, 1, 1, 1)
    noise, h, w = randn(shape, generator, t.device), H, W
    for i in range(MOST_LEVELS):
        r = 2 + 2 * rand((1,), generator).item()
        h, w = max(1, int(h / r**i)), max(1, int(w / r**i))
        coarse = randn((B, C, h, w), generator, t.device)
        noise = noise + F.interpolate(coarse, (H, W), mode="bilinear") * factor**i
        if min(h, w) == 1:
            break
    return noise / noise.std()


def double_input(unet: nn.Module) -> None:
    """Give a UNet2DConditionModel twice the input channels, in place: both halves share half of the old weights.

    What it returns for the same latents in both halves is what it returned before (Marigold).
    """
    old = unet.conv_in
    new = nn.Conv2d(2 * old.in_channels, old.out_channels, old.kernel_size, padding=old.padding).to(old.weight.device)
    with torch.no_grad():
        new.weight.copy_(old.weight.repeat(1, 2, 1, 1) / 2)
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=new.in_channels)


def marigold_levels(T: int, beta_start: float, beta_end: float, spacing: str) -> Tensor:
    """alpha_bar (T,) that goes with a spacing: the scaled-linear one, and for ``trailing`` down to pure noise."""
    betas = make_betas("scaled_linear", T, beta_start, beta_end)
    return make_alpha_bar(betas, zero_terminal_snr=spacing == "trailing")


def ddim_scheduler(T: int, beta_start: float, beta_end: float, spacing: str):
    """diffusers' DDIMScheduler as Marigold configures it: of 2023 (``leading``), or repaired (``trailing``).

    Raises:
        ValueError: unknown spacing.
    """
    from diffusers import DDIMScheduler

    if spacing not in SPACINGS:
        raise ValueError(f"spacing: expected one of {', '.join(SPACINGS)}, got {spacing!r}")
    return DDIMScheduler(
        num_train_timesteps=T,
        beta_start=beta_start,
        beta_end=beta_end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing=spacing,
        rescale_betas_zero_snr=spacing == "trailing",
    )


def denoise(predict: Callable[[Tensor, Tensor], Tensor], z_T: Tensor, scheduler, steps: int) -> Tensor:
    """DDIM from z_T (B, C, h, w): ``predict(z_t, t)`` returns the velocity; ``scheduler`` from `ddim_scheduler`."""
    scheduler.set_timesteps(steps, device=z_T.device)
    z = z_T
    for t in scheduler.timesteps:
        z = scheduler.step(predict(z, t), t, z).prev_sample
    return z
