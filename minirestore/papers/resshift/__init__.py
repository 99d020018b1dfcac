"""ResShift and SinSR: diffusion that starts from the low-quality image, in 15 steps and in one.

ResShift: "Efficient Diffusion Model for Image Super-resolution by Residual Shifting" (Yue et al., NeurIPS 2023, arXiv
2307.12348; journal version arXiv 2403.07319). SinSR: "Diffusion-Based Image Super-Resolution in a Single Step" (Wang et
al., CVPR 2024, arXiv 2311.14760), which distils ResShift's sampler into one call. Both work on the latents of a
vector-quantised autoencoder.

In the papers' order: `ShiftSchedule` with `stochastic_chain` (ResShift) and `deterministic_chain` (SinSR) in
`schedule`; the network `SwinUNet` in `network`; training and restoring, `ResShift`, in `method`; the released weights
in `released`. Where the released codes disagree with the papers or with each other, both readings are options of
`ShiftConfig` and `SwinUNetConfig`; `OFFICIAL` collects the released ones.

Written from the papers and from measurements of the released networks: their licences (S-Lab 1.0, non-commercial; CC
BY-NC-SA 4.0) allow no copy of code into this package. They also bind whoever downloads the released weights.
"""

from minirestore.papers.resshift.config import OFFICIAL, ShiftConfig, SwinUNetConfig
from minirestore.papers.resshift.method import ResShift, ResShiftConfig, load_teacher
from minirestore.papers.resshift.network import (
    SwinBlock,
    SwinLayer,
    SwinUNet,
    TimeResBlock,
    time_embedding,
)
from minirestore.papers.resshift.released import (
    autoencoder_from_released_name,
    from_released_name,
    load_official,
    load_official_autoencoder,
    load_official_unet,
)
from minirestore.papers.resshift.schedule import (
    ShiftSchedule,
    deterministic_chain,
    make_schedule,
    sampling_schedule,
    stochastic_chain,
    visited_steps,
)

__all__ = [
    "OFFICIAL",
    "ResShift",
    "ResShiftConfig",
    "ShiftConfig",
    "ShiftSchedule",
    "SwinBlock",
    "SwinLayer",
    "SwinUNet",
    "SwinUNetConfig",
    "TimeResBlock",
    "autoencoder_from_released_name",
    "deterministic_chain",
    "from_released_name",
    "load_official",
    "load_official_autoencoder",
    "load_official_unet",
    "load_teacher",
    "make_schedule",
    "sampling_schedule",
    "stochastic_chain",
    "time_embedding",
    "visited_steps",
]
