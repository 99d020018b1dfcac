"""Choices of the residual-shifting schedule (`ShiftConfig`) and sizes of the network (`SwinUNetConfig`)."""

from dataclasses import dataclass

CLAMPS = ("journal", "v2")
INPUT_SCALES = ("latent", "pixel")
SPACINGS = ("trailing", "linspace", "released")


@dataclass(frozen=True)
class ShiftConfig:
    """The schedule of residual shifting; the defaults are the 15 published steps.

    Attributes:
        T: number of steps the network is trained on.
        kappa: how much noise comes with the shift: a whole shift has standard deviation kappa.
        p: the shift is fast early (p < 1), geometric in t (p = 1) or late (p > 1).
        min_noise_level: m, the standard deviation of the noise after the first step, as long as kappa is at least 1;
            sqrt(eta_1) is m / kappa, and at most m. The published schedule of 4 steps has .2 instead of .04.
        sqrt_eta_end: sqrt(eta_T), how much of the residual the last step has shifted (released code: .99, so that
            eta_T is .9801; the paper says eta_T = .999).
        clamp: sqrt(eta_1) as above (``journal``: the present ResShift), or also at most sqrt(.001) (``v2``: ResShift
            v2.0 and SinSR). They differ where m / kappa > .0316, as with 4 steps; a network serves only its own.
        input_scale: what brings x_t to the same size at every step before the network sees it: ``latent`` assumes x_0
            of unit variance, ``pixel`` one in [-1, 1] and noise of up to three standard deviations.
        sampling_steps: network calls of the sampler; 0 is T.
        spacing: which steps fewer calls visit, see `schedule.visited_steps`. ``released`` never starts
            at the last one.
    """

    T: int = 15
    kappa: float = 2.0
    p: float = 0.3
    min_noise_level: float = 0.04
    sqrt_eta_end: float = 0.99
    clamp: str = "journal"
    input_scale: str = "latent"
    sampling_steps: int = 0
    spacing: str = "trailing"

    def __post_init__(self):
        choices = {"clamp": CLAMPS, "input_scale": INPUT_SCALES, "spacing": SPACINGS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.T < 2:
            raise ValueError(f"T: must be at least 2, got {self.T}")
        for name in ("kappa", "p", "min_noise_level"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: must be positive and finite, got {getattr(self, name)}")
        if not self.sqrt_eta_start < self.sqrt_eta_end < 1:
            raise ValueError(
                f"sqrt_eta_end: expected min(m / kappa, m) = {self.sqrt_eta_start:.4g} < sqrt_eta_end < 1, got "
                f"{self.sqrt_eta_end}; lower min_noise_level (m) or raise sqrt_eta_end"
            )
        if not 0 <= self.sampling_steps <= self.T:
            raise ValueError(f"sampling_steps: must lie in 0..T = {self.T} (0 is T), got {self.sampling_steps}")

    @property
    def sqrt_eta_start(self) -> float:
        """sqrt(eta_1), the first step's shift."""
        start = min(self.min_noise_level / self.kappa, self.min_noise_level)
        return min(start, 0.001**0.5) if self.clamp == "v2" else start


@dataclass(frozen=True)
class SwinUNetConfig:
    """Size and variants of a `SwinUNet`; the defaults are the published network, for latents of 64 x 64.

    Attributes:
        channels: channels of x_t and of the output.
        lq_channels: channels of the low-quality image beside x_t; 0 for a network without one.
        width: channels of the finest level, a multiple of 32 (the groups of GroupNorm).
        multipliers, blocks: channels of the levels relative to ``width``, and residual blocks of each.
        latent_size: side of the latents in training. It decides what a level's Swin layer looks like: where the feature
            map is no larger than a window, one window covers it and nothing is shifted. Other sizes run as well.
        attention_sizes: the levels that have Swin layers, by the side of their feature map in training (not by the
            factor of their reduction). The middle always has one.
        swin_width, swin_depth: channels and blocks inside a Swin layer; every second block has shifted windows.
        head_channels: channels of an attention head.
        window: side of a window.
        mlp_ratio: hidden channels of a Swin block, relative to ``swin_width``.
        legacy_mask: the released code's mask of shifted windows. A shift wraps the feature map around; the mask must
            keep pixels apart that only the wrapping made neighbours. False does so for both seams (Swin's paper). True
            does so for neither: see `windows.window_mask`. Released weights were trained with True.
    """

    channels: int = 3
    lq_channels: int = 3
    width: int = 160
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    latent_size: int = 64
    attention_sizes: tuple[int, ...] = (64, 32, 16, 8)
    swin_width: int = 192
    swin_depth: int = 2
    head_channels: int = 32
    window: int = 8
    mlp_ratio: float = 4.0
    legacy_mask: bool = False

    def __post_init__(self):
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers: expected a number of at least 1 for each level, got {self.multipliers}")
        if len(self.blocks) != len(self.multipliers) or min(self.blocks) < 1:
            raise ValueError(f"blocks: expected {len(self.multipliers)} numbers of at least 1, one for each of the "
                             f"multipliers, got {self.blocks}")  # fmt: skip
        for name in ("width", "swin_width"):
            if getattr(self, name) < 32 or getattr(self, name) % 32:
                raise ValueError(f"{name}: must be a multiple of 32, got {getattr(self, name)}")
        for name, lowest in (("channels", 1), ("lq_channels", 0), ("swin_depth", 1), ("head_channels", 1),
                             ("window", 1)):  # fmt: skip
            if getattr(self, name) < lowest:
                raise ValueError(f"{name}: must be at least {lowest}, got {getattr(self, name)}")
        if self.swin_width % self.head_channels:
            raise ValueError(f"head_channels: must divide swin_width = {self.swin_width}, got {self.head_channels}")
        if not self.mlp_ratio > 0:
            raise ValueError(f"mlp_ratio: must be positive, got {self.mlp_ratio}")
        coarsest = 2 ** (len(self.multipliers) - 1)
        if self.latent_size < 1 or self.latent_size % coarsest:
            raise ValueError(f"latent_size: must be a multiple of {coarsest}, got {self.latent_size}")
        if unknown := sorted(set(self.attention_sizes) - set(self.level_sizes)):
            raise ValueError(f"attention_sizes: levels have sides {self.level_sizes}, got {unknown}")
        for size in (*self.attention_sizes, self.level_sizes[-1]):
            if size > self.window and size % self.window:
                raise ValueError(f"window: must divide the side {size} of every level with Swin layers that is larger, "
                                 f"got {self.window}")  # fmt: skip

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Side of each level's feature map in training, finest first."""
        return tuple(self.latent_size // 2**level for level in range(len(self.multipliers)))


# the released code's side of every disagreement; the defaults above differ from it
OFFICIAL = {"spacing": "released", "legacy_mask": True}
