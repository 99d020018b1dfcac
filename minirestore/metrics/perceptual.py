"""LPIPS, only with trunk weights that are already on disk: never downloaded, never replaced by random ones.

The lpips package ships five small linear heads per trunk; the trunk (a torchvision classifier of 5-550 MB) comes from
torchvision's cache, ``$TORCH_HOME/hub/checkpoints``. With a random trunk LPIPS still prints believable numbers, so the
file is read explicitly, has to fill every weight, and its sha256 decides the metric's id.
"""

import functools
import hashlib
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from minirestore import images
from minirestore.metrics.image import check_pair, full_precision

Net = Literal["alex", "squeeze", "vgg"]
# torchvision's file, whose name ends with the first 8 digits of its sha256; the model; the smallest side that works.
TRUNKS = {
    "alex": ("alexnet-owt-7be5be79.pth", "alexnet", 32),
    "squeeze": ("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1", 24),
    "vgg": ("vgg16-397923af.pth", "vgg16", 16),
}


def trunk_path(net: Net) -> Path:
    """Where torchvision keeps the trunk of ``net`` (``"alex"``, ``"squeeze"`` or ``"vgg"``); it need not exist."""
    if net not in TRUNKS:
        raise ValueError(f"net: expected one of {', '.join(map(repr, TRUNKS))}, got {net!r}")
    return Path(torch.hub.get_dir()) / "checkpoints" / TRUNKS[net][0]


def lpips_available(net: Net = "vgg") -> bool:
    """Whether the lpips package is installed and the trunk of ``net`` is on disk."""
    from importlib.util import find_spec

    return trunk_path(net).is_file() and find_spec("lpips") is not None


def _find_trunk(net: Net) -> Path:
    """The trunk's file, or an error that says where it was looked for and how to get it."""
    path = trunk_path(net)
    if not path.is_file():
        fetch = f"import torchvision; torchvision.models.{TRUNKS[net][1]}(weights='IMAGENET1K_V1')"
        raise FileNotFoundError(
            f"lpips-{net}: no trunk weights at {path} (the torch.hub directory; TORCH_HOME moves it) and minirestore "
            f'never downloads. On a machine with a network run python -c "{fetch}" and copy the file there, '
            "or use haarpsi, which needs no weights"
        )
    return path


@functools.lru_cache(maxsize=8)
def _digest(path: Path, size: int, modified_ns: int) -> str:
    """sha256 of a file, computed once per version of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lpips_id(net: Net = "vgg") -> str:
    """The id under which LPIPS results with the trunk on disk have to be reported.

    ``"lpips-vgg"`` if the file is the published one (the first 8 hex digits of its sha256 are in its name),
    else ``"lpips-vgg-trunk-<first 8 digits>"``: a stand-in whose numbers compare with nobody else's.

    Raises:
        FileNotFoundError: no trunk on disk.
    """
    path = _find_trunk(net)
    status = path.stat()
    found = _digest(path, status.st_size, status.st_mtime_ns)[:8]
    published = path.stem.rsplit("-", 1)[-1]
    return f"lpips-{net}" if found == published else f"lpips-{net}-trunk-{found}"


def _read_trunk(path: Path) -> dict[str, Tensor]:
    """The state dict in the file, or one clear error."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated zip, foreign pickle, ...: torch raises many types
        message = f"trunk weights {path} cannot be read ({type(error).__name__}); fetch the file again"
        raise ValueError(message) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"trunk weights {path}: expected a torchvision state dict of tensors; fetch the file again")
    return weights


@functools.lru_cache(maxsize=6)
def _build(net: Net, path: Path, size: int, modified_ns: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """LPIPS 0.1 with the heads of the lpips package and the trunk of the file, once per version, device and dtype.

    The network is built on the meta device, without storage, so that no weight can stay at a random value: each comes
    from one of the two files or stays meta, which is refused.
    """
    import lpips as package

    trunk = _read_trunk(path)
    heads_path = Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    heads = torch.load(heads_path, map_location="cpu", weights_only=True)  # keys lin0.model.1.weight, ...
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision on the old argument names that lpips uses
        model = package.LPIPS(pretrained=False, pnet_rand=True, net=net, verbose=False)
    model.scaling_layer = package.ScalingLayer()  # its constants, with storage
    weights = {**heads, **{key.replace("lin", "lins.", 1): value for key, value in heads.items()}}
    for key in model.state_dict():
        if key.startswith("net."):
            source = "features." + key.split(".", 2)[2]  # net.slice3.10.weight is features.10.weight
            if source not in trunk:
                raise ValueError(f"trunk weights {path}: {source} is missing; fetch the file again")
            weights[key] = trunk[source].float()
    try:
        model.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as error:
        raise ValueError(f"trunk weights {path} do not fit {TRUNKS[net][1]}; fetch the file again") from error
    missing = [name for name, value in model.state_dict().items() if value.is_meta]
    if missing:
        raise ValueError(f"lpips-{net}: no weights found for {', '.join(missing)}; reinstall the lpips package")
    return model.eval().requires_grad_(False).to(device, dtype)


def _model(net: Net, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network with the trunk on disk, or an error that says what is missing."""
    path = _find_trunk(net)
    status = path.stat()
    try:
        return _build(net, path, status.st_size, status.st_mtime_ns, device, dtype)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"lpips needs the {error.name} package: pip install 'minirestore[lpips]'") from error


@full_precision
def lpips(prediction: Tensor, target: Tensor, *, net: Net = "vgg") -> Tensor:
    """Learned perceptual image patch similarity (a distance: 0 for identical images); lower is better.

    ``sum_l mean_hw |w_l . (f_l(x) - f_l(y))|^2`` over unit-normalised features of five (Squeeze: seven) layers, heads
    version 0.1. Source: Zhang et al. 2018. Report it under `lpips_id(net)`, as `evaluate` does.

    Args:
        prediction, target: ``(B, 3, H, W)`` in [0, 1]; grey images are repeated to three channels.
        net: trunk; sides of at least 16 (vgg), 24 (squeeze) or 32 (alex) pixels.

    Returns:
        ``(B,)`` float64; float32 convolutions on the CPU, float64 elsewhere (TF32 would change the third digit).

    Raises:
        FileNotFoundError: no trunk on disk. ValueError: bad images, or weights that do not fit.
        ModuleNotFoundError: the lpips package is not installed.
    """
    _find_trunk(net)
    x, y = check_pair(prediction, target, f"lpips-{net}", TRUNKS[net][2])
    dtype = torch.float32 if x.device.type == "cpu" else torch.float64
    x, y = (images.to_model_range(z).expand(-1, 3, -1, -1).to(dtype) for z in (x, y))
    return _model(net, x.device, dtype)(x, y).flatten().double().cpu()


def lpips_loss(prediction: Tensor, target: Tensor, *, net: Net = "vgg") -> Tensor:
    """`lpips` to train with: differentiable, in float32, on the device of the images.

    Values are neither checked nor clipped: a loss may have to judge images that leave [0, 1].

    Args:
        prediction, target: ``(B, 3, H, W)``, where [0, 1] is the range of images.
        net: as for `lpips`.

    Returns:
        ``(B,)`` float32, with gradients.

    Raises:
        As `lpips`, except for values.
    """
    _find_trunk(net)
    for name, x in (("prediction", prediction), ("target", target)):
        images.check_layout(x, name, channels=(3,), minimum_side=TRUNKS[net][2])
    images.check_same_shape(prediction, target, ("prediction", "target"))
    model = _model(net, prediction.device, torch.float32)
    device = prediction.device.type
    with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):  # meta has no autocast
        return model(*(images.to_model_range(x.float()) for x in (prediction, target))).flatten()
