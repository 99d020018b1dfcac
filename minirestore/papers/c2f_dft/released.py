"""Checkpoints of the released network (wlydlut/C2F-DFT): their parameter names, and how they load into ours."""

from pathlib import Path

from minirestore import checkpoints, released
from minirestore.papers.c2f_dft.config import OFFICIAL, C2FDFTConfig
from minirestore.papers.c2f_dft.stages import C2FDFT

# prefix of a released name -> ours; levels are numbered from 1 there and from 0 here
RELEASED_STAGES = {
    "patch_embed.proj.": "embed.",
    "latent.": "latent.",
    "output.": "output.",
    **{f"encoder_level{i + 1}.": f"encoder.{i}." for i in range(3)},
    **{f"decoder_level{i + 1}.": f"decoder.{i}." for i in range(3)},
    **{f"down{i + 1}_{i + 2}.body.0.": f"down.{i}.conv." for i in range(3)},
    **{f"up{i + 2}_{i + 1}.body.0.": f"up.{i}.conv." for i in range(3)},
    **{f"reduce_chan_level{i + 1}.": f"reduce.{i}." for i in (1, 2)},
}
RELEASED_LAYERS = {
    "norm1.body.": "norm1.",
    "norm2.body.": "norm2.",
    "attn.temperature": "attention.temperature",
    "attn.qkv.": "attention.qkv.",
    "attn.qkv_dwconv.": "attention.depthwise.",
    "attn.project_out.": "attention.project.",
    "ffn.project_in.": "feed_forward.expand.",
    "ffn.project_out.": "feed_forward.project.",
}


def from_released_name(name: str) -> str:
    """Our name of a parameter of the released network, or of one of its blocks alone.

    Raises:
        ValueError: there is no such parameter in the released network.
    """
    stage = next((key for key in RELEASED_STAGES if name.startswith(key)), "")
    rest = name.removeprefix(stage)
    number, _, inner = rest.partition(".") if rest[:1].isdigit() else ("", "", rest)
    layer = next((key for key in RELEASED_LAYERS if inner.startswith(key)), None)
    if layer is None and (not stage or number):
        raise ValueError(f"name: {name!r} is no parameter of the released network")
    ours = inner if layer is None else RELEASED_LAYERS[layer] + inner.removeprefix(layer)
    return RELEASED_STAGES.get(stage, "") + (f"{number}." if number else "") + ours


def load_official(path: str | Path, config: C2FDFTConfig | None = None) -> C2FDFT:
    """The method with the weights of a released checkpoint (``.pth``), in evaluation mode, ready to `restore`.

    The averaged weights (``params_ema``), which the released code evaluates, are taken; else ``params``, else the file
    as a plain state dictionary.

    Args:
        path: a file written by ``torch.save``; only tensors are read from it.
        config: the network and its sampler; by default the published ones with the released settings (`OFFICIAL`),
            without biases where the file has none.

    Raises:
        FileNotFoundError: no such file. ValueError: names or shapes do not fit.
    """
    weights = {from_released_name(name): value for name, value in released.read(path).items()}
    if config is None:
        norm = "with_bias" if any(name.endswith("norm1.bias") for name in weights) else "bias_free"
        config = C2FDFTConfig(stage="fine", norm=norm, **OFFICIAL)
    method = C2FDFT(config)
    checkpoints.fill(method, {f"network.{name}": value for name, value in weights.items()}, path)
    return method
