"""Weights and inputs given by rule, so that golden files hold outputs only.

A tensor called ``name`` is standard normal, drawn by a generator seeded with the CRC-32 of the name, and then scaled:
norm scales and temperatures become 1 + 0.1 z, other vectors 0.1 z, matrices and kernels z / sqrt(fan in), tables of
relative position biases 0.5 z; a codebook is z. Buffers keep the values that the module computes.
"""

import math
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

BUFFERS = ("attn_mask", "relative_position_index", "position_ids")  # last parts of released names


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that depend on the name alone, float64."""
    return np.asarray(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The parameter with this released name, float32."""
    z = normal(name, shape)
    if name.endswith("relative_position_bias_table"):
        z = 0.5 * z
    elif name.endswith("embedding.weight"):
        pass
    elif name.endswith("temperature") or (len(shape) == 1 and name.endswith(".weight")):
        z = 1 + 0.1 * z
    else:
        z = z / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1 * z
    return torch.from_numpy(z.astype(np.float32))


def inputs(name: str, shape: tuple[int, ...], kind: str = "z") -> Tensor:
    """The input with this name, float32: ``z``, ``unit`` in [0, 1] or ``pm1`` in [-1, 1]."""
    z = normal(f"input:{name}", shape)
    if kind != "z":
        z = np.clip(0.5 + 0.25 * z, 0, 1)
        z = 2 * z - 1 if kind == "pm1" else z
    return torch.from_numpy(z.astype(np.float32))


def fill(
    module: torch.nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    rename: Callable[[str], str],
    scales: Mapping[str, float] | None = None,
) -> None:
    """Give ``module`` the rule's weights.

    ``shapes`` and the factors ``scales`` are by released name, which ``rename`` turns into the module's own.
    """
    names = [name for name in shapes if name.rpartition(".")[2] not in BUFFERS]
    weights = {name: weight(name, tuple(shapes[name])) * (scales or {}).get(name, 1.0) for name in names}
    module.load_state_dict({rename(name): value for name, value in weights.items()})
