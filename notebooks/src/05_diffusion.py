# %% [markdown]
# # 05 Diffusion from first principles
#
# **You will be able to**
# - write the forward process in one line and read any noise schedule as a curve of signal-to-noise ratio;
# - run the reverse process (DDPM and DDIM) where the exact answer is known, and measure how far a sampler is from it;
# - turn a prediction of noise into one of the clean image and back, and test a sampler with an oracle;
# - explain how a conditional diffusion model restores photographs, train one, and tell its mean from its samples;
# - judge restored photographs by fidelity and by detail at once, with intervals.
#
# **You need** only a CPU: about 40 seconds for all cells, about two hours for you. Notebooks 01 to 04 help: PSNR,
# power spectra, wavelet shrinkage, noise. The profile `reduced` trains the two networks from scratch: minutes on a
# GPU, about an hour on one CPU core.

# %% tags=["parameters"]
profile = "quick"
seed = 0
sigma = 25.0
steps = 200
batch_size = 8
samples = 8
sampler_steps = 16
draw_steps = 4
crops_each = 1

# %% tags=["setup"]
import math

import torch

from minirestore import degradations, diffusion, fourier, images, metrics, photos, plots, statistics, wavelets
from minirestore.exercises import check
from minirestore.plots import show, show_cost, show_table
from minirestore.widgets import explore

cat = images.to_model_range(photos.crops("chelsea")[:1, :, 64:, 64:])


def noise_like(x, number):
    """Standard normal noise of the shape of x; the same number gives the same noise."""
    generator = torch.Generator().manual_seed(1000 * seed + number)
    return torch.randn(x.shape, generator=generator, dtype=x.dtype)


# %% [markdown]
# ## The idea as a picture
#
# Destroying a photograph is easy: add noise until nothing is left. A **diffusion model** learns to walk this road
# backwards. No single step back is hard, because each asks only for a slightly less noisy picture. And since the road
# begins in pure noise, the walk can begin there too: draw noise, walk back, arrive at a picture.
#
# Below is the way there, the **forward process**. Images live in [-1, 1]. $x_0$ is the photograph and $x_t$ its noisy
# version at time $t$. The **signal-to-noise ratio** (SNR) is the power of the scaled signal over that of the noise,
# for an image of power 1 (this crop has less, hence the smaller correlations); we quote its natural logarithm.

# %%
pictures, titles, similar = [], [], []
for log_snr in (4, 2, 0, -2, -4):
    alpha_bar = torch.sigmoid(torch.tensor([float(log_snr)]))
    x_t = diffusion.add_noise(cat, noise_like(cat, 1), alpha_bar)
    pictures.append(images.to_unit_range(x_t))
    similar.append(torch.corrcoef(torch.stack([x_t.flatten(), cat.flatten()]))[0, 1].item())
    titles.append(f"log-SNR {log_snr}:\ncorrelation {similar[-1]:.2f}")
text = ", ".join(f"{value:.4g}" for value in similar)
show(plots.image_row(pictures, titles, width=7), alt=f"A cat's eye drowning in noise, correlation with it {text}")

# %% [markdown]
# Detail goes first, then shapes, then the difference of light and dark: noise has the same power at every frequency
# and a photograph has not (notebook 02). The way back therefore goes from coarse to fine.
#
# ## Theory: the forward process
#
# One step shrinks the image a little and adds a little Gaussian noise, with a variance $\beta_t$ between 0 and 1:
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\!\big(\sqrt{1-\beta_t}\,x_{t-1},\; \beta_t I\big).$$
#
# The factor keeps the variance in check: what was 1 stays $(1 - \beta_t) + \beta_t = 1$. Gaussian steps add up to a
# Gaussian. With $\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)$ we may jump to any time at once (Ho et al. 2020,
# equation 4):
#
# $$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\;\varepsilon,\quad \varepsilon \sim \mathcal N(0, I),
# \qquad \mathrm{SNR}(t) = \frac{\bar\alpha_t}{1-\bar\alpha_t}.$$
#
# `alpha_bar` is the only thing that a level of noise needs. A **schedule**, the list of all $\beta_t$, merely says
# how fast we travel.

# %%
schedules = {
    "linear": diffusion.make_betas("linear"),
    "scaled_linear": diffusion.make_betas("scaled_linear", beta_start=0.00085, beta_end=0.012),
    "cosine": diffusion.make_betas("cosine"),
}
figure, axes = plots.subplots(width=6, height=2.8)
parts = []
for name, betas in schedules.items():
    log_snr = torch.logit(diffusion.make_alpha_bar(betas))
    axes.plot(range(1, 1001), log_snr, label=name)
    parts.append(f"{name} crosses 0 at t = {int((log_snr > 0).sum())} and ends at {log_snr[-1]:.4g}")
axes.set(title="Three schedules", xlabel="time t (of 1000)", ylabel="log-SNR (natural)", ylim=(-12, 10))
axes.legend()
show(figure, alt="Log-SNR falls with time: " + "; ".join(parts))

# %% [markdown]
# All three travel the same road at different speeds. *Scaled linear* is Stable Diffusion's. It ends at a visible SNR:
# its last image is not pure noise, although its sampler starts from pure noise (Lin et al. 2024). Do the many small
# steps really make the one jump? Follow the factor of $x_0$ and the variance of the noise.

# %%
betas, factor, variance = schedules["linear"], 1.0, 0.0
alpha_bar = diffusion.make_alpha_bar(betas)
for t, beta in enumerate(betas.tolist(), 1):
    factor, variance = math.sqrt(1 - beta) * factor, (1 - beta) * variance + beta
    if t in (100, 300, 1000):
        jump = f"{alpha_bar[t - 1].sqrt():.4f} and {1 - alpha_bar[t - 1]:.4f}"
        print(f"t = {t:4}: {t} steps give {factor:.4f} and {variance:.4f}, one jump {jump}")

# %% [markdown]
# ### Exercise 1: one jump (code, 5 minutes, easy)
#
# Write `noisy_at(x0, eps, alpha_bar)`: the image $x_t$ for clean images `x0` and noise `eps`, both `(B, C, H, W)`,
# and one level per image, `alpha_bar` of shape `(B,)`.

# %% tags=["solution"]
def noisy_at(x0, eps, alpha_bar):
    """A draw of q(x_t | x_0), one noise level per image."""
    ### BEGIN SOLUTION
    level = alpha_bar.reshape(-1, 1, 1, 1)
    return level.sqrt() * x0 + (1 - level).sqrt() * eps
    ### END SOLUTION


# %%
check("05.forward", noisy_at)

# %% [markdown]
# ## Theory: the reverse process
#
# Given both ends, the picture in between is Gaussian. For a cleaner level $s$ ($\bar\alpha_s > \bar\alpha_t$), Bayes'
# rule gives
#
# $$q(x_s \mid x_t, x_0) = \mathcal N\big(a\,x_0 + b\,x_t,\; \tilde\beta\,I\big),\qquad
# \tilde\beta = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\Big(1 - \frac{\bar\alpha_t}{\bar\alpha_s}\Big),$$
#
# with $a, b$ in `diffusion.posterior`. We do not know $x_0$. But the best guess in the mean square,
# $\hat x_0(x_t) = E[x_0 \mid x_t]$, can be *learned*: it is what a network converges to when it is trained to undo
# noise with a squared error. **DDPM** puts the guess in the place of $x_0$ and draws. **DDIM** (Song et al. 2021)
# notes that only the marginals $q(x_t \mid x_0)$ enter that training, so the fresh noise may be scaled by any $\eta$
# between 0 and 1. With $\hat\varepsilon = (x_t - \sqrt{\bar\alpha_t}\,\hat x_0)/\sqrt{1-\bar\alpha_t}$,
#
# $$x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1-\bar\alpha_s - \eta^2\tilde\beta}\;\hat\varepsilon + \eta\sqrt{\tilde\beta}\,z,
# \qquad z \sim \mathcal N(0, I).$$
#
# $\eta = 1$ is DDPM; $\eta = 0$ is a deterministic map from noise to images. That is the whole loop of `_run` in
# `minirestore/diffusion.py`: three lines, the paper's symbols. Open it now.
#
# ### A world where the exact answer is known
#
# Let a "photograph" be a single number, drawn from a mixture of three narrow Gaussians. Then $E[x_0 \mid x_t]$ has a
# closed form: each component pulls the guess towards itself, with a weight that says how likely it is to have made
# $x_t$. No network, no training: what remains is the error of the sampler.

# %%
means, weights, spread = (torch.tensor(v, dtype=torch.float64) for v in ([-1.0, 0.1, 0.9], [0.3, 0.2, 0.5], 0.08))


def exact_denoiser(x_t, alpha_bar):
    """E[x0 | x_t] of the mixture and the noise it implies; x_t is (B, 1)."""
    a = alpha_bar[:, None]
    total = a * spread**2 + 1 - a  # variance of x_t within a component
    gap = x_t - a.sqrt() * means  # (B, 3)
    share = torch.softmax(weights.log() - gap.square() / (2 * total), dim=1)
    x0 = (share * (means + a.sqrt() * spread**2 / total * gap)).sum(1, keepdim=True)
    return x0, diffusion.eps_from_x0(x_t, x0, alpha_bar)


grid = torch.linspace(-2, 2, 20001, dtype=torch.float64)
cdf = (weights * torch.special.ndtr((grid[:, None] - means) / spread)).sum(1)
quantiles = grid[torch.searchsorted(cdf, (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)]

# %%
levels = diffusion.sampling_levels(alpha_bar, 50)
start = noise_like(quantiles[:, None], 2)
figure, axes = plots.subplots(1, 3, width=7.5, height=2.5, sharey=True)
inside = []
for axis, (name, eta) in zip(axes, {"DDPM (eta = 1)": 1.0, "DDIM (eta = 0)": 0.0}.items(), strict=False):
    path = []
    generator = torch.Generator().manual_seed(seed)
    keep = lambda step, x, x0, path=path: path.append(x[:25, 0])  # noqa: E731
    end = diffusion.ddim(exact_denoiser, start, levels, eta, generator, keep)
    axis.plot(torch.stack([*path, end[:25, 0]]), lw=0.7)
    axis.set(title=f"{name}, 25 walks", xlabel="sampler step")
    inside.append(((end - means).abs().min(1).values < 3 * spread).double().mean().item())
    height, edges = torch.histogram(end[:, 0], bins=80, range=(-1.5, 1.5), density=True)
    axes[2].stairs(height, edges, orientation="horizontal", label=name)
axes[0].set_ylabel("x_t")
density = cdf.diff() / grid.diff()
axes[2].plot(density, grid[1:], "k", lw=1, label="truth")
axes[2].set(title="4000 ends and the truth", xlabel="density", ylim=(-2.5, 2.5))
axes[2].legend(fontsize=7)
text = f"{inside[0]:.4g} of the DDPM and {inside[1]:.4g} of the DDIM walks"
show(figure, alt=f"{text} end within 3 deviations of a component")

# %% [markdown]
# Both find the three islands. DDPM stumbles all the way; DDIM glides, and neighbouring starting points share their
# island. How many steps are enough? Measure a distance: the **Wasserstein distance** in one dimension is the mean gap
# between the sorted samples and the exact quantiles. The floor is what that many *exact* draws would score.

# %%
def distance(sample):
    """Wasserstein-1 distance of a sample (4000, 1) to the mixture."""
    return (sample.flatten().sort().values - quantiles).abs().mean().item()


counts, curves = (3, 5, 10, 20, 50, 100), {"DDPM": [], "DDIM": [], "exact draws": []}
for count in counts:
    found = {name: [] for name in curves}
    for number in range(5):
        generator = torch.Generator().manual_seed(100 * seed + number)
        x_T, levels = noise_like(start, 10 + number), diffusion.sampling_levels(alpha_bar, count)
        found["DDPM"].append(distance(diffusion.ddpm(exact_denoiser, x_T, levels, generator)))
        found["DDIM"].append(distance(diffusion.ddim(exact_denoiser, x_T, levels)))
        chosen = torch.multinomial(weights, 4000, True, generator=generator)
        found["exact draws"].append(distance(means[chosen, None] + spread * x_T))
    for name, values in found.items():
        curves[name].append(statistics.t_interval(values))

# %%
figure, axes = plots.subplots(width=6, height=2.8)
for name, intervals in curves.items():
    half = [interval.high - interval.mean for interval in intervals]
    axes.errorbar(counts, [interval.mean for interval in intervals], half, capsize=3, label=name)
axes.set(title="Distance to the truth, 5 seeds, 95 % intervals", xlabel="sampler steps", ylabel="Wasserstein-1")
axes.set(xscale="log", yscale="log", xticks=counts, xticklabels=counts)
axes.legend()
parts = [f"{name} {values[0].mean:.4g} at 3 steps and {values[-1].mean:.4g} at 100" for name, values in curves.items()]
show(figure, alt="Distance falls with the number of steps: " + "; ".join(parts))
for count, a, b in zip(counts, curves["DDPM"], curves["DDIM"], strict=True):
    print(f"{count:4} steps: DDPM {a}, DDIM {b}")

# %% [markdown]
# The denoiser is exact, so this is pure **discretisation error**: one step uses one guess for the whole stretch to
# the next level. Reducing it to sampling noise takes about a hundred steps. (The exact draws are new for each count;
# their curve wobbles for no other reason.) Keep this figure in mind when a paper says "four steps": few steps are a
# trade, not a gift.
#
# ## One prediction, three dresses
#
# A network may predict the noise $\varepsilon$, the image $x_0$, or the **velocity**
# $v = \sqrt{\bar\alpha}\,\varepsilon - \sqrt{1-\bar\alpha}\,x_0$ (Salimans and Ho 2022). Given $x_t$, each one fixes
# the other two: the prediction is the same, the dress is not. An error of size 1 in the dress becomes an error in
# $x_0$ of
#
# $$\sqrt{(1-\bar\alpha)/\bar\alpha}\;\;(\varepsilon), \qquad 1\;\;(x_0), \qquad \sqrt{1-\bar\alpha}\;\;(v).$$

# %%
rows = {}
for log_snr in (8, 4, 0, -4, -8):
    level = torch.sigmoid(torch.tensor([float(log_snr)], dtype=torch.float64))
    x_t, one = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    dresses = diffusion.x0_from_eps(x_t, one, level), one, diffusion.x0_from_velocity(x_t, one, level)
    rows[f"log-SNR {log_snr:2}"] = [value.abs().item() for value in dresses]
show_table(["from eps", "from x0", "from v"], rows)

# %% [markdown]
# Where noise dominates, predicting $\varepsilon$ is a poor way to learn about $x_0$: the input nearly *is* the
# answer, and the small rest is blown up. At $\bar\alpha = 0$ it is impossible. Where the image is nearly clean,
# predicting $x_0$ wastes the input. Remember both ends; the restorer below handles them with one blend.
#
# ### Exercise 2: one DDIM step (code, 8 minutes, medium)
#
# Write `ddim_step(x_t, eps, now, nxt)`: the deterministic step ($\eta = 0$) from level `now` to the cleaner level
# `nxt`, both values of $\bar\alpha$ as scalar tensors, given the predicted noise `eps`. First undress, then walk.

# %% tags=["solution"]
def ddim_step(x_t, eps, now, nxt):
    """x at the level nxt, from x_t at the level now and its noise."""
    ### BEGIN SOLUTION
    x0 = (x_t - (1 - now).sqrt() * eps) / now.sqrt()
    return nxt.sqrt() * x0 + (1 - nxt).sqrt() * eps
    ### END SOLUTION


# %%
check("05.ddim_step", ddim_step)

# %% [markdown]
# ## The oracle test: is the sampler right?
#
# A sampler has an answer that can be checked without any network. Choose $x_0$ and $\varepsilon$ yourself. Give the
# sampler an **oracle** that knows them. Then every $x_t$ it visits must be exactly
# $\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$ for the level that the oracle is told (the **forward
# marginal**), and the end must be $x_0$. Any deviation is a bug in the sampler, because the oracle makes no mistakes.
# First our own, at every spacing of the steps and many step counts.

# %%
x0, eps = (noise_like(torch.zeros(1, 3, 16, 16, dtype=torch.float64), number) for number in (3, 4))


def oracle(x_t, alpha_bar):
    """Knows the clean image, hence the noise."""
    return x0, diffusion.eps_from_x0(x_t, x0, alpha_bar)


for spacing in diffusion.SPACINGS:
    away = []
    for count in (1, 2, 3, 4, 7, 10, 50, 333, 1000):
        levels, path = diffusion.sampling_levels(alpha_bar, count, spacing), []
        start = diffusion.add_noise(x0, eps, levels[0])
        path.append(diffusion.ddim(oracle, start, levels, callback=lambda step, x_t, _, path=path: path.append(x_t)))
        marginal = [diffusion.add_noise(x0, eps, level) for level in levels]  # the last level, 1, is x0 itself
        away += [(x_t - wanted).abs().max().item() for x_t, wanted in zip(path, marginal, strict=True)]
    print(f"{spacing}: {len(away)} points of the way, all within 1e-9 of the marginal: {max(away) < 1e-9}")

# %% [markdown]
# Now the scheduler that most released code uses, `DDIMScheduler` of diffusers, with its default schedule (`linear`).
# An oracle that knows $x_0$ keeps correcting the path, as a good network partly does. A stricter one repeats the true
# $\varepsilon$ whatever it is shown; then the error survives into the result.

# %%
from diffusers import DDIMScheduler  # imported here because it takes seconds


def diffusers_ddim(spacing, count, knows_x0):
    """Largest distance from the forward marginal on the way, and of the end from x0."""
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(count)
    level = scheduler.alphas_cumprod.double()
    x, away = diffusion.add_noise(x0, eps, level[scheduler.timesteps[0]]), 0.0
    for t in scheduler.timesteps:
        away = max(away, (x - diffusion.add_noise(x0, eps, level[t])).abs().max().item())
        x = scheduler.step(diffusion.eps_from_x0(x, x0, level[t]) if knows_x0 else eps, t, x).prev_sample
    return away, (x - x0).abs().max().item()


for count in (4, 10, 50):
    away, missed = diffusers_ddim("linspace", count, True)[0], diffusers_ddim("linspace", count, False)[1]
    print(f"linspace, {count:2} steps: leaves the marginal by {away:.4g}; a strict oracle ends {missed:.4g} from x0")
fine = max(max(diffusers_ddim(s, count, k)) for s in ("trailing", "leading") for count in (4, 10, 50) for k in (0, 1))
print(f"trailing and leading, 4, 10 and 50 steps: all deviations below 1e-4: {fine < 1e-4}")
print(f"trailing, 7 steps: leaves the marginal by {diffusers_ddim('trailing', 7, True)[0]:.4g}")

# %% [markdown]
# ### Exercise 3: where is the sample? (predict, 5 minutes, medium)
#
# With `linspace` and 4 steps, diffusers asks the network at $t$ = 999, 666, 333, 0. But its `step` does not look at
# that list. It computes `prev_timestep = timestep - 1000 // 4`, and moves the sample there. When the network is told
# "t = 666", at which $t$ does the sample really lie? Answer with a number.

# %% tags=["solution"]
### BEGIN SOLUTION
told_answer = 749
### END SOLUTION

# %%
check("05.told", told_answer)

# %%
scheduler = DDIMScheduler(timestep_spacing="linspace")
scheduler.set_timesteps(4)
told = scheduler.timesteps
real = torch.cat([told[:1], told[:-1] - 1000 // 4])
log_snr_told, log_snr_real = (torch.logit(alpha_bar[t]) for t in (told, real))
figure, axes = plots.subplots(width=6, height=2.6)
axes.plot(log_snr_real, "o-", label="where the sample is")
axes.plot(log_snr_told, "s--", label="what the network is told")
axes.set(title="diffusers' DDIM, linspace, 4 steps", xlabel="network call", xticks=range(4))
axes.set_ylabel("log-SNR")
axes.legend()
pairs = ", ".join(f"told {a} at {b}" for a, b in zip(told.tolist(), real.tolist(), strict=True))
gap = (log_snr_told - log_snr_real).max().item()
show(figure, alt=f"The network is told less noise than there is: t = {pairs}; largest gap in log-SNR {gap:.4g}")

# %% [markdown]
# The network sees more noise than it is told, so it leaves noise in the picture. The remedy is to step to the next
# entry of one's own list, whatever the spacing; our samplers are given *levels* and cannot do otherwise. In diffusers
# `trailing` agrees only where the number of steps divides $T$: at 7 steps its list has strides of 142.9, and `step`
# goes down by 142.
#
# `leading` hides another trap. Its steps are self-consistent, but it counts up from $t = 0$, so it does not start at
# the noisy end. With a single step it starts at 0: the network receives pure noise and is told that it is a clean
# image.

# %%
scheduler = DDIMScheduler(timestep_spacing="leading", clip_sample=False)
scheduler.set_timesteps(1)
x_T, t = diffusion.add_noise(x0, eps, alpha_bar[-1]), scheduler.timesteps[0]
theirs = scheduler.step(eps, t, x_T).prev_sample
ours = diffusion.ddim(oracle, x_T, diffusion.sampling_levels(alpha_bar, 1, "leading"))
errors = [(result - x0).square().mean().sqrt().item() for result in (theirs, ours)]
print(f"told t = {int(t)}: root mean square error {errors[0]:.4g}, for images of deviation {x0.std():.4g}")
print(f"ours, told t = {diffusion.timesteps(1000, 1, 'leading')[0]}: error below 1e-9: {errors[1] < 1e-9}")

# %% [markdown]
# ## Conditional diffusion: restoring
#
# So far the road led to *any* image. To restore a degraded photograph $y$ we want images that could have become $y$:
# samples of the **posterior** $p(x_0 \mid y)$. Nothing in the theory changes. The denoiser also sees $y$ and learns
# $E[x_0 \mid x_t, y]$. At pure noise $x_t$ says nothing, and it is $E[x_0 \mid y]$: the plain regressor is the first
# step of the sampler.
#
# Our denoiser uses that. Write $\sigma_t^2 = (1-\bar\alpha_t)/\bar\alpha_t$ and let $r$ be the typical size of
# $x_0 - y$ (`residual_scale` in the code). There are now two noisy views of $x_0$, the sample $x_t/\sqrt{\bar\alpha_t}$ with error $\sigma_t$, and
# $y$ with error $r$. Blend them by their precision, and let the network $F$ correct the blend (EDM's preconditioning,
# Karras et al. 2022, for the residual $x_0 - y$):
#
# $$b = c_\text{skip}\,\frac{x_t}{\sqrt{\bar\alpha_t}} + (1-c_\text{skip})\,y,
# \quad \hat x_0 = b + c_\text{out} F(b, y, \bar\alpha_t),\qquad
# c_\text{skip} = \frac{r^2}{r^2+\sigma_t^2},\quad c_\text{out} = \frac{r\,\sigma_t}{\sqrt{r^2+\sigma_t^2}}.$$
#
# $c_\text{out}$ is the standard deviation of what the blend still gets wrong, so $F$ always answers at unit scale. No
# dress has to be chosen: at high noise this predicts the image, at low noise hardly more than the noise.

# %%
from minirestore import checkpoints, recipes, resources

denoiser = recipes.load_method("denoiser", device="cpu")
sigma_t = torch.logspace(-2, 1, 61, dtype=torch.float64)
like = torch.zeros(61, 1, 1, 1, dtype=torch.float64)
_, keep, out = (values.flatten() for values in denoiser.preconditioning(1 / (1 + sigma_t**2), like))
figure, axes = plots.subplots(width=6, height=2.6)
axes.semilogx(sigma_t, 1 - keep, label="c_skip, weight of the sample")
axes.semilogx(sigma_t, keep, label="1 - c_skip, weight of y")
axes.semilogx(sigma_t, out / denoiser.config.residual_scale, label="c_out / r, weight of F")
axes.set(title="Who is listened to", xlabel="sigma_t, noise in the sample (log scale)", ylabel="weight")
axes.legend()
half = sigma_t[(keep - 0.5).abs().argmin()].item()
show(figure, alt=f"The sample loses its weight to y as noise grows; both weigh one half near sigma_t = {half:.4g}")
for name, count in resources.parameters_per_part(denoiser).items():
    print(f"{name:<10} {count:>8,} parameters")

# %% [markdown]
# Open `minirestore/denoiser.py` and read `predict_x0` and `training_losses`, some ten lines each. $F$ is the network of
# `minirestore/networks.py`, a **U-Net**: it computes features at ever coarser resolution on the way down, to see far,
# and at ever finer on the way up; fine features are also handed straight across, so that edges stay where they are.
# Its bricks are **residual blocks**, $h + g(h)$: each starts as the identity, and its two convolutions $g$ learn a
# correction. **Normalisation**, which rescales features by their statistics over the image, is common and left out
# here: the answer for a crop would not be that for the whole photograph. The **level embedding** says how much noise
# there is: sines and cosines of the log-SNR, turned by two small layers into numbers that every such block adds to its
# features.
#
# ## Train it small
#
# Training data are **dead leaves**: overlapping textured shapes whose mean spectral slope resembles that of
# photographs (notebook 02). No photograph is ever seen. Every crop gets noise of $\sigma = 25/255$ as its degradation $y$; then a level $t$ is
# drawn and diffusion noise on top. At profile `quick` this trains a toy for a few seconds. At `reduced` or `full` the
# very same cell trains the real networks, which the rest of the notebook then uses.

# %%
import tempfile
from pathlib import Path

quick = profile == "quick"
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name if quick else f"../runs/05-{profile}-{steps}-{batch_size}-{sigma:g}-{seed}")
settings = {"steps": steps, "batch_size": batch_size, "sigma": sigma, "seed": seed}
device = "cpu" if quick else "auto"
trained, fit = recipes.train("denoiser", profile, settings, run_dir=folder / "diffusion", device=device)
loss = torch.tensor(fit.history["loss"])
window = max(steps // 20, 1)
smooth = loss[: len(loss) // window * window].reshape(-1, window).mean(1)
figure, axes = plots.subplots(width=6, height=2.4)
axes.plot(loss, lw=0.5, color=plots.COLOURS[5])
axes.plot(torch.arange(len(smooth)) * window + window / 2, smooth, label=f"mean of {window} steps")
axes.set(title="Loss of F (1 means: no better than the blend)", xlabel="training step", ylabel="mean squared error")
axes.legend()
show(figure, alt=f"Loss falls from {smooth[0]:.4g} to {smooth[-1]:.4g} in {fit.steps_done} steps")

# %% [markdown]
# The loss falls and stays noisy: every step draws other crops and other levels, and high levels are intrinsically
# harder. One needs the mean of many steps, or better, a photograph. Below, the one-step estimate on a crop of the
# photograph *flower*, which belongs to the tuning pictures. At `quick` the shipped network, same code, more width and
# more steps, is loaded for comparison. Its card says how it was made.

# %%
if quick:
    regressor = recipes.load_method("denoiser", checkpoint="denoiser_regressor", device=device)
    card = checkpoints.read_card("denoiser")
else:
    denoiser, settings = trained, {**settings, "objective": "regression"}
    regressor, _ = recipes.train("denoiser", profile, settings, run_dir=folder / "regression", device=device)
    card = checkpoints.read_card(folder / "diffusion" / "denoiser.safetensors")
tuning = torch.cat([photos.crops(name)[1:3] for name in ("china", "flower")])
tuning_noisy = degradations.gaussian_noise(tuning, sigma, 500 + seed)
print(f"{card['steps']} steps on {card['data']['source']}, {card['parameters']} parameters")
for name, method in {"just trained": trained, "used below": denoiser, "regressor": regressor}.items():
    pair = tuning_noisy[3:], recipes.restore(method, tuning_noisy[3:], steps=1)
    before, after = (metrics.psnr(image, tuning[3:]).item() for image in pair)
    print(f"{name}: {before:.4g} -> {after:.4g} dB")

# %% [markdown]
# ## Rivals, tuned fairly
#
# A comparison is worth as much as its weakest rival's tuning. Total variation (TV), wavelet BayesShrink and non-local
# means (NLM, which averages similar patches) each get a small grid, and so does our sampler's $\eta$. All tuning
# happens on crops of *china* and *flower*, none on the evaluation photographs.

# %%
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

std = sigma / 255


def each(function, batch, **options):
    """Apply a scikit-image denoiser to every image of a batch."""
    results = [function(images.to_numpy(image), channel_axis=-1, **options).clip(0, 1) for image in batch]
    return torch.cat([images.from_numpy(result) for result in results])


def nlm(batch, h, patch):
    """Non-local means, noise level known, 13 x 13 search window."""
    return each(denoise_nl_means, batch, h=h * std, sigma=std, patch_size=patch, patch_distance=6, fast_mode=True)


candidates = {f"TV {w}": lambda x, w=w: each(denoise_tv_chambolle, x, weight=w * std) for w in (0.6, 0.8, 1.0, 1.2)}
candidates |= {f"NLM {h} {p}": lambda x, h=h, p=p: nlm(x, h, p) for h in (0.4, 0.5, 0.6, 0.7) for p in (3, 5)}
for name in ("haar", "db4", "sym4", "sym8"):
    candidates[f"BayesShrink {name}"] = lambda x, name=name: wavelets.bayes_shrink(x, std, name, 4).clamp(0, 1)

# %%
scores = {name: metrics.psnr(function(tuning_noisy), tuning).mean().item() for name, function in candidates.items()}
rivals = {}
for family in ("TV", "BayesShrink", "NLM"):
    best = max((name for name in scores if name.startswith(family)), key=scores.get)
    rivals[family] = candidates[best]
    worst = min(score for name, score in scores.items() if name.startswith(family))
    print(f"{best}: {scores[best]:.4g} dB on the tuning crops, the worst setting {worst:.4g} dB")

# %% [markdown]
# The sampler is tuned for what a sample is for. Its **gradient energy** $\sum|\nabla x|^2$ should be that of the
# clean photograph: less is blur, more is noise or invention. We add up the energy of all crops before taking the
# ratio, so that nearly flat crops do not decide.

# %%
def gradient_energy(x):
    """Sum of squared differences between neighbouring pixels, per image (B,)."""
    return x.diff(dim=2).square().sum((1, 2, 3)).double() + x.diff(dim=3).square().sum((1, 2, 3)).double()


rows, pair = {}, slice(1, 3)  # one crop of each photograph, to save time
wanted = gradient_energy(tuning[pair]).sum()
for eta in (0.0, 1.0):
    sample = recipes.restore(denoiser, tuning_noisy[pair], seed=600 + seed, steps=sampler_steps, eta=eta)
    rows[eta] = [(gradient_energy(sample).sum() / wanted).item(), metrics.psnr(sample, tuning[pair]).mean().item()]
eta = min(rows, key=lambda eta: abs(rows[eta][0] - 1))
show_table(["gradient energy ratio", "PSNR (dB)"], {f"eta {key}": values for key, values in rows.items()})
sampler = {"steps": sampler_steps, "eta": eta}
print(f"chosen: {sampler}")

# %% [markdown]
# For an exact denoiser and many steps every $\eta$ would draw from the same posterior, and the energy would be 1.
# What the column misses is the price of few steps and of a network that is not exact.
#
# One trap before we go on. A sampler starts from noise, and the photograph holds noise too. Both come from a
# generator with a seed. What if it is the same seed?

# %%
crop = tuning[3:]
y = degradations.gaussian_noise(crop, sigma, 700 + seed)
for number in (700 + seed, 800 + seed):
    generator = torch.Generator().manual_seed(number)
    sample = denoiser.restore(y.to(next(denoiser.parameters()).device), generator, steps=draw_steps, eta=eta).cpu()
    kind = "the same seed" if number == 700 + seed else "another seed"
    ratio = (gradient_energy(sample) / gradient_energy(crop)).item()
    print(f"{kind}: {metrics.psnr(sample, crop).item():.4g} dB, gradient energy {ratio:.4g} of the clean crop")

# %% [markdown]
# With one seed the two noises are the *same numbers*. The sample and $y$ then err in the same direction, the network,
# trained on independent noise, takes their agreement for evidence, and the noise stays in. Nothing warns you. Give
# every source of randomness a seed of its own; `recipes.restore` scrambles its seed for this reason.
#
# ### Exercise 4: what does a sample cost? (predict, 5 minutes, medium)
#
# Let $m = E[x_0 \mid y]$ and let $\tilde x$ be a perfect sample of $p(x_0 \mid y)$, drawn independently of the true
# $x_0$. How does the PSNR of $\tilde x$ compare with that of $m$?
#
# - **a** the same: both come from the same posterior
# - **b** 1.5 dB lower
# - **c** 3 dB lower
# - **d** about 10 dB lower, near the noisy input

# %% tags=["solution"]
### BEGIN SOLUTION
cost_answer = "c"
### END SOLUTION

# %%
check("05.sample_error", cost_answer)

# %% [markdown] tags=["solution"]
# Given $y$, truth and sample are independent with the same mean $m$ and the same variance, so
# $E|\tilde x - x_0|^2 = E|\tilde x - m|^2 + E|m - x_0|^2 = 2\,E|m - x_0|^2$. Twice the error is
# $10 \log_{10} 2 \approx 3$ dB. A sampler that loses less is not better: it is drawing too close to the mean.

# %% [markdown]
# ## Restore real photographs
#
# Six evaluation photographs, four fixed 128-pixel crops each; the mean of several samples is computed on the first
# `crops_each` of each photograph, with `draw_steps` network calls per sample: what few steps lose is detail, and
# averaging removes that anyway. "Regressor" is the same network with the same training budget, trained for
# $E[x_0 \mid y]$ only. "One step" is the first call of the diffusion sampler, its own estimate of that mean.

# %%
clean, names = photos.evaluation_crops(128)
noisy = degradations.gaussian_noise(clean, sigma, 900 + seed)
restored = {"noisy": noisy, **{name: function(noisy) for name, function in rivals.items()}}
restored["regressor"] = recipes.restore(regressor, noisy)
restored["one step"] = recipes.restore(denoiser, noisy, steps=1)
restored["sample"] = recipes.restore(denoiser, noisy, seed=1900 + seed, **sampler)
part = [index for index in range(len(clean)) if index % 4 < crops_each]
short = {**sampler, "steps": draw_steps}
draws = [recipes.restore(denoiser, noisy[part], seed=2000 + samples * seed + k, **short) for k in range(samples)]
draws = torch.stack(draws)  # (samples, crops, 3, 128, 128)
averaged = f"mean of {samples}"
few = {name: result[part] for name, result in restored.items()} | {averaged: draws.mean(0)}


def per_photograph(values):
    """Mean over the crops of each photograph: (crops,) -> one number per photograph."""
    return values.reshape(len(photos.EVALUATION), -1).mean(1).tolist()


# %%
chosen = [4, 11, 16]
shown = ["noisy", "NLM", "regressor", "sample"]
rows = [[clean[i : i + 1], *(restored[name][i : i + 1] for name in shown)] for i in chosen]
rows = [[image[..., 32:96, 32:96] for image in row] for row in rows]
figure = plots.image_grid(rows, ["clean", *shown], [names[i] for i in chosen], width=6)
text = ", ".join(f"{name} {metrics.psnr(restored[name][chosen], clean[chosen]).mean():.4g}" for name in shown)
show(figure, alt=f"Three crops restored; mean PSNR in dB over these three: {text}")

# %% [markdown]
# Look for what each one gets wrong. NLM leaves blotches and smears faint texture. The regressor is soft wherever the
# texture is uncertain: a mean must be. The sample is grainier; whether its grain is the scene's we ask below. The
# table gives the PSNR per photograph, in dB, on the crops that the mean of samples was computed for.

# %%
table = {name: per_photograph(metrics.psnr(result, clean[part])) for name, result in few.items()}
columns = list(table)
rows = {photo: [table[name][i] for name in columns] for i, photo in enumerate(photos.EVALUATION)}
show_table(columns, rows | {"mean": [sum(table[name]) / len(table[name]) for name in columns]})

# %%
print("HaarPSI, one sample and its rivals, all crops")
kinds = ["NLM", "regressor", "one step", "sample"]
haarpsi = {name: per_photograph(metrics.haarpsi(restored[name], clean)) for name in kinds}
show_table(kinds, {photo: [haarpsi[name][i] for name in kinds] for i, photo in enumerate(photos.EVALUATION)})
detail = {}
for i, photo in enumerate(photos.EVALUATION):
    pair = restored["sample"][4 * i : 4 * i + 4], clean[4 * i : 4 * i + 4]
    ratio = gradient_energy(pair[0]).sum() / gradient_energy(pair[1]).sum()
    fine = [wavelets.dwt2(image, "haar")[1] for image in pair]
    fine = [sum(band.square().sum().item() for band in bands) for bands in fine]
    detail[photo] = [ratio.item(), fine[0] / fine[1]]
print("one sample over the clean photograph (1 is right)")
show_table(["gradient energy", "high-frequency energy"], detail)

# %% [markdown]
# ## Look inside: what a sample adds
#
# The power spectrum shows which detail is missing (notebook 02). Average over the crops, divided by the clean
# spectrum.

# %%
figure, axes = plots.subplots(width=6, height=2.8)
frequency, power = fourier.radial_power_spectrum(clean, window=True)
ends = []
for name in ("NLM", "regressor", "one step", "sample"):
    ratio = fourier.radial_power_spectrum(restored[name], window=True)[1].mean(0) / power.mean(0)
    axes.plot(frequency, ratio, label=name)
    ends.append(f"{name} {ratio[frequency > 0.3].mean():.4g}")
axes.axhline(1, color="k", lw=0.8)
axes.set(title="Power of the restored photographs", xlabel="frequency (cycles/pixel)", ylabel="power / clean")
axes.legend()
show(figure, alt="Mean power above 0.3 cycles/pixel relative to the clean photographs: " + ", ".join(ends))

# %% [markdown]
# The means lose power exactly where noise beat the photograph. NLM has power there for a bad reason: it is noise that
# stayed. The sample puts power back, though not all of it. It cannot know *which* power; it draws one of the
# possibilities. Next, the same sampler under your hand.

# %%
coin = 16


def draw(figure, steps, eta):
    """One crop restored with so many network calls and so much fresh noise."""
    restored = recipes.restore(denoiser, noisy[coin : coin + 1], seed=3000 + seed, steps=steps, eta=eta)
    psnr = metrics.psnr(restored, clean[coin : coin + 1]).item()
    ratio = metrics.gradient_energy_ratio(restored, clean[coin : coin + 1]).item()
    plots.image_axes(figure.subplots(), restored[..., 32:96, 32:96], f"{psnr:.4g} dB, energy {ratio:.3g}")
    return f"PSNR {psnr:.4g} dB, gradient energy {ratio:.4g} of the clean crop"


states = [{"steps": 1, "eta": 1.0}, {"steps": 4, "eta": 1.0}, {"steps": 20, "eta": 0.0}]
explore(draw, steps=(1, 2, 4, 6, 10, 20), eta=(0.0, 0.25, 0.5, 0.75, 1.0), states=states)

# %% [markdown]
# ## Many samples: diversity and the mean
#
# Samples differ where the photograph does not determine the answer. Their standard deviation per pixel is a map of
# doubt, and a model that knows its doubt has it high where its errors are.

# %%
mean_draw, doubt = draws.mean(0), draws.std(0).mean(1, keepdim=True)
error = (mean_draw - clean[part]).abs().mean(1, keepdim=True)
blur = torch.nn.AvgPool2d(9, 1, 4)
pairs = torch.stack([blur(doubt).flatten(1), blur(error).flatten(1)], 1)  # (crops, 2, pixels)
related = [torch.corrcoef(pair)[0, 1].item() for pair in pairs]
spread_rms = draws.var(0).mean().sqrt().item()
error_rms = (mean_draw - clean[part]).square().mean().sqrt().item()
k = part.index(16)
maps = [draws[0, k], draws[1, k], mean_draw[k], doubt[k] * 10, error[k] * 10]
maps = [image[:, 32:96, 32:96] for image in maps]
titles = ["sample 1", "sample 2", averaged, "deviation of\nsamples x 10", "error of\nthe mean x 10"]
text = ", ".join(f"{value:.4g}" for value in related)
show(plots.image_row(maps, titles, width=7), alt=f"Doubt and error, smoothed, correlate with {text} on the crops")
print(f"deviation of samples {spread_rms:.4g}, error of their mean {error_rms:.4g} (root mean squares, [0, 1])")

# %% [markdown]
# For a perfect posterior the two numbers would be nearly equal. Ours are not: the samples are too alike. Few steps
# shrink their spread (raise `draw_steps` and look), and the network learned its doubt on dead leaves, not on
# photographs. A map of doubt from such a model ranks the pixels well but understates the error.
#
# And the mean of $n$ samples must obey $\text{MSE}_n = \text{bias}^2 + \text{variance}/n$: the first term is the
# error of infinitely many samples, the second what a finite number adds. Estimate both from all samples, then compare
# with the running mean, and the limit with the one-step estimate, which knows nothing of sampling. Should the two
# differ, the network's answers at different levels do not fit together.

# %%
variance = draws.var(0).mean((1, 2, 3)).double()
mse = (mean_draw - clean[part]).square().mean((1, 2, 3)).double()
bias = mse - variance / samples
numbers = torch.arange(1, samples + 1)
running = draws.cumsum(0) / numbers[:, None, None, None, None]
measured = [metrics.psnr(image, clean[part]).mean().item() for image in running]
predicted = [(-10 * (bias + variance / n).log10()).mean().item() for n in numbers]
limit, one = (-10 * bias.log10()).mean().item(), metrics.psnr(few["one step"], clean[part]).mean().item()
figure, axes = plots.subplots(width=6, height=2.6)
axes.plot(numbers, measured, "o", label="mean of n samples")
axes.plot(numbers, predicted, label="bias^2 + variance / n")
axes.axhline(limit, color="k", lw=0.8, label="limit")
axes.axhline(one, color=plots.COLOURS[1], ls="--", lw=1, label="one step")
axes.set(title="Averaging samples", xlabel="samples n", ylabel="PSNR (dB)")
axes.legend()
text = f"PSNR rises from {measured[0]:.4g} to {measured[-1]:.4g} dB"
show(figure, alt=f"{text}; limit {limit:.4g}, one step {one:.4g} dB")

# %% [markdown]
# Limit and one step do differ: the network's answers at different levels do not fit together exactly. Whether the mean
# of samples is really the better estimate on other photographs is asked below.
#
# The sum of both worlds is the **perception-distortion plane** (Blau and Michaeli 2018): no estimator can be best in
# fidelity and in realism at once. To the right is better fidelity, on the line lies the right amount of detail.
# "Short sample" is one of the samples just averaged.

# %%
figure, axes = plots.subplots(width=6.5, height=3)
points = {name: few[name] for name in ("TV", "BayesShrink", "NLM", "regressor", "one step", "sample")}
points |= {"short sample": running[0], "mean of 2": running[1], averaged: running[-1]}
places, beside = {}, {"mean of 2": ("right", -5, -11), averaged: ("center", 0, -13), "one step": ("right", -2, 6)}
beside |= {"NLM": ("right", -5, 4), "regressor": ("center", 0, 6)}
for name, result in points.items():
    ratio = (gradient_energy(result).sum() / gradient_energy(clean[part]).sum()).item()
    places[name] = metrics.psnr(result, clean[part]).mean().item(), ratio
    axes.plot(*places[name], "o")
    side, dx, dy = beside.get(name, ("left", 5, 4))
    axes.annotate(name, places[name], (dx, dy), textcoords="offset points", ha=side, fontsize=8)
axes.axhline(1, color="k", lw=0.8)
axes.margins(x=0.12, y=0.12)
axes.set(title="Fidelity against detail", xlabel="PSNR (dB)", ylabel="gradient energy / clean")
show(figure, alt="; ".join(f"{name} {a:.4g} dB, energy {b:.4g}" for name, (a, b) in places.items()))

# %% [markdown]
# ## Does it hold?
#
# Differences are paired per crop. Networks were trained once, so the intervals say what other *photographs* might
# change; other training seeds are not in them. The first is a bootstrap that draws whole photographs, because crops of
# one photograph rise and fall together. Six photographs are few and make it too narrow, so a second one stands beside
# it: Student's t over the photographs' means. "Above" or "below" is written only where both agree.

# %%
psnr = {name: metrics.psnr(result, clean) for name, result in restored.items()}
psnr[averaged] = metrics.psnr(few[averaged], clean[part])


def difference(a, b):
    """Both intervals of the mean PSNR difference a - b in dB, on the crops that both have."""
    index = part if averaged in (a, b) else range(len(clean))
    x, y = (psnr[name] if name == averaged else psnr[name][list(index)] for name in (a, b))
    return statistics.clustered_intervals(x - y, [names[i] for i in index], seed)


pairs = [("regressor", "noisy"), ("regressor", "NLM"), ("one step", "noisy"), ("one step", "NLM"), (averaged, "noisy")]
pairs += [(averaged, "NLM"), ("regressor", "one step"), (averaged, "one step"), ("sample", "one step")]
pairs += [("sample", "TV"), ("sample", "BayesShrink")]
gains = {pair: difference(*pair) for pair in pairs}
ends = {pair: f"t [{statistics.significant(t.low)}, {statistics.significant(t.high)}]" for pair, (_, t) in gains.items()}
for (a, b), (bootstrap, t) in gains.items():
    print(f"{a:>9} - {b:<11} {bootstrap} dB, {ends[a, b]}: {statistics.verdict(bootstrap, t)}")
single = statistics.t_interval([metrics.psnr(draw, clean[part]).mean() for draw in draws])
print(f"PSNR of one sample, over {samples} sampling seeds: {single} dB")

# %% [markdown]
# ### The claim box
#
# A bar that was fixed before training: how much a small network, trained on dead leaves only, must gain on real
# photographs. Networks trained on a GPU face a higher bar than those trained on a CPU. The number after the colon is
# the measured mean, then come its two intervals. The verdict "clearly" is given only where both intervals clear the
# bar, "barely" where they do with less than a quarter of the gain over the bar to spare.

# %%
gpu = "GPU" in card["device"]
total = (gradient_energy(restored["sample"]).sum() / gradient_energy(clean).sum()).item()
close = sum(abs(values[0] - 1) <= 0.1 for values in detail.values())
bars = {
    ("regressor", "noisy"): 11.2 if gpu else 10.5,
    ("regressor", "NLM"): 2.0 if gpu else 1.5,
    ("one step", "noisy"): 10.7 if gpu else 9.7,
    ("one step", "NLM"): 1.5 if gpu else 0.5,
    (averaged, "noisy"): 10.7 if gpu else 9.7,
    (averaged, "NLM"): 1.5 if gpu else 0.5,
    ("sample", "TV"): 0.0,
    ("sample", "BayesShrink"): 0.0,
}
for (a, b), bar in bars.items():
    gain, spare = gains[a, b][0], min(interval.low for interval in gains[a, b]) - bar
    verdict = "yes" if gain.mean >= bar else "no"
    if statistics.verdict(*gains[a, b], threshold=bar) == "above":
        verdict = "yes, barely" if spare < (gain.mean - bar) / 4 else "yes, clearly"
    print(f"{a} at least {bar} dB above {b}: {gain} dB, {ends[a, b]}: {verdict}")
least = psnr["sample"] - psnr["BayesShrink"]
losses = sum(value < 0 for value in per_photograph(least))
print(f"one sample is below BayesShrink on {losses} of {len(photos.EVALUATION)} photographs")
verdict = "yes" if abs(total - 1) <= 0.1 else "no"
print(f"gradient energy of one sample within 10 %: {total:.4g} of the clean crops': {verdict}")
print(f"the same per photograph: {close} of {len(detail)} within 10 %")

# %%
wrong = {name: metrics.high_frequency_error(restored[name], clean) for name in kinds}
amount = {name: metrics.high_frequency_energy_ratio(restored[name], clean) for name in wrong}
rows = {name: [amount[name].median().item(), wrong[name].median().item()] for name in wrong}
show_table(["median energy", "median error"], rows)
worse = int((wrong["sample"] > wrong["regressor"]).sum())
print(f"the sample's finest detail is further from the truth than the regressor's on {worse} of {len(clean)} crops")

# %% [markdown]
# A sample lost less against the one-step mean than the 3 dB of Exercise 4. That is not a virtue: it is the same lack
# of spread as above, and the gradient energy is a little low for the same reason.
#
# What the box cannot say: that the sample's detail is *true*. The last table measures it: **energy** is how much fine
# detail there is, **error** the energy of what is wrong in it, both relative to the clean crop.
#
# ### Exercise 5: criticise (5 minutes, medium)
#
# A report on these networks says: "The sample has the gradient energy of the clean photograph, the regressor has
# clearly less. Hence the diffusion model *recovered* the detail that the regressor lost." What is the strongest
# objection?
#
# - **a** gradient energy depends on the brightness of the photograph
# - **b** energy counts how much detail there is, not whether it is the scene's; the error of the fine detail must be
#   shown too
# - **c** the regressor would catch up if it were trained for longer
# - **d** a single sample is random; the mean of eight should have been used

# %% tags=["solution"]
### BEGIN SOLUTION
detail_answer = "b"
### END SOLUTION

# %%
check("05.detail", detail_answer)

# %% [markdown]
# ## What it costs

# %%
import time

from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter:
    recipes.restore(denoiser, noisy[:1], steps=1)
macs = counter.get_total_flops() // 2
began = time.perf_counter()
recipes.restore(denoiser, noisy[:1], **sampler)
fixed = {
    "parameters": card["parameters"],
    "MACs of one call, 128 x 128": macs,
    "MACs of one sample": macs * sampler_steps,
    f"MACs of the {averaged}": macs * draw_steps * samples,
}
measured = {"seconds for one sample": time.perf_counter() - began, "trained on": card["device"]}
show_cost("Restoring one crop", fixed=fixed, measured={**measured, "training (s)": card["wall_time_s"]})

# %% [markdown]
# ## You can now
# - jump to any noise level, walk back by DDPM or DDIM, and say what $\eta$ and the number of steps trade;
# - convert between $\varepsilon$, $x_0$ and $v$, and expose a wrong sampler with an oracle;
# - condition a diffusion model on a degraded photograph and train it with a squared error;
# - expect about 3 dB between a posterior sample and the mean, and recognise a sampler that avoids the price by
#   blurring;
# - read a restoration result on two axes, fidelity and detail, and ask whether the detail is true.
#
# **Try next**: `minirestore restore --method denoiser` with a noisy photograph of your own, or this notebook at
# `--profile reduced`. The coming notebooks change what the condition is: structure, latents, depth.
#
# **References**: J. Ho, A. Jain and P. Abbeel, *Denoising diffusion probabilistic models*, 2020. J. Song, C. Meng and
# S. Ermon, *Denoising diffusion implicit models*, 2021. T. Salimans and J. Ho, *Progressive distillation for fast
# sampling of diffusion models*, 2022. T. Karras et al., *Elucidating the design space of diffusion-based generative
# models*, 2022. Y. Blau and T. Michaeli, *The perception-distortion tradeoff*, 2018. S. Lin et al., *Common diffusion
# noise schedules and sample steps are flawed*, 2024. A. Nichol and P. Dhariwal, *Improved denoising diffusion
# probabilistic models*, 2021.
