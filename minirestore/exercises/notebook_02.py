"""Checkers of notebook 02, Fourier."""

from collections.abc import Callable

import torch
from torch import Tensor

from minirestore import fourier
from minirestore.exercises import Exercise, choice, number


def hybrid(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """``answer(a, b)`` must have the amplitude of a and the phase of b."""
    a, b = torch.rand(2, 1, 2, 8, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    right, swapped = fourier.swap_amplitude_phase(a, b)
    got = answer(a, b)
    if got.is_complex() and got.shape == right.shape:
        return "the result is complex; go back to pixels, and a symmetric spectrum gives real ones"
    if got.shape != right.shape:
        return f"the shape is {tuple(got.shape)} for images of {tuple(a.shape)}; the whole image is wanted"
    if torch.allclose(got, right):
        return None
    if torch.allclose(got, swapped):
        return "the roles are exchanged: the amplitude must come from the first image, the phase from the second"
    if torch.allclose(got, a) or torch.allclose(got, b):
        return "you gave back one of the two images; take the amplitude of one spectrum and the angle of the other"
    if torch.allclose(got / got.norm(), right / right.norm()):
        return (
            "right up to a factor: amplitude and inverse must use the same normalisation, fourier.fft2 is orthonormal"
        )
    return "check that |X| of your result is |A| everywhere, then its angle"


def radial_mean(answer: Callable[[Tensor], Tensor]) -> str | None:
    """``answer(power)`` must be the mean power of the rings 1 .. N // 2."""
    side = 16
    x = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    power = fourier.fft2(x)[0, 0].abs().square()
    right = fourier.radial_power_spectrum(x)[1][0]
    ring = (fourier.radial_frequency(side, side) * side).round()
    got = torch.as_tensor(answer(power)).double()
    if got.shape == (side // 2 + 1,) and torch.allclose(got[1:], right):
        return "ring 0, the zero frequency, is included; the mean brightness belongs to no ring"
    if got.shape != right.shape:
        return f"the shape is {tuple(got.shape)}, expected {side // 2} rings for a side of {side}"
    if torch.allclose(got, torch.stack([power[ring == k].sum() for k in range(1, side // 2 + 1)])):
        return "you added up the power of each ring; wide rings hold more coefficients, so divide by their number"
    if torch.allclose(got, torch.stack([power.sqrt()[ring == k].mean() for k in range(1, side // 2 + 1)])):
        return "you averaged amplitudes; the input is already the power, do not take its root"
    centred = torch.fft.ifftshift(power)
    if torch.allclose(got, torch.stack([centred[ring == k].mean() for k in range(1, side // 2 + 1)])):
        return "zero frequency is at [0, 0] here, not in the middle; no shift is needed with radial_frequency"
    if torch.allclose(got, power[0, 1 : side // 2 + 1]):
        return "that is one line of the spectrum; a ring goes through all directions"
    return (
        None if torch.allclose(got, right) else "check which coefficients round to ring k: frequency times N, rounded"
    )


EXERCISES = (
    Exercise(
        "02.shift",
        "predict",
        choice(
            "b",
            {
                "a": "the pixels move, but does the strength of a wave depend on where its crests are?",
                "c": "ten pixels are a large part of a short wave's period and a small part of a long one's",
                "d": "then the inverse would give back the image at its old place; what tells the two apart?",
            },
        ),
    ),
    Exercise("02.hybrid", "code", hybrid, points=2),
    Exercise("02.radial", "code", radial_mean, points=3),
    Exercise(
        "02.crossing",
        "predict",
        number(
            0.5,
            tolerance=0.01,
            mistakes=[
                (2.0, "more noise cannot make finer detail visible; in which direction does the crossing move?"),
                (0.25, "the power of the noise is four times as large, but the signal falls like f squared"),
                (0.7071, "the standard deviation is doubled, not the variance: by how much does the power grow?"),
            ],
            too_small="solve b / f^2 = sigma^2 for f, then put in twice the sigma; your factor is too small",
            too_large="solve b / f^2 = sigma^2 for f, then put in twice the sigma; your factor is too large",
        ),
        points=2,
    ),
    Exercise(
        "02.decades",
        "criticise",
        number(
            0.1,
            tolerance=0.005,
            mistakes=[
                (0.8333, "that is the ratio of two brightnesses, the mistake of the report: they are logarithms"),
                (0.3162, "that is the ratio of the amplitudes; how is energy made from amplitude?"),
                (0.7943, "one decade per unit of brightness would give that; the scale spans five decades"),
                (0.9, "the difference of brightness is not a loss in per cent; it is a difference of logarithms"),
                (10.0, "that is the inverse: the restored image has less energy than the clean one"),
            ],
            too_small="a brightness of 1 spans five decades of amplitude; you took away too much",
            too_large="a brightness of 1 spans five decades of amplitude; you took away too little",
        ),
        points=2,
    ),
)
