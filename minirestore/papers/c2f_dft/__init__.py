"""C2F-DFT: Learning A Coarse-to-Fine Diffusion Transformer for Image Restoration (arXiv 2308.08730; CVIU 2024).

A diffusion transformer restores an image in four network calls. It is trained in two stages: coarse, on the noise of
single steps like any diffusion model; then fine, through its own four-step sampler, on the restored image itself.
Attention runs over channels, not over pixels: its cost is linear in the image, so that photographs are restored whole.

In the paper's order: `DFT`, the network (`transformer`); `C2FDFT`, its stages (`stages`), on the sampler of `sampler`
and the losses of `losses`. Where paper and released code disagree, both readings are options of `C2FDFTConfig`;
`OFFICIAL` collects the released ones.
"""

from minirestore.papers.c2f_dft.config import OFFICIAL, C2FDFTConfig, DFTConfig
from minirestore.papers.c2f_dft.losses import fine_loss, ms_ssim, ssim, ssim_terms
from minirestore.papers.c2f_dft.released import from_released_name, load_official
from minirestore.papers.c2f_dft.sampler import euler_weights, implicit_chain, make_schedule, visited_times
from minirestore.papers.c2f_dft.stages import C2FDFT, antithetic_times
from minirestore.papers.c2f_dft.transformer import (
    DFT,
    ChannelNorm,
    DiffusionFeedForward,
    DiffusionSelfAttention,
    DiffusionTransformerBlock,
    Downsample,
    Upsample,
    time_embedding,
)

__all__ = [
    "C2FDFT",
    "DFT",
    "OFFICIAL",
    "C2FDFTConfig",
    "ChannelNorm",
    "DFTConfig",
    "DiffusionFeedForward",
    "DiffusionSelfAttention",
    "DiffusionTransformerBlock",
    "Downsample",
    "Upsample",
    "antithetic_times",
    "euler_weights",
    "fine_loss",
    "from_released_name",
    "implicit_chain",
    "load_official",
    "make_schedule",
    "ms_ssim",
    "ssim",
    "ssim_terms",
    "time_embedding",
    "visited_times",
]
