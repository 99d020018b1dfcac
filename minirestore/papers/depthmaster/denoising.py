"""The rival, denoising as in Marigold: its noise. Levels, timesteps and samplers are those of `diffusion`.

Depth maps are smooth, and white noise leaves their coarse structure visible until late. Multi-resolution noise hides
all scales; it is annealed, so that the last steps see white noise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore.diffusion import rand, randn

STRENGTH = 0.9
MOST_LEVELS = 10


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
