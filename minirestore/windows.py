"""Attention within shifted windows (Swin Transformer), which ResShift's U-Net and DiffBIR's SwinIR share.

Attention among the pixels of small windows costs the same per pixel at any size. Every second block shifts the windows
by half, so that neighbouring windows meet.

Notation: B batch, C channels, N pixels of a window.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut (B, C, H, W) into windows (B, windows, N, C), row by row; H and W are multiples of ``window``."""
    x = x.unflatten(3, (-1, window)).unflatten(2, (-1, window))  # (B, C, rows, window, columns, window)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def from_windows(windows: Tensor, H: int, W: int) -> Tensor:
    """Put windows (B, windows, N, C) together again: (B, C, H, W)."""
    window = math.isqrt(windows.shape[2])
    x = windows.unflatten(2, (window, window)).unflatten(1, (H // window, W // window))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def window_mask(H: int, W: int, window: int, shift: int, *, legacy: bool = False, device="cpu") -> Tensor:
    """Which pairs of pixels may not attend to each other once the map is rolled by ``-shift``: (windows, N, N) bool.

    Rolling puts the first rows behind the last ones, and columns likewise. Pixels of a window that lie on different
    sides of such a seam are no neighbours.

    ``legacy`` (released code): no seam between columns counts, and in the last row of windows, where the seam between
    rows is, pixels are kept apart by the column they have in their window instead of by the row.
    """

    def wrapped(size: int) -> Tensor:
        return torch.arange(size, device=device) >= size - shift

    rows, columns = wrapped(H)[:, None].expand(H, W), wrapped(W).expand(H, W)
    sides = rows.int() if legacy else 2 * rows.int() + columns.int()
    sides = to_windows(sides[None, None], window)[0, :, :, 0]  # (windows, N)
    if legacy:
        sides = sides.unflatten(1, (window, window)).transpose(1, 2).flatten(1)
    return sides[:, :, None] != sides[:, None, :]


def relative_positions(window: int) -> Tensor:
    """For each pair of pixels of a window, the number of their offset: (N, N) int64 in 0..(2 window - 1)^2 - 1."""
    row, column = (torch.arange(window**2) // window, torch.arange(window**2) % window)
    down, right = (axis[:, None] - axis[None, :] + window - 1 for axis in (row, column))
    return down * (2 * window - 1) + right


class WindowAttention(nn.Module):
    """Attention within windows that are shifted by ``shift`` pixels, (B, C, H, W) -> same (Swin; SwinIR).

    A learned bias for each head and offset between two pixels is added to their similarity.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, legacy_mask: bool):
        super().__init__()
        self.heads, self.window, self.shift, self.legacy_mask = heads, window, shift, legacy_mask
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.project = nn.Linear(channels, channels)
        self.register_buffer("positions", relative_positions(window), persistent=False)
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(2, 3))
        qkv = self.qkv(to_windows(x, self.window)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # (B, windows, heads, N, C / heads) each
        bias = self.bias_table[self.positions].permute(2, 0, 1)  # (heads, N, N)
        if self.shift:  # one bias for each window: windows and heads become one axis
            blocked = window_mask(H, W, self.window, self.shift, legacy=self.legacy_mask, device=x.device)
            bias = bias.masked_fill(blocked[:, None], -math.inf)  # (windows, heads, N, N)
            q, k, v = (part.flatten(1, 2) for part in (q, k, v))
            bias = bias.flatten(0, 1)
        else:
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))
        mixed = mixed.reshape(B, -1, self.heads, *mixed.shape[-2:]).transpose(2, 3).flatten(3)  # (B, windows, N, C)
        x = from_windows(self.project(mixed), H, W)
        return x.roll((self.shift, self.shift), dims=(2, 3)) if self.shift else x
