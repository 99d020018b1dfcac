"""Checkpoints of the released networks (zsyOAOA/ResShift, wyf0912/SinSR): their parameter names, loaded into ours.

The U-Net becomes our `SwinUNet`; the autoencoder becomes diffusers' ``VQModel``, which computes the same.
"""

from pathlib import Path

from minirestore import checkpoints, released
from minirestore.papers.resshift.config import OFFICIAL, SwinUNetConfig
from minirestore.papers.resshift.method import ResShift, ResShiftConfig
from minirestore.papers.resshift.network import SwinUNet
from minirestore.prior import AUTOENCODERS, Autoencoder, AutoencoderConfig

# the U-Net: patterns of released names -> ours, {0} is the number in the name; first the layers outside of stages
RELEASED_ENDS = {
    r"time_embed\.([02])\.": "time.{0}.",
    r"input_blocks\.0\.0\.": "encoder.0.embed.",
    r"out\.0\.": "norm.",
    r"out\.2\.": "output.",
}
RELEASED_STAGES = {
    r"input_blocks\.(\d+)\.[01]\.": "encoder.{0}.",
    r"middle_block\.([012])\.": "middle.{0}.",
    r"output_blocks\.(\d+)\.[012]\.": "decoder.{0}.",
}
RELEASED_LAYERS = {
    r"in_layers\.0\.": "res.norm1.",
    r"in_layers\.2\.": "res.conv1.",
    r"emb_layers\.1\.": "res.time.",
    r"out_layers\.0\.": "res.norm2.",
    r"out_layers\.3\.": "res.conv2.",
    r"skip_connection\.": "res.skip.",
    r"op\.": "down.",
    r"conv\.": "up.1.",
    r"patch_embed\.proj\.": "swin.embed.",
    r"patch_unembed\.proj\.": "swin.unembed.",
    r"blocks\.(\d+)\.norm1\.": "swin.blocks.{0}.norm1.",
    r"blocks\.(\d+)\.norm2\.": "swin.blocks.{0}.norm2.",
    r"blocks\.(\d+)\.attn\.relative_position_bias_table": "swin.blocks.{0}.attention.bias_table",
    r"blocks\.(\d+)\.attn\.qkv\.": "swin.blocks.{0}.attention.qkv.",
    r"blocks\.(\d+)\.attn\.proj\.": "swin.blocks.{0}.attention.project.",
    r"blocks\.(\d+)\.mlp\.fc1\.": "swin.blocks.{0}.mlp.0.",
    r"blocks\.(\d+)\.mlp\.fc2\.": "swin.blocks.{0}.mlp.2.",
}

# the autoencoder: patterns of released names -> those of diffusers
RELEASED_AUTOENCODER = {
    r"encoder\.down\.(\d+)\.block\.(\d+)\.": "encoder.down_blocks.{0}.resnets.{1}.",
    r"encoder\.down\.(\d+)\.downsample\.conv\.": "encoder.down_blocks.{0}.downsamplers.0.conv.",
    r"(encoder|decoder)\.mid\.block_1\.": "{0}.mid_block.resnets.0.",
    r"(encoder|decoder)\.mid\.block_2\.": "{0}.mid_block.resnets.1.",
    r"(encoder|decoder)\.mid\.attn_1\.norm\.": "{0}.mid_block.attentions.0.group_norm.",
    r"(encoder|decoder)\.mid\.attn_1\.([qkv])\.": "{0}.mid_block.attentions.0.to_{1}.",
    r"(encoder|decoder)\.mid\.attn_1\.proj_out\.": "{0}.mid_block.attentions.0.to_out.0.",
    r"(encoder|decoder)\.norm_out\.": "{0}.conv_norm_out.",
    r"(encoder|decoder)\.(conv_in|conv_out)\.": "{0}.{1}.",
    r"(quant_conv|post_quant_conv|quantize\.embedding)\.": "{0}.",
}
# levels of the decoder are numbered from the coarsest in diffusers, hence one entry for each
RELEASED_UP = {
    r"decoder\.up\.{theirs}\.block\.(\d+)\.": "decoder.up_blocks.{ours}.resnets.{{0}}.",
    r"decoder\.up\.{theirs}\.upsample\.conv\.": "decoder.up_blocks.{ours}.upsamplers.0.conv.",
}


def from_released_name(name: str) -> str:
    """Our name of a parameter of the released U-Net.

    Raises:
        ValueError: there is no such parameter in the released network.
    """
    ours, rest = released.translate(name, RELEASED_ENDS)
    if not ours:
        stage, inner = released.translate(name, RELEASED_STAGES)
        layer, rest = released.translate(inner, RELEASED_LAYERS)
        ours = stage and layer and stage + layer
    if not ours or rest not in ("", "weight", "bias"):
        raise ValueError(f"name: {name!r} is no parameter of the released U-Net")
    return ours + rest


def autoencoder_from_released_name(name: str, levels: int = 3) -> str:
    """The name, in diffusers' ``VQModel``, of a parameter of the released autoencoder with that many levels.

    Raises:
        ValueError: there is no such parameter in the released autoencoder.
    """
    ups = {
        theirs.replace("{theirs}", str(level)): ours.format(ours=levels - 1 - level)
        for theirs, ours in RELEASED_UP.items()
        for level in range(levels)
    }
    ours, rest = released.translate(name, {**RELEASED_AUTOENCODER, **ups})
    if not ours:
        raise ValueError(f"name: {name!r} is no parameter of the released autoencoder")
    return ours + rest.replace("nin_shortcut", "conv_shortcut")


def load_official_unet(path: str | Path, config: SwinUNetConfig | None = None) -> SwinUNet:
    """The U-Net with the weights of a released checkpoint (``.pth``), in evaluation mode.

    Args:
        path: a file written by ``torch.save``, a plain state dictionary or one under ``state_dict`` or ``params``; only
            tensors are read from it.
        config: by default the published sizes with ``legacy_mask``, which released weights were trained with.

    Raises:
        FileNotFoundError: no such file. ValueError: names or shapes do not fit.
    """
    weights = {from_released_name(name): value for name, value in released.read(path).items()}
    network = SwinUNet(config or SwinUNetConfig(legacy_mask=True))
    checkpoints.fill(network, weights, path)
    return network


def load_official_autoencoder(path: str | Path, config: AutoencoderConfig | None = None) -> Autoencoder:
    """The autoencoder with the weights of a released checkpoint (``.pth``), in evaluation mode.

    Args:
        path: as in `load_official_unet`. What a checkpoint holds of the loss of its training (``loss.``) is left out.
        config: by default the published size.

    Raises:
        FileNotFoundError: no such file. ValueError: names or shapes do not fit.
    """
    model = Autoencoder(config or AUTOENCODERS["resshift/vq-f4"])
    levels, weights = len(model.config.widths), {}
    for name, value in released.read(path).items():
        if not name.startswith("loss."):
            flat = value.flatten(1) if ".attn_1." in name and value.ndim == 4 else value  # 1 x 1 kernels are matrices
            weights[autoencoder_from_released_name(name, levels)] = flat
    checkpoints.fill(model.network, weights, path)
    return model.eval()


def load_official(network: str | Path, autoencoder: str | Path, config: ResShiftConfig | None = None) -> ResShift:
    """ResShift with released weights of both networks, in evaluation mode, ready to `restore`.

    SinSR's student restores in the same way, with ``sampling_steps=1``, ``spacing="trailing"``, ``clamp="v2"`` in the
    config and ``deterministic=True`` in the call.

    Args:
        network, autoencoder: see `load_official_unet` and `load_official_autoencoder`.
        config: by default the published one with the released settings (`OFFICIAL`).

    Raises:
        FileNotFoundError, ValueError: as there.
    """
    config = config or ResShiftConfig(autoencoder="resshift/vq-f4", **OFFICIAL)
    method = ResShift(config, load_official_autoencoder(autoencoder, AUTOENCODERS.get(config.autoencoder)))
    method.network = load_official_unet(network, config)
    return method.eval()
