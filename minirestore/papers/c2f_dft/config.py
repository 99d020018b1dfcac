"""Sizes and choices of the network (`DFTConfig`) and of the whole method (`C2FDFTConfig`)."""

import math
from dataclasses import dataclass

NORMS = ("with_bias", "bias_free")
ATTENTION_SCALES = ("multiply", "divide")
TIME_IN = ("both", "attention", "feed_forward", "none")
TIME_POSITIONS = ("before", "after")
TASKS = ("derain", "deblur", "denoise")
STAGES = ("coarse", "fine", "regression")
STEP_RULES = ("endpoints", "released", "paper")
SSIM_KINDS = ("ssim", "ms_ssim", "none")


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
        time_position: in attention, T is added ``before`` the projections to queries, keys and values (the paper's
            figure, released code) or ``after`` them, to each of the three (one reading of the paper's formula).
    """

    dim: int = 48
    blocks: tuple[int, ...] = (4, 6, 6, 8)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    ffn_factor: float = 4.0
    norm: str = "with_bias"
    attention_scale: str = "multiply"
    time_in: str = "both"
    time_position: str = "before"

    def __post_init__(self):
        choices = {"norm": NORMS, "attention_scale": ATTENTION_SCALES, "time_in": TIME_IN,
                   "time_position": TIME_POSITIONS}  # fmt: skip
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


@dataclass(frozen=True)
class C2FDFTConfig(DFTConfig):
    """The method: which stage is trained, on which schedule, with which loss; the defaults are our readings.

    Attributes:
        task: what it is trained for, ``derain``, ``deblur`` or ``denoise``; recipes choose data and norm by it.
        stage: ``coarse`` (noise prediction), ``fine`` (the sampler unrolled; from a coarse network or from scratch), or
            ``regression``: the same network asked once, as y + DFT(y, 0, 0), the control that the paper lacks.
        T, beta_start, beta_end: the linear schedule.
        sampling_steps, step_rule: what `sampler.visited_times` makes the times of the network calls from, in the fine
            stage and by default in `restore`; with rule ``released`` the steps are not the number of calls.
        ssim: similarity in the fine loss: ``ssim`` (paper), ``ms_ssim`` of five scales (released code), or ``none``.
        ssim_range: length of the value range that its constants assume. Images here span [-1, 1], hence 2; the
            released code says 255, which makes the term, and its gradient, all but vanish.
        ssim_weight: lambda in lambda * (1 - SSIM) + (1 - lambda) * L1 (paper: .84).
        checkpointing: the fine stage keeps only the samples between network calls and computes the rest again in the
            backward pass: a third more time, about the memory of one call.
        output_scale: factor on the first weights of the output convolution. 1 is PyTorch's initialisation (released
            code); a small one keeps the first samples of an unrolled network that starts from scratch near its x_T.
    """

    task: str = "derain"
    stage: str = "coarse"
    T: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    sampling_steps: int = 4
    step_rule: str = "endpoints"
    ssim: str = "ssim"
    ssim_range: float = 2.0
    ssim_weight: float = 0.84
    checkpointing: bool = True
    output_scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        choices = {"task": TASKS, "stage": STAGES, "step_rule": STEP_RULES, "ssim": SSIM_KINDS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(f"beta_start, beta_end: expected 0 < start <= end < 1, got {self.beta_start} and "
                             f"{self.beta_end}")  # fmt: skip
        if not 1 <= self.sampling_steps <= self.T:
            raise ValueError(f"sampling_steps: must lie in 1..T = {self.T}, got {self.sampling_steps}")
        if not 0 <= self.ssim_weight <= 1:
            raise ValueError(f"ssim_weight: must lie in [0, 1], got {self.ssim_weight}")
        for name in ("ssim_range", "output_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be positive and finite, got {getattr(self, name)}")


# the released code's side of every disagreement with the paper; the defaults above differ from it
OFFICIAL = {"step_rule": "released", "sampling_steps": 3, "ssim": "ms_ssim", "ssim_range": 255.0}
