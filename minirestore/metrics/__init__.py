"""How good is a restored image or a predicted depth map? One number per image, and no silent surprises.

`METRICS` lists every metric under its id; `evaluate` computes several at once. Image metrics are in
`minirestore.metrics.image`, depth metrics in `minirestore.metrics.depth`, LPIPS in `minirestore.metrics.perceptual`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from minirestore.metrics.depth import Alignment, abs_rel, align_depth, boundary_f1, delta1, rmse
from minirestore.metrics.image import (
    GMSD_SIDE,
    HAARPSI_SIDE,
    LOW_FREQUENCY_CELL,
    MS_SSIM_SIDE,
    SSIM_WINDOW,
    colour_offset,
    gmsd,
    gradient_energy_ratio,
    haarpsi,
    high_frequency_energy_ratio,
    high_frequency_error,
    low_frequency_rmse,
    ms_ssim,
    psnr,
    spectrum_distance,
    ssim,
)
from minirestore.metrics.perceptual import TRUNKS, lpips, lpips_available, lpips_id, lpips_loss, trunk_path

__all__ = [
    "METRICS",
    "Alignment",
    "Metric",
    "abs_rel",
    "align_depth",
    "boundary_f1",
    "colour_offset",
    "delta1",
    "evaluate",
    "gmsd",
    "gradient_energy_ratio",
    "haarpsi",
    "high_frequency_energy_ratio",
    "high_frequency_error",
    "low_frequency_rmse",
    "lpips",
    "lpips_available",
    "lpips_id",
    "lpips_loss",
    "ms_ssim",
    "psnr",
    "rmse",
    "spectrum_distance",
    "ssim",
    "trunk_path",
]


@dataclass(frozen=True)
class Metric:
    """One metric: how to compute it and how to read it.

    Attributes:
        function: ``(prediction, target) -> (B,)``; depth metrics also take ``valid``.
        higher_is_better: None for a ratio whose best value is 1.
        needs: ``"images"``, ``"depth"``, or ``"weights"`` (images, and a trunk on disk).
        label: name and unit for an axis or a table.
        minimum_side: smallest image side in pixels.
    """

    function: Callable[..., Tensor]
    higher_is_better: bool | None
    needs: Literal["images", "depth", "weights"]
    label: str
    minimum_side: int = 2


METRICS: dict[str, Metric] = {
    "psnr": Metric(psnr, True, "images", "PSNR (dB)"),
    "ssim": Metric(ssim, True, "images", "SSIM", SSIM_WINDOW),
    "ms_ssim": Metric(ms_ssim, True, "images", "MS-SSIM", MS_SSIM_SIDE),
    "haarpsi": Metric(haarpsi, True, "images", "HaarPSI", HAARPSI_SIDE),
    "gmsd": Metric(gmsd, False, "images", "GMSD", GMSD_SIDE),
    "high_frequency_energy_ratio": Metric(high_frequency_energy_ratio, None, "images", "high-frequency energy ratio"),
    "high_frequency_error": Metric(high_frequency_error, False, "images", "high-frequency error"),
    "gradient_energy_ratio": Metric(gradient_energy_ratio, None, "images", "gradient energy ratio"),
    "spectrum_distance": Metric(spectrum_distance, False, "images", "spectrum distance (decades)"),
    "low_frequency_rmse": Metric(low_frequency_rmse, False, "images", "low-frequency RMSE", LOW_FREQUENCY_CELL),
    "colour_offset": Metric(colour_offset, False, "images", "colour offset"),
    **{
        f"lpips-{net}": Metric(functools.partial(lpips, net=net), False, "weights", f"LPIPS ({net})", side)
        for net, (_, _, side) in TRUNKS.items()
    },
    "abs_rel": Metric(abs_rel, False, "depth", "AbsRel"),
    "delta1": Metric(delta1, True, "depth", "delta1"),
    "rmse": Metric(rmse, False, "depth", "RMSE (m)"),
    "boundary_f1": Metric(boundary_f1, True, "depth", "boundary F1"),
}


def evaluate(
    prediction: Tensor,
    target: Tensor,
    metrics: str | Sequence[str] = ("psnr", "ssim", "haarpsi"),
    valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute several metrics and return ``{id: (B,) float64}`` in the order asked for.

    An LPIPS result is filed under `lpips_id`, which differs from the id asked for when the trunk on disk is not the
    published one: a stand-in can never pass for the real metric.

    Args:
        prediction, target: images, or depth for depth metrics.
        metrics: one id or several, from `METRICS`.
        valid: mask for depth metrics only.

    Raises:
        ValueError: an unknown id (the right ones are listed), ``valid`` with an image metric, or bad input.
        FileNotFoundError: LPIPS without weights on disk.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"metrics: unknown id(s) {', '.join(map(repr, unknown))}; choose from {', '.join(METRICS)}")
    results = {}
    for name in names:
        entry = METRICS[name]
        if valid is not None and entry.needs != "depth":
            raise ValueError(f"valid: {name} is an image metric and takes no mask; leave valid out or drop {name}")
        scores = entry.function(prediction, target, *([valid] if entry.needs == "depth" else []))
        results[lpips_id(name.removeprefix("lpips-")) if entry.needs == "weights" else name] = scores
    return results
