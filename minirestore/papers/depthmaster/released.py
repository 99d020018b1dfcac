"""The released model (indu1ge/DepthMaster): a folder in the layout of Stable Diffusion. The Fourier block lies in the
file of the U-Net, under ``fftblock.*``.
"""

from pathlib import Path

import torch
from torch import Tensor

from minirestore import released
from minirestore.papers.depthmaster.method import DepthMaster, DepthMasterConfig
from minirestore.papers.depthmaster.network import RELEASED_BLOCK
from minirestore.prior import load_prior
from minirestore.prior.folders import WEIGHTS_FILE, find_folder


def load_official(where: str | Path, *, download: bool = False) -> DepthMaster:
    """The released model, evaluating, with its Fourier block if the file has one (stage 2).

    diffusers' own class would open the same folder and drop the block with a warning.

    Args:
        where: a folder, or its id on the hub. download: fetch what is not in the local cache.

    Raises:
        FileNotFoundError: not there. ValueError, RuntimeError: names or shapes that do not fit.
    """
    folder = find_folder(where, download)
    weights = _unet_weights(folder)
    second = any(name.startswith(RELEASED_BLOCK) for name in weights)
    config = DepthMasterConfig(
        prior=str(where), stage="second" if second else "first", enhancement="released", teacher="none"
    )
    model = DepthMaster(config, load_prior(folder))
    model.network.load_released(weights)
    return model.eval()


def _unet_weights(folder: Path) -> dict[str, Tensor]:
    """The U-Net's state dictionary, float32, of a ``.safetensors`` or a ``.bin`` file."""
    file = folder / "unet" / WEIGHTS_FILE
    if not file.is_file():
        return released.read(file.with_suffix(".bin"))
    from safetensors.torch import load_file

    return {name: value.to(torch.float32) for name, value in load_file(file).items()}
