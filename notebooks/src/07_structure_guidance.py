# %% [markdown]
# # 07 Structure guidance
#
# **You will be able to**
# - say what survives of a blurred photograph when it loses its colour and seven eighths of its size, in decibels and in
#   Fourier space;
# - build the guided diffusion model of *Multiscale Structure Guided Diffusion for Image Deblurring* (ICCV 2023):
#   pyramid, guidance network, guided block, losses, sampler;
# - train the guidance alone and then the whole, and read the warm start and the ramp in the loss curves;
# - tell before sampling whether a schedule $(T, \beta_T)$ can work;
# - list what the paper leaves open, and expose three classical bugs of unofficial ports by a calculation or a
#   measurement.
#
# **You need** only a CPU: about 40 seconds for all cells, about two hours for you. Notebooks 02, 04 and 05 come
# before: power spectra, blur kernels, noise levels and samplers. The profile `reduced` trains three networks from
# scratch: minutes each on a GPU, up to an hour each on one CPU core.

# %% tags=["parameters"]
profile = "quick"
seed = 0
steps = 100
guidance_steps = 150
samples = 4
draws = 3

# %% tags=["setup"]
import contextlib
import inspect
import math

import torch
import torch.nn.functional as F

from minirestore import degradations, diffusion, fourier, images, metrics, photos, plots, recipes, statistics
from minirestore.exercises import check
from minirestore.papers import structure_guidance as paper
from minirestore.plots import show, show_cost, show_table
from minirestore.widgets import explore

RECIPE = recipes.METHODS["structure_guidance"]
pyramid = paper.StructurePyramid(paper.StructureGuidanceConfig())

# %% [markdown]
# ## The idea as a picture
#
# A diffusion model that removes blur (notebook 05, with blur in the place of noise) is trained on one kind of blur and
# then meets another. It fails there, and the reason lies in front of it: the blurred photograph $y$, in full colour
# and full size, shows in every edge *how* it was blurred. A network that is rewarded for using what it sees learns
# that, too.
#
# The paper's remedy is a second, small input that hardly shows it. Take the grey image $\bar y$ (**luma**, the
# weighted mean .299 R + .587 G + .114 B), shrink it to $1/2^k$ of its size with antialiasing (notebook 04), and call
# that **structure**, $\varphi_k(y)$. (The paper adds a little noise; that comes later.) The first row below is a sharp
# photograph and its structure. The others are the same photograph, blurred: `linear` is a straight motion, `walk` the
# path of a shaking hand, both with sensor noise of $\sigma = 2.55/255$; `walk_gamma` is such a path that mixes linear
# light instead of file values (notebook 04), with twice that noise. Their strength is chosen so that all three
# photographs have the same PSNR, in full size and colour.
#
# The table is about twelve crops, the two most textured of each evaluation photograph, with defocus (`disk`) as a
# fourth blur. Its last column is the **brightness shift**, the mean of $\varphi_3(y) - \varphi_3(x)$ in units of
# 1/255.

# %%
def structure(x, k):
    """phi_k without its noise, in [0, 1]: (B, 3, H, W) -> (B, 1, H / 2^k, W / 2^k)."""
    return images.to_unit_range(pyramid.reduce(images.to_model_range(x), k))


crops, names = photos.evaluation_crops(128)
energy = crops.diff(dim=2).square().sum((1, 2, 3)) + crops.diff(dim=3).square().sum((1, 2, 3))
textured = [4 * i + j for i in range(6) for j in sorted(energy[4 * i : 4 * i + 4].topk(2).indices.tolist())]
sharp, photograph = crops[textured], [names[i] for i in textured]
bench = degradations.evaluation_shifts(sharp, 70 + seed, ["walk", "walk_gamma", "disk"])
blurred = {name: shift.degraded for name, shift in bench.items()}
domains = ("linear", "walk", "walk_gamma")
print("crops that could be given the same PSNR:", {name: len(shift.kept) for name, shift in bench.items()})

# %%
rows = [[structure(x[:1], k) for k in range(4)] for x in (sharp, *(blurred[name] for name in domains))]
figure = plots.image_grid(rows, [f"k = {k}" for k in range(4)], ["sharp", *domains], width=3.5)
text = []
for name, row in zip(domains, rows[1:], strict=True):
    scores = [metrics.psnr(a, b).item() for a, b in zip(row, rows[0], strict=True)]
    text.append(f"{name} {', '.join(f'{score:.4g}' for score in scores)}")
show(figure, alt=f"Structure of a badge; PSNR against the sharp structure at k = 0 to 3 in dB: {'; '.join(text)}")
table = {}
for name, y in blurred.items():
    pairs = [(structure(y, k), structure(sharp, k)) for k in range(4)]
    table[name] = [metrics.psnr(*pair).mean().item() for pair in pairs]
    table[name].append(255 * (pairs[3][0] - pairs[3][1]).mean().item())
show_table(["k = 0 (dB)", "k = 1", "k = 2", "k = 3", "shift at 3"], table)
contrast = [structure(sharp, k).std(dim=(1, 2, 3)).mean().item() for k in (0, 3)]
print(f"contrast of the sharp structure (standard deviation): {contrast[0]:.4g} at k = 0, {contrast[1]:.4g} at k = 3")

# %% [markdown]
# Three observations. *Blur traces fade*: every halving brings blurred and sharp closer. *Structure stays*: at $1/8$ of
# the size most of the contrast is still there. And one thing does *not* fade: `walk_gamma` falls behind at $k = 3$,
# because its picture is brighter than the sharp one. (A mean of light, encoded, is larger than the mean of the encoded
# values.) Such **photometric** differences, in exposure, tone curve or white balance, are the same at every scale.
#
# ## The same in Fourier space
#
# A blur multiplies every frequency by the response of its kernel (notebook 04). Shrinking to $1/2^k$ keeps only the
# band below $2^{-(k+1)}$ cycles/pixel: the squares drawn over the responses (white is 1, black .001 or less).

# %%
radius = 2.8  # RMS radius in pixels
kernels = {
    "linear": degradations.linear_motion_kernel(math.sqrt(12 * radius**2 - 2), 0.6),
    "walk": degradations.walk_motion_kernel(radius, 5 + seed),
}
cuts = {k: (2.0 ** -(k + 1), colour) for k, colour in zip((1, 2, 3), plots.COLOURS[3:6], strict=True)}
figure, axes = plots.subplots(1, 2, width=5, height=2.2, sharey=True)
text = []
for axis, (name, kernel) in zip(axes, kernels.items(), strict=True):
    response = torch.fft.fftshift(torch.fft.fft2(degradations.pad_kernel(kernel, 65)).abs())
    axis.imshow(1 + response.clamp(min=1e-3).log10() / 3, vmin=0, vmax=1, extent=fourier.spectrum_extent(65, 65))
    for k, (edge, colour) in cuts.items():
        square = [-edge, edge, edge, -edge, -edge], [-edge, -edge, edge, edge, -edge]
        axis.plot(*square, color=colour, lw=1.5, label=f"k = {k}")
    axis.set(title=f"{name}, log response", xlabel="cycles/pixel", xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
    axis.grid(False)
    bands = [response[32 - half : 33 + half, 32 - half : 33 + half] for half in (16, 8, 4)]
    text.append(f"{name} {', '.join(f'{band.square().mean().sqrt():.4g}' for band in bands)}")
axes[0].set_ylabel("cycles/pixel")
axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
show(figure, alt=f"Two responses; their root mean square in the bands of k = 1, 2, 3: {'; '.join(text)}")

# %%
figure, axis = plots.subplots(width=6, height=2.5)
frequency, power = fourier.radial_power_spectrum(images.luma(sharp), window=True)
text = []
for name in domains:
    ratio = fourier.radial_power_spectrum(images.luma(blurred[name]), window=True)[1].mean(0) / power.mean(0)
    axis.semilogy(frequency, ratio, label=name)
    text.append(f"{name} {', '.join(f'{ratio[frequency <= cut].mean():.4g}' for cut, _ in cuts.values())}")
for k, (cut, colour) in cuts.items():
    axis.axvline(cut, color=colour, lw=1, ls="--")
    axis.annotate(f"k = {k}", (cut, 1.2), (2, 0), textcoords="offset points", fontsize=8)
axis.axhline(1, color="k", lw=0.8)
axis.set(title="Power of the blurred luma", xlabel="frequency (cycles/pixel)", ylabel="power / sharp", ylim=(0.03, 2))
axis.legend()
show(figure, alt=f"Mean power ratio of blurred to sharp below the cut-offs of k = 1, 2, 3: {'; '.join(text)}")

# %% [markdown]
# Left of the line $k = 3$ most of the power is there, whatever the kernel: inside the smallest square the two kernels
# can hardly be told apart. What tells them apart lies further out. So does most of what has to be restored: structure
# is a *hint*, not an answer. The fine detail must still come from $y$ and from the diffusion model. (Where the curves
# rise again on the right, it is noise and not detail that comes back, most of it in `walk_gamma`.)
#
# ### Exercise 1: structure (code, 8 minutes, easy)
#
# Write `grey_small(y, k)` for images `(B, 3, H, W)`: luma with the weights above, then the mean over squares of
# $2^k \times 2^k$ pixels, `(B, 1, H / 2^k, W / 2^k)`; no noise. `F.avg_pool2d` helps.

# %% tags=["solution"]
def grey_small(y, k):
    """phi_k with area averaging, without noise."""
    ### BEGIN SOLUTION
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=y.dtype).reshape(1, 3, 1, 1)
    return F.avg_pool2d((y * weights).sum(1, keepdim=True), 2**k)
    ### END SOLUTION


# %%
check("07.structure", grey_small)

# %% [markdown]
# ### Exercise 2: what does noise do? (predict, 4 minutes, easy)
#
# Suppose $y$ differed from $x$ by sensor noise only, independent from pixel to pixel. By how many dB would
# PSNR$(\varphi_k(y), \varphi_k(x))$ grow with every halving, if halving takes the mean of 2 x 2 pixels?

# %% tags=["solution"]
### BEGIN SOLUTION
halving_answer = 6.02
### END SOLUTION

# %%
check("07.halving", halving_answer)

# %% [markdown]
# There are three speeds of fading, and the speed names the cause:
#
# | difference between $y$ and $x$ | its power below the cut-off $f_c$ | dB per halving |
# |---|---|---|
# | photometric, the same everywhere | does not depend on $f_c$ | 0 |
# | white noise | $\propto f_c^2$, the area of the band | 6 |
# | centred blur, once the band is narrow | $\propto f_c^4$ | 12 |
#
# The last line: at low $f$ a response is $1 - 2\pi^2 s^2 f^2$, with the kernel's standard deviation $s$ along that
# direction, and the amplitude of photographs falls like $1/f$ (notebook 02); so the error's power is
# $\int_0^{f_c} (f^2 \cdot f^{-1})^2 f\,df \propto f_c^4$. The experiment near the end measures these speeds, with
# intervals.
#
# ## Theory: the paper's equations
#
# **The icDPM** ("image-conditioned diffusion probabilistic model") is notebook 05's conditional diffusion in another
# dress. Images live in [-1, 1], $\bar\alpha_t$ is the level, and the network $G$ sees the noisy sample beside $y$:
#
# $$x_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1-\bar\alpha_t}\;\varepsilon, \qquad
# L_\text{DPM} = E\,\big\|\,G(x_t, y, \{h_k\}, \bar\alpha_t) - \varepsilon\,\big\|_1 .$$
#
# The level is **continuous**, and $G$ is told the level itself, not an index. Hence any schedule can be walked at test
# time with the same network. (Our training draws $\bar\alpha_t$ between neighbouring entries of a long schedule, as
# SR3 does.)
#
# **Why does it overfit its blur?** Seeing $y$, $G$ gets every trace of the blur at once: the zeros of the response,
# the corners of smeared edges, the direction of streaks. If all training blur is straight motion, "every point became
# a straight streak; put it in the middle" always pays. Nothing in $L_\text{DPM}$ says that it will not pay elsewhere.
#
# **Guidance.** A small regression network $H$ reads the structure with a little noise $n$, and from its features $h_k$
# a head $R$ must predict the sharp structure:
#
# $$\varphi_k(y) = d_{\downarrow 2^k}(\bar y) + n,\quad n \sim \mathcal N(0, \sigma^2 I),\qquad h_k = H(\varphi_k(y)),\qquad
# L_\text{guid} = \sum_{k=1}^{3} E\,\big\|\,R(h_k) - \varphi_k(x)\,\big\| .$$
#
# (So it is written, unsquared; our code takes the mean squared error.) The $h_k$ are added to the features of $G$'s
# encoder, at the levels that have their resolution.
#
# **Both together**: $L = L_\text{guid} + w(i)\,L_\text{DPM}$ at training step $i$. In the paper $L_\text{guid}$
# dominates the first 60,000 steps, then $w$ grows gradually. We take $w = 0$, the **warm start** ($H$ should know
# structure before $G$ relies on it), and then a straight **ramp** to 1. The gradient of $L_\text{DPM}$ flows into $H$
# as well.
#
# **Sampling** is **ancestral**: with the $\hat x_0$ that the predicted noise implies, clipped to [-1, 1], draw from
# $q(x_{t-1} \mid x_t, \hat x_0)$. That is DDPM, $\eta = 1$ in notebook 05.
#
# **A word on sources.** The authors published no code, and no public code we know has the guidance. What follows is a
# re-implementation from the paper's description. Whatever the paper does not state is a named option of
# `StructureGuidanceConfig`; the section *Paper against code* lists them.
#
# ## Build it: the pyramid
#
# `StructurePyramid` is $\varphi_k$ for all $k$ at once. Its core, from the source:

# %%
print(inspect.getsource(paper.StructurePyramid.__call__))
y = images.to_model_range(blurred["linear"][:1])
for k, p in pyramid(y, torch.Generator().manual_seed(seed)).items():
    print(f"k = {k}: {tuple(p.shape)}, noise {(p - pyramid.reduce(y, k)).std():.4g} in [-1, 1]")

# %% [markdown]
# The noise is small and nevertheless counts: at $k = 3$ it outweighs what the table above left of the blur. That is
# plausibly its purpose: single traces fainter than the noise are hard to read.
#
# ## Build it: the guidance network and the guided block
#
# $H$ and $R$ have one branch per scale: a convolution, residual blocks *without* noise level, a head. They need no
# level because $y$ does not change while the sample is denoised. The guided block is the residual block of notebook 05
# with one more term: $P_k(h_k)$, where the 1 x 1 convolution $P_k$ makes the channels fit, is added between its two
# convolutions. `project` is called once per image, and `added` is what it returned.
#
# $P_k$ starts at zero, which is our choice: a guided network then *is* the unguided one before its first step, and a
# comparison of the two starts fair. The second cell checks that on a network whose other layers are all random (as
# built, some start at zero and would make the test empty), then lets $P_k$ be random, too.

# %%
print(inspect.getsource(paper.GuidanceBranch.forward))
print(inspect.getsource(paper.GuidedResBlock.project))
print(inspect.getsource(paper.GuidedResBlock.forward))
print("super().forward, of ResBlock:\n" + inspect.getsource(paper.GuidedResBlock.__base__.forward))

# %%
config, data, _ = recipes.plan(RECIPE, "quick")
generator = torch.Generator().manual_seed(seed)
toy = recipes.build(RECIPE, config, seed)
picture, level = torch.randn(1, 6, 32, 32, generator=generator), torch.tensor([0.5])
with torch.no_grad():
    for name, weight in toy.named_parameters():
        if "projection" not in name:
            weight.normal_(0, 0.1, generator=generator)
    features, _ = toy.guidance(toy.pyramid(picture[:, :3]))
    unguided = toy.unet(picture, level)
    same = torch.equal(unguided, toy.unet(picture, level, toy.unet.project(features)))
    print("P_k zero:   guided equals unguided to the last bit:", same)
    for name, weight in toy.named_parameters():
        if "projection" in name:
            weight.normal_(0, 0.1, generator=generator)
    change = (toy.unet(picture, level, toy.unet.project(features)) - unguided).std() / unguided.std()
print(f"P_k random: the output changes by {change:.4g} of its standard deviation")

# %% [markdown]
# ## Build it: the U-Net
#
# $G$ follows DvSR (*Deblurring via Stochastic Refinement*, CVPR 2022): residual blocks without normalisation and
# without attention. It is fully convolutional: any image size, and a crop is treated like the whole. Below: its
# parameters with 32 and 64 channels at the finest level, which we take for the paper's S and L, counted on torch's
# *meta* device (shapes without memory), and which $k$ guides each encoder block.

# %%
def parameters(profile="full", **options):
    """Parameters of the method and of its G; no weight is ever allocated."""
    method = recipes.build(RECIPE, recipes.plan(RECIPE, profile, options)[0], device="meta")
    return [sum(p.numel() for p in part.parameters()) for part in (method, method.unet)]


large = {"widths": (64, 128, 192, 256)}
for name, size in {"icDPM-S": {}, "icDPM-L": large}.items():
    whole, G = parameters(**size)
    print(f"{name}: unguided {parameters(guided=False, **size)[0]:,}; guided {whole:,}, of which H and R {whole - G:,}")
predictor, denoiser = parameters(objective="regression", **large)[0], parameters(guided=False)[0]
print(f"DvSR: predictor {predictor:,} and denoiser {denoiser:,} are {predictor + denoiser:,} together")
small = [parameters("reduced", **options)[0] for options in ({}, {"guided": False}, {"objective": "regression"})]
print("shipped here: guided {:,}, unguided {:,}, plain regressor {:,}".format(*small))
for profile_name in ("full", "reduced"):
    method = recipes.build(RECIPE, recipes.plan(RECIPE, profile_name)[0], device="meta")
    print(f"k of the encoder blocks, level by level, {profile_name}: {method.unet.scale_of_block}")

# %% [markdown]
# DvSR's paper states 33 M parameters for predictor and denoiser together, and our count agrees: good evidence that the
# U-Net is right. There is none for the guidance: its width and depth are not in the texts we have, so "guided" is our
# size and not the paper's.
#
# The shipped networks are small. They first move 2 x 2 pixels into channels, so that their three levels have $1/2$,
# $1/4$ and $1/8$ of the image's size, all guided. They diffuse the **residual** $s\,(x - y)$ instead of $x$, with
# $s = 6$ to give it about unit size, and predict the velocity $v$ (notebook 05) with a squared error: predicting
# $\varepsilon$ of $x$, as the paper does, needs a far longer training.
#
# ## Train the guidance alone
#
# $H$ needs no diffusion. Here is its loop, on dead leaves (notebook 05) under `linear` blur: structure in, sharp
# structure out. Then the curves, and a photograph, which it has never seen, at $k = 1$; "before" is the network as
# initialised.

# %%
make_batch = recipes.make_data(data)
method = recipes.build(RECIPE, config, seed)
H, phi, history = method.guidance, method.pyramid, []
optimiser = torch.optim.AdamW(H.parameters(), lr=4e-3)
for i in range(guidance_steps):
    generator = diffusion.BatchGenerator(seed, i)
    batch = make_batch(8, generator)
    x, y = (images.to_model_range(batch[key]) for key in ("clean", "degraded"))
    features, predictions = H(phi(y, generator))
    errors = [(predictions[k] - target).square().mean() for k, target in phi(x).items()]  # L_k
    optimiser.param_groups[0]["lr"] = 4e-3 * (1 - i / guidance_steps)
    optimiser.zero_grad()
    sum(errors).backward()
    torch.nn.utils.clip_grad_norm_(H.parameters(), 1.0)
    optimiser.step()
    history.append([error.item() for error in errors])

# %%
@torch.no_grad()
def regress(network, phi, y, number=1):
    """Noisy structure phi_k(y), features h_k and predictions R(h_k), in [-1, 1], on the CPU."""
    noisy = phi(images.to_model_range(y), torch.Generator().manual_seed(1000 * seed + number))
    found = network({k: p.to(next(network.parameters()).device) for k, p in noisy.items()})
    return noisy, *({k: values.cpu() for k, values in maps.items()} for maps in found)


figure, axes = plots.subplots(1, 5, width=6.2, height=1.65, width_ratios=(2, 1, 1, 1, 1))
curves, window = torch.tensor(history).T, max(guidance_steps // 20, 1)
for k, curve, style in zip((1, 2, 3), curves, ("-", "--", ":"), strict=True):
    smooth = curve[: len(curve) // window * window].reshape(-1, window).mean(1)
    axes[0].semilogy(torch.arange(len(smooth)) * window + window / 2, smooth, style, label=f"k = {k}")
axes[0].set(title=f"L_k, means of {window} steps", xlabel="training step", ylim=(1e-3, 0.5))
axes[0].legend(fontsize=6, ncols=3, handlelength=1.2, columnspacing=0.8, loc="upper right")
networks = recipes.build(RECIPE, config, seed).guidance, H
before, after = (regress(network, phi, blurred["linear"][:1]) for network in networks)
panels = {"phi(y)": before[0][1], "R before": before[2][1], "R after": after[2][1]}
panels = {name: images.to_unit_range(panel) for name, panel in panels.items()} | {"phi(x)": structure(sharp[:1], 1)}
scores = {name: metrics.psnr(panel, panels["phi(x)"]).item() for name, panel in panels.items() if name != "phi(x)"}
for axis, (name, panel) in zip(axes[1:], panels.items(), strict=True):
    plots.image_axes(axis, panel, f"{name}\n{scores[name]:.4g} dB" if name in scores else f"{name}\n")
text = ", ".join(f"{c[:window].mean():.4g} to {c[-window:].mean():.4g}" for c in curves)
text += "; PSNR at k = 1 in dB: " + ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
show(figure, alt=f"L_k falls in {guidance_steps} steps, for k = 1, 2, 3 from {text}")

# %% [markdown]
# The head predicts the structure itself and not a correction, so $H$ first has to learn to pass its input through.
# After seconds it does little more than that. Whether a longer-trained $H$ sharpens is asked further down.
#
# ## Train it small
#
# The whole method, by the recipe of the command line. At `quick` a toy for a few seconds, and the shipped networks are
# loaded. At `reduced` or `full` the same cell trains the real ones (guided, unguided, and a plain regressor that maps
# $y$ to $x$ in one call); the rest of the notebook then uses those. The warm start comes on top of the steps of
# $L_\text{DPM}$, which are equally many with and without guidance. First the two losses, from the source; `added` are
# the $P_k(h_k)$.

# %%
print(inspect.getsource(paper.StructureGuidance.training_losses))
print(inspect.getsource(paper.StructureGuidance._diffusion_loss))

# %%
import tempfile
from pathlib import Path

from minirestore import checkpoints

quick, scratch = profile == "quick", tempfile.TemporaryDirectory()
device = "cpu" if quick else "auto"
kinds = {"guided": ({}, ""), "unguided": ({"guided": False}, "_unguided")}
kinds["regressor"] = {"objective": "regression"}, "_regressor"
models, cards, fits = {}, {}, {}
for name, (options, suffix) in kinds.items():
    folder = Path(scratch.name if quick else f"../runs/07-{profile}-{steps}-{seed}", name)
    network, _, _ = recipes.plan(RECIPE, profile, options)
    warm = network.warm_start if network.uses_guidance else 0
    if name == "guided" or not quick:
        settings = {**options, "steps": steps + warm, "seed": seed}
        _, fits[name] = recipes.train(RECIPE.name, profile, settings, run_dir=folder, device=device)
    path = RECIPE.name + suffix if quick else folder / f"{RECIPE.name}.safetensors"
    models[name], cards[name] = recipes.load_method(RECIPE.name, path, device), checkpoints.read_card(path)
    print(f"used below: {name}, {cards[name]['parameters']:,} parameters, {cards[name]['steps']} steps")
guided = models["guided"]

# %%
fit, plan = fits["guided"], recipes.plan(RECIPE, profile)[0]
trainee, window, text = recipes.build(RECIPE, plan, device="meta"), max(fit.steps_done // 30, 1), []
weight = [trainee.diffusion_weight(i) for i in range(fit.steps_done)]
figure, axes = plots.subplots(1, 2, width=7, height=2.4, width_ratios=(2, 1))
for name, first in {"guidance": 0, "diffusion": plan.warm_start}.items():
    curve = torch.tensor(fit.history[name])
    smooth = curve[: len(curve) // window * window].reshape(-1, window).mean(1)
    axes[0].semilogy(first + torch.arange(len(smooth)) * window + window / 2, smooth, label=f"L of {name}")
    text.append(f"{name}, from step {first}, {smooth[0]:.4g} to {smooth[-1]:.4g}")
axes[0].axvspan(0, plan.warm_start, color="0.9")
axes[0].axvspan(plan.warm_start, plan.warm_start + plan.ramp, color="0.96")
axes[0].set(title=f"Warm start, ramp, both (means of {window} steps)", xlabel="training step", ylabel="loss")
axes[0].legend()
axes[1].plot(weight)
axes[1].set(title="w(i), weight of L_DPM", xlabel="training step", ylim=(-0.05, 1.05))
show(figure, alt=f"Losses: {'; '.join(text)}; the weight reaches 1 at step {weight.index(1.0)}")

# %% [markdown]
# During the warm start (darker) only $H$ and $R$ learn; the diffusion loss is not even computed. Then $w$ rises during
# the ramp (lighter), and $G$ starts from its zero-initialised head: an answer of 0 to a target $v$ of about unit size
# costs about 1. Both curves are for dead leaves and, at `quick`, of a toy.
#
# ## Look inside: features, and what they add
#
# What does $h_k$ of the guided network look like? From left to right: noisy structure, the three channels that vary
# most (each scaled to its own range), and what $R$ makes of all channels.
#
# The features reach $G$ as $P_k h_k$, one addition in each guided block. The second figure shows how large that is
# beside the features it is added to, for several levels of noise in the sample. The guidance is the same at all
# levels; what changes is the rest.

# %%
noisy, features, predictions = regress(guided.guidance, guided.pyramid, blurred["linear"][:1])
rows, text = [], []
for k, h in features.items():
    spread, order = h[0].flatten(1).std(1).sort(descending=True)
    text.append(f"k = {k} {spread[0]:.4g} to {spread[-1]:.4g}")
    low, high = (h[:, order[:3]].flatten(2).quantile(q, dim=2)[..., None, None] for q in (0.02, 0.98))
    channels = ((h[:, order[:3]] - low) / (high - low)).clamp(0, 1)
    rows.append([images.to_unit_range(noisy[k]), *channels.split(1, dim=1), images.to_unit_range(predictions[k])])
figure = plots.image_grid(rows, ["phi(y)", *["h"] * 3, "R(h)"], [f"k = {k}" for k in features], width=3.5)
show(figure, alt=f"Feature maps; standard deviation from the liveliest to the calmest channel: {'; '.join(text)}")

# %%
@torch.no_grad()
def guidance_share(method, x, y, alpha_bar):
    """|P_k h_k| / |conv1(...)| in every guided block at one level: (k, ratio) block by block."""
    seen, unet, where = [], method.unet, next(method.parameters()).device
    levels = zip(unet.encoder, unet.scale_of_block, strict=True)
    pairs = [(k, block) for blocks, ks in levels for block, k in zip(blocks, ks, strict=True) if k is not None]
    hooks = [block.conv1.register_forward_hook(lambda *call: seen.append(call[-1].norm())) for _, block in pairs]
    X, Y = (images.to_model_range(image.to(where)) for image in (x, y))
    base, level = method.base(Y), torch.full((len(X),), alpha_bar, device=where)
    eps = diffusion.randn(X.shape, torch.Generator().manual_seed(seed), where)
    z_t = diffusion.add_noise(method.config.residual_scale * (X - base), eps, level)
    h = {k: values.to(where) for k, values in regress(method.guidance, method.pyramid, y)[1].items()}
    method.predict(z_t, Y, base, level, unet.project(h))
    for hook in hooks:
        hook.remove()
    return [(k, (block.project(h[k]).norm() / size).item()) for (k, block), size in zip(pairs, seen, strict=True)]


# %%
levels = (0.001, 0.1, 0.5, 0.9, 0.99)
shares = [guidance_share(guided, sharp[:6], blurred["linear"][:6], level) for level in levels]
figure, axis = plots.subplots(width=6, height=2.4)
text = []
for block, (k, _) in enumerate(shares[0]):
    curve = [share[block][1] for share in shares]
    axis.semilogy(range(len(levels)), curve, "os^dvP*<>"[block % 9] + "-", label=f"k = {k}")
    text.append(f"k = {k} {', '.join(f'{value:.4g}' for value in curve)}")
axis.set(title="What guidance adds in each guided block", xlabel="level alpha_bar (left: pure noise)")
axis.set(ylabel="|P h| / |features|", xticks=range(len(levels)), xticklabels=levels)
axis.legend()
show(figure, alt=f"Relative size of the guidance at alpha_bar {', '.join(map(str, levels))}: {'; '.join(text)}")

# %% [markdown]
# Size is not use, though. To see what is *used*, take it away. `restore(guidance=0)` switches guidance off. For single
# scales we use a **hook**, a function that torch calls after a module has computed, and which may replace the result:
# it sets the other $h_k$ to zero. Each number is the PSNR of the one-step estimate of the mean (notebook 05) on the
# twelve crops.

# %%
@contextlib.contextmanager
def only(method, scales):
    """Inside this block only these scales guide: all other h_k are zero."""

    def silence(module, arguments, output):
        return {k: h * (k in scales) for k, h in output[0].items()}, output[1]

    hook = method.guidance.register_forward_hook(silence)
    try:
        yield
    finally:
        hook.remove()


def mean_psnr(method):
    """PSNR of the one-step estimate under each blur."""
    return [metrics.psnr(recipes.restore(method, blurred[name], steps=1), sharp).mean().item() for name in domains]


used = {"input": [metrics.psnr(blurred[name], sharp).mean().item() for name in domains]}
for scales in ((1, 2, 3), (1,), (2,), (3,), ()):
    with only(guided, scales):
        used["k = " + (", ".join(map(str, scales)) or "none")] = mean_psnr(guided)
show_table([f"{name} (dB)" for name in domains], used)

# %% [markdown]
# Compare the rows of single scales with "1, 2, 3" and "none". A scale whose row equals "none" is one that this network
# has learned to ignore, whatever its features look like: it sees $y$ itself, and can find the coarse picture there.
# Whether several scales beat one when networks are *trained* with one or several is claim A6 of notebook 08.
#
# ### Exercise 3: criticise (5 minutes, medium)
#
# A report compares two rows: "Setting all $h_k = 0$ costs this much PSNR. Hence guidance improves deblurring by this
# much." What is the strongest objection?
#
# - **a** PSNR is not made for guidance; a perceptual metric should have been used
# - **b** twelve crops are too few
# - **c** this network was trained *with* guidance and never saw it absent; the fair rival is a network trained without
#   it, of equal size and training
# - **d** the one-step estimate is not a sample

# %% tags=["solution"]
### BEGIN SOLUTION
zeroed_answer = "c"
### END SOLUTION

# %%
check("07.zeroed", zeroed_answer)

# %%
# the rival: the same network, trained without guidance; and the plain regressor
fair = {key: used[key] for key in ("input", "k = none", "k = 1, 2, 3")}
fair |= {"trained without": mean_psnr(models["unguided"])}
fair["regressor"] = [metrics.psnr(recipes.restore(models["regressor"], blurred[d]), sharp).mean().item() for d in domains]
show_table([f"{name} (dB)" for name in domains], fair)
zeroed, rival = (fair["k = 1, 2, 3"][0] - fair[key][0] for key in ("k = none", "trained without"))
print(f"linear: guided minus zeroed {zeroed:.4g} dB, guided minus trained without {rival:.4g} dB")

# %% [markdown]
# The two differences on the last line answer two questions; only the second is about the method. Where it is close to
# zero, the network without guidance has found in $y$ whatever the guidance has to say. Then read the columns `walk` and
# `walk_gamma`, the blurs never trained on, where the paper promises the gain: shipped, guided is not ahead of unguided
# there either, and under `walk_gamma` every network does worse than leaving $y$ alone. All this rests on one training
# run each and has no interval over seeds; notebook 08 has them, and a rival of equal size.
#
# ## Which schedules can work at all?
#
# The sampler may walk any linear schedule of $T$ steps from $\beta_1 = 10^{-6}$ to $\beta_T$. The paper tunes these
# two numbers, for perception ("Ours") or for fidelity ("Ours-SA": sample averaging, the mean of several samples). But
# every walk *starts from pure noise*, and that is right only if the schedule ends in pure noise:
# $\bar\alpha_T \approx 0$. Here is the table that the paper does not print.
#
# `restore` takes the cells in bold, up to .05 (bright up to .01, the blue between is the border), and refuses the dark
# ones unless told `inconsistent=True`. We do that, beside a bright cell with as many steps; the numbers are means over
# two crops, of which one is shown. **Gradient energy** (notebook 05) is relative to the sharp crop: a good restoration
# has 1, but so may a mixture of blur and noise.

# %%
counts, ends = (10, 20, 30, 50, 100, 200, 300, 500), (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
start = torch.tensor([[guided.levels(T, beta)[0] for beta in ends] for T in counts])
usable = start <= paper.LARGEST_START
figure, axis = plots.subplots(width=5.4, height=2.5)
axis.imshow((start > 0.01).double() + ~usable, cmap="Blues", vmin=-0.3, vmax=3.5, aspect="auto")
for i, row in enumerate(start.tolist()):
    for j, value in enumerate(row):
        axis.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=7.5, weight="bold" if usable[i, j] else None)
axis.set(title="Signal left at the start, alpha_bar_T (dark: refused)", xlabel="beta_T", ylabel="steps T")
axis.set(xticks=range(6), xticklabels=ends, yticks=range(8), yticklabels=counts)
axis.grid(False)
least = [next((str(T) for T, row in zip(counts, usable, strict=True) if row[j]), "none") for j in range(6)]
text = ", ".join(f"beta_T {beta}: {T}" for beta, T in zip(ends, least, strict=True))
show(figure, alt=f"{int(usable.sum())} of {start.numel()} cells start below {paper.LARGEST_START}; smallest T for {text}")

# %%
chosen = [0, 9]
y, x = blurred["linear"][chosen], sharp[chosen]
panels = {"blurred": y}
for T, beta in ((30, 0.02), (30, 0.5)):
    panels[f"T = {T}, {beta}"] = recipes.restore(guided, y, seed=seed, steps=T, beta_end=beta, inconsistent=True)
scores = {name: (metrics.psnr(p, x).mean(), metrics.gradient_energy_ratio(p, x).mean()) for name, p in panels.items()}
titles = [f"{name}\n{psnr:.4g} dB\nenergy {energy:.3g}" for name, (psnr, energy) in scores.items()]
pictures = [panel[:1, :, 16:112, 32:] for panel in panels.values()]
text = "; ".join(title.replace("\n", ", ") for title in titles)
show(plots.image_row(pictures, titles, width=2.9), alt=f"A dark and a bright cell, two crops: {text}")

# %% [markdown]
# In the dark cell the first call gets pure noise and is told that three quarters of its power is signal. So it takes
# most of the noise for picture, and no later step repairs that. (A network that diffuses $x$ itself fails differently:
# its pictures look washed out.) If a method of this family gives grainy or pale pictures, compute this table before
# anything else.
#
# ### Exercise 4: the start level (code, 6 minutes, easy)
#
# Write `start_level(T, beta_end)`: $\bar\alpha_T = \prod_t (1 - \beta_t)$ for $T$ betas, equally spaced from $10^{-6}$
# to `beta_end`.

# %% tags=["solution"]
def start_level(T, beta_end):
    """What is left of the signal after T noising steps."""
    ### BEGIN SOLUTION
    betas = torch.linspace(1e-6, beta_end, T, dtype=torch.float64)
    return (1 - betas).prod().item()
    ### END SOLUTION


# %%
check("07.start", start_level)

# %% [markdown]
# ## Restore
#
# One sample at the default setting, the mean of several, and the one-step estimate, a single call at the noisiest
# level. The picture has 75 x 97 pixels: $G$ is convolutional, so any size will do (the input is mirrored up to a
# multiple of 8). One crop and one seed: this shows, and notebook 08 judges.
#
# The second cell counts calls. $H$ runs once per image, before the loop, for all steps and all samples. (ControlNet, a
# copy of the encoder that is told the level, has to run at every step.) Before that, the sampler; `diffusion.ddim` is
# the loop of notebook 05.

# %%
y, x = (image[9:10, :, 20:95, 16:113] for image in (blurred["linear"], sharp))
singles = torch.stack([recipes.restore(guided, y, seed=100 * seed + number) for number in range(samples)])
results = {"blurred": y, "one sample": singles[0], f"mean of {samples}": singles.mean(0)}
results["one step"] = recipes.restore(guided, y, steps=1)
table = {}
for name, result in results.items():
    scores = (metric(result, x) for metric in (metrics.psnr, metrics.haarpsi, metrics.gradient_energy_ratio))
    table[name] = [score.item() for score in scores]
titles = [f"{name}\n{values[0]:.4g} dB" for name, values in table.items()]
figure = plots.image_row([*results.values(), x], [*titles, "sharp\n"], width=4.7)
show(figure, alt=f"A wheel of {y.shape[-2]} x {y.shape[-1]} pixels: {', '.join(titles)}".replace("\n", " "))
show_table(["PSNR (dB)", "HaarPSI", "energy"], table)

# %%
print(inspect.getsource(paper.StructureGuidance._sample))
calls = {"H": 0, "G": 0}
parts = {"H": guided.guidance, "G": guided.unet}
hooks = [part.register_forward_hook(lambda *_, n=n: calls.update({n: calls[n] + 1})) for n, part in parts.items()]
recipes.restore(guided, y[..., :32, :32], samples=2)
for hook in hooks:
    hook.remove()
print(f"two samples of {guided.config.sampling_steps} steps: H was called {calls['H']} time, G {calls['G']} times")

# %% [markdown]
# As in notebook 05, averaging trades detail for fidelity: expect the most gradient energy in the single sample and the
# better PSNR in the means. (The one-step estimate is where averaging would lead if the answers at all levels fitted
# together, notebook 05. Where it has more energy than the mean of several samples, they do not.) Look closely at the
# single sample: where it is wrong, it is wrong *sharply*. A short training on abstract shapes gives modest pictures.
#
# ## Draw your own blur
#
# The path of a camera during the exposure: an arc of some **length** (pixels), **bent** up to half a circle (1), with
# **dwell**: above 0 the camera lingers at its start. `k` says which scales may guide; the silent ones are dimmed.
# From left to right: kernel, blurred crop, structures (with their PSNR against the sharp ones, in dB), restored crop
# (one step, so that only blur and guidance differ, not luck). What happens to the structures when the path gets
# longer, and to the restored crop when it bends? Which `k` make a difference?

# %%
def trajectory(length, bend, dwell, side=27):
    """Blur kernel (side, side) of an arc, drawn as the time the camera spends at every place."""
    along = torch.linspace(0, 1, 257, dtype=torch.float64) ** (1 + dwell)  # position on the path at equal times
    heading = math.pi * bend * (along[1:] - 0.5)
    strides = length * along.diff()[:, None] * torch.stack([heading.cos(), heading.sin()], 1)
    points = strides.cumsum(0)
    points = points - points.mean(0)
    grid = torch.arange(side, dtype=torch.float64) - side // 2
    spots = torch.exp(-2 * (grid - points[:, :, None]).square())  # spots of sigma 1/2: (points, 2, side)
    kernel = spots[:, 1].T @ spots[:, 0]
    return kernel / kernel.sum()


SCALES = {"1+2+3": (1, 2, 3), "1": (1,), "2": (2,), "3": (3,), "none": ()}
scene = sharp[2:3]


# %%
def draw(figure, length, bend, dwell, k):
    """Kernel, blurred crop, structures and restored crop for one trajectory."""
    kernel = trajectory(length, bend, dwell)
    y = degradations.gaussian_noise(degradations.Blur(kernel)(scene).clamp(0, 1), 2.55, 30 + seed)
    with only(guided, SCALES[k]):
        restored = recipes.restore(guided, y, steps=1)
    before, after = (metrics.psnr(image, scene).item() for image in (y, restored))
    canvas, near = torch.ones(1, 1, 112, 64), []  # the structures below each other, in their own sizes
    for scale, top in ((1, 0), (2, 64), (3, 96)):
        p = structure(y, scale)
        near.append(f"{metrics.psnr(p, structure(scene, scale)).item():.3g}")
        canvas[..., top : top + p.shape[-2], : p.shape[-1]] = p * (1.0 if scale in SCALES[k] else 0.25)
    panels = {"kernel\n": (kernel / kernel.max()).sqrt()[None, None], f"blurred\n{before:.4g} dB": y}
    panels |= {f"structure\n{' '.join(near)}": canvas, f"restored\n{after:.4g} dB": restored}
    for axis, (title, panel) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        plots.image_axes(axis, panel, title)
    return f"blurred {before:.4g}, structures {', '.join(near)}, restored {after:.4g} dB"


states = [{"length": 9, "bend": 0, "dwell": 0, "k": "1+2+3"}]
states += [{"length": 14, "bend": 1, "dwell": 1, "k": k} for k in ("1+2+3", "none")]
knobs = {"length": (1, 3, 6, 9, 14, 20), "bend": (0, 0.25, 0.5, 0.75, 1), "dwell": (0, 0.5, 1, 2)}
explore(draw, size=(3.5, 1.2), states=states, **knobs, k=list(SCALES))

# %% [markdown]
# ## Does it hold? The speed at which differences fade
#
# The idea rests on one statement: *shrinking removes traces of blur*. The paper shows pictures. We measure the gain in
# PSNR of every halving, on the twelve crops, with several draws of blur and noise. Intervals as in notebook 05: a
# bootstrap over whole photographs and Student's t over their means, and a verdict only where both agree; "above" means
# above 0.
#
# And a second question, in the second list: does the trained $H$ bring structure closer to the sharp one? Its input
# has noise on top of the blur, so there are two references: the input it gets, and structure to which no noise was
# added.

# %%
psnr, shift = {}, {}
for name in (*domains, "disk"):
    found, bright = [], []
    for number in range(1000 * seed + 100, 1000 * seed + 100 + draws):
        y = degradations.random_blur(sharp, number)
        if name != "linear":
            y = degradations.matched_blur(sharp, number, degradations.BLUR_DOMAINS[name], metrics.psnr(y, sharp))
        pairs = [(structure(y, k), structure(sharp, k)) for k in range(4)]
        found.append(torch.stack([metrics.psnr(*pair) for pair in pairs], 1))  # (crops, 4)
        bright.append(torch.stack([255 * (a - b).mean((1, 2, 3)) for a, b in pairs], 1))
    psnr[name], shift[name] = torch.stack(found).mean(0), torch.stack(bright).mean(0)
figure, axis = plots.subplots(width=5.6, height=2.5)
for (name, values), style in zip(psnr.items(), ("o-", "s--", "^-", "d:"), strict=True):
    axis.plot(range(4), values.mean(0), style, markersize=4, label=name)
foot = psnr["linear"].mean(0)[2].item()
for speed in (12.04, 6.02):
    axis.plot((2, 3), (foot, foot + speed), color="0.6", lw=0.8)
    axis.text(3.03, foot + speed, f"{speed:.0f} dB", fontsize=8, va="center")
axis.set(title="Blurred against sharp structure", xlabel="k (size 1/2^k)", ylabel="PSNR (dB)", xticks=range(4))
axis.legend()
text = "; ".join(f"{name} {', '.join(f'{v:.4g}' for v in values.mean(0))}" for name, values in psnr.items())
show(figure, alt=f"PSNR of structure at k = 0 to 3, means over crops and draws: {text}")

# %%
def judged(values, unit="dB"):
    """Both intervals of the mean over crops, and their common verdict."""
    bootstrap, t = statistics.clustered_intervals(values, photograph, seed)
    ends = f"t [{statistics.significant(t.low)}, {statistics.significant(t.high)}]"
    return f"{bootstrap} {unit}, {ends}: {statistics.verdict(bootstrap, t)}"


for name, values in psnr.items():
    for k in (1, 2, 3):
        print(f"{name:>10}, k = {k - 1} to {k}: {judged(values[:, k] - values[:, k - 1])}")
last = {name: psnr[name][:, 3] - psnr[name][:, 2] for name in ("walk", "walk_gamma")}
print(f"last halving, walk_gamma minus walk: {judged(last['walk_gamma'] - last['walk'])}")
for name, k in (("walk", 0), ("walk", 3), ("walk_gamma", 0), ("walk_gamma", 3)):
    print(f"brightness shift, {name}, k = {k}: {judged(shift[name][:, k], '/ 255')}")
deviation = guided.config.guidance_noise / 2  # in [0, 1]
print(f"gain of R(H(phi(y))); with its noise alone, phi(y) would have {-20 * math.log10(deviation):.4g} dB")
for name in domains:
    noisy, _, predicted = regress(guided.guidance, guided.pyramid, blurred[name], 2)
    for k in (1, 2, 3):
        score = metrics.psnr(images.to_unit_range(predicted[k]), structure(sharp, k))
        over_input = score - metrics.psnr(images.to_unit_range(noisy[k]), structure(sharp, k))
        over_clean = (score - metrics.psnr(structure(blurred[name], k), structure(sharp, k))).mean()
        print(f"{name:>10}, k = {k}: over its input {judged(over_input)}; over noise-free phi {over_clean:.4g} dB")

# %% [markdown]
# For blur by a kernel the statement holds on these photographs, for every kernel tried, and the gains rise towards the
# 12 dB of the theory. The negative finding stands below that list: the brightness that blur in linear light adds is
# still there at $1/8$, and the last halving is worth less to `walk_gamma` than to `walk`. Structure is blind to the
# *shape* of a blur, not to *photometry*. A camera with another tone curve remains another domain.
#
# On $H$: "above" says that it removes something; whether that is blur or merely the added noise, the last number says.
# Where it is negative, the prediction is further from the truth than the blurred structure itself. At $k = 3$ there is
# little blur left to remove, and a network that redraws the whole picture loses more than there is to gain. Its
# features may be useful all the same, but look for "not resolved" before you repeat that $H$ deblurs at every scale.
#
# ## Paper against code
#
# There is no code to hold against the paper. So the question becomes: what had to be invented? Each line is an option,
# with the default for the published size.
#
# | not stated in the texts we have | option | default |
# |---|---|---|
# | strength $\sigma$ of the noise $n$ ("small") | `guidance_noise` | .05 in [-1, 1]; .02 in the small networks |
# | luma weights; the filter of $d_\downarrow$ | `luma_weights`, `downsample` | BT.601; bicubic, antialiased |
# | widths and depth of $H$; one for all scales? | `guidance_widths`, `guidance_blocks`, `share_branches` | as the U-Net's level; 4; one each |
# | where $h_k$ is added | `inject`, `inject_at` | all encoder blocks of the level; inside |
# | how $P_k$ starts | `zero_projection` | at zero |
# | is the target noisy; is the norm squared (written unsquared) | `noisy_target`, `guidance_loss` | no; yes, `mse` |
# | does $R$ give the structure, or a correction of its input | `head` | the structure |
# | shape and length of the ramp ("gradually") | `ramp_shape`, `ramp` | linear, 60,000 steps |
# | how $G$ is told the level: $\bar\alpha$, its root, ... | `noise_level` | sinusoids of log-SNR |
# | schedule of training; draw between its entries | `train_levels`, `beta_end`, `level_interpolation` | 2000; .01; uniform in $\sqrt{\bar\alpha}$ |
# | total steps, decay of the running mean of the weights, dropout | training configuration, `dropout` | 1 M; .9999; 0 |
# | $T$, $\beta_T$ and samples behind each table | `restore(steps, beta_end, samples)` | 500; .02; 1 |
# | clipping of $\hat x_0$ | `clip` | on |
#
# Unofficial ports exist of the unguided model and of DvSR, its ancestor. They teach three lessons.
#
# **1. The residual of what?** DvSR trains a predictor $g$ and diffuses what $g$ misses, $x - g(y)$. One port wrote
# `blur - g(blur)`. Such a loss can fall nicely, yet the sharp image occurs nowhere in it: a *perfect* student returns
# $g(y) + (y - g(y)) = y$, the blurred input. Run the optimum of a loss through the sampler, on paper, before training
# anything.
#
# **2. One level for the whole batch.** The same port draws a single $t$ per batch. The mean of the loss is unharmed;
# its variance is not: 16 images then give *one* draw of the level. The loss of our guided network, both ways, 60
# batches each:

# %%
tuning = torch.cat([photos.crops(name) for name in ("china", "flower")])
pool = F.unfold(tuning, 32, stride=32).reshape(8, 3, 32, 32, 16).permute(0, 4, 1, 2, 3).flatten(0, 1)  # (128, 3, 32, 32)
pool_blurred, where = degradations.random_blur(pool, 50 + seed), next(guided.parameters()).device
per_image, spread = guided.draw_levels, {}
ways = {"image": per_image, "batch": lambda count, *where: per_image(1, *where).expand(count)}
for name, way in ways.items():
    guided.draw_levels, found = way, []
    for number in range(60):
        generator = diffusion.BatchGenerator(seed, number)
        index = torch.randperm(len(pool), generator=generator)[:16]
        batch = {"clean": pool[index].to(where), "degraded": pool_blurred[index].to(where)}
        with torch.no_grad():
            found.append(guided.training_losses(batch, generator, step=10**9)["diffusion"].item())
    spread[name] = torch.tensor(found).std().item()
    print(f"one level per {name}: loss {sum(found) / len(found):.4g}, standard deviation of batches {spread[name]:.4g}")
del guided.draw_levels
print(f"variance, per batch over per image: {(spread['batch'] / spread['image']) ** 2:.4g}")

# %% [markdown]
# The last number is the factor by which the number of *steps* would have to grow to make up for it. Larger batches
# would not help: a batch of any size still has one level.
#
# **3. The level that is told is not the level that is.** A network may be conditioned on $\bar\alpha$ (DvSR's
# equation) or on $\sqrt{\bar\alpha}$ (the ports' habit). Both work *if* training, sampler and formula agree. First,
# undress a known $x_t$ at $\bar\alpha = .5$ with a wrong level $\bar\alpha'$ and the true noise: the picture is scaled
# by $\sqrt{\bar\alpha / \bar\alpha'}$, and noise stays. Then tell our network the root or the square of the level,
# while the sampler uses the true one.

# %%
x0 = images.to_model_range(sharp[:1]).double()
eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
level, powers, rows = torch.tensor([0.5], dtype=torch.float64), {"the level": 1.0, "its root": 0.5, "its square": 2.0}, {}
for name, power in powers.items():
    undressed = diffusion.x0_from_eps(diffusion.add_noise(x0, eps, level), eps, level**power)
    factor = ((undressed * x0).mean() / x0.square().mean()).item()
    noise_left = round((undressed - factor * x0).std().item(), 9)
    rows[name] = [(level / level**power).sqrt().item(), factor, noise_left]
show_table(["theory", "measured", "noise left"], rows)
y, x, rows = blurred["linear"][chosen], sharp[chosen], {}
for name, power in powers.items():
    hook = guided.unet.register_forward_pre_hook(lambda _, call, power=power: (call[0], call[1] ** power, *call[2:]))
    sample = recipes.restore(guided, y, seed=seed)
    hook.remove()
    rows[name] = [metrics.psnr(sample, x).mean().item(), metrics.gradient_energy_ratio(sample, x).mean().item()]
print("the guided network is told ...")
show_table(["PSNR (dB)", "energy"], rows)

# %% [markdown]
# A factor below 1 pulls the picture towards zero: mid-grey where images live in [-1, 1], *dark* where they live in
# [0, 1]; one port's log reports dark pictures. Nothing crashes, and no loss looks strange. Neither number gives it away
# alone: PSNR may even rise when a mismatch happens to smooth, and an energy near 1 may be noise that was left over, as
# with the square of the level here. Our `restore` computes with the very number that $G$ is told.
#
# ## What it costs

# %%
import time

from torch.utils.flop_counter import FlopCounterMode

macs = {}
for name, run in {"H and R, once": lambda: regress(guided.guidance, guided.pyramid, sharp[:1]),
                  "one call of G": lambda: recipes.restore(guided, sharp[:1], steps=1)}.items():  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        run()
    macs[name] = counter.get_total_flops() // 2 - sum(macs.values())  # restore calls H, too
began = time.perf_counter()
recipes.restore(guided, sharp[:1])
fixed = {f"parameters, {name}": card["parameters"] for name, card in cards.items()}
fixed |= {f"MACs, {name}": count for name, count in macs.items()} | {"calls of G per sample": guided.config.sampling_steps}
measured = {"seconds for one sample": time.perf_counter() - began, "trained on": cards["guided"]["device"]}
show_cost("Deblurring one crop of 128 x 128", fixed, {**measured, "training (s)": cards["guided"]["wall_time_s"]})

# %% [markdown]
# ## You can now
# - compute structure $\varphi_k$, and name a difference between two pictures by the speed at which it fades: 0, 6 or
#   12 dB a halving;
# - explain why an image-conditioned diffusion model overfits its blur, and what guidance can and cannot do about it;
# - build and train $H$ alone, then $H$ and $G$ with warm start and ramp;
# - find out which part of a guidance signal a network uses, and name the rival of a fair comparison;
# - reject a sampling schedule by one product, and recognise a mismatch of levels, shared levels, and a residual of the
#   wrong image.
#
# **Try next**: `minirestore restore --method structure_guidance` with a shaken photograph of your own; train without
# warm start (`minirestore train structure_guidance --set warm_start=0`) and compare the curves; or let $H$ read all
# colours in full detail (`--set guidance_input=rgb`). **Next**: 08 asks of each of the paper's claims whether it
# holds, with seeds, controls and intervals.
#
# **References**: M. Ren et al., *Multiscale structure guided diffusion for image deblurring*, ICCV 2023 (arXiv
# 2212.01789). J. Whang et al., *Deblurring via stochastic refinement* (DvSR), CVPR 2022. C. Saharia et al., *Image
# super-resolution via iterative refinement* (SR3), 2021. N. Chen et al., *WaveGrad* (continuous noise levels), 2021.
# L. Zhang et al., *Adding conditional control to text-to-image diffusion models* (ControlNet), 2023.
