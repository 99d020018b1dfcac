"""minirestore: a Jupyter course and companion package on diffusion models for image restoration and depth.

Importing the package is instant; PyTorch and the other heavy libraries load with the module that needs them.
"""

__version__ = "0.1.0"
