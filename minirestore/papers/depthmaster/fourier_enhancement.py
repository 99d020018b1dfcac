"""Section III-C, Fourier Enhancement: balance the frequencies of the features that the middle of the U-Net returns.

Two paths work on the normalised features. The frequency path transforms them, lets convolutions change amplitude and
phase on the grid of frequencies, and transforms back; the spatial path is two convolutions. A last one fuses both.

The released block has no way around it: with fresh weights it erases what stage 1 has learned in the middle, and only
the skips carry it. ``residual`` adds such a way, and begins as the identity. And the derivative of the phase is one
over the amplitude, without bound; ``smallest`` guards it. Names of the weights are the released ones.
"""

import torch
from torch import Tensor, nn

GROUPS = 8


class FourierEnhancement(nn.Module):
    """Features (B, C, h, w) -> same shape.

    Args:
        width: C, a multiple of 8.
        residual: return ``x + block(x)``, with the last convolution zero at first; the released block returns
            ``block(x)``, and its last convolution begins as any other.
        smallest: amplitudes below this count as this, with phase 0 and no gradient through either; 0 as released.
        spectral: False leaves the transforms out and lets the same convolutions work in space: a control with as many
            parameters.

    Raises:
        ValueError: width is not a multiple of 8.
    """

    def __init__(self, width: int = 1280, residual: bool = True, smallest: float = 1e-4, spectral: bool = True):
        super().__init__()
        if width < 1 or width % GROUPS:
            raise ValueError(f"width: expected a multiple of {GROUPS}, got {width}")
        if not smallest >= 0:
            raise ValueError(f"smallest: an amplitude must not be negative, got {smallest}")
        self.residual, self.smallest, self.spectral = residual, smallest, spectral
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-5)
        self.conv_f1, self.conv_f2, self.conv_f4 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv_f3 = nn.Conv2d(width, width, 1)
        self.conv_s1, self.conv_s2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.fuse = nn.Conv2d(2 * width, width, 1)
        self.act = nn.SiLU()
        if residual:
            nn.init.zeros_(self.fuse.weight)
            nn.init.zeros_(self.fuse.bias)

    def amplitude_and_phase(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Of the orthonormal half spectrum of features (B, C, h, w): two (B, C, h, w // 2 + 1), phase in [-pi, pi]."""
        spectrum = torch.fft.rfft2(a, norm="ortho")
        if self.smallest:
            small = spectrum.abs() < self.smallest
            spectrum = torch.where(small, torch.full_like(spectrum, self.smallest), spectrum)
        return spectrum.abs(), spectrum.angle()

    def frequency_path(self, u: Tensor) -> Tensor:
        """What the frequency path makes of normalised features (B, C, h, w)."""
        a = self.act(self.conv_f1(u))
        if not self.spectral:
            return self.conv_f3(self.act(self.conv_f4(self.act(self.conv_f2(a)))) + a)
        amplitude, phase = self.amplitude_and_phase(a)
        amplitude, phase = self.act(self.conv_f2(amplitude)), self.act(self.conv_f4(phase))
        changed = torch.complex(amplitude * phase.cos(), amplitude * phase.sin())
        return self.conv_f3(torch.fft.irfft2(changed, s=a.shape[-2:], norm="ortho") + a)

    def forward(self, x: Tensor) -> Tensor:
        u = self.norm(x)
        spatial = self.conv_s2(self.act(self.conv_s1(u))) + u
        y = self.fuse(torch.cat([spatial, self.frequency_path(u)], dim=1))
        return x + y if self.residual else y
