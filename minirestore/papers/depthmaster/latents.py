"""Section III-A: depth maps through the frozen autoencoder of pictures, and the bound that it sets."""

import torch
from torch import Tensor

from minirestore.prior import Autoencoder


def encode_depth(autoencoder: Autoencoder, depth: Tensor) -> Tensor:
    """Latents (B, C, H/f, W/f), the posterior's mean, of normalised maps (B, 1, H, W) in [-1, 1], as grey pictures."""
    return autoencoder.encode(depth.expand(-1, 3, -1, -1))


def decode_depth(autoencoder: Autoencoder, z: Tensor) -> Tensor:
    """Maps (B, 1, H, W), about [-1, 1] and not clipped, of latents: the mean of the decoded channels."""
    return autoencoder.decode(z).mean(1, keepdim=True)


@torch.no_grad()
def reconstruct_depth(autoencoder: Autoencoder, depth: Tensor) -> Tensor:
    """What is left of normalised maps (B, 1, H, W) after encoding and decoding: no method can be better (table II).

    Sides are multiples of the autoencoder's factor.
    """
    return decode_depth(autoencoder, encode_depth(autoencoder, depth)).clamp(-1, 1)
