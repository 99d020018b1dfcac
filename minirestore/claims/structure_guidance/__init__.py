"""The claims of "Multiscale Structure Guided Diffusion for Image Deblurring", sg.A1 to sg.A13, with their controls.

Everything is trained on dead leaves under one family of blur (``linear``) and measured on photographs, under that
family and under shifts that leave the same PSNR in the input, image by image. Models are trained by the recipe at
profile ``reduced``; arms that differ only in how a model is used share its training.
"""

# in the order of the report
from minirestore.claims.structure_guidance import generalisation, structure, sampling, refinement  # noqa: F401, I001
