"""DiffBIR, version 1: clean first, then paint (Lin et al., arXiv 2308.15070v1, August 2023).

In the paper's order: the restoration module `SwinIR` with its training, `RestorationModule`, in `restoration`;
LAControlNet in `control`; latent image `Guidance` in `guidance`, and the spaced sampler in `sampling`; the colour fix
of the released code in `colour`; training and restoring, `DiffBIR`, in `method`; the released weights in `released`.
"""

from minirestore.papers.diffbir.colour import fix_colour, low_pass, split_frequencies
from minirestore.papers.diffbir.control import NoHint, controlled_eps, controls, new_control
from minirestore.papers.diffbir.guidance import Guidance, rho_of
from minirestore.papers.diffbir.method import PUBLISHED, DiffBIR, DiffBIRConfig, enlarge, load_restoration, shrink
from minirestore.papers.diffbir.released import (
    load_official_control,
    load_official_restoration,
    restoration_from_released_name,
)
from minirestore.papers.diffbir.restoration import (
    ResidualGroup,
    RestorationConfig,
    RestorationModule,
    SwinIR,
    SwinTransformerLayer,
)
from minirestore.papers.diffbir.sampling import spaced_ddpm

__all__ = [
    "PUBLISHED",
    "DiffBIR",
    "DiffBIRConfig",
    "Guidance",
    "NoHint",
    "ResidualGroup",
    "RestorationConfig",
    "RestorationModule",
    "SwinIR",
    "SwinTransformerLayer",
    "controlled_eps",
    "controls",
    "enlarge",
    "fix_colour",
    "load_official_control",
    "load_official_restoration",
    "load_restoration",
    "low_pass",
    "new_control",
    "restoration_from_released_name",
    "rho_of",
    "shrink",
    "spaced_ddpm",
    "split_frequencies",
]
