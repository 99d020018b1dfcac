"""Files of a depth map: 16-bit PNG, colour map and npz."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minirestore import images
from minirestore.checkpoints import write_atomically

COLOURS = "Spectral"
FURTHEST_MILLIMETRES = 65535


def colour_map(near: Tensor) -> Tensor:
    """Nearness (B, 1, H, W) in [0, 1], 1 is near, in colours: near red, far blue; (B, 3, H, W) in [0, 1]."""
    from matplotlib import colormaps

    coloured = colormaps[COLOURS](1 - near[:, 0].detach().cpu().numpy())[..., :3]
    return torch.from_numpy(coloured).permute(0, 3, 1, 2).float()


def sixteen_bits(x: Tensor) -> np.ndarray:
    """A map (1, 1, H, W) in [0, 1] as (H, W) uint16, rounded down as in the released code of DepthMaster."""
    return (x[0, 0].double().clamp(0, 1).cpu().numpy() * 65535).astype(np.uint16)


def write(folder: str | Path, name: str, relative: Tensor, near_is: int, metres: Tensor | None = None) -> list[Path]:
    """Write a map into a folder, which is made if needed: ``NAME_depth.png`` (16 bit, as predicted),
    ``NAME_colour.png`` (near red, far blue) and ``NAME_depth.npz`` with ``relative``, ``near_is`` and, where known,
    ``metres``; these also as ``NAME_millimetres.png`` (16 bit, 65535 stands for all that is further).

    Args:
        relative: (1, 1, H, W) in [0, 1]. near_is: which end of it is near, 0 or 1. metres: (1, 1, H, W), positive.

    Returns:
        The paths written, each whole or not at all.
    """
    folder = Path(folder)
    near = relative if near_is else 1 - relative
    arrays = {"relative": relative[0, 0].float().cpu().numpy(), "near_is": np.array(near_is)}
    pictures = {f"{name}_depth.png": sixteen_bits(relative), f"{name}_colour.png": images.to_uint8(colour_map(near))}
    if metres is not None:
        arrays["metres"] = metres[0, 0].float().cpu().numpy()
        millimetres = (1000 * metres[0, 0].double()).round().clamp(0, FURTHEST_MILLIMETRES)
        pictures[f"{name}_millimetres.png"] = millimetres.cpu().numpy().astype(np.uint16)
    payloads = {}
    for file, pixels in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        payloads[file] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    payloads[f"{name}_depth.npz"] = buffer.getvalue()
    for file, payload in payloads.items():
        write_atomically(folder / file, payload)
    return [folder / file for file in payloads]
