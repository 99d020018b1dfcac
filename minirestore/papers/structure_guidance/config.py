"""Every choice of the structure-guided icDPM, stated in the paper or not."""

import math
from dataclasses import dataclass

from minirestore import images

LUMA = {"bt601": images.LUMA_BT601, "bt709": (0.2126, 0.7152, 0.0722), "mean": (1 / 3, 1 / 3, 1 / 3)}
CHOICES = {
    "objective": ("diffusion", "regression"),
    "stem_kernel": (1, 3),
    "resample": ("residual", "plain"),
    "noise_level": ("log_snr", "sqrt_alpha_bar", "alpha_bar"),
    "target": ("image", "residual", "refine"),
    "prediction": ("eps", "x0", "v"),
    "loss": ("l1", "l2"),
    "level_interpolation": ("sqrt_alpha_bar", "alpha_bar"),
    "guidance_input": ("luma", "rgb"),
    "luma_weights": tuple(LUMA),
    "downsample": ("bicubic", "bilinear", "area"),
    "head": ("direct", "residual"),
    "guidance_loss": ("mse", "norm"),
    "inject": ("all", "first"),
    "inject_at": ("inside", "input"),
    "ramp_shape": ("linear", "cosine"),
}


@dataclass(frozen=True)
class StructureGuidanceConfig:
    """Every choice of the method; the defaults are icDPM-S with guidance, as published where the paper says so.

    Attributes:
        objective: ``diffusion``, or ``regression``: a U-Net without noise level that maps y to x (the plain
            regressor; with the default size, DvSR's initial predictor).
        guided: use guidance; False is the icDPM baseline.
        widths, blocks, mid_blocks: channels per level, finest first; residual blocks per level (one more on the way
            up) and in the middle. DvSR: (b, 2b, 3b, 4b), 3 and 2.
        unshuffle: pixel-unshuffle factor before the U-Net; 1 is the paper's, 2 makes small models affordable.
        stem_kernel, resample: kernel of the first convolution, and ``residual`` or ``plain`` (one convolution)
            down- and upsampling; the drawing in DvSR's supplement has the residual one.
        dropout: inside residual blocks, before the second convolution. Every process and accumulation step draws the
            same mask, so that with dropout a split batch does not give the losses of a whole one.
        noise_level: what tells the network the level: sinusoids of log-SNR, or the plain number sqrt(alpha_bar) (SR3
            lineage) or alpha_bar (DvSR's equation). embedding_width: of the embedding; 0 takes ``widths[0]``.
        target: what is diffused: the ``image`` x (paper), the ``residual`` x - y, or ``refine``: x - g(y) with a
            predictor g trained along, without a loss of its own (DvSR).
        residual_scale: factor on the diffused difference; 1 / its RMS gives it unit size.
        predictor_widths: channels of g; empty takes twice ``widths`` (DvSR).
        prediction, loss: the network predicts ``eps`` (paper), ``x0`` or ``v``; ``l1`` (paper) or ``l2``.
        train_levels, beta_start, beta_end: linear schedule of the training levels (SR3 lineage).
        level_interpolation: the quantity drawn uniformly between two neighbours of that schedule.
        scales: the k of the guidance, 1/2^k of the image size. Paper: 1, 2, 3.
        guidance_input: ``luma`` (phi_k), or ``rgb``: all colours and details of y, rearranged to the same size; the
            control that removes nothing.
        luma_weights, downsample, guidance_noise: of phi_k; the noise's standard deviation is in [-1, 1] units.
        noisy_target: regress to noisy structure instead of the noise-free one.
        guidance_widths, guidance_blocks: channels g_k of H per scale (empty: as the U-Net's level) and blocks.
        share_branches: one branch for all scales instead of one each (needs equal widths).
        head: R gives the sharp structure itself (``direct``), or what to add to its noisy input (``residual``).
        guidance_loss: ``mse``, or ``norm``: the un-squared L2 norm as written in the paper.
        regression_weight: factor on the guidance loss; 0 is the ablation without it.
        inject, inject_at: add to ``all`` encoder blocks of a level or the ``first``; ``inside`` the block, after its
            first convolution, or to its ``input``.
        zero_projection: start the 1 x 1 projections P_k at zero, so that guided equals unguided at first (ours).
        warm_start, ramp, ramp_shape: steps of guidance loss alone, then steps in which the diffusion loss grows from 0
            to 1. The paper says 60k, "then gradually".
        guidance_dropout: chance per image that training sees no guidance (0 in the paper).
        clip: clip every predicted x to [-1, 1] when sampling.
        sampling_steps, sampling_beta_end: the default (T, beta_T) of `StructureGuidance.restore`.
    """

    objective: str = "diffusion"
    guided: bool = True
    widths: tuple[int, ...] = (32, 64, 96, 128)
    blocks: int = 3
    mid_blocks: int = 2
    unshuffle: int = 1
    stem_kernel: int = 1
    resample: str = "residual"
    dropout: float = 0.0
    noise_level: str = "log_snr"
    embedding_width: int = 0
    target: str = "image"
    residual_scale: float = 1.0
    predictor_widths: tuple[int, ...] = ()
    prediction: str = "eps"
    loss: str = "l1"
    train_levels: int = 2000
    beta_start: float = 1e-6
    beta_end: float = 1e-2
    level_interpolation: str = "sqrt_alpha_bar"
    scales: tuple[int, ...] = (1, 2, 3)
    guidance_input: str = "luma"
    luma_weights: str = "bt601"
    downsample: str = "bicubic"
    guidance_noise: float = 0.05
    noisy_target: bool = False
    guidance_widths: tuple[int, ...] = ()
    guidance_blocks: int = 4
    share_branches: bool = False
    head: str = "direct"
    guidance_loss: str = "mse"
    regression_weight: float = 1.0
    inject: str = "all"
    inject_at: str = "inside"
    zero_projection: bool = True
    warm_start: int = 60_000
    ramp: int = 60_000
    ramp_shape: str = "linear"
    guidance_dropout: float = 0.0
    clip: bool = True
    sampling_steps: int = 500
    sampling_beta_end: float = 0.02

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {getattr(self, name)!r}")
        for name in ("blocks", "mid_blocks", "unshuffle", "train_levels", "guidance_blocks", "sampling_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("widths", "predictor_widths", "guidance_widths"):
            if any(width < 1 for width in getattr(self, name)):
                raise ValueError(f"{name}: expected 1 channel or more per level, got {getattr(self, name)}")
        for name in ("warm_start", "ramp", "guidance_noise", "regression_weight", "embedding_width"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")
        for name in ("dropout", "guidance_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must lie in [0, 1), got {getattr(self, name)}")
        if not 0 < self.residual_scale < math.inf:
            raise ValueError(f"residual_scale: must be positive and finite, got {self.residual_scale}")
        if not self.widths:
            raise ValueError(f"widths: expected at least one level, got {self.widths}")
        if self.predictor_widths and len(self.predictor_widths) != len(self.widths):
            wanted = f"as many as widths ({len(self.widths)}), or none"
            raise ValueError(f"predictor_widths: expected {wanted}, got {self.predictor_widths}")
        if self.uses_guidance:
            self._check_guidance()

    def _check_guidance(self) -> None:
        reachable = [k for k in range(1, 12) if 2**k in self.level_factors]
        if not self.scales or any(k not in reachable for k in self.scales) or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales: expected distinct k among {reachable}, the U-Net's levels, got {self.scales}")
        if self.guidance_widths and len(self.guidance_widths) != len(self.scales):
            raise ValueError(f"guidance_widths: expected one per scale {self.scales}, got {self.guidance_widths}")
        if self.share_branches and (len(set(self.branch_widths)) > 1 or self.guidance_input == "rgb"):
            raise ValueError("share_branches: needs equal guidance_widths and guidance_input='luma'")

    @property
    def uses_guidance(self) -> bool:
        """Guidance exists only in the diffusion model."""
        return self.guided and self.objective == "diffusion"

    @property
    def level_factors(self) -> tuple[int, ...]:
        """By how much each level of the U-Net is smaller than the image."""
        return tuple(self.unshuffle * 2**level for level in range(len(self.widths)))

    @property
    def branch_widths(self) -> tuple[int, ...]:
        """Channels g_k of H for every k of ``scales``."""
        at_level = dict(zip(self.level_factors, self.widths, strict=True))
        return self.guidance_widths or tuple(at_level[2**k] for k in self.scales)
