"""The latent prior: an autoencoder and a noise predictor in its latent space, ours or Stable Diffusion's in its place.

`Autoencoder` compresses images by f in each direction: ``kl`` to continuous latents (diffusers' AutoencoderKL), ``vq``
to entries of a codebook (VQModel, for ResShift). `LatentPrior` adds a U-Net that predicts noise in the latents
(UNet2DConditionModel) and the context that stands for an empty prompt. `load_prior` opens a folder in the layout of
Stable Diffusion, ours or the real one, so that what is built on the small prior runs on the large one unchanged.

Images are (B, 3, H, W) in [-1, 1] here, as everywhere inside diffusion; latents (B, C, H/f, W/f) have unit deviation.
"""

from minirestore.prior.autoencoder import AUTOENCODERS, Autoencoder, AutoencoderConfig, load_autoencoder
from minirestore.prior.noise_predictor import PRIORS, LatentPrior, LatentPriorConfig, load_prior

__all__ = [
    "AUTOENCODERS",
    "PRIORS",
    "Autoencoder",
    "AutoencoderConfig",
    "LatentPrior",
    "LatentPriorConfig",
    "load_autoencoder",
    "load_prior",
]
