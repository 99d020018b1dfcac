# %% [markdown]
# # 04 Degradations
#
# **You will be able to**
# - write what happened to a picture as a forward model $y = D(x)$, and run it: blur, noise, JPEG, rain, resizing;
# - read from a kernel's frequency response which frequencies a blur weakens and which it wipes out;
# - test an adjoint with two inner products, and say why an adjoint is not an inverse;
# - undo a known blur with the Wiener filter, and measure what it costs to be wrong about the kernel;
# - draw from the random pipelines that restoration networks train on, and read the record of what was drawn.
#
# **You need** notebooks 02 and 03, a CPU, about half a minute for all cells and about 90 minutes for you.

# %% tags=["parameters"]
profile = "quick"
seed = 0
noise = 2.55
radius = 2.5
draws = 4

# %% tags=["setup"]
import math

import scipy.fft
import torch
import torch.nn.functional as F

from minirestore import degradations, fourier, images, metrics, photos, plots, statistics
from minirestore.degradations.compression import LUMINANCE_TABLE
from minirestore.exercises import check
from minirestore.plots import show, show_cost, show_table
from minirestore.widgets import explore

clean = photos.crops("astronaut", 129)[2:3]
badge = (..., slice(20, 116), slice(33, 129))  # what the figures show of it


# %% [markdown]
# ## The idea as a picture
#
# A photograph never reaches us as it was. The hand shakes, the lens is out of focus, the sensor counts too few
# photons, a phone shrinks the file. Each is a **degradation**: a map $D$ from a clean image $x$ to an observed image $y$.
# Such maps are known well; their inverses are what the rest of the course is about.

# %%
examples = {
    "camera shake": degradations.walk_blur(clean, radius, seed),
    "noise 25/255": degradations.gaussian_noise(clean, 25, seed),
    "JPEG 8": degradations.jpeg(clean, 8),
    "rain": degradations.rain(clean, seed),
    "pipeline": degradations.second_order(clean, seed, degradations.SECOND_ORDER_SMALL),
}
numbers = [f"{name}\n{metrics.psnr(image, clean).item():.4g} dB" for name, image in examples.items()]
figure, axes = plots.subplots(2, 3, width=3.0, height=2.75)
for axis, image, title in zip(axes.flat, [clean, *examples.values()], ["clean\n", *numbers], strict=True):
    plots.image_axes(axis, image[badge], title)
show(figure, alt=f"An astronaut's badge and five degradations of it: {', '.join(numbers)}")

# %% [markdown]
# ## Theory: the forward model
#
# Most degradations in this course are a linear operator followed by noise,
#
# $$y = A x + n .$$
#
# $A$ is **linear** when $A(ax + bx') = a\,Ax + b\,Ax'$: blur and resizing are, JPEG and clipping are not. $A$ is a matrix with a column
# per pixel, but nobody writes it down: a function that applies it is enough.
#
# The forward model matters for three reasons.
#
# 1. **Data.** Nobody owns pairs of a damaged photograph and its perfect twin. Networks are trained on pairs $(x, D(x))$
#    that we make. Whatever $D$ leaves out, the network never sees.
# 2. **Consistency.** A restored $\hat x$ should explain what was observed: $A \hat x \approx y$. Methods that pull a
#    sample towards the observation follow the gradient $A^*(A\hat x - y)$, which needs the adjoint $A^*$.
# 3. **Honesty.** $A$ says what is lost for good. What a method shows there is a guess, however sharp.
#
# ## A gallery of blur kernels
#
# A blur replaces every pixel by a weighted mean of its neighbours. The weights are the **kernel** $k$; they sum to one,
# so that flat areas stay as they are. The first four kinds below are lens-like blurs: with the quadratic form
# $q = r^\top \Sigma^{-1} r$ of the position $r$, a Gaussian is $e^{-q/2}$, a generalised Gaussian $e^{-q^\beta/2}$ (here $\beta = 4$), and
# a plateau $1/(1 + q^\beta)$. The sinc is the ideal low-pass filter, which rings as sharpened and recompressed files
# do. Motion is a line, shake a wandering path, defocus a disk.

#
# ## Which frequencies survive
#
# A blur with one kernel for all pixels is a convolution, and a convolution multiplies every Fourier coefficient by a
# number of its own (notebook 02):
#
# $$\hat y(u, v) = H(u, v)\, \hat x(u, v), \qquad H = \mathcal{F}[k] .$$
#
# $H$ is the **frequency response** (or transfer function). $H(0, 0) = 1$ because the kernel sums to one. Where $|H|$ is
# small the frequency drowns in noise; where $H = 0$ it is gone. The package applies kernels as a correlation, as image
# libraries do, so the code flips the kernel first; only lopsided kernels such as shake notice.

# %%
def response(kernel, side):
    """Frequency response (..., side, side) of a kernel (..., k, k), zero frequency first."""
    k = kernel.shape[-1]
    canvas = F.pad(kernel.flip((-2, -1)), (0, side - k, 0, side - k))
    return torch.fft.fft2(canvas.roll((-(k // 2), -(k // 2)), (-2, -1)))


def response_picture(kernel, side=128):
    """log10 |H| with zero frequency in the centre: white is 1, black 0.001 or less."""
    decades = torch.fft.fftshift(response(kernel, side).abs()).clamp(min=1e-9).log10()
    return (1 + decades / 3).clamp(0, 1)[None, None]


def kernel_picture(kernel, side):
    """The kernel on a canvas of its own; the square root shows the faint parts, negative weights are black."""
    canvas = degradations.pad_kernel(kernel, side)
    return (canvas / canvas.max()).clamp(0, 1).sqrt()[None, None]


# %%
kernels = {
    "isotropic": degradations.gaussian_kernel(25, 2.5),
    "anisotropic": degradations.gaussian_kernel(25, 4.0, 1.2, 0.6),
    "β = 4": degradations.generalized_gaussian_kernel(25, 4.0, 4.0, 2.0, 0.6),
    "plateau": degradations.plateau_kernel(25, 1.5, 3.0),
    "sinc": degradations.sinc_kernel(25, math.pi / 4),
    "motion": degradations.linear_motion_kernel(11.0, 0.6),
    "shake": degradations.walk_motion_kernel(3.5, seed),
    "defocus": degradations.disk_kernel(4.5),
}
widest = max(kernel.shape[-1] for kernel in kernels.values())
weak = {name: (response(kernel, 128).abs() < 0.01).double().mean().item() for name, kernel in kernels.items()}
rows = [[kernel_picture(kernel, widest) for kernel in kernels.values()]]
rows.append([response_picture(kernel) for kernel in kernels.values()])
figure = plots.image_grid(rows, list(kernels), ["kernel", "log |H|"], width=6.2)
numbers = ", ".join(f"{name} {share:.4g}" for name, share in weak.items())
show(figure, alt=f"Eight kernels and their responses. Share of frequencies weakened below one per cent: {numbers}")

# %% [markdown]
# Wide in space is narrow in frequency: the response of the anisotropic Gaussian is stretched *across* the blur. The
# Gaussian fades and has no zeros, but far out it is so small that noise wins. (The fine crosses of plateau and sinc come from
# cutting them off at 25 pixels.) Motion and defocus have sharp dark
# **zeros**: parallel stripes and rings. Shake has zeros at scattered places only; the explorer below
# shows what that is worth.
#
# Below, three blurs of comparable size along one frequency axis. Even motion over $L$ pixels is a box, with response
# $\sin(\pi L f) / (\pi L f)$ and first zero at $1/L$: a wave that fits the box exactly has mean zero wherever the box
# lies. A disk of radius $R$ has its first zero at $0.610/R$ (from the Bessel function $J_1$). A Gaussian,
# $e^{-2\pi^2\sigma^2 f^2}$, has none.

# %%
f = torch.arange(501) / 1000  # cycles per pixel
three = {
    "motion, L = 10 px": degradations.linear_motion_kernel(10.0),
    "defocus, R = 4 px": degradations.disk_kernel(4.0),
    "Gaussian, σ = 2 px": degradations.gaussian_kernel(21, 2.0),
}
curves = {name: response(kernel, 1000)[0, :501].abs() for name, kernel in three.items()}
figure, axis = plots.subplots(width=7, height=2.6)
for (name, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
    axis.semilogy(f, curve.clamp(min=1e-6), style, label=name)
axis.set(title="Frequency response", xlabel="frequency (cycles/pixel)", ylabel="|H|", ylim=(1e-4, 1.5))
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)  # beside the curves: their zeros stay visible
firsts = [f[(curve[1:] > curve[:-1]).nonzero()[0]].item() for curve in list(curves.values())[:2]]
text = f"motion dips first at {firsts[0]:.4g}, theory {1 / 10:.4g}; defocus at {firsts[1]:.4g}, theory {0.6098 / 4:.4g}"
show(figure, alt=f"Three responses on a log scale: {text}")

# %% [markdown]
# ## Build it: an operator and its adjoint
#
# The **adjoint** $A^*$ is defined by $\langle Ax, y\rangle = \langle x, A^* y\rangle$ for all $x$ and $y$; for a matrix it
# is the transpose. If $A$ gathers, $A^*$ spreads: each output pixel hands its value back to the pixels it was
# computed from, with the same weights. Read `Blur` in `minirestore/degradations/operators.py`: the
# forward pass mirrors the border, the adjoint folds it back.
#
# To see the matrices, blur a signal of 16 pixels with a lopsided kernel. Every row of the identity is a unit impulse, and
# its image is one column of $A$. The third panel shows what you get by taking the flipped kernel for the adjoint:
# right inside, wrong at the mirrored border.
#
# The test of any adjoint takes two lines: draw $x$ and $y$ at random and compare the inner products. It catches wrong
# borders, wrong flips and forgotten factors. It follows for all linear operators of the package, among them a
# camera that *rolls*: the middle stays sharp and corners smear along arcs. That is linear too, but no convolution, so no
# single $H$ describes it.

# %%
lopsided = torch.zeros(5, 5, dtype=torch.float64)
lopsided[2] = torch.tensor([0.0, 0.0, 0.4, 0.35, 0.25])
blur, flipped = degradations.Blur(lopsided), degradations.Blur(lopsided.flip((-2, -1)))
eye = torch.eye(16, dtype=torch.float64)[None, None]
A, adjoint, shortcut = blur(eye).mT, blur.adjoint(eye).mT, flipped(eye).mT
errors = [(matrix - A.mT).abs().max().item() for matrix in (adjoint, shortcut)]
pictures = [matrix / A.max() for matrix in (A, adjoint, shortcut)]
figure = plots.image_row(pictures, ["A", "A*, adjoint", "flipped kernel"], width=6)
show(figure, alt=f"Three banded matrices; from A transposed A* differs by {errors[0]:.4g}, the flipped by {errors[1]:.4g}")

# %%
side = (64, 64)
operators = {
    "shake": degradations.Blur(kernels["shake"]),
    "motion": degradations.MotionBlur(9.0, 0.6),
    "rotation field": degradations.SpatiallyVaryingBlur.rotation(side, 0.2),
    "bicubic to 16 px": degradations.Resize(side, (16, 16), "bicubic"),
    "blur, every 4th pixel": degradations.Downsample(side, 4, kernels["isotropic"]),
}
generator, products = torch.Generator().manual_seed(seed), {}
for name, operator in operators.items():
    x = torch.rand(1, 1, *side, generator=generator, dtype=torch.float64)
    y = torch.rand(operator(x).shape, generator=generator, dtype=torch.float64)
    products[name] = [(operator(x) * y).sum().item(), (x * operator.adjoint(y)).sum().item()]
show_table(["<Ax, y>", "<x, A*y>"], products)
print("equal to 12 digits:", all(math.isclose(a, b, rel_tol=1e-12) for a, b in products.values()))

# %% [markdown]
# The adjoint is not the inverse. $A^*A$ has the response $|H|^2$: it blurs twice. What makes it useful is that
# $A^*(Ax - y)$ is the gradient of $\tfrac12\|Ax - y\|^2$.
#
# ## Exercise 1: code an adjoint (10 minutes, medium)
#
# A signal $x$ of length $n$ is filtered with zeros outside, $(Ax)_i = \sum_j k_j\, x_{i + j - r}$ for a kernel of odd
# length $2r + 1$; in torch, `F.conv1d(x[None, None], kernel[None, None], padding=r)[0, 0]`. Write `spread_back(y, kernel)`,
# the adjoint, for 1-D tensors. A loop is fine: which $x$ did output $i$ read, and with which weight?

# %% tags=["solution"]
def spread_back(y, kernel):
    """Adjoint of filtering with zeros outside: (n,) -> (n,)."""
    ### BEGIN SOLUTION
    r = len(kernel) // 2
    spread = torch.zeros(len(y) + 2 * r, dtype=y.dtype)
    for i in range(len(y)):
        spread[i : i + len(kernel)] += y[i] * kernel
    return spread[r : r + len(y)]
    ### END SOLUTION


# %%
check("04.spread_back", spread_back)

# %% [markdown]
# ## Undo a known blur: the Wiener filter
#
# Dividing by $H$ fails: where $|H|$ is tiny, it amplifies noise without bound. Wiener asked for the linear filter with the
# smallest expected squared error. Per frequency, with signal power $S$ and noise power $N$, it is
#
# $$\hat x(u,v) = \frac{\overline{H}}{|H|^2 + N/S}\; \hat y(u,v) .$$
#
# Where $|H|^2 \gg N/S$ it divides by $H$; where $|H|^2 \ll N/S$ it gives up and returns nothing. Photographs have
# $S \propto 1/f^2$ (Field 1987, and notebook 02), so we set $N/S = \tau f^2$: one dial $\tau$, proportional to the
# variance of the noise. The mean is untouched, since the penalty vanishes at $f = 0$. The image is first
# mirrored to twice its size, because the Fourier transform believes that pictures repeat.
#
# The dial must be chosen on *other* photographs than those we report on: as everywhere in this course, china and flower. And
# we prepare the question of this notebook: **what if the kernel is wrong?** The photographs are shaken along random
# walks. We guess the true walk, the same walk drawn too small or too large, a Gaussian of the same RMS radius (root mean
# square distance from the centre, which makes different blurs comparable), and somebody else's walk. Every guess
# gets its own best dial: a wrong kernel should lose because it is wrong, not because we set it up badly. In the table, the
# wrong kernels want a dial at least as large as the true one: they dare to undo less.

# %%
def wiener(y, kernel, tau):
    """Deconvolve images (B, C, n, n) with kernels (B or 1, k, k); mirrored border, clipped to [0, 1]."""
    n = y.shape[-1]
    mirror = images.reflect_indices(n, 0, n - 2)
    side = len(mirror)
    H = response(kernel, side)[..., : side // 2 + 1].to(torch.complex64)[:, None]  # (B or 1, 1, side, side / 2 + 1)
    frequency = fourier.radial_frequency(side, side)[:, : side // 2 + 1].float()
    filter_ = H.conj() / (H.abs().square() + tau * frequency.square())
    spectrum = torch.fft.rfft2(y[..., mirror, :][..., mirror])
    return torch.fft.irfft2(filter_ * spectrum, s=(side, side))[..., :n, :n].clamp(0, 1)


# %%
def shakes(count, draw, factor=1.0):
    """One camera-shake kernel per image, (count, k, k); factor enlarges or shrinks the same walks."""
    first = 100_000 * seed + 1000 * draw
    walks = [degradations.walk_motion_kernel(factor * radius, first + i) for i in range(count)]
    side = max(walk.shape[-1] for walk in walks)
    return torch.stack([degradations.pad_kernel(walk, side) for walk in walks])


def guesses(count, draw):
    """What one might believe the kernels to be."""
    scaled = {"true kernel": 1.0, "half as large": 0.5, "0.8 x": 0.8, "1.25 x": 1.25, "twice as large": 2.0}
    found = {name: shakes(count, draw, factor) for name, factor in scaled.items()}
    found["Gaussian"] = degradations.gaussian_kernel(21, radius / math.sqrt(2))[None]
    found["another shake"] = shakes(count, draw + 50)
    return found


# %%
def observe(x, draw):
    """Shake every photograph with its own true kernel and add noise."""
    blurred = degradations.Blur(shakes(len(x), draw))(x).clamp(0, 1)
    return degradations.gaussian_noise(blurred, noise, 1000 * seed + draw)


tuning = torch.cat([photos.crops(name, 129) for name in ("china", "flower")])
shaken = observe(tuning, draw=90)
taus, best, table = [10 ** (exponent / 3) for exponent in range(-2, 8)], {}, {}
for name, kernel in guesses(len(tuning), draw=90).items():
    curve = [metrics.psnr(wiener(shaken, kernel, tau), tuning).mean().item() for tau in taus]
    best[name] = taus[curve.index(max(curve))]
    table[name] = [best[name], max(curve), curve[0], curve[-1]]
print(f"left alone {metrics.psnr(shaken, tuning).mean().item():.4g} dB; Wiener on china and flower:")
show_table(["best τ", "PSNR (dB)", f"τ = {taus[0]:.3g}", f"τ = {taus[-1]:.3g}"], table)

# %%
degraded = observe(clean, draw=0)
restored = {name: wiener(degraded, kernel, best[name]) for name, kernel in guesses(1, draw=0).items()}
pictures = {"shaken": degraded} | {name: restored[name] for name in ("true kernel", "Gaussian", "twice as large")}
scores = {name: metrics.psnr(image, clean).item() for name, image in pictures.items()}
titles = [f"{name}\n{score:.4g} dB" for name, score in scores.items()]
figure = plots.image_row([image[badge] for image in pictures.values()], titles, width=4.1)
numbers = ", ".join(f"{name} {score:.4g} dB" for name, score in scores.items())
show(figure, alt=f"The badge, shaken and deconvolved with three kernels: {numbers}")

# %% [markdown]
# ## Look inside: a blur, its response, its undoing
#
# Choose a family of blur, its size and the noise. From left to right: kernel, response, degraded image, Wiener with the
# true kernel; the dial follows the variance of the noise, as the theory asks. Which family is hardest to undo at
# equal size? At which noise does deconvolution stop helping? What does ringing look like?

# %%
families = {  # kernels of a given RMS radius in pixels
    "Gaussian": lambda size: degradations.gaussian_kernel(4 * math.ceil(2 * size) + 1, size / math.sqrt(2)),
    "motion": lambda size: degradations.linear_motion_kernel(math.sqrt(12 * size**2 + 1), 0.6),
    "shake": lambda size: shakes(1, 0, size / radius)[0],
    "defocus": lambda size: degradations.disk_kernel(math.sqrt(2) * size),
}


def draw(figure, family, rms_radius, sigma):
    """Kernel, response, degraded and restored photograph."""
    kernel = families[family](rms_radius)
    y = degradations.gaussian_noise(degradations.Blur(kernel)(clean).clamp(0, 1), sigma, seed)
    x = wiener(y, kernel[None], best["true kernel"] * max(sigma / noise, 0.1) ** 2)
    before, after = (metrics.psnr(image, clean).item() for image in (y, x))
    panels = [kernel_picture(kernel, max(31, kernel.shape[-1])), response_picture(kernel, 96), y[badge], x[badge]]
    titles = ["kernel", "log |H|", f"degraded\n{before:.4g} dB", f"Wiener\n{after:.4g} dB"]
    for axis, panel, title in zip(figure.subplots(1, 4), panels, titles, strict=True):
        plots.image_axes(axis, panel, title)
    return f"degraded {before:.4g} dB, Wiener {after:.4g} dB"


states = [{"family": name, "rms_radius": 2.5, "sigma": 2.55} for name in ("Gaussian", "shake", "defocus")]
sizes, sigmas = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0), (0.0, 1.0, 2.55, 5.0, 10.0, 25.0)
explore(draw, size=(3.9, 1.25), states=states, family=list(families), rms_radius=sizes, sigma=sigmas)

# %% [markdown]
# ## Light adds up, file values do not
#
# A sensor adds *light*. A file stores sRGB values, roughly the 2.2-th root of light, so that eight bits suffice. Blur is
# a mean of light; averaging sRGB values is only an approximation, and a bad one at highlights. A white point smeared over
# $L$ pixels leaves $1/L$ of its light in each, but the file shows the root of that: a bright streak.

# %%
visor = photos.crops("astronaut", 129)[3:]
L = 21
streaks = [degradations.motion_blur(visor, L, -0.5, linear_light=linear) for linear in (False, True)]
point = [1 / L, degradations.linear_to_srgb(torch.tensor(1 / L)).item()]
titles = ["photograph", "sRGB blurred", "light blurred"]
figure = plots.image_row([image[..., 20:, 10:119] for image in (visor, *streaks)], titles, width=3.6)
bright = [(images.luma(image) > 0.5).double().mean().item() for image in (visor, *streaks)]
text = f"{bright[0]:.4g} of the photograph, {bright[1]:.4g} with blurred sRGB values, {bright[2]:.4g} with blurred light"
show(figure, alt=f"Reflections in a helmet smeared by motion; share of pixels brighter than 0.5: {text}")
print(f"a white point on black, smeared over {L} pixels: {point[0]:.4g} in sRGB values, {point[1]:.4g} in light")

# %% [markdown]
# `linear_light=True` decodes, blurs and encodes again. As a map on files this is no longer linear, and a network trained
# on sRGB blur meets something new. Even this is not the whole truth: the lights were brighter than white, and the clipped
# file cannot say by how much.
#
# ## Noise: constant or growing with the light
#
# **Gaussian** noise has one standard deviation for all pixels. **Poisson** (shot) noise comes from counting photons: a
# pixel that expects $\lambda$ photons counts a Poisson number with mean and variance $\lambda$. In units where white is
# $M$ photons, a pixel of light $x$ has variance $x / M$: a straight line. Columns of equal
# grey serve as test chart.

# %%
greys, M = torch.linspace(0, 1, 33), 100
chart = greys.expand(1, 1, 4000, 33)
charts = {
    "Gaussian, clipped": degradations.gaussian_noise(chart, 15, seed),
    "Gaussian, not clipped": degradations.gaussian_noise(chart, 15, seed, clip=False),
    "Poisson, not clipped": degradations.poisson_noise(chart, 1.0, seed, levels=M, clip=False),
}
figure, axis = plots.subplots(width=4.2, height=2.1)
for (name, image), style in zip(charts.items(), ("o", "x", "s"), strict=True):
    axis.plot(greys, variance := image[0, 0].var(0), style, markersize=3, label=name)
axis.plot(greys, greys / M, color="0.5", linewidth=0.8, label="theory x / M")
axis.set(title="Variance against grey value", xlabel="true value x", ylabel="variance", ylim=(0, 0.0125))
axis.legend(fontsize=8)
slope = M * ((greys * variance).sum() / greys.square().sum()).item()
black = 255 * charts["Gaussian, clipped"][..., 0].mean().item()
show(figure, alt=f"Poisson variance grows with {slope:.4g} / M; clipped Gaussian noise lifts black to {black:.4g} / 255")

# %% [markdown]
# Look at the ends: clipping to [0, 1] makes Gaussian noise weaker at black and white and *biased*: black becomes grey on
# average. A denoiser that assumes zero-mean noise will keep that grey.
#
# ## Exercise 2: code a camera (15 minutes, harder)
#
# Write `camera_file(light, photons, generator)`. The input is linear light in [0, 1]. Draw the photon count of every pixel
# (`torch.poisson(..., generator=generator)`) with `photons` expected at white, go back to light, clip to [0, 1], encode
# with `degradations.linear_to_srgb`, and round to multiples of 1/255.

# %% tags=["solution"]
def camera_file(light, photons, generator):
    """What an 8-bit file holds of linear light in [0, 1] when white is `photons` photons."""
    ### BEGIN SOLUTION
    counted = torch.poisson(light * photons, generator=generator) / photons
    encoded = degradations.linear_to_srgb(counted.clamp(0, 1))
    return (encoded * 255).round() / 255
    ### END SOLUTION


# %%
check("04.camera_file", camera_file)

# %% [markdown]
# ## JPEG: rounding in the frequency domain
#
# JPEG converts RGB to one brightness (luma) and two colour differences (chroma), keeps the chroma at half resolution, cuts
# everything into blocks of 8 x 8 pixels, takes the cosine transform (DCT) of each, and rounds every coefficient to a multiple
# of a step. The steps are a table times a factor that depends on the quality, large for high frequencies. Most coefficients
# become zero, and zeros cost no space.

# %%
block = 255 * images.luma(clean)[0, 0, 64:72, 88:96].double() - 128
levels = scipy.fft.dctn(block.numpy(), norm="ortho")
steps = torch.tensor(LUMINANCE_TABLE).double() * (50 / 20)  # quality 20; above 50 the factor is 2 - quality / 50
kept = (torch.from_numpy(levels) / steps).round()
rebuilt = torch.from_numpy(scipy.fft.idctn((kept * steps).numpy(), norm="ortho"))
panels = [(block + 128) / 255, (kept != 0).double(), (rebuilt + 128) / 255]
left, off = int((kept != 0).sum()), (rebuilt - block).square().mean().sqrt().item()
titles = ["8 x 8 block", "DCT kept", "decoded"]
figure = plots.image_row([panel.clamp(0, 1)[None, None] for panel in panels], titles, width=4)
show(figure, alt=f"A block of the badge keeps {left} of 64 coefficients at quality 20; RMS error {off:.4g} / 255")

# %%
table = {}
for quality in (5, 20, 40, 60, 80, 95):
    image = degradations.jpeg(clean, quality)
    chroma = [0.5 + 0.564 * (picture[:, 2:] - images.luma(picture)) for picture in (image, clean)]  # Cb in [0, 1]
    pairs = [(image, clean), (images.luma(image), images.luma(clean)), chroma]
    pairs.append((degradations.diff_jpeg(clean, quality), clean))
    table[f"quality {quality}"] = [metrics.psnr(a, b).item() for a, b in pairs]
show_table(["PSNR (dB)", "luma", "chroma Cb", "diff_jpeg"], table)

# %% [markdown]
# Rounding is the loss. It is not linear: its derivative is zero almost everywhere, and there is no adjoint to speak
# of. `diff_jpeg` does the same steps in torch, so that a pipeline can stay on the GPU, and agrees with the real encoder to within a
# decibel. Down the table luma gains from finer steps
# while the chroma stays behind: half its resolution is gone at any quality.
#
# ## Rain
#
# Rain is a layer of soft streaks in front of the scene, all falling in one direction. Drops scatter light, so
# rain only brightens; unlike noise it does not average out. `RAIN_LIGHT` and `RAIN_HEAVY` differ in density, angle,
# length and blending, so that one can train on one and test on the other. It is a cartoon: real rain has depth, haze, and
# drops on the lens.

# %%
for name, config in {"light": degradations.RAIN_LIGHT, "heavy": degradations.RAIN_HEAVY}.items():
    added = degradations.rain(clean, seed, config) - clean
    print(f"{name} rain adds {added.mean():.4g} on average, {added.min():.4g} at least, {added.max():.4g} at most")

# %% [markdown]
# ## Resizing and aliasing
#
# Keeping every fourth pixel puts the new Nyquist frequency at 1/8 cycle per old pixel. Whatever oscillates faster does not
# vanish: it comes back as a slow oscillation that was never there, an **alias**. Antialiasing removes it first, with a
# filter as wide as the step. Below, a **zone plate**, whose frequency grows from 0 in the centre to 0.5 cycles/pixel at the
# rim, shrunk from 128 to 32 pixels. Outside the small centre everything should be plain grey. Every pixel of the zone plate is
# drawn as 2 x 2 dots, so that your screen adds no alias of its own.

# %%
axis = torch.arange(128) - 63.5
distance = (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()  # local frequency is distance / 128 cycles/pixel
zone = (0.5 + 0.5 * torch.cos(math.pi * distance**2 / 128) * (distance < 64))[None, None]
outside = F.avg_pool2d(distance[None, None], 4) > 24
shrunk = {mode: degradations.resize(zone, (32, 32), mode=mode) for mode in ("nearest", "area", "bilinear", "bicubic")}
for mode in ("bilinear", "bicubic"):
    shrunk[f"{mode},\nantialias"] = degradations.resize(zone, (32, 32), mode=mode, antialias=True)
figure = plots.new_figure(7, 3.3)  # 700 x 330 dots
figure.set_layout_engine("none")  # every panel is placed by hand, in dots
plots.image_axes(figure.add_axes((2 / 700, 20 / 330, 256 / 700, 256 / 330)), zone, "zone plate")
for i, (name, image) in enumerate(shrunk.items()):
    left, bottom = 286 + 139 * (i % 3), (185, 18)[i // 3]
    plots.image_axes(figure.add_axes((left / 700, bottom / 330, 96 / 700, 96 / 330)), image, name)
numbers = ", ".join(f"{name} {image[outside].std().item():.4g}" for name, image in shrunk.items())
show(figure, alt=f"A zone plate and six reductions to 32 pixels; standard deviation where grey is right: {numbers}")

# %% [markdown]
# The released code of the Real-ESRGAN and DiffBIR pipelines resizes *without* antialiasing (torch's default), so its low-resolution
# images carry aliases that a careful camera would not produce. "Bicubic" in one paper and in another may be different
# degradations. Our default follows the released code.
#
# ## Exercise 3: predict (5 minutes, medium)
#
# Noise of standard deviation 25 (of 255) meets a Gaussian blur of $\sigma = 1.5$ pixels. You may blur the photograph and then
# add noise, or add noise and then blur everything. How strong is the *noise* in the second picture, compared with the
# first? Independent pixels weighted by $k$ have variance $25^2 \sum k^2$, and $\sum k^2 \approx 1/(4\pi\sigma^2)$.
#
# - **a** the same: the kernel sums to one
# - **b** about five times weaker
# - **c** about $1.5$ times weaker
# - **d** about $28$ times weaker

# %% tags=["solution"]
### BEGIN SOLUTION
order_answer = "b"
### END SOLUTION

# %%
check("04.order", order_answer)

# %%
blur = degradations.Blur(degradations.gaussian_kernel(13, 1.5))
blurred = blur(clean)
white = degradations.gaussian_noise(torch.full_like(clean, 0.5), 25, seed, clip=False) - 0.5
for name, picture in {"blur, then noise": blurred + white, "noise, then blur": blur(clean + white)}.items():
    error = picture - blurred
    neighbours = (error[..., 1:] * error[..., :-1]).mean() / error.square().mean()
    score = metrics.psnr(picture.clamp(0, 1), clean).item()
    print(f"{name}: noise {255 * error.std():.4g} / 255, neighbour correlation {neighbours:.3f}, PSNR {score:.4g} dB")

# %% [markdown]
# The order matters twice: blurred noise is weaker, and no longer white: neighbouring pixels err together, in blobs, which a
# denoiser trained on white noise may take for texture. Real photographs were filtered, resized and compressed several
# times on their way; that is the reason for pipelines with more than one round.
#
# ## Random pipelines: first and second order
#
# A **blind** restorer does not know $D$. It is trained on a *distribution* of degradations, drawn anew for every image.
#
# - **First order** (used by CodeFormer and to train DiffBIR): blur, shrink, Gaussian noise, JPEG, enlarge again.
# - **Second order** (Real-ESRGAN): blur, resize, noise, JPEG; blur, resize, noise again; then a resize with a sinc
#   filter, and the last JPEG, in either order.
#
# The DiffBIR paper describes blur, resize and noise applied twice; its released training code for the general model
# uses the first-order recipe, and a second network trained on the second-order one is swapped in for testing. Both recipes are here
# with the released ranges (`FIRST_ORDER_GENERAL`, `SECOND_ORDER_GENERAL`, for 512-pixel images) and reduced for small crops (`..._SMALL`).
#
# Every call can return a **record** of the steps it took and the numbers it drew. A result without its record cannot be
# reproduced or sorted by severity. Read the second one below slowly: count the resizes.

# %%
recipes = {
    "first order": (degradations.first_order, degradations.FIRST_ORDER_SMALL),
    "second order": (degradations.second_order, degradations.SECOND_ORDER_SMALL),
}
rows, records = [], {}
for name, (pipeline, config) in recipes.items():
    drawn = [pipeline(clean, 10 * seed + number, config, return_record=True) for number in (1, 2)]
    rows.append([image for image, _ in drawn])
    records[name] = drawn[0][1][0]
scores = [f"{metrics.psnr(image, clean).item():.4g}" for row in rows for image in row]
figure = plots.image_grid([[x[badge] for x in row] for row in rows], ["draw 1", "draw 2"], list(recipes), width=2.4)
show(figure, alt=f"Two draws of each pipeline, PSNR in dB: first order and second order {', '.join(scores)}")

# %%
for name, record in records.items():
    print(name)
    for step in record:
        values = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in step.parameters.items()]
        print(f"  {step.name:<15}" + ", ".join(values))

# %% [markdown]
# ## What cannot be inverted
#
# | degradation | lost for good | what remains possible |
# |---|---|---|
# | Gaussian blur | nothing in theory; high frequencies once there is noise | deconvolve up to the noise |
# | motion, defocus | the zeros of $H$ | all other frequencies |
# | resizing to $1/s$ | $1 - 1/s^2$ of the dimensions | any image with the same small version fits |
# | noise | which of many clean images it was | the mean of the plausible ones, or one of them |
# | JPEG | the remainder of every rounding | any image whose coefficients round alike |
# | clipping | how far beyond white | nothing but a guess |
#
# "Lost" is exact, not a figure of speech. If $Az = 0$, then $x$ and $x + z$ have the *same* observation. Take a motion of
# 8 pixels and stripes of period 8:

# %%
stripes = 0.2 * torch.cos(2 * math.pi * torch.arange(129) / 8).expand(1, 3, 129, 129)
plain = 0.25 + 0.5 * visor
motion = degradations.MotionBlur(8.0)
seen = [motion(scene.double()) for scene in (plain, plain + stripes)]
apart, same = metrics.psnr(plain, plain + stripes).item(), (seen[0] - seen[1]).abs().max().item() < 1e-6
pictures = [plain, plain + stripes, seen[0].float()]
figure = plots.image_row(pictures, ["scene 1", "scene 2", "both observed"], width=3.3)
show(figure, alt=f"Scenes {apart:.4g} dB apart, with and without stripes; observations equal to 1e-06: {same}")

# %% [markdown]
# No method, however large, can tell which scene was there from this observation. It can only say which is more
# *plausible*. That is the job of a **prior**, and learning one is what the next notebooks do. A regression network
# answers with the mean of all plausible scenes; a diffusion model draws one of them.
#
# ## Does it hold? Being wrong about the kernel
#
# It is tempting to think that a roughly right kernel is good enough. We test three statements on the evaluation crops,
# with several draws of shake and noise each and the dials tuned above:
#
# 1. The true kernel helps.
# 2. A kernel of the right size but the wrong shape still helps.
# 3. If in doubt about the size, guess too large.
#
# The gain is the PSNR after minus before deconvolution. Crops of one photograph share its character, so the bootstrap
# resamples whole photographs (notebook 01). With six photographs its intervals are too narrow, so a second one stands
# beside it, Student's t over the photographs' means, and a statement counts as supported or contradicted only where **both**
# agree. Statement 3 is about a difference and gets intervals of its own; so does the price of not knowing the kernel.
# The last line printed is a t interval over draws: how much is luck of the shake.

# %%
everything, photograph = photos.evaluation_crops(129)
gains = {name: [] for name in best}
for number in range(1, draws + 1):
    degraded = observe(everything, number)
    before = metrics.psnr(degraded, everything)
    for name, kernel in guesses(len(everything), number).items():
        gains[name].append(metrics.psnr(wiener(degraded, kernel, best[name]), everything) - before)
gains = {name: torch.stack(values) for name, values in gains.items()}  # (draws, crops)
means = {name: values.mean(0) for name, values in gains.items()}
intervals = {name: statistics.clustered_intervals(mean, photograph, seed) for name, mean in means.items()}

# %%
order = sorted(intervals, key=lambda name: intervals[name][0].mean)
figure, axis = plots.subplots(width=5.4, height=2.4)
for shift, index, style, label in ((0.12, 0, "o", "bootstrap over photographs"), (-0.12, 1, "s", "t over photographs")):
    found = [intervals[name][index] for name in order]
    reach = [[one.mean - one.low for one in found], [one.high - one.mean for one in found]]
    rows = [row + shift for row in range(len(order))]
    axis.errorbar([one.mean for one in found], rows, xerr=reach, fmt=style, markersize=4, capsize=3, label=label)
axis.axvline(0, color="0.5", linewidth=0.8)
axis.set_yticks(range(len(order)), order)
axis.set(title="Wiener deconvolution, by assumed kernel", xlabel="gain (dB), 95 % intervals")
axis.legend(loc="upper left", fontsize=7)
text = "; ".join(f"{name} {intervals[name][0]}, t {intervals[name][1]}" for name in reversed(order))
show(figure, alt=f"Mean gain in dB: {text}")

# %%
words = {"above": "supported", "below": "contradicted", "not resolved": "not resolved"}


def judge(pair):
    """The verdict of both intervals on an effect that should be positive, and what it rests on."""
    bootstrap, t = pair
    verdict = words[statistics.verdict(bootstrap, t)]
    return f"{verdict}: {bootstrap} dB, t [{statistics.significant(t.low)}, {statistics.significant(t.high)}]"


larger = statistics.clustered_intervals(means["twice as large"] - means["half as large"], photograph, seed)
price = statistics.clustered_intervals(means["true kernel"] - means["Gaussian"], photograph, seed)
print(f"1 true kernel helps: {judge(intervals['true kernel'])}")
for name in ("Gaussian", "another shake"):
    print(f"2 wrong shape, {name}, helps: {judge(intervals[name])}")
print(f"3 too large is safer, 2 x minus 0.5 x: {judge(larger)}")
print(f"a Gaussian in place of the true kernel costs: {judge(price)}")
print(f"half as large helps: {judge(intervals['half as large'])}")
print(f"true kernel, over draws: {statistics.t_interval(gains['true kernel'].mean(1))} dB")

# %% [markdown]
# The intervals cover six photographs, one noise level, one size of shake and one method. What to remember: assuming twice the
# blur boosts frequencies that had hardly been weakened, and none of our dials repairs that; assuming half leaves blur behind,
# and still helped. Statement 2 splits: a Gaussian of the right size helps, while somebody else's walk gains a little on
# average but not clearly: only one of its two intervals excludes zero, so we do not claim it.
#
# ## Exercise 4: criticise (5 minutes, medium)
#
# A report blurs clean photographs with a Gaussian of $\sigma = 1$, adds no noise, gives the same kernel to its method and concludes
# from a PSNR above 40 dB: "our method restores real out-of-focus photographs." What is the strongest
# objection?
#
# - **a** PSNR is not a perceptual metric
# - **b** a Gaussian of $\sigma = 1$ is too strong a blur to be realistic
# - **c** the data were made by exactly the model that is inverted; kernel error and noise, which decide real cases, are absent
# - **d** the photographs should have been larger

# %% tags=["solution"]
### BEGIN SOLUTION
objection_answer = "c"
### END SOLUTION

# %%
check("04.objection", objection_answer)

# %% [markdown]
# Inverting the model that made the data is known as the *inverse crime* (Kaipio and Somersalo 2005). Here it is,
# and what a small dose of reality makes of it: eight bits alone, or noise. The middle column divides almost
# blindly ($\tau = 10^{-4}$), the last one uses the dial tuned above.

# %%
mild = degradations.gaussian_kernel(9, 1.0)
perfect = degradations.Blur(mild)(clean)
rounded = (perfect * 255).round() / 255
cases = {"no noise": perfect, "rounded to 8 bit": rounded, "noise": degradations.gaussian_noise(perfect, noise, seed)}
dials = (1e-4, best["true kernel"])
table = {}
for name, image in cases.items():
    table[name] = [metrics.psnr(image, clean).item()]
    table[name] += [metrics.psnr(wiener(image, mild[None], tau), clean).item() for tau in dials]
show_table(["before (dB)", "τ = 1e-4", "τ tuned"], table)

# %% [markdown]
# ## What it costs
#
# A blur by direct summation costs one multiplication (MAC) per kernel weight, pixel and channel; large kernels go through
# Fourier space instead.

# %%
values = clean.numel()
fixed = {"parameters": 0, "MACs with 21 x 21 weights": values * 21**2, "MACs with 41 x 41 weights": values * 41**2}
show_cost("Blurring one colour crop of 129 x 129 pixels", fixed=fixed, measured={"device": "cpu"})

# %% [markdown]
# ## You can now
# - write a forward model and name its linear and its nonlinear parts;
# - read zeros and fading in a frequency response, and say what a blur has wiped out;
# - test an adjoint by a number, and write one;
# - deconvolve with a tuned Wiener filter, and say with an interval what a wrong kernel costs;
# - explain linear light, shot noise, JPEG rounding and aliasing to somebody else;
# - draw from the first- and second-order pipelines and keep the record.
#
# **Next**: 05 learns a prior. It builds diffusion from first principles and trains a small conditional model that removes
# noise.
#
# **References**: N. Wiener, *Extrapolation, interpolation, and smoothing of stationary time series*, 1949. D. Field, *Relations
# between the statistics of natural images and the response properties of cortical cells*, 1987. J. Kaipio and E. Somersalo,
# *Statistical and computational inverse problems*, 2005. ITU-T T.81 (JPEG), 1992. X. Wang et al., *Real-ESRGAN: training real-world
# blind super-resolution with pure synthetic data*, 2021. S. Zhou et al., *Towards robust blind face restoration with codebook
# lookup transformer* (CodeFormer), 2022. X. Lin et al., *DiffBIR: towards blind image restoration with generative diffusion
# prior*, 2023 (version 1, and its released code).
