"""C2F-DFT: Learning A Coarse-to-Fine Diffusion Transformer for Image Restoration (arXiv 2308.08730; CVIU 2024).

The network, the diffusion transformer DFT, in the paper's order: the time embedding without parameters, diffusion
self-attention (DFSA), the diffusion feed-forward network (DFN), the block of both (DFTB), and the 4-level U-shaped
transformer that predicts the noise. Attention runs over channels, not over pixels: its cost is linear in the image.

Notation: B batch, C channels of a level, t the time index (0 to T - 1), ``T`` the embedding added to features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("with_bias", "bias_free")
ATTENTION_SCALES = ("multiply", "divide")
TIME_IN = ("both", "attention", "feed_forward", "none")
NORM_EPS = 1e-5


@dataclass(frozen=True)
class DFTConfig:
    """Size and variants of a `DFT`; the defaults are the published network.

    Attributes:
        dim: channels C of the finest level; the levels have C, 2C, 4C and 8C.
        blocks, heads: transformer blocks and attention heads of the four levels.
        ffn_factor: hidden channels of the feed-forward network, relative to its input.
        norm: layer normalisation ``with_bias`` (deraining, deblurring) or ``bias_free`` (denoising).
        attention_scale: the learned temperature of a head ``multiply``s the similarities (released code) or
            ``divide``s them (paper's formula); the same functions, other parameters.
        time_in: where the time embedding is added: to ``both`` halves of a block (paper), only to its ``attention`` or
            ``feed_forward`` half, or to ``none`` (ablations with the same parameters).
    """

    dim: int = 48
    blocks: tuple[int, ...] = (4, 6, 6, 8)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    ffn_factor: float = 4.0
    norm: str = "with_bias"
    attention_scale: str = "multiply"
    time_in: str = "both"

    def __post_init__(self):
        choices = {"norm": NORMS, "attention_scale": ATTENTION_SCALES, "time_in": TIME_IN}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("blocks", "heads"):
            if len(getattr(self, name)) != 4 or min(getattr(self, name)) < 1:
                raise ValueError(f"{name}: expected four numbers of at least 1, one a level, got {getattr(self, name)}")
        if self.dim < 2 or any(self.dim * 2**i % h for i, h in enumerate(self.heads)):
            raise ValueError(f"dim, heads: every level's channels must be a multiple of its heads, got {self.dim} and "
                             f"{self.heads}")  # fmt: skip
        if self.dim % 2 or not self.ffn_factor > 0:
            raise ValueError(f"dim must be even and ffn_factor positive, got {self.dim} and {self.ffn_factor}")


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
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)  # (B, 1, H, W) each
        scale = self.weight[:, None, None]
        if self.bias is None:
            return x * (variance + NORM_EPS).rsqrt() * scale
        return (x - mean) * (variance + NORM_EPS).rsqrt() * scale + self.bias[:, None, None]


class DiffusionSelfAttention(nn.Module):
    """DFSA: attention between channels, a C/h x C/h matrix per head (paper; temperature: released code).

    ``(B, C, H, W) -> same``. Queries and keys are normalised along the pixels, so similarities are cosines, times the
    temperature of the head. The depth-wise convolution is the block's only mixing of neighbouring pixels.
    """

    def __init__(self, channels: int, heads: int, scale: str):
        super().__init__()
        self.heads, self.divide = heads, scale == "divide"
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The attention matrices (B, heads, C/heads, C/heads), rows summing to 1, and the values they weigh."""
        B, C, H, W = x.shape
        qkv = self.depthwise(self.qkv(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.unbind(1)  # (B, heads, C/heads, HW) each
        similarity = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scaled = similarity / self.temperature if self.divide else similarity * self.temperature
        return scaled.softmax(dim=-1), v

    def forward(self, x: Tensor) -> Tensor:
        weights, v = self.attention(x)
        return self.project((weights @ v).reshape(x.shape))


class DiffusionFeedForward(nn.Module):
    """DFN: two pointwise convolutions around a GELU, (B, C, H, W) -> same (paper, without a gate)."""

    def __init__(self, channels: int, factor: float):
        super().__init__()
        hidden = int(channels * factor)
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.gelu(self.expand(x)))


class DiffusionTransformerBlock(nn.Module):
    """DFTB: ``x + DFSA(LN(x) + T)``, then ``x + DFN(LN(x) + T)`` (paper).

    x (B, C, H, W), T from `time_embedding` (B, C, 1, 1) -> (B, C, H, W).
    """

    def __init__(self, channels: int, heads: int, config: DFTConfig):
        super().__init__()
        self.time_in_attention = config.time_in in ("both", "attention")
        self.time_in_feed_forward = config.time_in in ("both", "feed_forward")
        self.norm1 = ChannelNorm(channels, config.norm)
        self.attention = DiffusionSelfAttention(channels, heads, config.attention_scale)
        self.norm2 = ChannelNorm(channels, config.norm)
        self.feed_forward = DiffusionFeedForward(channels, config.ffn_factor)

    def forward(self, x: Tensor, T: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x) + T if self.time_in_attention else self.norm1(x))
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
        self.reduce = nn.ModuleList([nn.Identity(), *(nn.Conv2d(2 * C[i], C[i], 1, bias=False) for i in (1, 2))])
        self.decoder = nn.ModuleList(self._level(2 * C[0] if i == 0 else C[i], i) for i in range(3))
        self.output = nn.Conv2d(2 * C[0], 3, 3, padding=1, bias=False)

    def _level(self, channels: int, level: int) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(DiffusionTransformerBlock(channels, c.heads[level], c) for _ in range(c.blocks[level]))

    def forward(self, y: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        H, W = x_t.shape[-2:]
        if H % self.multiple or W % self.multiple:
            raise ValueError(f"x_t: H and W must be multiples of {self.multiple}, got {H}x{W}; use images.apply_padded")
        x, skips = self.embed(torch.cat([y, x_t], dim=1)), []  # (B, C, H, W)
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


# ---------------------------------------------------------------- released weights

# prefix of a released name -> ours; levels are numbered from 1 there and from 0 here
RELEASED_STAGES = {
    "patch_embed.proj.": "embed.",
    "latent.": "latent.",
    "output.": "output.",
    **{f"encoder_level{i + 1}.": f"encoder.{i}." for i in range(3)},
    **{f"decoder_level{i + 1}.": f"decoder.{i}." for i in range(3)},
    **{f"down{i + 1}_{i + 2}.body.0.": f"down.{i}.conv." for i in range(3)},
    **{f"up{i + 2}_{i + 1}.body.0.": f"up.{i}.conv." for i in range(3)},
    **{f"reduce_chan_level{i + 1}.": f"reduce.{i}." for i in (1, 2)},
}
RELEASED_LAYERS = {
    "norm1.body.": "norm1.",
    "norm2.body.": "norm2.",
    "attn.temperature": "attention.temperature",
    "attn.qkv.": "attention.qkv.",
    "attn.qkv_dwconv.": "attention.depthwise.",
    "attn.project_out.": "attention.project.",
    "ffn.project_in.": "feed_forward.expand.",
    "ffn.project_out.": "feed_forward.project.",
}


def from_released_name(name: str) -> str:
    """Our name of a parameter of the released network, or of one of its blocks alone.

    Raises:
        ValueError: there is no such parameter in the released network.
    """
    stage = next((key for key in RELEASED_STAGES if name.startswith(key)), "")
    rest = name.removeprefix(stage)
    number, _, inner = rest.partition(".") if rest[:1].isdigit() else ("", "", rest)
    layer = next((key for key in RELEASED_LAYERS if inner.startswith(key)), None)
    if layer is None and (not stage or number):
        raise ValueError(f"name: {name!r} is no parameter of the released network")
    ours = inner if layer is None else RELEASED_LAYERS[layer] + inner.removeprefix(layer)
    return RELEASED_STAGES.get(stage, "") + (f"{number}." if number else "") + ours


def load_official(path: str | Path, config: DFTConfig | None = None) -> DFT:
    """The network with the weights of a released checkpoint (``.pth``), in evaluation mode.

    The averaged weights (``params_ema``), which the released code evaluates, are taken; else ``params``, else the file
    as a plain state dictionary.

    Args:
        path: a file written by ``torch.save``; only tensors are read from it.
        config: the network's size; by default the published one, without biases where the file has none.

    Raises:
        FileNotFoundError: no such file. ValueError: names or shapes do not fit.
    """
    from minirestore import checkpoints

    if not Path(path).is_file():
        raise FileNotFoundError(f"path: {path} not found; download the released checkpoint first")
    content = torch.load(path, map_location="cpu", weights_only=True)
    released: Mapping[str, Tensor] = content.get("params_ema") or content.get("params") or content
    weights = {from_released_name(name.removeprefix("module.")): value.float() for name, value in released.items()}
    if config is None:
        config = DFTConfig(norm="with_bias" if any(name.endswith("norm1.bias") for name in weights) else "bias_free")
    network = DFT(config)
    checkpoints.fill(network, weights, path)
    return network
