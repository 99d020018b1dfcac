"""Saved models: safetensors weights, a JSON card beside them, and a sha256 that is checked on every load.

A module may name `frozen_parts`: children whose weights belong to another checkpoint and stay out of its own. A model
in another library's layout is a folder of files, sealed by a card with the sha256 of each.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minirestore.config import data_root

CARD_FILE = "card.json"
CARD_FIELDS = ("method", "config", "data", "steps", "seed", "device", "wall_time_s", "metrics")


def checkpoint_path(name: str) -> Path:
    """The weights file of a shipped checkpoint; other paths are passed through."""
    if name.endswith(".safetensors") or os.sep in name:
        return Path(name)
    return data_root() / "checkpoints" / f"{name}.safetensors"


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that a reader finds either the old content or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(payload)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dictionary as JSON, names in order, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def save(path: str | Path, module: nn.Module, card: dict[str, Any], dtype: torch.dtype = torch.float16) -> Path:
    """Write ``module``'s weights and its card.

    Args:
        path: a name (saved among the shipped checkpoints) or a path ending in ``.safetensors``.
        module: its floating-point tensors are stored as ``dtype``, all others as they are.
        card: must hold `CARD_FIELDS`; parameter count, storage type and sha256 are added.

    Raises:
        ValueError: the card lacks a field, or a weight is not finite in ``dtype``; nothing is written then.
    """
    from safetensors.torch import save as serialise

    path = checkpoint_path(str(path))
    if missing := [field for field in CARD_FIELDS if field not in card]:
        raise ValueError(f"card: lacks {', '.join(missing)}; a card holds {', '.join(CARD_FIELDS)}")
    tensors = {}
    for key, value in own_tensors(module, module.state_dict()).items():
        stored = value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        if not torch.isfinite(stored).all():
            raise ValueError(f"module: {key} is not finite as {dtype}; nothing was saved")
        tensors[key] = stored
    payload = serialise(tensors)
    card = {**card, "parameters": sum(t.numel() for t in tensors.values()), "dtype": str(dtype).removeprefix("torch.")}
    card["sha256"] = _digest(payload, card)
    write_atomically(path, payload)
    write_json(path.with_suffix(".json"), card)
    return path


def own_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a state dictionary that do not belong to the module's frozen parts."""
    frozen = tuple(f"{part}." for part in getattr(module, "frozen_parts", ()))
    return {key: value for key, value in tensors.items() if not key.startswith(frozen)} if frozen else dict(tensors)


def seal(folder: str | Path, card: Mapping[str, Any]) -> None:
    """Write ``card.json`` into a folder: ``card``, the sha256 of every other file there, and that of all together."""
    folder = Path(folder)
    content = {**card, "files": _file_digests(folder)}
    content["sha256"] = _digest(b"", content)
    write_json(folder / CARD_FILE, content)


def check_seal(folder: str | Path) -> dict[str, Any]:
    """The card of a sealed folder, empty if it has none.

    Raises:
        ValueError: a file is missing, was added, or has another sha256; the card was changed.
    """
    folder = Path(folder)
    if not (folder / CARD_FILE).is_file():
        return {}
    card = json.loads((folder / CARD_FILE).read_text())
    found = _file_digests(folder)
    if found != card["files"]:
        names = sorted(
            name for name in found.keys() | card["files"].keys() if found.get(name) != card["files"].get(name)
        )
        raise ValueError(
            f"checkpoint {folder}: {names[0]} is missing, new or damaged (the sha256 differs); fetch it again"
        )
    if card.get("sha256") != _digest(b"", card):
        raise ValueError(f"checkpoint {folder}: {CARD_FILE} is damaged (the sha256 differs); fetch it again")
    return card


def is_present(name: str) -> bool:
    """Whether a checkpoint, a file or a sealed folder, is there."""
    return checkpoint_path(name).is_file() or sealed_folder(name) is not None


def folder_path(name: str | Path) -> Path:
    """Where a shipped model in another library's layout lies, such as ``prior/vae``."""
    return data_root() / "checkpoints" / name


def named_folder(name: str | Path, holding: str = "") -> Path | None:
    """The folder that ``name`` stands for, shipped or a path, and that holds this file; None if there is none."""
    return next((p for p in (folder_path(name), Path(name)) if p.is_dir() and (p / holding).exists()), None)


def sealed_folder(name: str | Path) -> Path | None:
    """`named_folder` with a card."""
    return named_folder(name, CARD_FILE)


def _file_digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CARD_FILE)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _digest(payload: bytes, card: dict[str, Any]) -> str:
    """sha256 of the weights and of the card without its sha256: neither can change unnoticed."""
    rest = {key: value for key, value in card.items() if key != "sha256"}
    return hashlib.sha256(payload + json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_card(name: str | Path) -> dict[str, Any]:
    """The JSON card of a checkpoint, a file or a sealed folder such as ``prior/vae``.

    Raises:
        FileNotFoundError: no such checkpoint; the message lists those that exist.
        ValueError: the card is not valid JSON or lacks a field; a sealed folder is damaged.
    """
    if folder := sealed_folder(name):
        return check_seal(folder)
    path = checkpoint_path(str(name))
    card_path = path.with_suffix(".json")
    if not path.is_file() or not card_path.is_file():
        present = sorted(p.stem for p in path.parent.glob("*.safetensors")) or ["none"]
        lacking = path if not path.is_file() else card_path
        raise FileNotFoundError(
            f"checkpoint {name!s}: {lacking.name} not found in {path.parent}; present: {', '.join(present)}. "
            "Train it with `minirestore train METHOD`, or set MINIRESTORE_DATA"
        )
    try:
        card = json.loads(card_path.read_text())
    except ValueError as error:
        raise ValueError(f"checkpoint {name!s}: {card_path.name} is not valid JSON ({error}); fetch it again") from None
    if not isinstance(card, dict) or not isinstance(card.get("config", {}), dict):
        raise ValueError(f"checkpoint {name!s}: {card_path.name} does not hold a card; fetch it again")
    if missing := [field for field in (*CARD_FIELDS, "sha256") if field not in card]:
        raise ValueError(f"checkpoint {name!s}: {card_path.name} lacks {', '.join(missing)}; fetch it again")
    return card


def load(name: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights (floating point as float32, on the CPU) and card of a checkpoint, verified.

    Raises:
        FileNotFoundError, ValueError: as `read_card`; also if the sha256 differs, as after a truncation or bit flip.
    """
    from safetensors.torch import load as deserialise

    card = read_card(name)
    payload = checkpoint_path(str(name)).read_bytes()
    if _digest(payload, card) != card["sha256"]:
        raise ValueError(f"checkpoint {name!s}: weights or card are damaged (the sha256 differs); fetch both again")
    tensors = deserialise(payload)
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, card


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """First 16 hexadecimal digits of the sha256 of names and values: what training started from, for its card."""
    from safetensors.torch import save as serialise

    return hashlib.sha256(serialise({k: v.contiguous() for k, v in tensors.items()})).hexdigest()[:16]


def fill(module: nn.Module, tensors: dict[str, Tensor], name: str | Path) -> None:
    """Put loaded weights into ``module`` (strictly) and set it to evaluation mode.

    Raises:
        ValueError: keys or shapes differ from the module's; the message names the first ones.
    """
    tensors = own_tensors(module, tensors)
    expected = {key: tuple(value.shape) for key, value in own_tensors(module, module.state_dict()).items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        differing = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        detail = ", ".join(f"{k} (module {expected.get(k)}, file {found.get(k)})" for k in differing[:3])
        raise ValueError(f"checkpoint {name!s}: does not fit this module: {detail}; build it from the card's config")
    module.load_state_dict(tensors, strict=not getattr(module, "frozen_parts", ()))  # all own ones are there
    module.eval()
