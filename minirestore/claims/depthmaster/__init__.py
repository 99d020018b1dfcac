"""The claims of DepthMaster, depth.C1 to depth.C20, with the controls that the paper lacks, and depth.P1, a photograph.

What needs no network is measured at full precision: the bound of the autoencoder, the geometry of the targets, the
arithmetic. What is trained is small and short: a prior that saw ray-cast scenes in the place of Stable Diffusion, an
encoder trained on their class labels in the place of DINOv2. There the claims are about the mechanism, on scenes of
families that training has seen and of two that it has not.
"""

# in the order of the report
from minirestore.claims.depthmaster import exact, paradigms, alignment, second_stage, photograph  # noqa: F401, I001
