"""The fully convolutional U-Net G with guided encoder blocks (figure 12; DvSR)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore.networks import LevelEmbedding, ResBlock
from minirestore.papers.structure_guidance.config import StructureGuidanceConfig


class GuidedResBlock(ResBlock):
    """A residual block that adds projected guidance P_k(h_k) to its features (paper; P_k is ours).

    Call `project` once per image and pass the result as ``added`` at every sampling step.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int | None,
        dropout: float,
        guidance_width: int,
        inject_at: str = "inside",
        zero_projection: bool = True,
    ):
        super().__init__(in_channels, out_channels, embedding_width, dropout)
        self.at_input = inject_at == "input"
        self.projection = nn.Conv2d(guidance_width, in_channels if self.at_input else out_channels, 1, bias=False)
        if zero_projection:
            nn.init.zeros_(self.projection.weight)

    def project(self, h: Tensor) -> Tensor:
        """P_k(h_k): (B, guidance_width, h, w) -> (B, channels at the place of the addition, h, w)."""
        return self.projection(h)

    def forward(self, x: Tensor, embedding: Tensor | None = None, added: Tensor | None = None) -> Tensor:
        if self.at_input and added is not None:
            return super().forward(x + added, embedding)
        return super().forward(x, embedding, added)


class Resample(nn.Module):
    """Halve (``down``) or double the resolution, channels unchanged: one convolution, or DvSR's residual unit.

    Residual down: three convolutions, the first of stride 2; up: nearest neighbour, then two. The level embedding
    is added after the second of three, or the first of two, convolutions; the skip is a 1 x 1 convolution.
    """

    def __init__(self, channels: int, down: bool, kind: str, embedding_width: int | None):
        super().__init__()
        self.down, self.residual = down, kind == "residual"
        count = (3 if down else 2) if self.residual else 1
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, stride=2 if down and i == 0 else 1) for i in range(count)
        )
        if self.residual:
            self.skip = nn.Conv2d(channels, channels, 1, stride=2 if down else 1)
            self.level = nn.Linear(embedding_width, channels) if embedding_width else None
            nn.init.zeros_(self.convs[-1].weight)
            nn.init.zeros_(self.convs[-1].bias)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        x = x if self.down else F.interpolate(x, scale_factor=2, mode="nearest")
        if not self.residual:
            return self.convs[0](x)
        h = x
        for i, conv in enumerate(self.convs):
            h = conv(F.silu(h))
            if self.level is not None and i == len(self.convs) - 2:
                h = h + self.level(embedding)[:, :, None, None]
        return self.skip(x) + h


class ScalarEmbedding(nn.Module):
    """An MLP on one number per image, ``alpha_bar`` or its root: (B,) -> (B, width)."""

    def __init__(self, width: int, hidden: int, root: bool):
        super().__init__()
        self.root = root
        self.mlp = nn.Sequential(nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, alpha_bar: Tensor) -> Tensor:
        level = alpha_bar.float()[:, None]
        return self.mlp(level.sqrt() if self.root else level)


class ICDPMUNet(nn.Module):
    """G: the fully convolutional U-Net of the icDPM, guided or not.

    ``unet(x, alpha_bar, added)``: x (B, in_channels, H, W), sides multiples of ``multiple``; alpha_bar (B,), or None
    for a network without level; ``added`` from `project` or None -> (B, 3, H, W).

    The layers form one stack: every encoder output is kept, the stem's and the resampled ones included, and each of
    the ``blocks + 1`` decoder blocks of a level takes the latest one off it. Only the encoder is guided, and only in a
    network with level (the regressor and DvSR's predictor have none).
    """

    def __init__(
        self, config: StructureGuidanceConfig, in_channels: int = 6, widths: Sequence[int] = (), level: bool = True
    ):
        super().__init__()
        c, widths = config, tuple(widths or config.widths)
        E = (c.embedding_width or widths[0]) if level else None
        self.unshuffle, self.multiple = c.unshuffle, c.unshuffle * 2 ** (len(widths) - 1)
        self.embedding = self._make_embedding(c, widths[0], E) if level else None
        self.stem = nn.Conv2d(in_channels * c.unshuffle**2, widths[0], c.stem_kernel, padding=c.stem_kernel // 2)
        self.scale_of_block = [self._scales(c, factor, level) for factor in c.level_factors]
        branch_width = dict(zip(c.scales, c.branch_widths, strict=True)) if level and c.uses_guidance else {}
        self.encoder, self.down, self.decoder, self.up = (nn.ModuleList() for _ in range(4))
        kept, width = [widths[0]], widths[0]  # channels on the stack, channels of x
        for i, w in enumerate(widths):
            self.encoder.append(nn.ModuleList())
            for k in self.scale_of_block[i]:
                guides = () if k is None else (branch_width[k], c.inject_at, c.zero_projection)
                block = ResBlock if k is None else GuidedResBlock
                self.encoder[i].append(block(width, w, E, c.dropout, *guides))
                width = w
                kept.append(width)
            if i + 1 < len(widths):
                self.down.append(Resample(width, True, c.resample, E))
                kept.append(width)
        self.middle = nn.ModuleList(ResBlock(width, width, E, c.dropout) for _ in range(c.mid_blocks))
        for i, w in reversed(list(enumerate(widths))):
            self.decoder.append(nn.ModuleList())
            for _ in range(c.blocks + 1):
                self.decoder[-1].append(ResBlock(width + kept.pop(), w, E, c.dropout))
                width = w
            if i > 0:
                self.up.append(Resample(width, False, c.resample, E))
        self.head = nn.Conv2d(width, 3 * c.unshuffle**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @staticmethod
    def _scales(c: StructureGuidanceConfig, factor: int, level: bool) -> list[int | None]:
        """Which k guides each encoder block of the level that is ``factor`` times smaller than the image."""
        k = next((k for k in c.scales if 2**k == factor), None) if level and c.uses_guidance else None
        return [k if j == 0 or c.inject == "all" else None for j in range(c.blocks)]

    @staticmethod
    def _make_embedding(c: StructureGuidanceConfig, base: int, width: int) -> nn.Module:
        if c.noise_level == "log_snr":
            return LevelEmbedding(width, (-10.0, 10.0), frequencies=base // 2, hidden=4 * base)
        return ScalarEmbedding(width, 4 * base, root=c.noise_level == "sqrt_alpha_bar")

    def project(self, features: Mapping[int, Tensor], scale: float = 1.0) -> list[list[Tensor | None]]:
        """P_k(scale * h_k) for every encoder block, None where there is no guidance; independent of the noise level."""
        return [
            [None if k is None else block.project(scale * features[k]) for block, k in zip(blocks, ks, strict=True)]
            for blocks, ks in zip(self.encoder, self.scale_of_block, strict=True)
        ]

    def forward(
        self, x: Tensor, alpha_bar: Tensor | None = None, added: Sequence[Sequence[Tensor | None]] | None = None
    ) -> Tensor:
        H, W = x.shape[-2:]
        if H % self.multiple or W % self.multiple:
            raise ValueError(f"x: H and W must be multiples of {self.multiple}, got {H}x{W}; use images.apply_padded")
        e = self.embedding(alpha_bar) if self.embedding is not None else None
        x = self.stem(F.pixel_unshuffle(x, self.unshuffle))  # (B, widths[0], H / unshuffle, W / unshuffle)
        kept = [x]
        for i, blocks in enumerate(self.encoder):
            for j, block in enumerate(blocks):
                x = block(x, e, added[i][j] if added is not None else None)
                kept.append(x)
            if i < len(self.down):
                x = self.down[i](x, e)  # half the resolution
                kept.append(x)
        for block in self.middle:
            x = block(x, e)
        for i, blocks in enumerate(self.decoder):
            for block in blocks:
                x = block(torch.cat([x, kept.pop()], dim=1), e)
            if i < len(self.up):
                x = self.up[i](x, e)  # twice the resolution
        return F.pixel_shuffle(self.head(F.silu(x)), self.unshuffle)  # (B, 3, H, W)
