"""DepthMaster: a diffusion U-Net that is called once (Song et al., arXiv 2501.02576, TCSVT 2026).

The network with its tap is in `network`; what it is asked for in `targets`, as latents in `latents`; the losses of both
stages, with feature alignment, in `losses`, whose frozen encoders are in `teachers`; the block that stage 2 adds,
`FourierEnhancement`, in `fourier_enhancement`; its rival, Marigold, in `denoising`; training and
prediction in `method`.
"""

from minirestore.papers.depthmaster.denoising import (
    ddim_scheduler,
    denoise,
    double_input,
    marigold_levels,
    multi_resolution_noise,
)
from minirestore.papers.depthmaster.fourier_enhancement import FourierEnhancement
from minirestore.papers.depthmaster.latents import decode_depth, encode_depth, reconstruct_depth
from minirestore.papers.depthmaster.losses import (
    AlignmentHead,
    directional_gradients,
    feature_alignment,
    masked_mse,
    stage2_loss,
    valid_latents,
    weighted_difference,
)
from minirestore.papers.depthmaster.method import PUBLISHED, DepthMaster, DepthMasterConfig, to_metres
from minirestore.papers.depthmaster.network import SingleStepNetwork
from minirestore.papers.depthmaster.released import load_official
from minirestore.papers.depthmaster.targets import depth_target, normalise, to_space
from minirestore.papers.depthmaster.teachers import DINOTeacher, FeatureTeacher, load_teacher

__all__ = [
    "PUBLISHED",
    "AlignmentHead",
    "DINOTeacher",
    "DepthMaster",
    "DepthMasterConfig",
    "FeatureTeacher",
    "FourierEnhancement",
    "SingleStepNetwork",
    "ddim_scheduler",
    "decode_depth",
    "denoise",
    "depth_target",
    "directional_gradients",
    "double_input",
    "encode_depth",
    "feature_alignment",
    "load_official",
    "load_teacher",
    "marigold_levels",
    "masked_mse",
    "multi_resolution_noise",
    "normalise",
    "reconstruct_depth",
    "stage2_loss",
    "to_metres",
    "to_space",
    "valid_latents",
    "weighted_difference",
]
