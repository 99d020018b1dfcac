"""Section 3.4, latent image guidance: pull the estimate of z_0 towards the restoration module's result.

Each step of the sampler knows an estimate of the clean latents. Guidance moves it down the gradient of its distance
from a target, and the mean of the next step with it: more fidelity, less invention. No gradient passes through the
U-Net. With

    L = mean over the N numbers of an image of (estimate - target)^2,    step -s dL/d(estimate),

the estimate moves by the share rho = 2 s / N of its distance: s depends on the size of the image, rho does not.

Paper (algorithm 1): one step, and the mean moves as far. Released code: `REPEATS` steps, each moving the mean by
`RELEASED_GAIN` of what the estimate moves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MODES = ("released", "paper")
SPACES = ("latent", "image")
REPEATS = 5
RELEASED_GAIN = 0.5


@dataclass(frozen=True)
class Guidance:
    """How strongly and when to guide.

    Attributes:
        rho: share of the distance to the target that one step removes, in [0, 2); 0 is off, above 1 it overshoots.
        mode: ``released`` or ``paper``, see above.
        space: ``latent``; ``image`` compares decoded estimates with the target image, its gradient passes the decoder,
            which is stable only while rho is below 2 over the squared norm of the decoder's derivative.
        start, stop: guide while stop < t + 1 < start, t the timestep; by default always (released code).
    """

    rho: float = 0.0
    mode: str = "released"
    space: str = "latent"
    start: int = 1001
    stop: int = -1

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"guidance_mode: expected one of {', '.join(MODES)}, got {self.mode!r}")
        if self.space not in SPACES:
            raise ValueError(f"guidance_space: expected one of {', '.join(SPACES)}, got {self.space!r}")
        if not 0 <= self.rho < 2:
            raise ValueError(f"guidance: rho = 2 s / N must lie in [0, 2), or each step leads further away: {self.rho}")

    @property
    def repeats(self) -> int:
        """Steps of the gradient per step of the sampler."""
        return REPEATS if self.mode == "released" else 1

    @property
    def gain(self) -> float:
        """How far the mean moves, in units of what the estimate moves."""
        return RELEASED_GAIN if self.mode == "released" else 1.0

    @property
    def pull(self) -> float:
        """Share of the distance between estimate and target by which one step of the sampler moves the mean."""
        return self.gain * (1 - (1 - self.rho) ** self.repeats)

    def active(self, t: int) -> bool:
        """Whether this timestep is guided."""
        return self.rho > 0 and self.stop < t + 1 < self.start

    def move(
        self,
        estimate: Tensor,
        target: Tensor | Callable[[], Tensor],
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """What guidance adds to an estimate of z_0 (B, C, h, w) at one step of the sampler; times `gain`, to the mean.

        Args:
            target: latents (B, C, h, w), or a function that draws them anew for every repeat; for ``image`` images
                (B, 3, H, W) in [-1, 1].
            decode: latents to such images, needed for ``image``.
        """
        moved = estimate.detach()
        if self.space == "latent":
            if isinstance(target, Tensor):  # closed form
                return ((1 - self.rho) ** self.repeats - 1) * (estimate - target)
            for _ in range(self.repeats):
                moved = moved - self.rho * (moved - target())
            return moved - estimate
        for _ in range(self.repeats):
            with torch.enable_grad():
                z = moved.detach().requires_grad_()
                distance = 0.5 * (decode(z) - target).square().sum()
                (gradient,) = torch.autograd.grad(distance, z)
            moved = moved - self.rho * gradient
        return moved - estimate


def rho_of(s: float, numbers: int) -> float:
    """rho of the paper's gradient scale ``s`` for ``numbers`` = C h w latents (or 3 H W pixels) of one image."""
    return 2 * s / numbers
