"""Section 3.2, the restoration module: a modified SwinIR that removes degradation and invents nothing.

A pixel-unshuffle moves the picture to a smaller map with more channels, where residual groups of Swin layers work; the
way back is by nearest-neighbour enlarging and convolutions. The mean squared error makes its results smooth: what is
gone stays gone (claim diffbir.A7), and is for the second stage to paint.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import images
from minirestore.windows import WindowAttention

MEAN = (0.4488, 0.4371, 0.4040)  # of the three colours, as in the released code


@dataclass(frozen=True)
class RestorationConfig:
    """Size of a `RestorationModule`; the defaults are the published network.

    Attributes:
        unshuffle: factor of the pixel-unshuffle, a power of 2.
        width: channels of the Swin layers.
        depths: Swin layers of each residual group; every second one is shifted.
        heads: of the attention.
        window: side of the windows, on the unshuffled map.
        mlp_ratio: hidden over outer channels of the two-layer networks.
        features: channels of the way back to full size.
        drop_path: largest share of training examples whose residual branch is left out, in the last layer; it rises
            linearly from 0 in the first (stochastic depth; released code, not in the paper).
        residual: the network returns what to add to its input. The published one returns the image itself.
    """

    unshuffle: int = 8
    width: int = 180
    depths: tuple[int, ...] = (6,) * 8
    heads: int = 6
    window: int = 8
    mlp_ratio: float = 2.0
    features: int = 64
    drop_path: float = 0.1
    residual: bool = False

    def __post_init__(self):
        if self.unshuffle < 2 or self.unshuffle & (self.unshuffle - 1):
            raise ValueError(f"unshuffle: expected a power of 2, at least 2, got {self.unshuffle}")
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ValueError(f"width: expected a multiple of {self.heads} heads, got {self.width}")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths: expected one or more groups of at least one layer, got {self.depths}")
        if self.window < 2 or self.features < 1 or not self.mlp_ratio > 0:
            got = f"{self.window}, {self.features}, {self.mlp_ratio}"
            raise ValueError(f"window >= 2, features >= 1, mlp_ratio > 0: got {got}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path: a share must lie in [0, 1), got {self.drop_path}")


class SwinTransformerLayer(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, (B, H, W, C) -> same (STL in SwinIR)."""

    def __init__(self, config: RestorationConfig, shift: int, drop_path: float):
        super().__init__()
        c, hidden = config, int(config.width * config.mlp_ratio)
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(c.width)
        self.attention = WindowAttention(c.width, c.heads, c.window, shift, legacy_mask=False)
        self.norm2 = nn.LayerNorm(c.width)
        self.mlp = nn.Sequential(nn.Linear(c.width, hidden), nn.GELU(), nn.Linear(hidden, c.width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attention(self.norm1(x).movedim(-1, 1)).movedim(1, -1))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        """Stochastic depth: in training, zero for a share of the examples, enlarged for the others."""
        if not (self.training and self.drop_path):
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
        return x * kept / (1 - self.drop_path)


class ResidualGroup(nn.Module):
    """Swin layers and a convolution, added to their input, (B, H, W, C) -> same (RSTB in SwinIR)."""

    def __init__(self, config: RestorationConfig, depth: int, drop_paths: list[float]):
        super().__init__()
        shifts = [config.window // 2 * (i % 2) for i in range(depth)]
        self.layers = nn.Sequential(
            *(SwinTransformerLayer(config, shift, drop) for shift, drop in zip(shifts, drop_paths, strict=True))
        )
        self.conv = nn.Conv2d(config.width, config.width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.layers(x).movedim(-1, 1)).movedim(1, -1)


class SwinIR(nn.Module):
    """The modified SwinIR, (B, 3, H, W) in [0, 1] -> same, not clamped; H and W are multiples of ``multiple``.

    Unlike in the released code windows are shifted whatever the size of the picture in training, and every picture of a
    right size is accepted. There, a network that was built for maps no larger than a window never shifts, and padding
    is left to the caller.
    """

    def __init__(self, config: RestorationConfig | None = None):
        super().__init__()
        c = self.config = config or RestorationConfig()
        self.multiple = c.unshuffle * c.window
        drop_paths = torch.linspace(0, c.drop_path, sum(c.depths), device="cpu").split(list(c.depths))
        self.stem = nn.Conv2d(3 * c.unshuffle**2, c.width, 3, padding=1)
        self.embed_norm = nn.LayerNorm(c.width)
        self.groups = nn.Sequential(
            *(ResidualGroup(c, depth, drops.tolist()) for depth, drops in zip(c.depths, drop_paths, strict=True))
        )
        self.norm = nn.LayerNorm(c.width)
        self.body = nn.Conv2d(c.width, c.width, 3, padding=1)
        self.before_up = nn.Conv2d(c.width, c.features, 3, padding=1)
        times = c.unshuffle.bit_length() - 1
        self.up = nn.ModuleList(nn.Conv2d(c.features, c.features, 3, padding=1) for _ in range(times))
        self.full_size = nn.Conv2d(c.features, c.features, 3, padding=1)
        self.output = nn.Conv2d(c.features, 3, 3, padding=1)
        for module in self.groups.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if c.residual:  # begins as the identity
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)

    def deep_features(self, shallow: Tensor) -> Tensor:
        """What the Swin layers make of the stem's output (B, width, H / unshuffle, W / unshuffle), same shape."""
        return self.norm(self.groups(self.embed_norm(shallow.movedim(1, -1)))).movedim(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        if H % self.multiple or W % self.multiple:
            raise ValueError(f"x: H and W must be multiples of {self.multiple}, got {H}x{W}; use images.apply_padded")
        shallow = self.stem(F.pixel_unshuffle(x - self.mean, self.config.unshuffle))
        h = shallow + self.body(self.deep_features(shallow))
        h = F.leaky_relu(self.before_up(h), 0.01)
        for conv in self.up:
            h = F.leaky_relu(conv(F.interpolate(h, scale_factor=2, mode="nearest")), 0.2)
        h = self.output(F.leaky_relu(self.full_size(h), 0.2))
        return x + h if self.config.residual else h + self.mean


class RestorationModule(nn.Module):
    """Stage 1 as a method: degraded images (B, 3, H, W) in [0, 1] to I_reg, same size."""

    scale = 1

    def __init__(self, config: RestorationConfig | None = None):
        super().__init__()
        self.config = config or RestorationConfig()
        self.network = SwinIR(self.config)

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Mean squared error; ``batch`` holds ``clean`` and ``degraded``.

        The paper and the released code sum it. Adam divides by the size of the gradient, so that the mean trains alike.
        """
        return {"loss": F.mse_loss(self.network(batch["degraded"]).float(), batch["clean"].float())}

    @torch.no_grad()
    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """I_reg of photographs (B, 3, H, W) in [0, 1], any size; deterministic, ``generator`` is not used.

        Raises:
            ValueError: not such images.
        """
        images.check_images(degraded, "degraded", channels=(3,))
        x = degraded.to(next(self.parameters()).dtype)
        return images.apply_padded(self.network, x, self.network.multiple).clamp(0, 1).to(degraded.dtype)
