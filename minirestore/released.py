"""Checkpoints of released implementations: reading them, and translating their names. Each paper brings its tables."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

WRAPPERS = ("state_dict", "params_ema", "params")  # under which the tensors may lie; of the last two the averaged ones
WINDOW_BUFFERS = ("attn_mask", "relative_position_index")  # last parts of names; `windows` computes them


def read(path: str | Path) -> dict[str, Tensor]:
    """Names and float32 values in a released file, without the prefixes that parallel or compiled training adds, and
    without the buffers of attention within windows.

    Args:
        path: a file written by ``torch.save``, a plain state dictionary or one under a name of `WRAPPERS`; only tensors
            are read from it.

    Raises:
        FileNotFoundError: no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: {path} not found; download the released checkpoint first")
    content = torch.load(path, map_location="cpu", weights_only=True)
    tensors = next((content[key] for key in WRAPPERS if key in content), content)
    return {
        re.sub(r"^(module\.|_orig_mod\.)+", "", name): value.float()
        for name, value in tensors.items()
        if name.rpartition(".")[2] not in WINDOW_BUFFERS
    }


def translate(name: str, table: Mapping[str, str]) -> tuple[str, str]:
    """Our side of the first entry that ``name`` starts with, or nothing, and the rest of the name.

    Args:
        table: patterns of released names -> ours, where {0}, {1}, ... stand for the groups of the pattern.
    """
    for pattern, ours in table.items():
        if match := re.match(pattern, name):
            return ours.format(*match.groups()), name[match.end() :]
    return "", name
