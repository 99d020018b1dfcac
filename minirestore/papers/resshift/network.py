"""The network: a U-Net of residual blocks and Swin layers that predicts x_0 (released code: UNetModelSwin).

Attention within small windows costs the same per pixel at any size; every second block shifts the windows by half, so
that neighbouring windows meet. The low-quality image enters beside x_t, at the same size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore.papers.resshift.config import SwinUNetConfig
from minirestore.windows import WindowAttention

GROUPS = 32

# ---------------------------------------------------------------- time


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """Sinusoids of the time (B,): (B, channels), cosines first; frequencies from 1 down to almost 1e-4 (released code).

    ``channels`` must be even.
    """
    half = channels // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000) / half))
    angle = t.float()[:, None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=1)


# ---------------------------------------------------------------- residual blocks


class TimeResBlock(nn.Module):
    """Two convolutions, the time as scale and shift between them; the second one starts at zero (released code).

    x (B, in_channels, H, W), e (B, embedding_width) -> (B, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(embedding_width, 2 * out_channels)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(F.silu(e))[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


# ---------------------------------------------------------------- Swin layers


class SwinBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, (B, C, H, W) -> same.

    Group normalisation where Swin has layer normalisation (released code).
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, mlp_ratio: float, legacy_mask: bool):
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.attention = WindowAttention(channels, heads, window, shift, legacy_mask)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SwinLayer(nn.Module):
    """Swin blocks, shifted and not in turn, between two projections; they replace the features (released code).

    (B, channels, H, W) -> same. ``size`` is the side of the feature map in training. A map no larger than the window is
    one window, and is not shifted.
    """

    def __init__(self, channels: int, size: int, config: SwinUNetConfig):
        super().__init__()
        c = config
        self.window = min(c.window, size)
        shift = c.window // 2 if size > c.window else 0
        self.embed = nn.Conv2d(channels, c.swin_width, 1)
        self.blocks = nn.ModuleList(
            SwinBlock(c.swin_width, c.swin_width // c.head_channels, self.window, shift * (i % 2), c.mlp_ratio,
                      c.legacy_mask)
            for i in range(c.swin_depth)
        )  # fmt: skip
        self.unembed = nn.Conv2d(c.swin_width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.unembed(x)


# ---------------------------------------------------------------- the network


class SwinUNet(nn.Module):
    """The U-Net of ResShift and SinSR.

    ``network(x_t, t, lq)``: x_t (B, channels, H, W) scaled by `ShiftSchedule.scale_input`; t (B,) network times, not
    scaled; lq (B, lq_channels, H, W) in [-1, 1] units, or None where lq_channels is 0 -> x_0 (B, channels, H, W). H, W
    are multiples of ``multiple``.

    The output of every encoder stage is kept, and each decoder stage takes the latest one off this stack. A Swin layer
    follows the first residual block of every level that has attention, in encoder and decoder.
    """

    def __init__(self, config: SwinUNetConfig | None = None):
        super().__init__()
        c = self.config = config or SwinUNetConfig()
        E, coarsest = 4 * c.width, len(c.multipliers) - 1
        attends = [size in c.attention_sizes for size in c.level_sizes]
        self.multiple = math.lcm(
            *(2**level * (min(c.window, size) if attends[level] or level == coarsest else 1)
              for level, size in enumerate(c.level_sizes))
        )  # fmt: skip
        self.time = nn.Sequential(nn.Linear(c.width, E), nn.SiLU(), nn.Linear(E, E))
        embed = nn.Conv2d(c.channels + c.lq_channels, c.width, 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList([nn.ModuleDict({"embed": embed})]), nn.ModuleList()
        kept, width = [c.width], c.width  # channels on the stack, channels of x
        for level, factor in enumerate(c.multipliers):
            for i in range(c.blocks[level]):
                stage = nn.ModuleDict({"res": TimeResBlock(width, factor * c.width, E)})
                width = factor * c.width
                if attends[level] and i == 0:
                    stage["swin"] = SwinLayer(width, c.level_sizes[level], c)
                self.encoder.append(stage)
                kept.append(width)
            if level < coarsest:
                self.encoder.append(nn.ModuleDict({"down": nn.Conv2d(width, width, 3, stride=2, padding=1)}))
                kept.append(width)
        self.middle = nn.ModuleList(
            [
                nn.ModuleDict({"res": TimeResBlock(width, width, E)}),
                nn.ModuleDict({"swin": SwinLayer(width, c.level_sizes[-1], c)}),
                nn.ModuleDict({"res": TimeResBlock(width, width, E)}),
            ]
        )
        for level, factor in reversed(list(enumerate(c.multipliers))):
            for i in range(c.blocks[level] + 1):
                stage = nn.ModuleDict({"res": TimeResBlock(width + kept.pop(), factor * c.width, E)})
                width = factor * c.width
                if attends[level] and i == 0:
                    stage["swin"] = SwinLayer(width, c.level_sizes[level], c)
                if level > 0 and i == c.blocks[level]:
                    conv = nn.Conv2d(width, width, 3, padding=1)
                    stage["up"] = nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), conv)
                self.decoder.append(stage)
        self.norm = nn.GroupNorm(GROUPS, width)
        self.output = nn.Conv2d(width, c.channels, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, lq: Tensor | None = None) -> Tensor:
        H, W = x_t.shape[-2:]
        if H % self.multiple or W % self.multiple:
            raise ValueError(f"x_t: H and W must be multiples of {self.multiple}, got {H}x{W}; use images.apply_padded")
        expected = (len(x_t), self.config.lq_channels, H, W) if self.config.lq_channels else None
        if (None if lq is None else tuple(lq.shape)) != expected:
            got = None if lq is None else tuple(lq.shape)
            raise ValueError(f"lq: expected {expected} beside this x_t, got {got}; resize it, or set lq_channels")
        e = self.time(time_embedding(t, self.config.width).to(x_t.dtype))
        x, kept = (x_t if lq is None else torch.cat([x_t, lq], dim=1)), []
        for stage in self.encoder:
            x = self._run(stage, x, e)
            kept.append(x)
        for stage in self.middle:
            x = self._run(stage, x, e)
        for stage in self.decoder:
            x = self._run(stage, torch.cat([x, kept.pop()], dim=1), e)
        return self.output(F.silu(self.norm(x)))

    @staticmethod
    def _run(stage: nn.ModuleDict, x: Tensor, e: Tensor) -> Tensor:
        for name, layer in stage.items():
            x = layer(x, e) if name == "res" else layer(x)
        return x
