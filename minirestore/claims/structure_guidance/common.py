"""The paper's name, and its blurred crops."""

import dataclasses
import functools

from minirestore.claims.shared import clean_crop, crop_seed

PAPER = "structure_guidance"


@functools.lru_cache(maxsize=512)
def pair(name: str, seed: int):
    """Clean and blurred crop, each (1, 3, 128, 128), of ``photograph/number/condition``.

    The condition is ``linear`` or ``long``; a shift, which leaves the crop the PSNR of its linear version; a factor
    on the severity such as ``x1.50``; or an RMS radius such as ``r2.5``.
    """
    from minirestore import degradations, metrics

    condition, x, s = name.split("/")[2], clean_crop(name), crop_seed(name, seed)
    linear = degradations.BLUR_DOMAINS["linear"]
    if condition[1:].replace(".", "").isdigit():
        value = float(condition[1:])
        radius = (value, value) if condition[0] == "r" else tuple(value * r for r in linear.radius)
        return x, degradations.random_blur(x, s, dataclasses.replace(linear, radius=radius))
    if condition in ("linear", "long"):
        return x, degradations.random_blur(x, s, degradations.BLUR_DOMAINS[condition])
    target = metrics.psnr(degradations.random_blur(x, s, linear), x).item()
    return x, degradations.matched_blur(x, s, degradations.BLUR_DOMAINS[condition], target)
