"""Multiscale Structure Guided Diffusion for Image Deblurring (Ren et al., ICCV 2023, arXiv 2212.01789).

A re-implementation from the paper's description: the authors released no code, and no public code has the guidance.
An image-conditioned diffusion model (icDPM) sees the blurry image ``y`` beside its noisy sample, and overfits the
blur it was trained on. The remedy is a second, small path: ``y`` without colour, at 1/2, 1/4 and 1/8 of its size and
slightly noisy, hardly shows which blur made it. A regression network H reads this structure, learns to predict the
equally reduced sharp image, and its features are added to the encoder of the diffusion U-Net.

In the paper's order: `StructurePyramid` (phi_k), `GuidanceNet` (H with heads R), `GuidedResBlock` and `ICDPMUNet`
(G), `StructureGuidance` (losses, sampling). The U-Net follows DvSR ("Deblurring via Stochastic Refinement", CVPR
2022): no normalisation, no attention, hence any image size. What neither paper states is an option of
`StructureGuidanceConfig`, with the reading we recommend as its default.
"""

from minirestore.papers.structure_guidance.config import StructureGuidanceConfig
from minirestore.papers.structure_guidance.guidance import GuidanceBranch, GuidanceNet, StructurePyramid
from minirestore.papers.structure_guidance.icdpm import LARGEST_START, StructureGuidance
from minirestore.papers.structure_guidance.unet import GuidedResBlock, ICDPMUNet

__all__ = [
    "LARGEST_START",
    "GuidanceBranch",
    "GuidanceNet",
    "GuidedResBlock",
    "ICDPMUNet",
    "StructureGuidance",
    "StructureGuidanceConfig",
    "StructurePyramid",
]
