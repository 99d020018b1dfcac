"""Folders in the layout of diffusers: finding, reading and writing them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minirestore import checkpoints

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


def write_network(network: nn.Module, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Weights as ``dtype`` and configuration of a diffusers model, readable by its ``from_pretrained``."""
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().to(dtype).contiguous() for key, value in network.state_dict().items()}
    checkpoints.write_atomically(folder / WEIGHTS_FILE, save(tensors))
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    checkpoints.write_json(folder / "config.json", {"_class_name": type(network).__name__, **config})


def open_network(model: type, folder: Path) -> nn.Module:
    """A diffusers model of this class from its folder, float32; without weights on the meta device."""
    if torch.get_default_device().type == "meta":
        return model.from_config(model.load_config(folder))
    return model.from_pretrained(folder, torch_dtype=torch.float32)


def find_folder(where: str | Path, download: bool = False) -> Path:
    """The folder that ``where`` names: shipped, a path, or in the hub's cache.

    Raises:
        FileNotFoundError: there is none.
    """
    if folder := checkpoints.named_folder(where):
        return folder
    if str(where).count("/") != 1 or str(where).startswith((".", "/")):
        raise FileNotFoundError(f"{where}: no such folder; train it with `minirestore train`, or name another one")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    parts = [f"{part}/*{kind}" for part in ("vae", "unet", "scheduler", "text_encoder", "tokenizer")
             for kind in (".json", ".txt", "model.safetensors", "model.bin")]  # fmt: skip
    try:
        return Path(snapshot_download(str(where), local_files_only=not download, allow_patterns=parts))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(f"{where}: not in the local cache of the hub; allow it with download=True") from None


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; expected a folder in the layout of Stable Diffusion")
    return json.loads(path.read_text())
