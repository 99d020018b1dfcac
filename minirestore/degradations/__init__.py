"""Degradations: what cameras, weather and files do to a picture, from one line to whole random pipelines.

In one call (images ``(B, C, H, W)`` in [0, 1] in and out): `gaussian_blur`, `motion_blur`, `walk_blur`,
`defocus_blur`, `rotation_blur`, `rain`, `gaussian_noise`, `poisson_noise`, `jpeg`, `diff_jpeg`, `resize`.
Kernels to look at: `gaussian_kernel` and its relatives. Linear operators with exact adjoints: `Blur`, `MotionBlur`,
`SpatiallyVaryingBlur`, `Resize`, `Downsample`. Random pipelines whose configurations are frozen dataclasses:
`first_order`, `second_order`, `random_blur`; blur of a stated PSNR: `matched_blur`, and `evaluation_shifts`.

Randomness comes from a ``torch.Generator`` or an integer seed: same seed, same bytes. A CPU generator serves images
on any device.
"""

from minirestore.degradations._common import Step
from minirestore.degradations.blur import defocus_blur, gaussian_blur, motion_blur, rotation_blur, walk_blur
from minirestore.degradations.compression import diff_jpeg, jpeg
from minirestore.degradations.domains import (
    BLUR_DOMAINS,
    SHIFTS,
    BlurDomain,
    OutOfReachError,
    Shift,
    evaluation_shifts,
    matched_blur,
    random_blur,
)
from minirestore.degradations.kernels import (
    disk_kernel,
    gaussian_kernel,
    generalized_gaussian_kernel,
    linear_motion_kernel,
    pad_kernel,
    plateau_kernel,
    rms_radius,
    sinc_kernel,
    walk_motion_kernel,
)
from minirestore.degradations.light import linear_to_srgb, srgb_to_linear
from minirestore.degradations.noise import gaussian_noise, poisson_noise
from minirestore.degradations.operators import Blur, Downsample, MotionBlur, Resize, SpatiallyVaryingBlur, resize
from minirestore.degradations.pipelines import (
    FIRST_ORDER_FACE,
    FIRST_ORDER_GENERAL,
    FIRST_ORDER_PAPER_SMALL,
    FIRST_ORDER_SMALL,
    LOW_RESOLUTION_DOMAINS,
    LOW_RESOLUTION_FACTOR,
    PIPELINES,
    SECOND_ORDER_GENERAL,
    SECOND_ORDER_LIGHT,
    SECOND_ORDER_RESSHIFT,
    SECOND_ORDER_SMALL,
    FirstOrder,
    KernelMixture,
    SecondOrder,
    Stage,
    degrade,
    first_order,
    low_resolution,
    random_kernel,
    second_order,
)
from minirestore.degradations.weather import RAIN_DOMAINS, RAIN_HEAVY, RAIN_LIGHT, Rain, rain

__all__ = [
    "BLUR_DOMAINS",
    "FIRST_ORDER_FACE",
    "FIRST_ORDER_GENERAL",
    "FIRST_ORDER_PAPER_SMALL",
    "FIRST_ORDER_SMALL",
    "LOW_RESOLUTION_DOMAINS",
    "LOW_RESOLUTION_FACTOR",
    "PIPELINES",
    "RAIN_DOMAINS",
    "RAIN_HEAVY",
    "RAIN_LIGHT",
    "SECOND_ORDER_GENERAL",
    "SECOND_ORDER_LIGHT",
    "SECOND_ORDER_RESSHIFT",
    "SECOND_ORDER_SMALL",
    "SHIFTS",
    "Blur",
    "BlurDomain",
    "Downsample",
    "FirstOrder",
    "KernelMixture",
    "MotionBlur",
    "OutOfReachError",
    "Rain",
    "Resize",
    "SecondOrder",
    "Shift",
    "SpatiallyVaryingBlur",
    "Stage",
    "Step",
    "defocus_blur",
    "degrade",
    "diff_jpeg",
    "disk_kernel",
    "evaluation_shifts",
    "first_order",
    "gaussian_blur",
    "gaussian_kernel",
    "gaussian_noise",
    "generalized_gaussian_kernel",
    "jpeg",
    "linear_motion_kernel",
    "linear_to_srgb",
    "low_resolution",
    "matched_blur",
    "motion_blur",
    "pad_kernel",
    "plateau_kernel",
    "poisson_noise",
    "rain",
    "random_blur",
    "random_kernel",
    "resize",
    "rms_radius",
    "rotation_blur",
    "second_order",
    "sinc_kernel",
    "srgb_to_linear",
    "walk_blur",
    "walk_motion_kernel",
]
