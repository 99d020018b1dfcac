"""Convolutional U-Net blocks that several methods share: residual blocks without normalisation, level embedding.

Without normalisation a network is fully convolutional in the strict sense: what it computes at a pixel depends on
the neighbourhood alone, never on the statistics of the whole picture, so crops and large photographs agree.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LevelEmbedding(nn.Module):
    """Embed a continuous noise level: sinusoids of log-SNR, then a two-layer MLP.

    Input ``alpha_bar`` (B,) in [0, 1]; output (B, width). The log-SNR is clamped to ``log_snr_range``, the range seen
    in training: pure noise (alpha_bar = 0) is embedded as the noisiest level of it. ``hidden`` is the width between
    the two layers, by default ``width``.
    """

    def __init__(
        self,
        width: int,
        log_snr_range: tuple[float, float] = (-8.0, 8.0),
        frequencies: int = 16,
        hidden: int | None = None,
    ):
        super().__init__()
        hidden = width if hidden is None else hidden
        self.log_snr_range = log_snr_range
        self.register_buffer("frequency", torch.logspace(-1, 1, frequencies) * math.pi / 12, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, alpha_bar: Tensor) -> Tensor:
        log_snr = torch.logit(alpha_bar.float()).clamp(*self.log_snr_range)
        angle = log_snr[:, None] * self.frequency  # (B, frequencies)
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=1))


class ResBlock(nn.Module):
    """``x + conv(silu(conv(silu(x)) + linear(embedding) + added))``; the second convolution starts at zero.

    (B, in_channels, H, W), embedding (B, embedding_width) or None, ``added`` features (B, out_channels, H, W) or None
    -> (B, out_channels, H, W). ``dropout`` acts before the second convolution, in training only.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int | None = None, dropout: float = 0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.level = nn.Linear(embedding_width, out_channels) if embedding_width else None
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor | None = None, added: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(x))
        if self.level is not None:
            h = h + self.level(embedding)[:, :, None, None]
        if added is not None:
            h = h + added
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class UNet(nn.Module):
    """A small U-Net: pixel-unshuffle stem, residual blocks, strided down, nearest up, concatenated skips.

    Args:
        in_channels, out_channels: image channels; the head starts at zero, so the network first returns 0.
        widths: channels per level, finest first; each level halves the resolution of the one before.
        blocks: residual blocks per level, on the way down and again on the way up.
        unshuffle: factor of the pixel-unshuffle stem (2 quarters the cost of every layer).
        embedding_width: width of the noise-level embedding, or None for a network without one.
        log_snr_range: see `LevelEmbedding`.

    Call: ``(B, in_channels, H, W)`` with H and W multiples of `multiple`, and ``alpha_bar`` (B,) if the network
    has a level embedding -> ``(B, out_channels, H, W)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: tuple[int, ...] = (48, 96),
        blocks: int = 2,
        unshuffle: int = 2,
        embedding_width: int | None = 96,
        log_snr_range: tuple[float, float] = (-8.0, 8.0),
    ):
        super().__init__()
        self.unshuffle = unshuffle
        self.multiple = unshuffle * 2 ** (len(widths) - 1)
        self.embedding = LevelEmbedding(embedding_width, log_snr_range) if embedding_width else None
        self.stem = nn.Conv2d(in_channels * unshuffle**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(ResBlock(width, width, embedding_width) for _ in range(blocks)))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 2, stride=2))
                self.grow.append(nn.Conv2d(widths[level + 1], width, 3, padding=1))
                self.merge.append(nn.Conv2d(2 * width, width, 1))
                self.up.append(nn.ModuleList(ResBlock(width, width, embedding_width) for _ in range(blocks)))
        self.head = nn.Conv2d(widths[0], out_channels * unshuffle**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, alpha_bar: Tensor | None = None) -> Tensor:
        H, W = x.shape[-2:]
        if H % self.multiple or W % self.multiple:
            raise ValueError(f"x: H and W must be multiples of {self.multiple}, got {H}x{W}; use images.apply_padded")
        embedding = self.embedding(alpha_bar) if self.embedding is not None else None
        x = self.stem(F.pixel_unshuffle(x, self.unshuffle))  # (B, widths[0], H / unshuffle, W / unshuffle)
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x, embedding)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)  # (B, widths[level + 1], half, half)
        for level in reversed(range(len(self.up))):
            x = self.grow[level](F.interpolate(x, scale_factor=2, mode="nearest"))  # (B, widths[level], double, double)
            x = self.merge[level](torch.cat([x, skips.pop()], dim=1))
            for block in self.up[level]:
                x = block(x, embedding)
        return F.pixel_shuffle(self.head(F.silu(x)), self.unshuffle)  # (B, out_channels, H, W)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
