"""Section 3.3, LAControlNet: a trainable copy of the prior's encoder steers the frozen prior.

The condition is an image in the prior's own latents, laid beside z_t at the input of the copy. Where the copy meets
the prior stand 1x1 convolutions that are zero at first: training begins from the prior as it is. `condition_on` also
builds the two rivals of the paper, for comparison: the ControlNet that reads the condition through a small
convolutional encoder of its own, from pixels, and the prior itself with wider input, all of it trained.
"""

import torch
from torch import Tensor, nn

from minirestore.prior import LatentPrior

CONDITIONS = ("latent", "hint", "finetune")


class NoHint(nn.Module):
    """In the place of diffusers' hint encoder: adds nothing."""

    def forward(self, condition: Tensor) -> Tensor:
        return condition.new_zeros(())


def new_control(prior: LatentPrior, condition: str = "latent") -> nn.Module:
    """The trainable network for a prior, see `CONDITIONS`; its weights are copies of the prior's where it has them.

    Args:
        condition: ``latent``, LAControlNet: the copy has C more input channels, zero at first. ``hint``: a ControlNet
            with diffusers' hint encoder, random at first but for its last layer, which is zero. ``finetune``: the whole
            U-Net with C more input channels, zero at first.
    """
    from diffusers import ControlNetModel

    if condition not in CONDITIONS:
        raise ValueError(f"condition: expected one of {', '.join(CONDITIONS)}, got {condition!r}")
    unet = prior.network
    if condition == "finetune":
        return _widened(unet)
    # the hint encoder halves the sides with every further width, from pixels to latents
    halvings = prior.autoencoder.factor.bit_length() - 1
    hint_widths = (16, 32, 96, 256)[: halvings + 1]
    control = ControlNetModel.from_unet(unet, conditioning_channels=3, conditioning_embedding_out_channels=hint_widths)
    if condition == "hint":
        return control
    control.controlnet_cond_embedding = NoHint()
    return _widened(control)


def _widened(network: nn.Module) -> nn.Module:
    """The same diffusers model with twice the input channels, the weights of the further ones zero."""
    # names with an underscore are diffusers' own notes, such as which values are defaults, to be chosen anew
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    wider = type(network).from_config({**config, "in_channels": 2 * config["in_channels"]})
    if isinstance(getattr(network, "controlnet_cond_embedding", None), NoHint):
        wider.controlnet_cond_embedding = NoHint()
    weights = dict(network.state_dict())
    first = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([first, torch.zeros_like(first)], dim=1)
    wider.load_state_dict(weights)
    return wider


def controls(control: nn.Module, z_t: Tensor, t: Tensor, condition: Tensor, context: Tensor) -> list[Tensor]:
    """What LAControlNet or a ControlNet adds to the prior's skips, finest first, and to its middle, last.

    Args:
        control: from `new_control`, ``latent`` or ``hint``.
        z_t: (B, C, h, w). t: (B,). context: (B, tokens, width).
        condition: latents (B, C, h, w), or for ``hint`` images (B, 3, H, W) in [0, 1].
    """
    sample = z_t if control.config.in_channels == z_t.shape[1] else torch.cat([z_t, condition], dim=1)
    down, middle = control(
        sample, t, encoder_hidden_states=context.to(z_t.dtype), controlnet_cond=condition, return_dict=False
    )
    return [*down, middle]


def controlled_eps(
    prior: LatentPrior,
    control: nn.Module,
    z_t: Tensor,
    t: Tensor,
    condition: Tensor,
    strength: tuple[float, ...] = (1.0,),
) -> Tensor:
    """The noise that the prior predicts in z_t (B, C, h, w) under control; the prompt is empty, as in the paper.

    Args:
        strength: one factor of all controls, or one of each, in the order of `controls`. 0 is the prior alone.

    Raises:
        ValueError: the number of strengths is not that of the controls, or the fine-tuned prior, without any, gets one
            other than 1.
    """
    from diffusers import UNet2DConditionModel

    context = prior.contexts(0, len(z_t))
    if isinstance(control, UNet2DConditionModel):  # fine-tuned
        if strength != (1.0,):
            raise ValueError(f"strength: a fine-tuned prior has no controls; leave it 1, got {strength}")
        wide = torch.cat([z_t, condition], dim=1)
        return prior.as_eps(z_t, t, control(wide, t, encoder_hidden_states=context.to(z_t.dtype)).sample)
    added = controls(control, z_t, t, condition, context)
    if len(strength) not in (1, len(added)):
        raise ValueError(f"strength: expected one number or {len(added)}, got {len(strength)}")
    factors = strength * len(added) if len(strength) == 1 else strength
    *down, middle = (factor * h for factor, h in zip(factors, added, strict=True))
    return prior.eps(z_t, t, context, down, middle)
