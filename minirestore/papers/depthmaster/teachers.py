"""Section III-B: frozen encoders whose features the middle of the U-Net is aligned with.

The paper names DINOv2; the released code loads the encoder of Depth-Anything-V2-Giant, which has been trained for depth
already and was never published. Here any DINOv2 on this machine will do; the course's own feature encoder, trained on
class labels, stands in for it; and the same encoder with random weights is the control that the paper lacks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import images
from minirestore.features import FeatureEncoder, load_encoder

INPUTS = ("unit", "signed")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
PATCH_OF_PICTURE = 16  # pixels of the picture that become one patch
# widths and depths of DINOv2, for where only its size counts
DINOV2 = {
    "facebook/dinov2-small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "facebook/dinov2-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "facebook/dinov2-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "facebook/dinov2-giant": {
        "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True,
    },
}  # fmt: skip


class FeatureTeacher(nn.Module):
    """The coarsest features of the course's encoder, (B, 3, H, W) in [0, 1] -> (B, 96, H / 8, W / 8).

    They are standardised over the channels at every place, as the last layer of DINOv2 does it; an encoder with random
    weights then pulls as much as a trained one.

    Args:
        encoder: sides of images are multiples of its ``multiple``.
    """

    def __init__(self, encoder: FeatureEncoder):
        super().__init__()
        self.encoder = encoder
        self.width = encoder.config.widths[-1]

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.encoder(image)[-1].movedim(1, -1)
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-12).movedim(-1, 1)


class DINOTeacher(nn.Module):
    """Patch features of a DINOv2, (B, 3, H, W) in [0, 1] -> (B, D, H / 16, W / 16).

    The picture is reduced so that one patch covers 16 of its pixels, twice the side of a latent; the class token is
    left out.

    Args:
        model: a Dinov2Model of transformers.
        scaling: the model expects pictures in [0, 1], less ImageNet's mean, divided by its deviation (``unit``). The
            released code does that with pictures in [-1, 1] (``signed``), so that it sees values down to -6.5.

    Raises:
        ValueError: unknown scaling.
    """

    def __init__(self, model: nn.Module, scaling: str = "unit"):
        super().__init__()
        if scaling not in INPUTS:
            raise ValueError(f"scaling: expected one of {', '.join(INPUTS)}, got {scaling!r}")
        self.model, self.scaling = model, scaling
        self.width = model.config.hidden_size

    def forward(self, image: Tensor) -> Tensor:
        x = images.to_model_range(image) if self.scaling == "signed" else image
        x = (x - x.new_tensor(MEAN).view(3, 1, 1)) / x.new_tensor(DEVIATION).view(3, 1, 1)
        h, w = (side // PATCH_OF_PICTURE for side in x.shape[-2:])
        patch = self.model.config.patch_size
        x = F.interpolate(x, (h * patch, w * patch), mode="bicubic", align_corners=False)
        tokens = self.model(x).last_hidden_state[:, 1:]  # (B, h w, D)
        return tokens.transpose(1, 2).unflatten(2, (h, w))


def load_teacher(name: str, scaling: str = "unit") -> nn.Module:
    """A frozen teacher, evaluating; it has a ``width``, the number of its features.

    Args:
        name: ``features``; ``random``, the same with weights drawn from seed 0; or a DINOv2: its folder, or its id on
            the hub such as ``facebook/dinov2-giant`` if it is in the local cache. Nothing is fetched. On the meta
            device ``features`` and the names of `DINOV2` need no files.
        scaling: see `DINOTeacher`.

    Raises:
        FileNotFoundError: there is no such model on this machine. ImportError: transformers is not installed.
    """
    meta = torch.get_default_device().type == "meta"
    if name in ("features", "random"):
        encoder = load_encoder() if name == "features" and not meta else _random_encoder()
        return FeatureTeacher(encoder).requires_grad_(False).eval()
    return DINOTeacher(_open_dino(name, meta), scaling).requires_grad_(False).eval()


def _random_encoder() -> FeatureEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FeatureEncoder()


def _open_dino(name: str, meta: bool) -> nn.Module:
    try:
        from transformers import Dinov2Config, Dinov2Model
    except ImportError:
        raise ImportError(f"teacher {name} needs transformers; install minirestore[full]") from None
    if meta and name in DINOV2:
        return Dinov2Model(Dinov2Config(image_size=518, patch_size=14, mlp_ratio=4, **DINOV2[name]))
    try:
        if meta:
            return Dinov2Model(Dinov2Config.from_pretrained(name, local_files_only=True))
        return Dinov2Model.from_pretrained(name, local_files_only=True).float()
    except OSError:
        raise FileNotFoundError(
            f"teacher {name}: not on this machine; save it there with transformers, or choose features or random"
        ) from None
