"""Checkpoints of the released networks (XPixelGroup/DiffBIR, version 1): their parameter names, loaded into ours."""

from pathlib import Path

from torch import nn

from minirestore import checkpoints, released
from minirestore.papers.diffbir.control import new_control
from minirestore.papers.diffbir.restoration import RestorationConfig, RestorationModule
from minirestore.prior import LatentPrior

# patterns of released names of the restoration module -> ours, {0} and {1} are the numbers in the name
RELEASED_RESTORATION = {
    r"conv_first\.1\.": "stem.",
    r"patch_embed\.norm\.": "embed_norm.",
    r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.(norm[12])\.": "groups.{0}.layers.{1}.{2}.",
    r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.attn\.relative_position_bias_table":
        "groups.{0}.layers.{1}.attention.bias_table",
    r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.attn\.qkv\.": "groups.{0}.layers.{1}.attention.qkv.",
    r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.attn\.proj\.": "groups.{0}.layers.{1}.attention.project.",
    r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.mlp\.fc1\.": "groups.{0}.layers.{1}.mlp.0.",
    r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.mlp\.fc2\.": "groups.{0}.layers.{1}.mlp.2.",
    r"layers\.(\d+)\.conv\.": "groups.{0}.conv.",
    r"norm\.": "norm.",
    r"conv_after_body\.": "body.",
    r"conv_before_upsample\.0\.": "before_up.",
    **{rf"conv_up{i + 1}\.": f"up.{i}." for i in range(3)},
    r"conv_hr\.": "full_size.",
    r"conv_last\.": "output.",
}  # fmt: skip


def restoration_from_released_name(name: str) -> str:
    """Our name of a parameter of the released restoration module.

    Raises:
        ValueError: there is no such parameter in the released network.
    """
    ours, rest = released.translate(name, RELEASED_RESTORATION)
    if not ours:
        raise ValueError(f"name: {name!r} is no parameter of the released network")
    return ours + rest


def load_official_restoration(path: str | Path, config: RestorationConfig | None = None) -> RestorationModule:
    """The restoration module with the weights of a released checkpoint (``general_swinir_v1.ckpt`` or
    ``face_swinir_v1.ckpt``), in evaluation mode.

    Args:
        path: a file written by ``torch.save``; only tensors are read from it.
        config: by default the published network.

    Raises:
        FileNotFoundError: no such file. ValueError: names or shapes do not fit.
    """
    weights = {restoration_from_released_name(name): value for name, value in released.read(path).items()}
    module = RestorationModule(config)
    checkpoints.fill(module, {f"network.{name}": value for name, value in weights.items()}, path)
    return module


def load_official_control(path: str | Path, prior: LatentPrior) -> nn.Module:
    """LAControlNet for a prior with the weights of a released checkpoint (``general_full_v1.ckpt`` or
    ``face_full_v1.ckpt``), in evaluation mode; to be put in the place of `DiffBIR.control`.

    Only the control is taken: the file's U-Net and autoencoder are those of Stable Diffusion 2.1, see `load_prior`.

    Args:
        path: a file written by ``torch.save``; only tensors are read from it.

    Raises:
        FileNotFoundError: no such file. ValueError: there is no control in it, or names or shapes do not fit the prior.
    """
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    weights = {name: value for name, value in released.read(path).items() if name.startswith("control_model.")}
    if not weights:
        raise ValueError(f"path: {path} holds no control_model; expected a released checkpoint of the second stage")
    control = new_control(prior)
    converted = convert_controlnet_checkpoint(weights, control.config)  # None for what it expected and did not find
    checkpoints.fill(control, {name: value for name, value in converted.items() if value is not None}, path)
    return control
