"""A small encoder trained on procedural class labels, for use where a pretrained network would be downloaded.

It labels every pixel of ray-cast scenes with its class, and its feature maps then serve as a perceptual distance, as
the features of a Frechet distance, and as an alignment teacher. It is no substitute for VGG or DINOv2, and whatever
is computed with it carries its own name (`METRIC_ID`), never theirs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import checkpoints, config, images
from minirestore.scenes import LABELS

METRIC_ID = "course-features"


@dataclass(frozen=True)
class FeatureEncoderConfig:
    """Channels per level (finest first, each level halves the resolution) and number of pixel classes."""

    widths: tuple[int, ...] = (16, 32, 64, 96)
    classes: int = len(LABELS)


class FeatureEncoder(nn.Module):
    """Convolutional encoder with a per-pixel classifier on all its levels.

    ``(B, 3, H, W)`` in [0, 1] -> one map per level, ``(B, widths[k], H / 2^k, W / 2^k)``; H and W multiples of
    `multiple`.
    """

    def __init__(self, config: FeatureEncoderConfig | None = None):
        super().__init__()
        self.config = config or FeatureEncoderConfig()
        widths = self.config.widths
        self.multiple = 2 ** (len(widths) - 1)
        self.entry = nn.ModuleList(
            nn.Conv2d(before, width, 3, padding=1, stride=1 if level == 0 else 2)
            for level, (before, width) in enumerate(zip((3, *widths), widths, strict=False))
        )
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths)
        self.classifier = nn.ModuleList(nn.Conv2d(width, self.config.classes, 1) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = images.to_model_range(x)
        maps = []
        for entry, body in zip(self.entry, self.body, strict=True):
            x = F.silu(entry(x))
            x = F.silu(x + body(x))  # (B, widths[k], H / 2^k, W / 2^k)
            maps.append(x)
        return maps

    def logits(self, maps: list[Tensor]) -> Tensor:
        """Class scores ``(B, classes, H, W)`` of every pixel: each level votes, coarse votes are interpolated."""
        votes = [head(level) for head, level in zip(self.classifier, maps, strict=True)]
        size = votes[0].shape[-2:]
        return sum(F.interpolate(vote, size, mode="bilinear") if vote.shape[-2:] != size else vote for vote in votes)

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Cross-entropy of the pixel classes; ``batch`` holds ``clean`` (B, 3, H, W), ``labels`` (B, 1, H, W) int64."""
        scores = self.logits(self(batch["clean"])).float()
        labels = batch["labels"][:, 0]
        accuracy = (scores.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(scores, labels), "accuracy": accuracy}


def load_encoder(name: str = "features") -> FeatureEncoder:
    """The encoder from a checkpoint, in evaluation mode, its weights frozen."""
    tensors, card = checkpoints.load(name)
    encoder = FeatureEncoder(config.override(FeatureEncoderConfig(), card["config"]))
    checkpoints.fill(encoder, tensors, name)
    return encoder.requires_grad_(False)


def _maps(encoder: FeatureEncoder, x: Tensor, name: str, check_values: bool = True) -> list[Tensor]:
    if check_values:
        images.check_images(x, name, channels=(3,))
    else:
        images.check_layout(x, name, channels=(3,), minimum_side=2)
    return encoder(images.pad_to_multiple(x, encoder.multiple, minimum=2 * encoder.multiple))  # every map at least 2x2


def perceptual_distance(
    encoder: FeatureEncoder, prediction: Tensor, target: Tensor, *, check_values: bool = True
) -> Tensor:
    """Mean squared difference of unit-length feature vectors, averaged over levels; per image ``(B,)``, differentiable.

    The construction of LPIPS (Zhang et al. 2018) without learned channel weights. Report it as `METRIC_ID`.

    Args:
        prediction, target: ``(B, 3, H, W)`` in [0, 1], of one shape, H and W >= 2.
        check_values: refuse values that are not finite or leave [0, 1]. False is for a loss, whose images may leave it.
    """
    images.check_same_shape(prediction, target, ("prediction", "target"))
    pair = ((prediction, "prediction"), (target, "target"))
    distances = []
    for a, b in zip(*(_maps(encoder, x, name, check_values) for x, name in pair), strict=True):
        difference = F.normalize(a, dim=1) - F.normalize(b, dim=1)
        distances.append(difference.square().sum(1).mean((1, 2)))
    return torch.stack(distances).mean(0)


def pooled_features(encoder: FeatureEncoder, x: Tensor) -> Tensor:
    """Mean and standard deviation of every channel of every level: ``(B, 3, H, W) -> (B, 2 * sum(widths))``.

    Images in [0, 1], H and W >= 2. The finest level comes first, its means before its standard deviations.
    """
    parts = [part for level in _maps(encoder, x, "x") for part in (level.mean((2, 3)), level.std((2, 3)))]
    return torch.cat(parts, dim=1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance between Gaussians fitted to two feature sets ``(N, D)`` and ``(M, D)`` (Heusel et al. 2017).

    Biased upwards for few samples: always report the distance between two halves of the reference set beside it.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"a and b: expected (N, D) and (M, D) with N, M >= 2, got {shapes}")
    a, b = a.double(), b.double()
    for name, features in (("a", a), ("b", b)):
        if not torch.isfinite(features).all():
            raise ValueError(f"{name}: contains NaN or infinite features; leave out the images they come from")
    covariance_a, covariance_b = torch.cov(a.T), torch.cov(b.T)
    # the trace of sqrt(A B) is the sum of the singular values of sqrt(A) sqrt(B)
    roots = []
    for covariance in (covariance_a, covariance_b):
        values, vectors = torch.linalg.eigh(covariance)
        roots.append(vectors * values.clamp(min=0).sqrt() @ vectors.T)
    cross = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
    return max(distance.item(), 0.0)
