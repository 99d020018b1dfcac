"""Multiscale structure phi_k, and the guidance network H with its regression heads R (the paper's figure 3)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import diffusion
from minirestore.networks import ResBlock
from minirestore.papers.structure_guidance.config import LUMA, StructureGuidanceConfig


class StructurePyramid:
    """phi_k: luma, reduced by 2^k with antialiasing, plus a little noise (figure 3).

    ``pyramid(y, generator)``: y (B, 3, H, W) in [-1, 1] -> ``{k: (B, 1, H / 2^k, W / 2^k)}``; without a generator no
    noise is added. H and W must be multiples of 2^k. With ``guidance_input="rgb"`` nothing is removed: every
    2^k x 2^k block of colours becomes 3 * 4^k channels.
    """

    def __init__(self, config: StructureGuidanceConfig):
        self.config = config

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> dict[int, Tensor]:
        pyramid = {k: self.reduce(y, k) for k in self.config.scales}
        if generator is None or not self.config.guidance_noise:
            return pyramid
        noise = {k: diffusion.randn(p.shape, generator, p.device, p.dtype) for k, p in pyramid.items()}
        return {k: p + self.config.guidance_noise * noise[k] for k, p in pyramid.items()}

    def reduce(self, y: Tensor, k: int) -> Tensor:
        """``d_k(luma(y))``, without noise."""
        if self.config.guidance_input == "rgb":
            return F.pixel_unshuffle(y, 2**k)  # (B, 3 * 4^k, H / 2^k, W / 2^k)
        weights = torch.tensor(LUMA[self.config.luma_weights], dtype=y.dtype, device=y.device).view(1, 3, 1, 1)
        luma = (y * weights).sum(1, keepdim=True)  # (B, 1, H, W)
        if k == 0:
            return luma
        if self.config.downsample == "area":
            return F.avg_pool2d(luma, 2**k)
        size = [side // 2**k for side in luma.shape[-2:]]
        return F.interpolate(luma, size=size, mode=self.config.downsample, antialias=True)

    def channels(self, k: int) -> int:
        """Channels of level k."""
        return 3 * 4**k if self.config.guidance_input == "rgb" else 1


class GuidanceBranch(nn.Module):
    """H and R at one scale: convolution, residual blocks without noise level -> h_k; one convolution -> prediction.

    (B, channels, h, w) -> h_k (B, width, h, w) and R(h_k) (B, channels, h, w).
    """

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(width, width) for _ in range(blocks))
        self.head = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, p: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stem(p)
        for block in self.blocks:
            h = block(h)
        return h, self.head(h)


class GuidanceNet(nn.Module):
    """H with its regression heads R: ``{k: phi_k(y)} -> {k: h_k}, {k: R(h_k)}``; knows nothing of the noise level."""

    def __init__(self, config: StructureGuidanceConfig):
        super().__init__()
        pyramid, self.residual = StructurePyramid(config), config.head == "residual"
        first = config.scales[0]
        self.owner = {k: str(first if config.share_branches else k) for k in config.scales}
        self.branches = nn.ModuleDict()
        for k, width in zip(config.scales, config.branch_widths, strict=True):
            if self.owner[k] not in self.branches:
                self.branches[self.owner[k]] = GuidanceBranch(pyramid.channels(k), width, config.guidance_blocks)

    def forward(self, pyramid: Mapping[int, Tensor]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        features, predictions = {}, {}
        for k, p in pyramid.items():
            features[k], predictions[k] = self.branches[self.owner[k]](p)
            if self.residual:
                predictions[k] = p + predictions[k]
        return features, predictions
