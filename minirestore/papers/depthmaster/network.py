"""The network: a diffusion U-Net, called once on the latents of the picture, returns those of the depth map.

No noise, no scheduler, and the timestep is always 1 (its rivals, which share the class, have others). Both stages
concern its middle block: stage 1 reads what that returns and aligns it with the features of another encoder; stage 2
changes it on its way. Hence no U-Net of our own, but diffusers' one with a tap at this place.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minirestore.papers.depthmaster.fourier_enhancement import FourierEnhancement

TIMESTEP = 1
RELEASED_BLOCK = "fftblock."
TAPS = ("middle", "down1", "down2")


class SingleStepNetwork(nn.Module):
    """Latents of a picture (B, C, h, w) to those of its depth map, same shape, and the features of the middle.

    Args:
        unet: a UNet2DConditionModel of as many input as output channels; tapped during a call only, so that several
            networks may share it.
        enhancement: what the features of the middle (B, C', h', w') go through; None leaves them alone (stage 1).
        tap: which features are returned: of the ``middle``, or of the first or second block of the way down (``down1``,
            ``down2``; the paper's D1 and D2).

    Raises:
        ValueError: unknown tap.
    """

    def __init__(self, unet: nn.Module, enhancement: nn.Module | None = None, tap: str = "middle"):
        super().__init__()
        if tap not in TAPS:
            raise ValueError(f"tap: expected one of {', '.join(TAPS)}, got {tap!r}")
        self.unet, self.enhancement, self.tap = unet, enhancement, tap

    @property
    def middle_width(self) -> int:
        """C': channels of the middle."""
        return self.unet.config.block_out_channels[-1]

    @property
    def tapped_width(self) -> int:
        """Channels of the features that are returned."""
        return self.unet.config.block_out_channels[{"middle": -1, "down1": 0, "down2": 1}[self.tap]]

    def forward(self, z: Tensor, context: Tensor, t: Tensor | int = TIMESTEP) -> tuple[Tensor, Tensor]:
        """Predicted latents, and the tapped features, those of the middle before any enhancement.

        Args:
            context: (B, tokens, width) of the empty prompt.
            t: timestep, one for all or (B,).
        """
        seen: dict[str, Tensor] = {}

        def middle(block: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            seen["middle"] = output
            return output if self.enhancement is None else self.enhancement(output)

        def down(name: str):
            def look(block: nn.Module, inputs: tuple, output: tuple) -> None:
                seen[name] = output[0]

            return look

        blocks = {"down1": self.unet.down_blocks[0], "down2": self.unet.down_blocks[1]}
        hooks = [self.unet.mid_block.register_forward_hook(middle)]
        if self.tap in blocks:
            hooks.append(blocks[self.tap].register_forward_hook(down(self.tap)))
        try:
            t = torch.as_tensor(t, device=z.device).expand(len(z))
            return self.unet(z, t, encoder_hidden_states=context.to(z.dtype)).sample, seen[self.tap]
        finally:
            for hook in hooks:
                hook.remove()

    def enhanced(self, **options) -> "SingleStepNetwork":
        """Stage 2 of this network: the same U-Net, not a copy, with a new Fourier block of these options.

        The released trainer opens stage 1 as a U-Net with the block, whose weights are not there: with one version of
        diffusers they are initialised, with another they are whatever memory held, and in its last version the block is
        left out. Here the block is made, with finite weights, or the call fails.
        """
        block = FourierEnhancement(self.middle_width, **options)
        first = next(self.unet.parameters())
        if not first.is_meta and not all(torch.isfinite(p).all() for p in block.parameters()):
            raise ValueError("enhancement: its initial weights are not finite")
        return SingleStepNetwork(self.unet, block.to(first.device), self.tap)

    def load_released(self, weights: Mapping[str, Tensor]) -> None:
        """Fill from a released state dictionary: diffusers' names, and ``fftblock.*`` for the block of stage 2.

        Raises:
            ValueError: the block is there and not in this network, or the other way round.
            RuntimeError: names or shapes that do not fit.
        """
        block = {k.removeprefix(RELEASED_BLOCK): v for k, v in weights.items() if k.startswith(RELEASED_BLOCK)}
        if bool(block) != (self.enhancement is not None):
            raise ValueError(
                f"weights: they come {'with' if block else 'without'} the Fourier block of stage 2, and the network "
                f"{'has none' if block else 'has one'}"
            )
        self.unet.load_state_dict({k: v for k, v in weights.items() if not k.startswith(RELEASED_BLOCK)})
        if self.enhancement is not None:
            self.enhancement.load_state_dict(block)
