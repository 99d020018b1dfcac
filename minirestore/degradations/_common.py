"""What every degradation shares: random draws from an explicit generator and per-image parameters."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Randomness = torch.Generator | int
PerImage = float | Sequence[float] | Tensor


class Step(NamedTuple):
    """One step a random pipeline took, with the numbers it drew, e.g. ``Step("jpeg", {"quality": 43})``."""

    name: str
    parameters: dict[str, float | int | str | bool | tuple[int, ...]]


def as_generator(randomness: Randomness) -> torch.Generator:
    """Return a generator: the one given, or a new CPU generator seeded with the integer given."""
    if isinstance(randomness, torch.Generator):
        return randomness
    if isinstance(randomness, int) and not isinstance(randomness, bool):
        return torch.Generator().manual_seed(randomness)
    raise TypeError(
        f"generator: expected a torch.Generator or an integer seed, got {type(randomness).__name__}; "
        "pass e.g. torch.Generator().manual_seed(0)"
    )


def per_image_generators(randomness: Randomness, count: int) -> list[torch.Generator]:
    """One independent generator per image, so that image i is the same whatever the size of its batch."""
    parent = as_generator(randomness)
    seeds = [int(torch.randint(2**62, (1,), generator=parent, device=parent.device)) for _ in range(count)]
    return [torch.Generator(parent.device).manual_seed(seed) for seed in seeds]


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number from U[low, high)."""
    return low + (high - low) * float(torch.rand(1, generator=generator, device=generator.device))


def chance(generator: torch.Generator, probability: float) -> bool:
    """True with the given probability."""
    return uniform(generator, 0, 1) < probability


def choose(generator: torch.Generator, options: Sequence, probabilities: Sequence[float] | None = None):
    """One of ``options``, uniformly or with the given probabilities (which must sum to 1)."""
    weights = torch.tensor(probabilities or [1 / len(options)] * len(options), dtype=torch.float64)
    index = int((weights.cumsum(0) <= uniform(generator, 0, 1)).sum())
    return options[min(index, len(options) - 1)]


def standard_normal(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """N(0, 1) noise drawn in float32 on the generator's device, moved to the dtype and device of ``like``.

    A CPU generator therefore gives the same noise whatever the device or precision of the image.
    """
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(like)


def per_image(value: PerImage, x: Tensor, name: str, *, minimum: float) -> Tensor:
    """Turn one number, or one number per image, into ``(B, 1, 1, 1)`` on the device of ``x``, float32 or wider."""
    B = x.shape[0]
    dtype = torch.promote_types(x.dtype, torch.float32)
    numbers = torch.as_tensor(value, dtype=dtype, device=x.device).reshape(-1)
    if numbers.numel() not in (1, B):
        raise ValueError(f"{name}: expected one number or one per image ({B}), got {numbers.numel()}")
    if not bool((numbers >= minimum).all()) or not bool(torch.isfinite(numbers).all()):
        raise ValueError(f"{name}: must be finite and at least {minimum}, got {numbers.tolist()}")
    return numbers.expand(B).view(B, 1, 1, 1)


def check_range(name: str, limits: tuple[float, float], minimum: float) -> None:
    """Raise ValueError unless ``limits`` is ``(low, high)`` with ``minimum <= low <= high``."""
    low, high = limits
    if not minimum <= low <= high:
        raise ValueError(f"{name}: expected (low, high) with {minimum} <= low <= high, got {limits}")


def check_probabilities(name: str, values: Sequence[float]) -> None:
    """Raise ValueError unless all values are in [0, 1] and sum to 1."""
    if min(values) < 0 or abs(sum(values) - 1) > 1e-9:
        raise ValueError(f"{name}: probabilities must be >= 0 and sum to 1, got {tuple(values)}")
