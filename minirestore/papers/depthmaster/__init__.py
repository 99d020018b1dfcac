"""DepthMaster: a diffusion U-Net that is called once (Song et al., arXiv 2501.02576, TCSVT 2026).

The network with its tap is in `network`; what it is asked for in `targets`; the losses of both stages, with feature
alignment, in `losses`; the block that stage 2 adds, `FourierEnhancement`, in `fourier_enhancement`; the noise of its
rival, Marigold, in `denoising`.
"""

from minirestore.papers.depthmaster.denoising import multi_resolution_noise
from minirestore.papers.depthmaster.fourier_enhancement import FourierEnhancement
from minirestore.papers.depthmaster.losses import (
    AlignmentHead,
    directional_gradients,
    feature_alignment,
    masked_mse,
    stage2_loss,
    valid_latents,
    weighted_difference,
)
from minirestore.papers.depthmaster.network import SingleStepNetwork
from minirestore.papers.depthmaster.targets import depth_target, normalise, to_space

__all__ = [
    "AlignmentHead",
    "FourierEnhancement",
    "SingleStepNetwork",
    "depth_target",
    "directional_gradients",
    "feature_alignment",
    "masked_mse",
    "multi_resolution_noise",
    "normalise",
    "stage2_loss",
    "to_space",
    "valid_latents",
    "weighted_difference",
]
