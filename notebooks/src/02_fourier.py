# %% [markdown]
# # 02 Fourier
#
# **You will be able to**
# - read the spectrum of an image: what each dot is, in which units, and where its borders leave traces;
# - filter, blur and shrink an image in frequency, and predict ringing and aliasing before they appear;
# - say what amplitude and phase carry, and measure it instead of trusting an impression;
# - measure how power falls with frequency in photographs, and explain why that makes diffusion work from coarse to fine.
#
# **You need** nothing but a CPU: about half a minute for all cells, about 90 minutes for you. Notebook 01 (tensors, PSNR)
# and complex numbers help.

# %% tags=["parameters"]
profile = "quick"
seed = 0
noise = 25.0
leaf_seeds = 5
leaf_images = 8

# %% tags=["setup"]
import math
import time

import torch

from minirestore import degradations, diffusion, fourier, images, metrics, photos, plots, scenes, statistics
from minirestore.exercises import check
from minirestore.plots import show, show_cost, show_table
from minirestore.widgets import explore

crops, photographs = photos.evaluation_crops(128)
cat, star, headlamp = crops[4:5], crops[20:21], crops[17:18]
N = 128
middle = (..., slice(32, 96), slice(32, 96))  # a quarter of a crop, shown enlarged
corner = (..., slice(64, 128), slice(64, 128))

# %% [markdown]
# ## The idea as a picture
#
# A **plane wave** is a striped image: brightness goes up and down like a cosine along one direction and is constant across
# it. Two numbers say which wave it is: $u$, the cycles per pixel from top to bottom, and $v$, from left to right. The
# Fourier transform asks one question of an image for every $(u, v)$: how much of this wave is in you?
#
# The picture that shows all answers at once is the **spectrum**: frequency zero in the middle, fine stripes far out. A
# single wave must give a single answer. It gives two dots, at $(u, v)$ and $(-u, -v)$, because both describe the same
# stripes. The dot in the middle is the mean brightness.

# %%
n = 32
row, column = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
cycles = [(2, 0), (0, 6), (5, 5), (-3, 9)]
waves = [0.5 + 0.4 * torch.cos(2 * math.pi * (u * row + v * column) / n)[None, None] for u, v in cycles]
waves.append(torch.stack([wave - 0.5 for wave in waves]).mean(0) + 0.5)
spectra = [fourier.log_spectrum(wave) for wave in waves]
dots = [int((spectrum > 0).sum()) for spectrum in spectra]
titles = [f"u = {u}/{n}, v = {v}/{n}" for u, v in cycles] + ["mean of the four"]
figure = plots.image_grid([waves, spectra], titles, ["image", "spectrum"], width=6.8)
show(figure, alt=f"Four plane waves and their mean; their spectra hold {dots} bright coefficients, the mean included")

# %% [markdown]
# Stripes and dots lie in the same direction: the dots point along the direction in which brightness changes. And the last
# column shows the property everything else rests on: the transform is **linear**, so the spectrum of a sum is the sum of
# the spectra.
#
# A photograph is a sum of plane waves too, only of more of them. Below, a crop is
# rebuilt from its strongest waves (a quarter of it is shown, enlarged).

# %%
X = fourier.fft2(cat)
rebuilt, scores = [], []
for kept in (32, 512, 8192):
    weakest = 0.9999 * X.abs().flatten(2).topk(kept).values[..., -1]  # keep both of a pair (u, v), (-u, -v)
    rebuilt.append(fourier.ifft2(torch.where(X.abs() >= weakest[..., None, None], X, 0)).clamp(0, 1))
    scores.append((kept, metrics.psnr(rebuilt[-1], cat).item()))
titles = [f"{kept} waves: {score:.4g} dB" for kept, score in scores]
figure = plots.image_row([image[corner] for image in rebuilt], titles, width=6.2)
text = ", ".join(f"{score:.4g} dB from {kept}" for kept, score in scores)
show(figure, alt=f"A cat's eye as part of a sum of more and more plane waves per channel: {text} of {N * N}")

# %% [markdown]
# A few waves give a blur, the rest buys detail slowly. Remember this: in a photograph the energy sits in few coefficients,
# most of them near the middle of the spectrum.
#
# ## Theory
#
# For an image $x$ with $H \times W$ pixels the orthonormal discrete Fourier transform (DFT) is
#
# $$X[k, l] = \frac{1}{\sqrt{HW}} \sum_{m=0}^{H-1}\sum_{n=0}^{W-1} x[m, n]\, e^{-2\pi i\,(k m / H + l n / W)},
# \qquad u = k/H,\; v = l/W .$$
#
# Each coefficient $X[k, l]$ is a complex number: its **amplitude** $|X|$ says how strong the wave is, its **phase**
# $\arg X$ where its crests lie. Frequencies are in cycles per pixel. The fastest wave that samples can hold changes sign at
# every pixel, half a cycle per pixel: the **Nyquist frequency** 0.5.
#
# Four facts follow from the definition.
#
# - **Separable.** The exponential is a product, so $X = F_H\, x\, F_W^{\top}$ with one matrix per axis. The fast Fourier
#   transform (FFT) computes the same numbers with far fewer operations.
# - **Orthonormal.** With the factor $1/\sqrt{HW}$ each $F$ is unitary, the inverse is the conjugate transpose, and energy
#   is kept: $\sum |x|^2 = \sum |X|^2$ (**Parseval**). Many libraries, torch included, put no factor in front by default;
#   then power grows with the number of pixels. Always ask which one a plot uses.
# - **Symmetric.** For a real image $X[-k, -l] = \overline{X[k, l]}$: half of the spectrum is redundant.
# - **Mean.** $X[0, 0] = \sqrt{HW}$ times the mean.

# %%
x = star.double()
index = torch.arange(N, dtype=torch.float64)
F = torch.exp(-2j * math.pi * torch.outer(index, index) / N) / math.sqrt(N)
X = fourier.fft2(x)
print(f"matrices and FFT agree to 1e-10: {bool((F @ x.to(F.dtype) @ F.T - X).abs().max() < 1e-10)}")
print(f"energy of the image    {x.square().sum():.10g}")
print(f"energy of the spectrum {X.abs().square().sum():.10g}")
print(f"first coefficient / (sqrt(HW) mean) {(X[0, 0, 0, 0].real / (N * x[0, 0].mean())).item():.6f}")
mirrored = X.flip(-2, -1).roll((1, 1), (-2, -1)).conj()
print(f"X[-k, -l] is the conjugate of X[k, l] to 1e-10: {bool((mirrored - X).abs().max() < 1e-10)}")

# %% [markdown]
# That is all of `fft2` and `ifft2`; open `minirestore/fourier.py` beside this notebook. `ifft2` refuses a spectrum that is
# not symmetric: its real part would be a plausible but wrong picture.
#
# ### The border is part of the image
#
# The DFT knows only waves that repeat after $H$ and $W$ pixels. To it the image is a tile on an endless floor, and where the
# right border meets the left one there is usually a jump. A jump is an edge, an edge needs all frequencies along its
# normal, and so the spectrum of most photographs shows a **cross** that is not in the scene. A **window** that fades the image
# to its mean at the borders removes it; the price is that the corners count for nothing and dots become a little wider.

# %%
def faded(batch):
    """The grey image minus its mean, times a window that falls to zero at the borders."""
    grey = images.luma(batch)
    hann = torch.hann_window(N, periodic=False)
    return (grey - grey.mean((-2, -1), keepdim=True)) * hann[:, None] * hann


plate = images.luma(photos.crops("coffee")[2:3])
share = []
for image in (plate, faded(plate)):
    power = fourier.fft2(image)[0, 0].abs().square() * (fourier.radial_frequency(N, N) > 0.1)
    share.append(((power[0].sum() + power[:, 0].sum()) / power.sum()).item())

# %%
seams = plate.roll((N // 2, N // 2), (-2, -1))
titles = ["crop", "moved by half", f"spectrum:\n{share[0]:.3g} on axes", f"with a window:\n{share[1]:.3g} on axes"]
halved = torch.nn.functional.avg_pool2d  # mean of 2 x 2 pixels, a smaller picture
strongest = torch.nn.functional.max_pool2d  # the largest of 2 x 2 coefficients, so that no dot is lost
pictures = [*(halved(image, 2) for image in (plate, seams)), *(strongest(fourier.log_spectrum(image), 2) for image in (plate, faded(plate)))]
figure = plots.image_row(pictures, titles, width=5.2)
show(figure, alt=f"Above 0.1 cycles/pixel the two axes hold {share[0]:.4g} of the energy, with a window {share[1]:.4g}")

# %% [markdown]
# ## Amplitude and phase
#
# Write $X = A\,e^{i\varphi}$. Moving an image by $(a, b)$ pixels, with what leaves on one side coming back on the
# other, multiplies its spectrum by $e^{-2\pi i (u a + v b)}$. Hence the next question.
#
# ### Exercise 1: predict (2 minutes, easy)
#
# A crop is moved by ten pixels to the right, periodically. What happens to its spectrum?
#
# - **a** amplitude and phase both move by ten coefficients to the right
# - **b** the amplitude stays, the phase changes by an amount proportional to $v$
# - **c** the amplitude stays, every phase changes by the same amount
# - **d** nothing at all changes: the content is the same

# %% tags=["solution"]
### BEGIN SOLUTION
shift_answer = "b"
### END SOLUTION

# %%
check("02.shift", shift_answer)

# %%
A, phi = fourier.amplitude_phase(cat.double())
A_moved, phi_moved = fourier.amplitude_phase(cat.double().roll(10, -1))
print(f"amplitudes agree to 1e-10: {bool((A_moved - A).abs().max() < 1e-10)}")
for k in (1, 2, 3, 4):
    turn = torch.remainder(phi_moved - phi, 2 * math.pi)[0, 0, 0, k].item()
    print(f"v = {k}/128: phase advances by {turn:.4g} rad, predicted {(-2 * math.pi * 10 * k / N) % (2 * math.pi):.4g} rad")

# %% [markdown]
# So phase holds *position*. All of it: an edge is the place where many waves have their crests aligned. What, then, does
# amplitude hold, and which of the two makes a photograph recognisable? Oppenheim and Lim (1981) swapped them.
#
# ### Exercise 2: swap them yourself (code, 8 minutes, medium)
#
# Write `hybrid(a, b)`: a real image `(B, C, H, W)` with the amplitude of `a` and the phase of `b`. Use `fourier.fft2`,
# `fourier.ifft2` and `torch.polar`.

# %% tags=["solution"]
def hybrid(a, b):
    """The image with the amplitude of a and the phase of b."""
    ### BEGIN SOLUTION
    amplitude = fourier.fft2(a).abs()
    phase = fourier.fft2(b).angle()
    return fourier.ifft2(torch.polar(amplitude, phase))
    ### END SOLUTION


# %%
check("02.hybrid", hybrid)

# %%
def correlation(x, y):
    """Correlation of two images over all pixels and channels, channel means removed: (B,)."""
    x, y = (image - image.mean((-2, -1), keepdim=True) for image in (x, y))
    return (x * y).sum((1, 2, 3)) / (x.square().sum((1, 2, 3)) * y.square().sum((1, 2, 3))).sqrt()


square = [photos.load(name)[..., :300, left : left + 300] for name, left in (("astronaut", 80), ("chelsea", 70))]
person, pet = (degradations.resize(image, (60, 60), mode="area") for image in square)
mixed = fourier.swap_amplitude_phase(person, pet)
found = [[correlation(mix, image).item() for image in (person, pet)] for mix in mixed]
titles = ["person", "cat", "amplitude: person\nphase: cat", "amplitude: cat\nphase: person"]
figure = plots.image_row([person, pet, *(mix.clamp(0, 1) for mix in mixed)], titles, width=5)
text = "; ".join(f"{a:.4g} with the person, {b:.4g} with the cat" for a, b in found)
show(figure, alt=f"Swapped images correlate as follows. Cat's phase, then person's phase: {text}")

# %% [markdown]
# You see the one who gave the phase. The usual conclusion is "phase carries the information, amplitude does not matter".
# Parseval lets us look closer. The correlation of the mixed image with the phase donor is a sum over frequencies in which the
# phases cancel:
#
# $$\rho = \frac{\sum A_a A_b}{\sqrt{\sum A_a^2}\sqrt{\sum A_b^2}} .$$
#
# It depends on the amplitudes *only*: it is large when the two photographs have similar amplitudes. So let us also swap with
# the amplitudes of white noise, which resemble those of no photograph.

# %%
donors = {"another photograph": crops.roll(4, 0)}
donors["white noise"] = torch.rand(crops.shape, generator=torch.Generator().manual_seed(seed))
table = {}
for name, donor in donors.items():
    mixed, _ = fourier.swap_amplitude_phase(donor, crops)
    A_a, A_b = (fourier.fft2(image - image.mean((-2, -1), keepdim=True)).abs().flatten(1) for image in (donor, crops))
    rho = (A_a * A_b).sum(1) / (A_a.norm(dim=1) * A_b.norm(dim=1))
    values = (rho, correlation(mixed, crops), correlation(mixed, donor))
    table[name] = [value.mean().item() for value in values]
show_table(["rho by the formula", "with phase donor", "with amplitude donor"], table)

# %% [markdown]
# Phase wins among photographs partly because their amplitudes are alike: exchanging them changes little. What is it that
# all photographs share?
#
# ## Look inside: how power falls with frequency
#
# Average the power $|X|^2$ over a ring of equal radial frequency $f = \sqrt{u^2 + v^2}$, and the whole spectrum becomes one
# curve, the **radial power spectrum**. With an orthonormal DFT, white noise of variance $\sigma^2$ has the curve
# $\sigma^2$, at every frequency and every image size. Photographs are different: Field (1987) reported that power falls like
#
# $$S(f) \approx b\, f^{-\alpha}, \qquad \alpha \approx 2,$$
#
# a straight line with **slope** $-\alpha$ on two logarithmic axes. With $\alpha = 2$ every octave (a factor two in frequency)
# holds the same energy, because the area of a ring grows like $f^2$: the image looks equally busy at all scales.
#
# ### Exercise 3: the radial average (code, 10 minutes, medium)
#
# Write `radial_mean(power)`. `power` is $|X|^2$ of an $N \times N$ image, zero frequency at `[0, 0]`. Return `N // 2`
# numbers: for $k = 1 \dots N/2$ the mean over all coefficients whose frequency, in units of $1/N$, rounds to $k$.
# `fourier.radial_frequency(N, N)` gives the frequency of every coefficient.

# %% tags=["solution"]
def radial_mean(power):
    """Mean power of the rings 1 .. N // 2 of an (N, N) spectrum."""
    ### BEGIN SOLUTION
    side = len(power)
    ring = (fourier.radial_frequency(side, side) * side).round()
    return torch.stack([power[ring == k].mean() for k in range(1, side // 2 + 1)])
    ### END SOLUTION


# %%
check("02.radial", radial_mean)

# %% [markdown]
# Now three kinds of images: the course's 24 evaluation crops, as many **dead leaves** (random opaque leaves of all sizes
# dropped on top of each other; notebook 05 trains on such images), and white noise. The curves are geometric means over images.

# %%
leaves = [scenes.dead_leaves(leaf_images, N, seed + number) for number in range(leaf_seeds)]
white = torch.randn(crops.shape, generator=torch.Generator().manual_seed(seed)) / 5
kinds = {"photographs": crops, "dead leaves": torch.cat(leaves), "white noise": white}
figure, axes = plots.subplots(1, 2, width=7, height=2.9, width_ratios=(1, 2.2))
plots.image_axes(axes[0], leaves[0][:1], "dead leaves")
for name, batch in kinds.items():
    f, power = fourier.radial_power_spectrum(batch, window=True)
    axes[1].loglog(f, power.log().mean(0).exp(), label=name)
slopes = {name: fourier.spectral_slope(batch).mean().item() for name, batch in kinds.items()}
axes[1].loglog(f, 3e-4 / f**2, "k:", linewidth=1, label="slope -2")
axes[1].set(title="Radial power spectra", xlabel="frequency (cycles/pixel)", ylabel="power per coefficient")
axes[1].legend(fontsize=8)
show(figure, alt="Mean slopes: " + ", ".join(f"{name} {slope:.4g}" for name, slope in slopes.items()))

# %% [markdown]
# Photographs and dead leaves fall by orders of magnitude together; the noise is flat. We come back to the exact slopes, with
# intervals, in the experiment.
#
# ## Filtering: keep some frequencies
#
# A **filter** multiplies the spectrum by a response $R(u, v)$: a low-pass keeps slow waves, a high-pass fast ones, a
# band-pass a ring. `fourier.split_bands` cuts at given frequencies; the parts add up to the image.

# %%
centred = headlamp - headlamp.mean((-2, -1), keepdim=True)
edges = (0, 0.04, 0.15, math.inf)
bands = fourier.split_bands(centred, edges[1:3])
print(f"the bands add up to the image to 1e-5: {bool((sum(bands) - centred).abs().max() < 1e-5)}")
names = ("low, below 0.04", "band, 0.04 to 0.15", "high, above 0.15")
rows = {}
for name, band, low, high in zip(names, bands, edges[:-1], edges[1:], strict=True):
    count = fourier.band_response(N, N, low, high).mean().item()
    rows[name] = [(band.square().sum() / centred.square().sum()).item(), count]
show_table(["share of variance", "share of coefficients"], rows)

# %% [markdown]
# ### Move the band yourself
#
# Each state shows what remains of a photograph in a band, `octaves` wide, around `frequency`; beside it the part of the
# spectrum that was kept, frequency zero in the middle.

# %%
def draw(figure, frequency, octaves):
    """The band of the photograph and the part of the spectrum it comes from."""
    low, high = frequency * 2 ** (-octaves / 2), frequency * 2 ** (octaves / 2)
    band = fourier.band_filter(headlamp, low, high)
    part = (band.square().sum() / centred.square().sum()).item()
    axes = figure.subplots(1, 2)
    grey = images.luma(band)
    plots.image_axes(axes[0], 0.5 + 0.15 * grey[middle] / grey.std(), f"{part:.3g}\nof variance")
    kept = fourier.log_spectrum(images.luma(headlamp)) * torch.fft.fftshift(fourier.band_response(N, N, low, high))
    plots.image_axes(axes[1], strongest(kept.float(), 2), f"{low:.2g} to {high:.2g}\ncycles/pixel")
    return f"the band from {low:.4g} to {high:.4g} cycles/pixel holds {part:.4g} of the variance"


explore(draw, size=(2.8, 1.6), frequency=(0.016, 0.031, 0.062, 0.125, 0.25), octaves=(1, 2, 4))

# %% [markdown]
# Few coefficients near the middle hold most of the variance: a blur. What you would call sharpness sits in the many
# coefficients of the high band and hardly counts in the variance. This is the central tension of image restoration: what
# counts most for mean squared error is not what counts most for the eye.
#
# ### Ringing
#
# The obvious low-pass is 1 below the cutoff and 0 above. The edge of such an **ideal** filter is
# steep in frequency, so its kernel oscillates in space: each edge of the image is followed by ripples. They do not fade with a higher
# cutoff, they only become narrower (Gibbs). A soft flank removes most of them.

# %%
step = torch.zeros(1, 1, N, N)
step[..., N // 4 : 3 * N // 4] = 1
figure, axes = plots.subplots(1, 3, width=6.8, height=2.3)
over = []
for axis, name, soft in zip(axes, ("ideal", "soft"), (0.0, 0.24), strict=False):
    plots.image_axes(axis, fourier.band_filter(star, 0, 0.12, soft).clamp(0, 1)[..., :64, :64], f"{name} low-pass at 0.12")
    line = fourier.band_filter(step, 0, 0.12, soft)[0, 0, 0]
    over.append(100 * (line.max().item() - 1))
    axes[2].plot(line, label=f"{name}: {over[-1]:.3g} % over")
axes[2].set(title="One row of a step", xlabel="column (pixels)", ylabel="value", xlim=(16, 64))
axes[2].legend(fontsize=8, loc="center right")
show(figure, alt=f"A step overshoots by {over[0]:.4g} % with the ideal filter and by {over[1]:.4g} % with the soft one")

# %% [markdown]
# ## Blur is a multiplication
#
# Blur replaces each pixel by a weighted mean of its neighbours: a convolution with a **kernel** $k$. Plane waves pass
# through it unchanged but for a factor, hence the **convolution theorem**: with periodic borders
#
# $$y = k * x \quad\Longleftrightarrow\quad Y[k, l] = H[k, l]\, X[k, l], \qquad H = \sqrt{HW}\,\cdot \text{DFT of the kernel}.$$
#
# (The root makes up for our orthonormal convention.) Check it: left side by shifting and adding, right side in frequency.

# %%
kernel = degradations.linear_motion_kernel(9, math.pi / 6)
side = len(kernel)
x = cat.double()
shifted = torch.zeros_like(x)
for i in range(side):
    for j in range(side):
        shifted += kernel[i, j] * x.roll((i - side // 2, j - side // 2), (-2, -1))
embedded = torch.zeros(1, 1, N, N, dtype=torch.float64)
embedded[..., :side, :side] = kernel
H = N * fourier.fft2(embedded.roll((-(side // 2), -(side // 2)), (-2, -1)))
product = fourier.ifft2(H * fourier.fft2(x))
print(f"{side}x{side} kernel, sum {kernel.sum():.4g}, H at frequency zero {H[0, 0, 0, 0].real:.4g}")
print(f"both sides agree to 1e-10: {bool((shifted - product).abs().max() < 1e-10)}")

# %% [markdown]
# The response $H$ tells at a glance what a blur destroys. Where it is small, detail is weak but present; where it is zero,
# it is gone, and no linear method brings it back. A figure below draws three of them.
#
# ### Aliasing
#
# Keep every second pixel and the new Nyquist frequency is half the old one. Faster waves do not vanish: on the coarser
# grid they look exactly like slower ones, and are added to them. This is **aliasing**. For every second row and column
#
# $$X_{\downarrow}[k, l] = \tfrac12 \left( X[k, l] + X[k + \tfrac H2, l] + X[k, l + \tfrac W2] + X[k + \tfrac H2, l + \tfrac W2]
# \right).$$
#
# The cure is to remove what the new grid cannot hold *before* dropping pixels. The test image is a zone plate, whose
# frequency grows from 0 in the middle to 0.5 at the border.

# %%
position = torch.arange(N) - N / 2 + 0.5
square_radius = (position[:, None].square() + position.square())[None, None]
zone = 0.5 + 0.5 * torch.cos(math.pi * square_radius / N) * (square_radius < N**2 / 4)
safe = fourier.band_filter(zone, 0, 0.25, 0.1)
folded = []
for image in (zone, headlamp):
    fast = fourier.band_filter(image, 0.25)
    folded.append((fast.square().sum() / (image - image.mean((-2, -1), keepdim=True)).square().sum()).item())
pictures = [zone, zone[..., ::2, ::2], safe.clamp(0, 1)[..., ::2, ::2]]
figure = plots.image_row(pictures, ["zone plate", "pixels dropped", "low-pass, dropped"], width=4.6)
show(figure, alt=f"Too fast for half the grid: {folded[0]:.4g} of the zone plate's variance, {folded[1]:.4g} of a photograph's")

# %%
X = fourier.fft2(headlamp.double())
coarse = fourier.fft2(headlamp.double()[..., ::2, ::2])
halves = (slice(0, N // 2), slice(N // 2, N))
aliases = sum(X[..., a, :][..., b] for a in halves for b in halves) / 2
print(f"the formula holds to 1e-10: {bool((coarse - aliases).abs().max() < 1e-10)}")
print(f"coefficients kept after dropping pixels: {coarse[0, 0].numel()} of {X[0, 0].numel()}")

# %% [markdown]
# ## Where restoration lives
#
# Three degradations, three signatures in the spectrum. **Blur** multiplies, and darkens everything outside a disc. **Noise**
# adds a floor, the same at all frequencies. **JPEG** rounds the cosine coefficients of 8 x 8 blocks; fast ones are rounded
# to zero, and the block borders add energy of their own.

# %%
versions = {
    "clean": crops,
    "blur, sigma 2": degradations.gaussian_blur(crops, 2.0),
    f"noise, {noise:g}/255": degradations.gaussian_noise(crops, noise, seed, clip=False),
    "JPEG, quality 10": degradations.jpeg(crops, 10),
}
mean_spectra = [fourier.log_spectrum(faded(version), 4).mean(0, keepdim=True) for version in versions.values()]
figure = plots.image_row([halved(image, 2) for image in mean_spectra], list(versions), width=5.6)
psnr = {name: metrics.psnr(version.clamp(0, 1), crops).mean().item() for name, version in list(versions.items())[1:]}
text = ", ".join(f"{name} {value:.4g}" for name, value in psnr.items())
show(figure, alt=f"Mean log spectra of the crops under three degradations; their mean PSNR in dB: {text}")

# %%
kernels = {"Gaussian, sigma 2": degradations.gaussian_kernel(17, 2.0), "defocus, radius 4": degradations.disk_kernel(4.0)}
kernels["motion, 9 pixels"] = degradations.linear_motion_kernel(9)
figure, axes = plots.subplots(1, 2, width=8, height=2.9)
facts = []
for name, kernel in kernels.items():
    response = 255 * fourier.fft2(degradations.pad_kernel(kernel, 255)[None, None]).abs()[0, 0, 0, :128]
    axes[0].plot(torch.arange(128) / 255, response, label=name)
    facts.append(f"|H| of {name} is below half from {(response < 0.5).nonzero()[0].item() / 255:.4g}")
for name, version in versions.items():
    f, power = fourier.radial_power_spectrum(version, window=True)
    axes[1].loglog(f, power.mean(0), label=name)
    facts.append(f"mean power above 0.25 of {name} {power.mean(0)[f > 0.25].mean().item():.4g}")
axes[0].set(title="Blurs in frequency", xlabel="horizontal frequency (cycles/pixel)", ylabel="response |H|")
axes[1].set(title="Power after degradation", xlabel="frequency (cycles/pixel)", ylabel="power", ylim=(1e-6, 50))
for axis in axes:
    axis.legend(fontsize=8)
show(figure, alt="; ".join(facts))

# %% [markdown]
# Restoration is a decision per frequency: trust what is there, or invent. For noise, Wiener (1949) gave the best linear filter.
# If the image has power $S(f)$ and the noise $\sigma^2$, the mean squared error is smallest when every coefficient is shrunk
# by
#
# $$W(f) = \frac{S(f)}{S(f) + \sigma^2} .$$
#
# Near 1 where the photograph is stronger, near 0 where the noise is. We do not know $S$ of a photograph that we are about to
# clean, but we know what photographs share. The power law below is fitted on two *other* photographs, china and flower.

# %%
tuning = torch.cat([photos.crops(name) for name in ("china", "flower")])
together = tuning.flatten(0, 1)[None]  # (1, 24, 128, 128): as channels of one image, whose powers are averaged
f, power = fourier.radial_power_spectrum(together, window=True)
exponent = fourier.spectral_slope(together)[0]
level = (power / f**exponent).log().mean().exp()
S = level * fourier.radial_frequency(N, N).clamp(min=1 / N) ** exponent
sigma = noise / 255
noisy = degradations.gaussian_noise(crops, noise, seed, clip=False)
restored = fourier.ifft2(fourier.fft2(noisy) * (S / (S + sigma**2)).float()).clamp(0, 1)
gain = metrics.psnr(restored, crops) - metrics.psnr(noisy.clamp(0, 1), crops)
print(f"fitted on china and flower: S(f) = {level:.4g} f^{exponent:.4g}")
print(f"gain over the noisy input in dB: {statistics.paired_bootstrap(gain, photographs, seed)}")

# %%
titles = ["clean", f"noisy, {noise:g}/255", f"Wiener, +{gain[17].item():.3g} dB"]
pictures = [headlamp, noisy[17:18].clamp(0, 1), restored[17:18]]
figure = plots.image_row([picture[middle] for picture in pictures], titles, width=6)
show(figure, alt=f"Wiener filtering gains {gain[17]:.4g} dB on the motorcycle and {gain[4]:.4g} dB on the cat")

# %% [markdown]
# One line of spectral shrinkage gains several decibels, and it looks soft: every wave above the crossing of signal and noise is
# gone, at edges as well as in the sky. A filter cannot treat them differently, because a wave is everywhere. Wavelets
# (notebook 03) can.
#
# ## Diffusion, seen in frequency
#
# Notebook 05 adds noise on purpose. Its noisy image is $x_t = \sqrt{\bar\alpha}\,x_0 + \sqrt{1-\bar\alpha}\,\epsilon$, where
# $\epsilon$ is white noise of variance 1, $x_0$ is scaled to $[-1, 1]$, and $\bar\alpha$ goes from 1 (clean) to 0
# (pure noise). The transform is linear, so the **signal-to-noise ratio** at each frequency is
#
# $$\text{SNR}(f) = \frac{\bar\alpha}{1 - \bar\alpha}\; S(f).$$
#
# The noise is the same at all frequencies; $S$ is not. White noise therefore drowns the *fine* detail first, and
# $\bar\alpha$ is a dial along the frequency axis. Read backwards: a model that removes noise step by step must decide on coarse
# structure first and on detail last (Rissanen et al. 2023; Dieleman 2024).
#
# ### Exercise 4: predict (5 minutes, medium)
#
# Suppose $S(f) = b / f^2$ exactly. The crossing is the frequency at which signal and noise have equal power. The standard
# deviation of the noise is doubled, the image is not scaled. By which factor is the crossing frequency multiplied? Answer with a
# number.

# %% tags=["solution"]
### BEGIN SOLUTION
crossing_factor = 0.5
### END SOLUTION

# %%
check("02.crossing", crossing_factor)

# %% [markdown] tags=["solution"]
# Solve $b / f^2 = \sigma^2$: $f = \sqrt b / \sigma$. Twice the standard deviation, half the crossing frequency: each
# doubling of the noise costs one octave of detail.

# %%
model_range = images.to_model_range(crops)
f, power = fourier.radial_power_spectrum(model_range, window=True)
signal = power.mean(0)
figure, axes = plots.subplots(width=5.5, height=3.2)
crossings = {}
for alpha_bar in (0.99, 0.9, 0.5, 0.1, 0.01):
    snr = alpha_bar / (1 - alpha_bar) * signal
    heard = f[snr >= 1]
    crossings[f"alpha_bar = {alpha_bar}"] = [heard.max().item() if len(heard) else 0.0, (snr[-1]).item()]
    axes.loglog(f, snr, label=f"alpha_bar = {alpha_bar}")
axes.axhline(1, color="black", linewidth=1)
axes.set(title="Signal-to-noise ratio of noisy photographs", xlabel="frequency (cycles/pixel)", ylabel="SNR")
axes.legend(fontsize=8)
text = ", ".join(f"{name.split()[-1]}: {values[0]:.4g}" for name, values in crossings.items())
show(figure, alt=f"Last frequency (cycles/pixel) with SNR of at least 1 by alpha_bar: {text}")

# %%
show_table(["last f with SNR >= 1", "SNR at f = 0.5"], crossings)
epsilon = torch.randn(cat.shape, generator=torch.Generator().manual_seed(seed))
levels = (0.9, 0.5, 0.1)
x_0 = images.to_model_range(headlamp)
x_t = [diffusion.add_noise(x_0, epsilon, torch.tensor([level])) for level in levels]
pictures = [images.to_unit_range(image).clamp(0, 1) for image in x_t]
below = [fourier.band_filter(headlamp, 0, max(crossings[f"alpha_bar = {level}"][0], 1 / N), 0.02) for level in levels]
rows = [[image[middle] for image in pictures], [image.clamp(0, 1)[middle] for image in below]]
titles = [f"alpha_bar = {level}" for level in levels]
figure = plots.image_grid(rows, titles, ["noisy", "clean, SNR >= 1"], width=6.2)
show(figure, alt=f"Above: noisy at alpha_bar {levels}. Below: the clean image up to the frequency where SNR falls below 1")

# %% [markdown]
# In the table 0 means: drowned everywhere. The lower row keeps, of the clean image, only the frequencies that are above the
# noise: roughly what a method that looks at each frequency alone can know. A good network knows more, because edges align phases
# across frequencies. The picture explains the order of events, not the quality of the result.
#
# ## Experiment: is it really $1/f^2$?
#
# Three questions, with the interval that fits each.
#
# 1. Is the mean slope of the photographs' crops compatible with $-2$? Crops of one photograph resemble each other, so we
#    resample whole photographs (clustered bootstrap). With six photographs such an interval is, if anything, too narrow.
# 2. Is it a straight line? Then the slope below 0.1 cycles/pixel equals the slope above it, for the same crop.
# 3. Do dead leaves have the slope of photographs? They have a seed, so we take a t interval over seeds.

# %%
measured = {"all": (0.0, 0.5), "below 0.1": (0.0, 0.1), "above 0.1": (0.1, 0.5)}
photo_slopes = {name: fourier.spectral_slope(crops, *limits) for name, limits in measured.items()}
leaf_slopes = {
    name: torch.stack([fourier.spectral_slope(batch, *limits).mean() for batch in leaves]) for name, limits in measured.items()
}
mean_slopes = {
    "photographs": {name: statistics.paired_bootstrap(s, photographs, seed) for name, s in photo_slopes.items()},
    "dead leaves": {name: statistics.t_interval(s) for name, s in leaf_slopes.items()},
}
for kind, intervals in mean_slopes.items():
    for name, interval in intervals.items():
        print(f"{kind}, {name:9} {interval}")

# %%
figure, axes = plots.subplots(1, 2, width=8, height=3)
interval = mean_slopes["photographs"]["all"]
for i, four in enumerate(photo_slopes["all"].view(-1, 4)):
    axes[0].plot(four, [i] * 4, "o", color=plots.COLOURS[0], alpha=0.6)
axes[0].plot(leaf_slopes["all"], [6] * leaf_seeds, "s", color=plots.COLOURS[1])
axes[0].axvspan(interval.low, interval.high, alpha=0.15)
axes[0].axvline(-2, color="black", linestyle=":")
axes[0].set_yticks(range(7), [*photos.EVALUATION, "dead leaves"])
axes[0].set(title="Each crop; leaves: each seed", xlabel="slope (shaded: interval of the mean)")
for values, label in ((photo_slopes, "photographs"), (leaf_slopes, "dead leaves")):
    axes[1].plot(values["below 0.1"], values["above 0.1"], "o", alpha=0.6, label=label)
axes[1].legend(fontsize=8)
axes[1].plot([-4, -1], [-4, -1], "k:", linewidth=1)
axes[1].set(title="Dotted: a straight power law", xlabel="slope below 0.1 cycles/pixel", ylabel="slope above 0.1")
steeper = (photo_slopes["above 0.1"] < photo_slopes["below 0.1"]).float().mean().item()
text = f"mean slope {interval.mean:.4g} [{interval.low:.4g}, {interval.high:.4g}]"
show(figure, alt=f"Photographs: {text}; {steeper:.4g} of the crops fall more steeply above 0.1 cycles/pixel than below")

# %% [markdown]
# ## Does it hold?
#
# Each claim gets two intervals of this run: over six photographs the bootstrap is too narrow, and t trusts in a normal
# distribution. A claim is contradicted only when both exclude its value, on the same side.

# %%
def verdict(claim, values, value):
    """Print a claim "the mean of values, (24,), equals value" and what the two intervals of this run say about it."""
    found = statistics.clustered_intervals(values, photographs, seed)
    answer = "compatible" if statistics.verdict(*found, threshold=value) == "not resolved" else "contradicted"
    print(f"{answer:12}  {claim}\n{'':12}  bootstrap {found[0]}\n{'':12}  t         {found[1]}")


bend = photo_slopes["above 0.1"] - photo_slopes["below 0.1"]
offset = photo_slopes["all"] - leaf_slopes["all"].mean()
verdict("the mean slope is -2 (Field 1987)", photo_slopes["all"], -2)
verdict("the mean slope is -2.4 (Tolhurst et al. 1992)", photo_slopes["all"], -2.4)
verdict("the line is straight: slope above minus slope below 0.1 is 0", bend, 0)
verdict("photographs have the slope of dead leaves: difference 0", offset, 0)

# %%
mixed, _ = fourier.swap_amplitude_phase(crops.roll(4, 0), crops)
donor, mixed_seen = crops.roll(4, 0), mixed.clamp(0, 1)
by_correlation = correlation(mixed, crops) - correlation(mixed, donor)
by_haarpsi = metrics.haarpsi(mixed_seen, crops) - metrics.haarpsi(mixed_seen, donor)
verdict("phase and amplitude donor are equally close by correlation: difference 0", by_correlation, 0)
verdict("phase and amplitude donor are equally close by HaarPSI: difference 0", by_haarpsi, 0)

# %% [markdown]
# "Contradicted" means that the claimed value lies outside both intervals for *these* photographs: six
# pictures that other people chose, in sRGB values, some of them compressed by JPEG. "Compatible" is not proof: a wide interval
# is compatible with much.
#
# - **The power law is a good rule and a poor law.** The crops are steeper than $-2$ on average and differ widely from one
#   another. Tolhurst, Tadmor and Chao (1992) report the same for 135 photographs: a mean of $-2.4$ (they give amplitudes,
#   $-1.2$), a wide range, and clear curvature in about a quarter of the images.
# - **Whether the line bends is not settled here.** The high frequencies fall more steeply in the mean, but both intervals
#   reach zero: some photographs bend, some do not. Optics, demosaicing and JPEG remove fine detail, film grain and sensor
#   noise add some; this experiment cannot separate them.
# - **Dead leaves have about the mean slope of photographs**, within what six photographs can resolve. The table above shows
#   that their line bends clearly. A shape with a sharp edge has power that falls like $f^{-3}$ far out; only the mixture of sizes
#   makes the sum shallower.
# - **Phase carries what correlation sees.** HaarPSI, which compares local edges at fine scales, does not tell the two donors
#   apart on average: a mixed image is a poor copy of both. "Closer" depends on the measure; say which one.
#
# ## Exercise 5: criticise (8 minutes, hard)
#
# A report shows two `log_spectrum` pictures, drawn with five decades of amplitude between 0 and 1, both with the same
# largest amplitude. At 0.4 cycles/pixel the clean image has brightness 0.60 and the restored one 0.50. The report says: "the
# method restores 83 % of the high-frequency energy". Which fraction of the *energy* (power) at this frequency is really
# restored? Answer with a number between 0 and 1.

# %% tags=["solution"]
### BEGIN SOLUTION
energy_fraction = 10 ** (2 * 5 * (0.50 - 0.60))
### END SOLUTION

# %%
check("02.decades", energy_fraction)

# %% [markdown] tags=["solution"]
# Brightness is $1 + \log_{10}(A / A_{max}) / 5$. A difference of 0.1 is half a decade of amplitude, hence a whole decade of power.
# Ratios of logarithms mean nothing; differences do.

# %% [markdown]
# ## What it costs
#
# The definition, one sum per coefficient, needs $(N^2)^2$ multiplications; one matrix per axis needs $2N^3$; the FFT of
# Cooley and Tukey (1965) about $\frac12 N^2 \log_2 N^2$. That factor is why filtering by FFT is practical at all.

# %%
seconds = []
for transform in (lambda: F @ x.to(F.dtype) @ F.T, lambda: fourier.fft2(x)):
    start = time.perf_counter()
    for _ in range(10):
        transform()
    seconds.append((time.perf_counter() - start) / 10)
show_cost(
    "One 128 x 128 DFT per channel: complex multiplications",
    fixed={"definition": N**4, "matrices": 2 * N**3, "FFT": N**2 * int(math.log2(N))},
    measured={"matrices, seconds": seconds[0], "FFT, seconds": seconds[1], "device": "cpu"},
)

# %% [markdown]
# ## You can now
# - read a spectrum in cycles per pixel, check it with Parseval, and tell the scene from its borders;
# - filter without ringing, shrink without aliasing, and see in a blur's response what is lost for good;
# - measure a spectral slope, give it an interval, and say where the power law stops being one;
# - explain with one formula why noise hides fine detail first, and why diffusion therefore works from coarse to fine.
#
# **What next**: 03 trades some precision in frequency for position, with wavelets; 04 builds the degradations; 05 turns the
# last figures into a model. Later in the course DepthMaster sharpens depth maps with a learned block in Fourier space.
#
# **References**: J. Cooley and J. Tukey, *An algorithm for the machine calculation of complex Fourier series*, 1965. N. Wiener,
# *Extrapolation, interpolation, and smoothing of stationary time series*, 1949. A. Oppenheim and J. Lim, *The importance of
# phase in signals*, 1981. D. Field, *Relations between the statistics of natural images and the response properties of
# cortical cells*, 1987. D. Tolhurst, Y. Tadmor and T. Chao, *Amplitude spectra of natural images*, 1992. A. Lee, D. Mumford
# and J. Huang, *Occlusion models for natural images*, 2001. S. Rissanen, M. Heinonen and A. Solin, *Generative modelling with
# inverse heat dissipation*, 2023. S. Dieleman, *Diffusion is spectral autoregression*, 2024.
