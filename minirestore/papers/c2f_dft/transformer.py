"""The network: the diffusion transformer DFT, in the paper's order.

The time embedding without parameters, diffusion self-attention (DFSA), the diffusion feed-forward network (DFN), the
block of both (DFTB), and the 4-level U-shaped transformer that predicts the noise.

Notation: B batch, C channels of a level, t the time index (0 to T - 1), ``T`` the embedding added to features.

Shapes are (B, C, H, W) throughout; in memory the channels of a pixel lie together (``channels_last``, set once in
`DFT.forward`). Any layout gives the same numbers, this one the fastest; benchmarks/c2f_dft.py measures what it saves.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore.papers.c2f_dft.config import DFTConfig

NORM_EPS = 1e-5
COSINE_EPS = 1e-12  # smallest norm that queries and keys are divided by


# ---------------------------------------------------------------- time


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """T: sinusoids of the time index, then SiLU; no parameters (released code).

    Frequencies fall from 1 to 1e-4: ``exp(-ln(1e4) k / (half - 1))``; sines first, then cosines; a last zero column
    where ``channels`` is odd.

    Args:
        t: ``(B,)`` time indices, as floats, not scaled.
        channels: at least 4; every level of the network asks for its own number.

    Returns:
        ``(B, channels, 1, 1)``.
    """
    half = channels // 2
    if half < 2:
        raise ValueError(f"channels: expected at least 4, got {channels}")
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(k * (-math.log(10000) / (half - 1)))  # (B, half)
    embedded = F.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, channels % 2))
    return F.silu(embedded)[:, :, None, None]


# ---------------------------------------------------------------- the block


class PointwiseConv(nn.Conv2d):
    """1 x 1 convolution without bias: one matrix for every pixel, (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu or len(x) >= 16:
            return super().forward(x)
        # one CPU thread gets the faster kernel from 16 images on; pixels do not mix, so rows may pass for images
        rows = x.permute(0, 2, 3, 1).flatten(0, 1)[:, None]  # (B * H, 1, W, C)
        mixed = super().forward(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mixed.reshape(*x.shape[:1], *x.shape[2:], -1).permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of every pixel, (B, C, H, W) -> same.

    ``with_bias``: (x - mean) / sqrt(var + eps) * w + b. ``bias_free``: x / sqrt(var + eps) * w, where the mean enters
    the variance but is not subtracted. The variance is the biased one.
    """

    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if kind == "with_bias" else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C): channels last, as PyTorch's fused kernel wants them
        if self.bias is not None:
            x = F.layer_norm(x, self.weight.shape, self.weight, self.bias, NORM_EPS)
        else:
            centred = x - x.mean(dim=-1, keepdim=True)
            variance = centred.square().mean(dim=-1, keepdim=True)  # several times as fast as torch.var on a CPU
            x = x * (variance + NORM_EPS).rsqrt() * self.weight
        return x.permute(0, 3, 1, 2)


class DiffusionSelfAttention(nn.Module):
    """DFSA: attention between channels, a C/h x C/h matrix per head (paper; temperature: released code).

    ``(B, C, H, W) -> same``. Queries and keys are normalised along the pixels, so similarities are cosines, times the
    temperature of the head. The depth-wise convolution is the block's only mixing of neighbouring pixels. If ``T`` is
    given, it is added to queries, keys and values (``time_position="after"``).
    """

    def __init__(self, channels: int, heads: int, scale: str = "multiply"):
        super().__init__()
        self.heads, self.divide = heads, scale == "divide"
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = PointwiseConv(channels, 3 * channels)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project = PointwiseConv(channels, channels)

    def attention(self, x: Tensor, T: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The attention matrices (B, heads, C/heads, C/heads), rows summing to 1, and the values (B, heads, C/heads,
        HW) that they weigh."""
        qkv = self.depthwise(self.qkv(x))
        if T is not None:
            qkv = qkv + T.repeat(1, 3, 1, 1)
        pixels = qkv.permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, 3C)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in pixels.chunk(3, dim=-1))
        # cosines: normalising the small matrix of products is cheaper than normalising q and k (B, heads, HW, C/heads)
        q_scale, k_scale = (part.square().sum(2).clamp(min=COSINE_EPS**2).rsqrt() for part in (q, k))
        similarity = q.transpose(-2, -1) @ k * q_scale[..., :, None] * k_scale[..., None, :]
        scaled = similarity / self.temperature if self.divide else similarity * self.temperature
        return scaled.softmax(dim=-1), v.transpose(-2, -1)

    def forward(self, x: Tensor, T: Tensor | None = None) -> Tensor:
        _, C, H, W = x.shape
        weights, v = self.attention(x, T)
        # project(weights @ v) with the two small matrices multiplied first: one pass over the pixels instead of two
        project = self.project.weight.view(C, self.heads, -1)
        matrix = torch.einsum("ohi,bhij->bohj", project, weights).flatten(2)  # (B, C, C)
        mixed = v.flatten(1, 2).transpose(1, 2) @ matrix.transpose(1, 2)  # (B, HW, C)
        return mixed.unflatten(1, (H, W)).permute(0, 3, 1, 2)


class DiffusionFeedForward(nn.Module):
    """DFN: two pointwise convolutions around a GELU, (B, C, H, W) -> same (paper, without a gate)."""

    def __init__(self, channels: int, factor: float):
        super().__init__()
        hidden = int(channels * factor)
        self.expand = PointwiseConv(channels, hidden)
        self.project = PointwiseConv(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.gelu(self.expand(x)))


class DiffusionTransformerBlock(nn.Module):
    """DFTB: ``x + DFSA(LN(x) + T)``, then ``x + DFN(LN(x) + T)`` (paper).

    x (B, C, H, W), T from `time_embedding` (B, C, 1, 1) -> (B, C, H, W). ``config.time_in`` leaves T out of a half;
    ``config.time_position`` moves it to the inside of DFSA.
    """

    def __init__(self, channels: int, heads: int, config: DFTConfig):
        super().__init__()
        in_attention = config.time_in in ("both", "attention")
        self.time_before = in_attention and config.time_position == "before"
        self.time_after = in_attention and config.time_position == "after"
        self.time_in_feed_forward = config.time_in in ("both", "feed_forward")
        self.norm1 = ChannelNorm(channels, config.norm)
        self.attention = DiffusionSelfAttention(channels, heads, config.attention_scale)
        self.norm2 = ChannelNorm(channels, config.norm)
        self.feed_forward = DiffusionFeedForward(channels, config.ffn_factor)

    def forward(self, x: Tensor, T: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed + T if self.time_before else normed, T if self.time_after else None)
        return x + self.feed_forward(self.norm2(x) + T if self.time_in_feed_forward else self.norm2(x))


# ---------------------------------------------------------------- the network


class Downsample(nn.Module):
    """Convolution to half the channels, then 2 x 2 pixels into channels: (B, C, H, W) -> (B, 2C, H/2, W/2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.conv(x), 2)


class Upsample(nn.Module):
    """Convolution to twice the channels, then channels into 2 x 2 pixels: (B, C, H, W) -> (B, C/2, 2H, 2W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


class DFT(nn.Module):
    """The diffusion transformer: noise predicted from the degraded image and the noisy sample (paper).

    ``dft(y, x_t, t)``: y and x_t (B, 3, H, W) in [-1, 1] units, sides multiples of 8, t (B,) time indices -> the noise
    (B, 3, H, W). The output convolution corrects ``x_t``, which is nearly the noise itself at large t.
    """

    multiple = 8

    def __init__(self, config: DFTConfig | None = None):
        super().__init__()
        c = self.config = config or DFTConfig()
        C = [c.dim * 2**level for level in range(4)]
        self.embed = nn.Conv2d(6, C[0], 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(self._level(C[i], i) for i in range(3))
        self.down = nn.ModuleList(Downsample(C[i]) for i in range(3))
        self.latent = self._level(C[3], 3)
        self.up = nn.ModuleList(Upsample(C[i + 1]) for i in range(3))
        # level 1 keeps both halves of its concatenation; the others reduce it
        self.reduce = nn.ModuleList([nn.Identity(), *(PointwiseConv(2 * C[i], C[i]) for i in (1, 2))])
        self.decoder = nn.ModuleList(self._level(2 * C[0] if i == 0 else C[i], i) for i in range(3))
        self.output = nn.Conv2d(2 * C[0], 3, 3, padding=1, bias=False)

    def _level(self, channels: int, level: int) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(DiffusionTransformerBlock(channels, c.heads[level], c) for _ in range(c.blocks[level]))

    def forward(self, y: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        H, W = x_t.shape[-2:]
        if H % self.multiple or W % self.multiple:
            raise ValueError(f"x_t: H and W must be multiples of {self.multiple}, got {H}x{W}; use images.apply_padded")
        both = torch.cat([y, x_t], dim=1).contiguous(memory_format=torch.channels_last)
        x, skips = self.embed(both), []  # (B, C, H, W)
        for blocks, down in zip(self.encoder, self.down, strict=True):
            x = self._run(blocks, x, t)
            skips.append(x)
            x = down(x)  # twice the channels, half the sides
        x = self._run(self.latent, x, t)  # (B, 8C, H/8, W/8)
        for level in (2, 1, 0):
            x = torch.cat([self.up[level](x), skips[level]], dim=1)
            x = self._run(self.decoder[level], self.reduce[level](x), t)
        return self.output(x) + x_t

    @staticmethod
    def _run(blocks: nn.ModuleList, x: Tensor, t: Tensor) -> Tensor:
        T = time_embedding(t, x.shape[1]).to(x.dtype)
        for block in blocks:
            x = block(x, T)
        return x
