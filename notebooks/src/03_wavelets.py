# %% [markdown]
# # 03 Wavelets
#
# **You will be able to**
# - take an image apart into one coarse and many detail bands, and put it together again without loss;
# - read a filter bank: which filters, which sizes, which borders, and why reconstruction is exact;
# - say why most detail coefficients of a photograph are nearly zero, those of noise are not, and restore with it;
# - use detail bands to see what a restoration lost or invented, and judge a gain with an interval.
#
# **You need** nothing but a CPU: under 30 seconds for all cells, about 90 minutes for you. Notebook 02 (frequency,
# Parseval) helps.

# %% tags=["parameters"]
profile = "quick"
seed = 0
noise = 25.0
draws = 4
spins = 16

# %% tags=["setup"]
import inspect
import math
import time

import pywt
import torch

from minirestore import degradations, fourier, metrics, photos, plots, statistics, wavelets
from minirestore.exercises import check
from minirestore.plots import show, show_cost, show_table
from minirestore.widgets import explore

crops, photographs = photos.evaluation_crops(128)
tuning = torch.cat([photos.crops(name) for name in ("china", "flower")])
lamp = crops[17:18]
close = (..., slice(56, 120), slice(8, 72))  # a quarter of a crop, shown enlarged
sigma = noise / 255


# %% tags=["setup"]
def add_noise(image, draw):
    """White Gaussian noise of standard deviation sigma, not clipped; the same draw gives the same noise."""
    generator = torch.Generator().manual_seed(1000 * seed + draw)
    return image + sigma * torch.randn(image.shape, generator=generator)


def values_of(coefficients):
    """All coefficients of each image in one row: (B, n)."""
    bands = [coefficients[0], *(band for level in coefficients[1:] for band in level)]
    return torch.cat([band.flatten(1) for band in bands], 1)


# %% [markdown]
# ## Why not Fourier?
#
# A Fourier coefficient knows *how fast* the image oscillates, but not *where*: its plane wave fills the whole image.
# Yet an image is mostly made of things that are somewhere. Take one row with a dark and a bright part, so two edges,
# and move it by 20 pixels. Compare the two lenses.

# %%
def two_lenses(row):
    """Amplitudes of the Fourier coefficients (n / 2 + 1,) and Haar details of five levels, laid out in place (5, n)."""
    n = len(row)
    levels = wavelets.wavedec2(row.expand(1, 1, 32, n), "haar", 5)[:0:-1]  # finest first
    rows = [cV[0, 0, 0] / 2 ** (k / 2) for k, (_, cV, _) in enumerate(levels, 1)]  # the gain of averaging the rows
    places = torch.stack([line.repeat_interleave(n // len(line)) for line in rows])
    return torch.fft.rfft(row, norm="ortho").abs(), places, torch.cat(rows)


row = torch.zeros(128)
row[37:75] = 1.0
lenses = [two_lenses(line) for line in (row, row.roll(20))]
used = [int((values.abs() > 1e-3).sum()) for values in (lenses[0][0][1:], lenses[0][2])]
print(f"coefficients above 0.001: {used[0]} of 64 frequencies, {used[1]} of {len(lenses[0][2])} Haar details")
change = (lenses[1][0] - lenses[0][0]).abs().max()
print(f"largest change of an amplitude when the row moves is below 1e-5: {bool(change < 1e-5)}")

# %%
figure, axes = plots.subplots(2, 3, width=7.2, height=3.2)
for line, (amplitude, places, _), parts in zip((row, row.roll(20)), lenses, axes, strict=True):
    parts[0].plot(line, drawstyle="steps-mid")
    parts[1].semilogy(torch.arange(1, 65) / 128, amplitude[1:])
    parts[2].imshow(places.abs(), aspect="auto", cmap="gray_r", extent=(0, 128, 5.5, 0.5), vmin=0, vmax=1.5)
    parts[2].set_yticks(range(1, 6))
    parts[2].grid(False)
axes[0][0].set(title="A row of pixels", ylabel="value")
axes[0][1].set(title="Fourier: which frequency", ylabel="amplitude")
axes[0][2].set(title="Haar: size and place", ylabel="level")
axes[1][0].set(ylabel="moved by 20", xlabel="position (pixels)")
axes[1][1].set(xlabel="frequency (cycles/pixel)", ylabel="amplitude")
axes[1][2].set(xlabel="position (pixels)", ylabel="level")
text = f"{used[0]} frequencies respond, the same after a move, against {used[1]} Haar details near the edges"
show(figure, alt=f"A row with two edges: {text}")

# %% [markdown]
# Nearly every frequency responds to an edge, and the amplitudes do not say where it is; that is hidden in the phases of
# all of them. The wavelet lens answers with a few large coefficients (dark), one small group per edge, and the group goes
# where the edge goes. It does not move along *unchanged*; we return to that.
#
# There is a price. A short window cannot tell two close frequencies apart: position and frequency cannot both be
# exact (Gabor 1946). The plane below has position along one axis and frequency along the other. Each basis covers it
# with tiles of one area; only their shapes differ. Wavelets use **octaves**: fine detail gets short tiles, coarse
# structure long ones.

# %%
n = 16
tilings = {
    "pixels": [(k, 0, 1, 0.5) for k in range(n)],
    "Fourier": [(0, k / (2 * n), n, 1 / (2 * n)) for k in range(n)],
    "wavelets": [(0, 0, n, 1 / (2 * n))],
}
for level in range(1, 5):
    width, low = 2**level, 0.5 / 2**level
    tilings["wavelets"] += [(k * width, low, width, low) for k in range(n // width)]
figure, axes = plots.subplots(1, 3, width=7, height=2.2, sharey=True)
for axis, (name, tiles) in zip(axes, tilings.items(), strict=True):
    for left, bottom, width, height in tiles:
        axis.bar(left + width / 2, height, width, bottom, facecolor="white", edgecolor=plots.COLOURS[0])
    axis.set(title=f"{name}: {len(tiles)} tiles", xlabel="position (pixels)", xlim=(0, n), ylim=(0, 0.5))
axes[0].set_ylabel("frequency\n(cycles/pixel)")
areas = {round(width * height, 6) for tiles in tilings.values() for _, _, width, height in tiles}
show(figure, alt=f"Three tilings of position and frequency, {n} tiles each, all of area {areas.pop():.4g}")

# %% [markdown]
# ## The idea as a picture
#
# One level of the transform turns an image into four half-size images: the average `cA`, and the details `cH`
# (changes from top to bottom, so *horizontal* edges), `cV` (changes from left to right) and `cD` (diagonal). The
# average is taken apart again, and again: a **multiresolution** analysis (Mallat 1989).
#
# The usual picture lays the bands out in one **mosaic**: `cA` top left, `cV` to its right, `cH` below, `cD` across.
# Details are small numbers of both signs, so a plain picture of them is black. Below, grey is zero, and each *level*
# has its own scale: black and white are three standard deviations of that level. Brightness may be compared within a
# level, not between levels.

# %%
def for_display(coefficients):
    """Coefficients scaled to be looked at, and the standard deviation of the details of each level, coarsest first."""
    average, *details = coefficients
    spread = [torch.cat([band.flatten() for band in level]).std() for level in details]
    pairs = zip(details, spread, strict=True)
    scaled = [tuple((0.5 + band / (6 * s)).clamp(0, 1) for band in level) for level, s in pairs]
    return [(average / 2 ** len(details)).clamp(0, 1), *scaled], [s.item() for s in spread]


coefficients = wavelets.wavedec2(lamp, "haar", 3)
scaled, spread = for_display(coefficients)
pictures = [lamp, wavelets.mosaic(scaled).mean(1, keepdim=True)]
figure = plots.image_row(pictures, ["photograph", "three levels, own scales"], width=5.4)
text = ", ".join(f"{s:.4g} on level {level}" for level, s in zip((3, 2, 1), spread, strict=True))
show(figure, alt=f"A motorcycle's headlamp and its wavelet mosaic in grey; standard deviation of the details: {text}")

# %% [markdown]
# Edges appear in every level, at the same relative place: horizontal ones in `cH`, vertical ones in `cV`, the round
# lamp in both. The details of a photograph grow with their size, as the next table shows.
#
# ## Theory: the smallest wavelet
#
# The Haar filters are the shortest orthogonal pair, $h = (1, 1)/\sqrt 2$ and $g = (1, -1)/\sqrt 2$ (stored
# reversed, as a later figure shows, because analysis convolves). Filtering rows
# and columns and keeping every second sample gives, for a block of four pixels $a, b$ (above) and $c, d$ (below),
#
# $$cA = \tfrac12(a+b+c+d),\quad cH = \tfrac12(a+b-c-d),\quad cV = \tfrac12(a-b+c-d),\quad cD = \tfrac12(a-b-c+d).$$
#
# The four combinations are orthonormal. Hence the inverse is the transpose, energy is kept (Parseval), and white
# noise of variance $\sigma^2$ stays white noise of variance $\sigma^2$ in every band.

# %%
rebuilt = wavelets.waverec2(coefficients, "haar")
print(f"reconstruction error below 1e-6: {((rebuilt - lamp).abs().max() < 1e-6).item()}")
energy = lamp.square().sum()
print(f"energy of coefficients / image  {(values_of(coefficients).square().sum() / energy).item():.6f}")
rows = {"level 3, average": [coefficients[0].std().item(), (coefficients[0].square().sum() / energy).item()]}
for level, details in zip((3, 2, 1), coefficients[1:], strict=True):
    for name, band in zip(("cH", "cV", "cD"), details, strict=True):
        rows[f"level {level}, {name}"] = [band.std().item(), (band.square().sum() / energy).item()]
show_table(["standard deviation", "share of energy"], rows)

# %% [markdown]
# ### Exercise 1: the Haar average (code, 5 minutes, easy)
#
# Write `haar_average(x)`: from an image `(B, C, H, W)` with even sides, the band `cA` of one Haar level, `(B, C, H/2,
# W/2)`. Use slicing such as `x[..., 0::2, 0::2]`.

# %% tags=["solution"]
def haar_average(x):
    """The band cA of one orthonormal Haar level."""
    ### BEGIN SOLUTION
    top, bottom = x[..., 0::2, :], x[..., 1::2, :]
    rows = top + bottom
    return (rows[..., 0::2] + rows[..., 1::2]) / 2
    ### END SOLUTION


# %%
check("03.haar_average", haar_average)

# %% [markdown]
# ## Open the source
#
# `wavelets.dwt2` does the same for all four bands. This is its core for Haar, printed from the installed package.

# %%
print(inspect.getsource(wavelets._haar_forward))

# %% [markdown]
# One multiplication and two additions per pixel, nothing else: no convolution, no copy of the image in another
# layout, so it is fast.
# Longer filters go through `_analyse` in the same file, a sum of shifted slices per axis. The whole decomposition is
# linear in the number of pixels, because every level has a quarter of the pixels of the one before: $1 + \tfrac14 +
# \tfrac1{16} + \dots < \tfrac43$. The FFT has a factor $\log N$ more.
#
# ## Filter banks
#
# In general, **analysis** convolves the signal with a low-pass filter $h$ and a high-pass filter $g$ and keeps every
# second sample of each (*downsampling*, $\downarrow 2$). **Synthesis** puts zeros in between ($\uparrow 2$),
# convolves with $\tilde h$ and $\tilde g$ and adds:
#
# $$x \;\to\; \begin{matrix} h, \downarrow 2 \;\to\; cA \;\to\; \uparrow 2, \tilde h \\
# g, \downarrow 2 \;\to\; cD \;\to\; \uparrow 2, \tilde g \end{matrix} \;\to\; \hat x .$$
#
# Keeping every second sample folds frequency $f + \frac12$ onto $f$: *aliasing* (notebook 02). Each channel is
# aliased, and yet the sum can be exact. With $H(f) = \sum_k h[k]\, e^{-2\pi i f k}$ and so on, the output is $x$
# delayed by $d$ samples when
#
# $$\tilde H(f) H(f) + \tilde G(f) G(f) = 2 e^{-2\pi i f d}, \qquad
# \tilde H(f) H(f + \tfrac12) + \tilde G(f) G(f + \tfrac12) = 0 .$$
#
# The first equation says no distortion, the second that the two aliases cancel. Together they are the **perfect
# reconstruction** condition. Let us hold four wavelets against it.

# %%
f = torch.arange(257, dtype=torch.float64) / 512


def response(taps, frequency):
    """The Fourier transform of a filter at the given frequencies (cycles/sample)."""
    k = torch.arange(len(taps), dtype=torch.float64)
    return (taps * torch.exp(-2j * math.pi * frequency[:, None] * k)).sum(1)


rows = {}
for name in ("haar", "db2", "db4", "bior2.2"):
    h, g, h_inverse, g_inverse = wavelets.filter_bank(name, torch.float64)
    direct = response(h_inverse, f) * response(h, f) + response(g_inverse, f) * response(g, f)
    alias = response(h_inverse, f) * response(h, f + 0.5) + response(g_inverse, f) * response(g, f + 0.5)
    exact = bool(((direct.abs() - 2).abs() < 1e-6).all() and (alias.abs() < 1e-6).all())
    k = torch.arange(len(g), dtype=torch.float64)
    moments = [(g * k**p).sum().abs().item() < 1e-6 for p in range(8)]
    rows[name] = [(h != 0).sum().item(), h.sum().item(), h.square().sum().item(), moments.index(False), float(exact)]
show_table(["taps of h", "sum of h", "energy of h", "vanishing moments", "exact (1: yes)"], rows)

# %%
figure, axes = plots.subplots(2, 4, width=7.6, height=3.4, sharey="row")
left_over = []
for (top, bottom), name in zip(axes.T, rows, strict=True):
    pair = wavelets.filter_bank(name, torch.float64)[:2]
    for taps, label, offset in zip(pair, ("h", "g"), (-0.12, 0.12), strict=True):
        top.bar(torch.arange(len(taps)) + offset, taps, 0.24, label=label)
        bottom.plot(f, response(taps, f).abs(), label=label)
    left_over.append(f"{name} {response(pair[0], f).abs()[192].item():.4g}")
    top.set(title=name, xlabel="tap", xticks=range(len(taps)))
    bottom.set(xlabel="frequency\n(cycles/sample)", ylim=(0, 2.2))
axes[0][0].set_ylabel("filter value")
axes[1][0].set_ylabel("response")
axes[1][0].legend(fontsize=8, loc="upper right", ncol=2)
show(figure, alt=f"Filters of four wavelets; response of the low-pass at 0.375 cycles/sample: {', '.join(left_over)}")

# %% [markdown]
# How to read it:
#
# - The **sum** of $h$ is $\sqrt 2$: a constant comes out larger, so that its energy fits into half the samples.
# - An **orthogonal** wavelet has $\tilde h[k] = h[-k]$ up to a delay: one filter and its mirror image serve both
#   ways. Then the energy of $h$ is 1. Haar, db2 and db4 (Daubechies 1992) are orthogonal.
# - **bior2.2** is *biorthogonal*: analysis and synthesis differ, and energy is not kept exactly. In return its
#   filters are symmetric, which no orthogonal wavelet with real filters of finite length but Haar can have
#   (Daubechies 1992). The lossless mode of JPEG 2000 uses filters of the same lengths, 5 and 3 (Skodras et al. 2001).
# - $p$ **vanishing moments** mean that $g$ gives exactly zero on polynomials of degree below $p$. Haar ignores
#   constants, db2 also ramps. Skies and cheeks are smooth, so more moments give more zeros.
# - **Longer** filters separate low from high more sharply, but an edge touches more coefficients, and their errors
#   ring farther. There is no best wavelet, only a compromise.
#
# ## Borders
#
# A filter at the border needs samples that are not there. `periodization` takes them from the opposite side, as the
# DFT does: a side of $n$ gives $\lceil n/2 \rceil$ coefficients, and orthogonal wavelets stay orthogonal. `symmetric`
# mirrors the image: no seam, but $\lfloor (n + L - 1)/2 \rfloor$ coefficients for $L$ taps, more than needed. Both
# invert exactly, and sizes and values are those of PyWavelets (`pywt`).

# %%
rows = {}
for name in ("haar", "db4", "bior2.2"):
    for mode in wavelets.MODES:
        ours = wavelets.wavedec2(crops.double(), name, 3, mode)
        theirs = pywt.wavedec2(crops.double().numpy(), name, mode=mode, level=3)
        same = all((torch.as_tensor(b) - a).abs().max() < 1e-10 for a, b in zip(ours[1], theirs[1], strict=True))
        sides = [level[0].shape[-1] for level in ours[:0:-1]]
        ratio = values_of(ours).square().sum() / crops.double().square().sum()
        rows[f"{name}, {mode}"] = [*sides, values_of(ours).shape[1] / crops[0].numel(), ratio.item(), float(same)]
show_table(["side, level 1", "level 2", "level 3", "coefs/pixel", "energy ratio", "as pywt (1: yes)"], rows)

# %%
figure, axis = plots.subplots(width=6, height=2.4)
excess = []
for mode in wavelets.MODES:
    details = wavelets.dwt2(crops, "db4", mode)[1][1].square().mean((0, 1, 2)).sqrt()
    axis.plot((torch.arange(len(details)) + 0.5) / len(details), 255 * details, label=mode)
    inner = details[len(details) // 4 : -len(details) // 4].mean()
    excess.append(f"{mode} {(torch.cat([details[:3], details[-3:]]).max() / inner).item():.4g}")
axis.set(title="Finest cV of 24 crops, db4", xlabel="position from left to right border (1 = whole width)")
axis.set(ylabel="root mean square / 255", ylim=(0, None))
axis.legend()
show(figure, alt=f"Largest root mean square of the finest cV near a border over that inside: {', '.join(excess)}")

# %% [markdown]
# With `periodization` the seam is an edge that is not in the scene, and it is large. Use it where energy must be
# counted exactly, as in the next section; use `symmetric` to restore.
#
# ## Few large, many small: sparsity
#
# A representation is **sparse** when few coefficients hold most of the energy. Keep only the $m$ largest coefficients
# of an image, set the others to zero, and transform back: the best **$m$-term approximation** in that basis. In an
# orthonormal basis Parseval gives its error without computing the image: the energy of what was dropped.
#
# $$\text{MSE}_m = \frac1N \sum_{k > m} |c_{(k)}|^2,\qquad |c_{(1)}| \ge |c_{(2)}| \ge \dots$$
#
# All photographs first lose their mean, which would swamp everything else.

# %%
centred = crops - crops.mean((-2, -1), keepdim=True)
spectrum = fourier.fft2(centred)  # a real image: N complex numbers in pairs, so N magnitudes count like N real ones
bases = {
    "pixels": centred.abs().flatten(1),
    "Fourier": spectrum.abs().flatten(1),
    "Haar": values_of(wavelets.wavedec2(centred, "haar", 5)).abs(),
    "sym4": values_of(wavelets.wavedec2(centred, "sym4", 5)).abs(),
}
count = centred[0].numel()
dropped = {}
for name, magnitude in bases.items():
    ordered = magnitude.double().square().sort(1, descending=True).values
    dropped[name] = 1 - ordered.cumsum(1) / ordered.sum(1, keepdim=True)
places = [round(count * share) - 1 for share in (0.01, 0.02, 0.05, 0.1, 0.2)]
rows = {name: (1 - lost[:, places].mean(0)).tolist() for name, lost in dropped.items()}
show_table(["1 % kept", "2 %", "5 %", "10 %", "20 %"], rows)

# %%
variance = centred.double().square().flatten(1).mean(1, keepdim=True)
steps = torch.logspace(math.log10(0.003), math.log10(0.5), 60)
indices = (count * steps).long() - 1
figure, axes = plots.subplots(1, 2, width=7.5, height=2.9)
for name, lost in dropped.items():
    axes[0].semilogx(100 * steps, (1 - lost[:, indices]).mean(0), label=name)
    axes[1].semilogx(100 * steps, (-10 * (variance * lost[:, indices]).log10()).mean(0), label=name)
axes[0].set(title="Energy compaction", xlabel="coefficients kept (%)", ylabel="share of the variance")
axes[1].set(title="Best m-term approximation", xlabel="coefficients kept (%)", ylabel="mean PSNR (dB)")
axes[0].legend(fontsize=8)
at_five = {name: -10 * (variance[:, 0] * lost[:, places[2]]).log10() for name, lost in dropped.items()}
text = ", ".join(f"{name} {values.mean().item():.4g}" for name, values in at_five.items())
show(figure, alt=f"Mean PSNR in dB with 5 % of the coefficients kept: {text}")

# %%
for name in ("Haar", "sym4"):
    found = statistics.clustered_intervals(at_five[name] - at_five["Fourier"], photographs, seed)
    print(f"{name} minus Fourier at 5 %, dB: bootstrap {found[0]}\n{'':29}  t         {found[1]}")

# %%
keep = round(0.05 * count)
mean = lamp.mean((-2, -1), keepdim=True)
limits = {name: magnitude[17].topk(keep).values[-1] for name, magnitude in bases.items()}
waves = torch.where(spectrum[17:18].abs() >= 0.9999 * limits["Fourier"], spectrum[17:18], 0)
average, *details = wavelets.wavedec2(centred[17:18], "sym4", 5)
largest = [tuple(torch.where(b.abs() >= limits["sym4"], b, 0) for b in level) for level in details]
by_wavelets = wavelets.waverec2([torch.where(average.abs() >= limits["sym4"], average, 0), *largest], "sym4")
pictures = [(mean + part).clamp(0, 1) for part in (fourier.ifft2(waves), by_wavelets)]
scores = [metrics.psnr(picture, lamp).item() for picture in pictures]
titles = ["all", f"5 % of waves: {scores[0]:.4g} dB", f"5 % of sym4: {scores[1]:.4g} dB"]
figure = plots.image_row([image[close] for image in (lamp, *pictures)], titles, width=5.4)
show(figure, alt=f"A headlamp from 5 % of its coefficients: Fourier {scores[0]:.4g} dB, sym4 {scores[1]:.4g} dB")

# %% [markdown]
# Wavelets need fewer terms than plane waves, on these photographs and with both intervals clear of zero. The pictures
# show why: with few waves edges are blurred and ripples spread over flat places; with few wavelets the strongest edges
# stay sharp, while weak edges and texture vanish. JPEG 2000 builds on this.
#
# ### Exercise 2: criticise (8 minutes, medium)
#
# A report says: "we keep 99 % of the energy, so the compressed photograph is practically lossless". The photograph
# lies in [0, 1] and its mean square is 0.25 (the mean was *not* subtracted). The basis is orthonormal. Which PSNR in
# dB does the report's photograph have? Answer with a number.

# %% tags=["solution"]
### BEGIN SOLUTION
lossless_psnr = -10 * math.log10(0.01 * 0.25)
### END SOLUTION

# %%
check("03.lossless", lossless_psnr)

# %% [markdown] tags=["solution"]
# By Parseval the mean squared error is the dropped energy per pixel, one per cent of 0.25. That is a visibly damaged
# picture. Most of the energy of a photograph is its mean and its large shapes.

# %% [markdown]
# ## Noise is not sparse
#
# ### Exercise 3: predict (2 minutes, easy)
#
# White noise of standard deviation 25 is transformed by three Haar levels. Before you run the next cells: what is the
# standard deviation of the noise in the coarsest details compared with the finest?
#
# - **a** larger, because every level adds up four values
# - **b** the same on all levels
# - **c** smaller, because averaging removes noise
# - **d** half per level, because the bands have half the side

# %% tags=["solution"]
### BEGIN SOLUTION
spread_answer = "b"
### END SOLUTION

# %%
check("03.spread", spread_answer)

# %%
pure = add_noise(torch.zeros_like(crops), draw=0)
for level, details in zip((3, 2, 1), wavelets.wavedec2(pure, "haar", 3)[1:], strict=True):
    spread = torch.stack([band.std() for band in details]).mean().item()
    print(f"level {level}: noise of standard deviation {255 * spread:.4g} / 255")

# %% [markdown]
# An orthonormal transform rotates the cloud of noise, and a rotated sphere is a sphere. A photograph is not like
# that: its coefficients are **heavy-tailed**, a few large ones at edges and a crowd near zero. Compare histograms,
# both scaled to standard deviation one.

# %%
figure, axes = plots.subplots(1, 2, width=7, height=2.4, sharey=True)
small = []
for axis, batch, title in zip(axes, (crops, pure), ("photographs", "noise"), strict=True):
    values = torch.cat([band.flatten() for band in wavelets.dwt2(batch, "haar")[1]])
    small.append((values.abs() < values.std() / 2).float().mean().item())
    axis.hist((values / values.std()).numpy(), bins=81, range=(-8, 8), density=True, color=plots.COLOURS[0])
    axis.set(title=f"{title}: {100 * small[-1]:.3g} % within 0.5", yscale="log")
    axis.set(xlabel="coefficient / standard deviation")
axes[0].set_ylabel("density")
text = f"{small[0]:.4g} of the photographs' finest coefficients and {small[1]:.4g} of the noise's"
show(figure, alt=f"Histograms on a log scale: {text} are below half a standard deviation")

# %% [markdown]
# This is the whole trick of wavelet denoising: a small coefficient is probably noise, a large one probably an edge.
# So set small ones to zero and transform back. **Hard** thresholding keeps the rest as it is. **Soft** thresholding
# also moves the rest towards zero, so that no coefficient jumps when it crosses the threshold.
#
# ### Exercise 4: soft thresholding (code, 10 minutes, easy)
#
# Donoho and Johnstone's estimator moves every detail coefficient towards zero by a threshold $t$ and stops at zero:
# $\eta_t(x) = \operatorname{sign}(x)\,\max(|x| - t, 0)$. Write it for tensors;
# `.sign()`, `.abs()` and `.clamp(min=0)` help.

# %% tags=["solution"]
def soft(x, t):
    """Shrink every value of x towards zero by t."""
    ### BEGIN SOLUTION
    return x.sign() * (x.abs() - t).clamp(min=0)
    ### END SOLUTION


# %%
check("03.soft", soft)

# %% [markdown]
# ## Which threshold?
#
# The largest of $n$ standard normal numbers is about $\sqrt{2 \ln n}$. The **universal threshold** $t = \sigma\sqrt{2
# \ln n}$ (Donoho and Johnstone 1994) therefore removes nearly all noise. Is it also good in mean squared error?
# Measure on two photographs that are used for choices only, china and flower; $n$ is the number of pixels.

# %%
def hard_threshold(x, t):
    """Keep what is larger than t, drop the rest."""
    return torch.where(x.abs() > t, x, 0)


def shrink(noisy, rule, t, wavelet="sym4"):
    """Apply one rule with one threshold to all details of four levels."""
    average, *details = wavelets.wavedec2(noisy, wavelet, 4, "symmetric")
    shrunk = [tuple(rule(band, t) for band in level) for level in details]
    return wavelets.waverec2([average, *shrunk], wavelet, "symmetric").clamp(0, 1)


RULES = {rule.__name__: rule for rule in (hard_threshold, wavelets.soft_threshold)}
universal = math.sqrt(2 * math.log(128 * 128))
tuning_noisy = add_noise(tuning, draw=0)
grid = torch.arange(0, 5.01, 0.25)

# %%
figure, axes = plots.subplots(1, 2, width=7.5, height=2.8, width_ratios=(1, 1.5))
x = torch.linspace(-4, 4, 401)
best = {}
for name, rule in RULES.items():
    axes[0].plot(x, rule(x, 1.5), label=name)
    curve = torch.stack([metrics.psnr(shrink(tuning_noisy, rule, t * sigma), tuning).mean() for t in grid])
    axes[1].plot(grid, curve, label=name)
    at_universal = metrics.psnr(shrink(tuning_noisy, rule, universal * sigma), tuning).mean().item()
    best[name] = (grid[curve.argmax()].item(), curve.max().item(), at_universal)
axes[1].axvline(universal, color="black", linestyle=":")
axes[0].set(title="Two rules, t = 1.5", xlabel="noisy coefficient", ylabel="estimate")
axes[1].set(title="china and flower; dotted: universal", xlabel="threshold / sigma", ylabel="mean PSNR (dB)")
axes[1].legend(fontsize=8)
text = "; ".join(f"{name} best at {t:.4g} sigma: {v:.4g} dB, universal: {u:.4g} dB" for name, (t, v, u) in best.items())
show(figure, alt=f"PSNR against threshold: {text}")

# %% [markdown]
# The universal threshold is too high for both rules: it promises that almost *no* noise is left, and pays with
# detail. The price is small for hard thresholding, which leaves the survivors alone, and large for soft, which moves
# every survivor by the whole threshold.
#
# ### Look inside: the threshold is a dial
#
# Too low leaves noise, too high removes texture. Move the threshold `t` (in units of the noise's standard deviation)
# and change the rule. The grey picture is what was removed: it should look like noise. Where you recognise the lamp
# in it, detail was lost. (At `t = 0` only values outside [0, 1] are removed.)

# %%
noisy = add_noise(crops, draw=0)


def draw(figure, t, rule):
    """A restored photograph, enlarged, and what was removed from it."""
    restored = shrink(noisy[17:18], RULES[rule], t * sigma)
    psnr = metrics.psnr(restored, lamp).item()
    removed = noisy[17:18] - restored
    axes = figure.subplots(1, 2)
    plots.image_axes(axes[0], restored[close], f"{psnr:.4g} dB")
    plots.image_axes(axes[1], 0.5 + removed.mean(1, keepdim=True)[close] / (8 * sigma / 3**0.5), "removed")
    return f"restored at {psnr:.4g} dB; removed {255 * removed.std().item():.4g} / 255 (standard deviation)"


explore(draw, size=(2.8, 1.5), t=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0), rule=tuple(RULES))

# %% [markdown]
# ### BayesShrink
#
# One threshold cannot fit all bands: coarse bands are full of structure, fine ones full of noise. BayesShrink (Chang,
# Yu and Vetterli 2000) chooses one per band, $t = \sigma^2 / \sigma_x$, where $\sigma_x^2 =
# \max(\operatorname{mean}(\text{band}^2) - \sigma^2, 0)$ is the variance left for the clean coefficients. It is close
# to the best soft threshold when they follow the heavy-tailed densities of the histogram above. If $\sigma$ is
# unknown, the median of the finest $|cD|$ estimates it.

# %%
rows = {}
for level, details in zip((4, 3, 2, 1), wavelets.wavedec2(noisy[17:18], "sym4", 4, "symmetric")[1:], strict=True):
    rows[f"level {level}"] = [(wavelets.bayes_threshold(band, sigma).mean() / sigma).item() for band in details]
rows["universal"] = [universal] * 3
show_table(["cH, t/sigma", "cV, t/sigma", "cD, t/sigma"], rows)
print(f"true sigma {noise:.4g} / 255, estimated {255 * wavelets.estimate_sigma(noisy[17:18])[0]:.4g} / 255")
rows = {}
for name in ("haar", "db2", "db4", "sym4", "sym8"):
    restored = wavelets.bayes_shrink(tuning_noisy, sigma, name).clamp(0, 1)
    rows[name] = [metrics.psnr(restored, tuning).mean().item()]
show_table(["china, flower: dB"], rows)

# %% [markdown]
# The thresholds rise from coarse to fine by themselves. The second table chooses the wavelet, on the two tuning
# photographs: `sym4`, a more symmetric relative of db4. It beats the best point of both curves above, and no dial was
# turned.
#
# ## Where you cut matters: shift invariance
#
# Downsampling keeps every second sample. Which ones? Move the image by one pixel and the others are kept. The
# transform is therefore **not shift invariant**: only a shift by $2^L$ pixels moves the coefficients of $L$ levels
# along. Below, an edge moves pixel by pixel.

# %%
figure, axes = plots.subplots(1, 2, width=7, height=2.5, sharey=True)
texts = []
for axis, name in zip(axes, ("haar", "db4"), strict=True):
    energies = []
    for shift in range(9):
        edge = torch.zeros(1, 1, 64, 64)
        edge[..., 24 + shift :] = 1.0
        levels = wavelets.wavedec2(edge, name, 3, "symmetric")[:0:-1]
        energies.append([level[1][0, 0, 16 // 2**k].square().sum().item() / 2**k for k, level in enumerate(levels, 1)])
    for level, values in enumerate(zip(*energies, strict=True), 1):
        axis.plot(values, "o-", markersize=4, label=f"level {level}")
        texts.append(f"{name} level {level} {min(values):.3f} to {max(values):.3f}")
    axis.set(title=name, xlabel="edge moved by (pixels)")
axes[0].set_ylabel("energy of the details")
axes[1].legend(fontsize=8)
show(figure, alt=f"Detail energy of a moving edge, smallest to largest over nine positions: {', '.join(texts)}")

# %% [markdown]
# An edge at an even place is invisible to the finest Haar band; one pixel further it is loud. db4 varies less, but
# varies. Thresholding then treats the same edge differently at different places, and the errors look like little
# blocks (Haar) or ripples.
#
# **Cycle spinning** (Coifman and Donoho 1995) is the cure: move the noisy image, restore, move back, and average over
# many shifts. The errors depend on the shift and average out; the scene does not. With $L$ levels there are $2^L
# \times 2^L$ different shifts; a few that are well spread do nearly as well.

# %%
def spun(noisy, wavelet="sym4", count=spins, margin=8):
    """Mean of BayesShrink over `count` shifts; a mirrored margin keeps the seam of the shifts outside the image."""
    padded = torch.nn.functional.pad(noisy, (margin,) * 4, mode="reflect")
    total = torch.zeros_like(padded)
    for k in range(count):
        shift = (5 * k % 16, 3 * k % 16)  # spread over the 16 x 16 shifts of four levels
        moved = padded.roll(shift, (-2, -1))
        total += wavelets.bayes_shrink(moved, sigma, wavelet).roll((-shift[0], -shift[1]), (-2, -1))
    return (total / count)[..., margin:-margin, margin:-margin].clamp(0, 1)


counts = (1, 2, 4, 8, 16)
rows = {
    name: [metrics.psnr(spun(tuning_noisy, name, count), tuning).mean().item() for count in counts]
    for name in ("haar", "sym4")
}
show_table([f"{count} shift{'s' * (count > 1)}, dB" for count in counts], rows)

# %%
inner = (..., slice(16, 112), slice(16, 112))
print("change of the restored image when the noisy one moves by one pixel (root mean square):")
for name, count in {"one transform": 1, "cycle spinning": spins}.items():
    still = spun(noisy[17:18], "haar", count)
    moved = spun(noisy[17:18].roll((1, 1), (-2, -1)), "haar", count).roll((-1, -1), (-2, -1))
    print(f"{name:14}  {255 * (moved - still)[inner].square().mean().sqrt().item():.4g} / 255")

# %%
results = {}
for name in ("haar", "sym4"):
    results[name] = wavelets.bayes_shrink(noisy[17:18], sigma, name).clamp(0, 1)
    results[f"{name}, spun"] = spun(noisy[17:18], name)
scores = {name: metrics.psnr(image, lamp).item() for name, image in results.items()}
pictures = [noisy[17:18].clamp(0, 1)[close], *(image[close] for image in results.values())]
titles = ["noisy\n", *(f"{name}\n{score:.4g} dB" for name, score in scores.items())]
figure = plots.image_row(pictures, titles, width=6.4)
text = ", ".join(f"{name} {score:.4g} dB" for name, score in scores.items())
show(figure, alt=f"BayesShrink on a headlamp, enlarged: {text}")

# %% [markdown]
# ## Experiment: what is a shift worth, and what a wavelet?
#
# One photograph and one draw of the noise prove nothing. Below, all 24 evaluation crops, several draws, four arms.
# Which unit is independent? New noise is cheap and its effect averages out within a crop; what differs is the
# photograph. So average over draws first, then resample whole photographs (clustered bootstrap).

# %%
METRICS = ("psnr", "haarpsi", "high_frequency_energy_ratio", "high_frequency_error")
runs = {"noisy": [], "haar": [], "haar, spun": [], "sym4": [], "sym4, spun": []}
for number in range(draws):
    degraded = add_noise(crops, draw=100 + number)
    restored = {"noisy": degraded.clamp(0, 1)}
    for name in ("haar", "sym4"):
        restored[name] = wavelets.bayes_shrink(degraded, sigma, name).clamp(0, 1)
        restored[f"{name}, spun"] = spun(degraded, name)
    for name, batch in restored.items():
        runs[name].append(torch.stack([metrics.METRICS[metric].function(batch, crops) for metric in METRICS]))
scores = {name: torch.stack(found) for name, found in runs.items()}  # (draws, metrics, 24)
rows = {name: values.mean((0, 2)).tolist() for name, values in scores.items()}
show_table(["PSNR (dB)", "HaarPSI", "HF energy ratio", "HF error"], rows)

# %%
gain = scores["sym4, spun"][:, 0] - scores["sym4"][:, 0]  # PSNR, (draws, 24)
print(f"spread of the mean gain of spinning between draws       {gain.mean(1).std().item():.4g} dB")
print(f"spread of the mean gain of spinning between photographs {gain.mean(0).view(6, 4).mean(1).std().item():.4g} dB")
pairs = {
    "spinning, haar": ("haar, spun", "haar"),
    "spinning, sym4": ("sym4, spun", "sym4"),
    "sym4 for haar, once": ("sym4", "haar"),
    "sym4 for haar, spun": ("sym4, spun", "haar, spun"),
}


def difference(pair, metric):
    """Mean over the draws of the difference between two arms: one number per crop, (24,)."""
    return (scores[pair[0]] - scores[pair[1]])[:, METRICS.index(metric)].mean(0)


# %%
figure, axes = plots.subplots(1, 2, width=8, height=2.5, sharey=True)
texts = []
for axis, metric in zip(axes, ("psnr", "haarpsi"), strict=True):
    for place, (name, pair) in enumerate(pairs.items()):
        values = difference(pair, metric)
        interval = statistics.paired_bootstrap(values, photographs, seed)
        axis.plot(values.view(6, 4).mean(1), [place + 0.2] * 6, ".", color=plots.COLOURS[1])
        axis.plot([interval.low, interval.high], [place] * 2, color=plots.COLOURS[0])
        axis.plot(interval.mean, place, "o", color=plots.COLOURS[0])
        texts.append(f"{name}: {metric} {interval.mean:.4g} [{interval.low:.4g}, {interval.high:.4g}]")
    axis.axvline(0, color="black", linestyle=":")
    axis.set(title="dots: photographs; bars: 95 % intervals", xlabel=f"difference in {metrics.METRICS[metric].label}")
axes[0].set_yticks(range(4), pairs)
show(figure, alt="; ".join(texts))

# %% [markdown]
# ## Does it hold?
#
# Each claim gets two intervals: over six photographs the bootstrap is too narrow, and t trusts in a normal
# distribution. A verdict needs both. The last number is the p-value of a paired t test over the six photographs,
# corrected for the number of claims (Holm): several claims at once give luck several chances.

# %%
claims = {
    "cycle spinning raises the PSNR of haar": difference(pairs["spinning, haar"], "psnr"),
    "cycle spinning raises the PSNR of sym4": difference(pairs["spinning, sym4"], "psnr"),
    "sym4 has a higher PSNR than haar without spinning": difference(pairs["sym4 for haar, once"], "psnr"),
    "sym4 has a higher PSNR than haar with spinning": difference(pairs["sym4 for haar, spun"], "psnr"),
    "cycle spinning raises the HaarPSI of sym4": difference(pairs["spinning, sym4"], "haarpsi"),
    "cycle spinning lowers the fine-detail error of sym4": -difference(pairs["spinning, sym4"], "high_frequency_error"),
}
adjusted = statistics.holm([statistics.paired_t(values.view(6, 4).mean(1)) for values in claims.values()])
words = {"above": "supported", "below": "contradicted", "not resolved": "not resolved"}
for (claim, values), p in zip(claims.items(), adjusted, strict=True):
    bootstrap, student = statistics.clustered_intervals(values, photographs, seed)
    print(f"{words[statistics.verdict(bootstrap, student)]:12}  {claim}")
    print(f"{'':12}  bootstrap {bootstrap}\n{'':12}  t         {student}, corrected p {p:.4f}")

# %% [markdown]
# - **Shifts pay, for both wavelets.** The gain has the same sign on all six photographs, in PSNR and in HaarPSI. The
#   price is one transform per shift.
# - **The wavelet matters once, then hardly.** With a single transform sym4 beats Haar clearly. With spinning both
#   intervals reach to both sides of zero: much of Haar's weakness was *where* it cut, not what it is. "Not resolved"
#   does not mean equal: see how wide they are.
# - **Fine detail comes back for Haar, not for sym4.** In the table spinning raises Haar's high-frequency energy a lot
#   and sym4's hardly, while the error falls for both. About half of the fine detail is still missing.
# - **More draws would not help.** The mean gain hardly changes between draws and much more between photographs. An
#   interval over draws only would be tiny, and would speak of these 24 crops alone.
#
# Limits: Gaussian noise of one known strength, small crops, six photographs. The bars of the figure are
# bootstrap intervals, somewhat too narrow.
#
# ## What detail bands say about a restoration
#
# PSNR adds up all errors. Detail bands tell them apart by size and place. Two questions, level by level: *how much*
# detail is there, and *is it the right one*? With $d_k$ the three detail bands of level $k$,
#
# $$\text{energy ratio}_k = \frac{\sum d_k(\text{restored})^2}{\sum d_k(\text{clean})^2},\qquad
# \text{error}_k = \frac{\sum d_k(\text{restored} - \text{clean})^2}{\sum d_k(\text{clean})^2} .$$
#
# For $k = 1$ and Haar these are `metrics.high_frequency_energy_ratio` and `metrics.high_frequency_error`.

# %%
def level_energies(batch):
    """Energy of the Haar details of levels 1, 2, 3: (B, 3)."""
    levels = wavelets.wavedec2(batch.double(), "haar", 3)[:0:-1]
    return torch.stack([sum(band.square().sum((1, 2, 3)) for band in level) for level in levels], 1)


versions = {
    "blur, sigma 1.5": degradations.gaussian_blur(crops, 1.5),
    f"noise, {noise:g}/255": noisy.clamp(0, 1),
    "BayesShrink": wavelets.bayes_shrink(noisy, sigma).clamp(0, 1),
    "BayesShrink, spun": spun(noisy),
}
reference = level_energies(crops)
ratios = {name: level_energies(version) / reference for name, version in versions.items()}
errors = {name: level_energies(version - crops) / reference for name, version in versions.items()}
rows = {name: [*ratios[name].mean(0), *errors[name].mean(0)] for name in versions}
show_table(["ratio, level 1", "level 2", "level 3", "error, level 1", "level 2", "level 3"], rows)
same = (errors["BayesShrink"][:, 0] - metrics.high_frequency_error(versions["BayesShrink"], crops)).abs().max() < 1e-6
print(f"level 1 is metrics.high_frequency_error: {bool(same)}")

# %% [markdown]
# Read it line by line. Blur takes away fine detail first: ratio and error of level 1 show it most, level 3 least.
# Noise adds detail: its ratio is far above one, most of all where photographs have least (the mean is ruled by the
# smoothest crops). BayesShrink brings the ratios below one: it drops more than it should. Its error falls on *every*
# level against the noisy input, and spinning lowers it again.
#
# ### Where is the error?
#
# The ratio is one number. Without the sum it is a **map**: the magnitude of the detail difference at every place,
#
# $$E_k = \sqrt{(\Delta cH_k)^2 + (\Delta cV_k)^2 + (\Delta cD_k)^2},$$
#
# summed over channels, one map per level. Each map below is scaled by its own 99th percentile.

# %%
def error_maps(restored, clean):
    """Magnitude of the Haar detail difference on levels 1, 2, 3, each (B, 1, H / 2**k, W / 2**k)."""
    levels = wavelets.wavedec2(restored - clean, "haar", 3)[:0:-1]
    return [sum(band.square().sum(1, keepdim=True) for band in level).sqrt() for level in levels]


chosen = 17
rows, shares = [], []
for version in versions.values():
    maps = error_maps(version[chosen : chosen + 1], crops[chosen : chosen + 1])
    squares = maps[0].square().flatten().sort(descending=True).values
    shares.append((squares[: len(squares) // 10].sum() / squares.sum()).item())
    shown = [(m / m.flatten().quantile(0.99)).clamp(0, 1) for m in maps]
    rows.append([version[chosen : chosen + 1], *(torch.nn.functional.interpolate(m, (128, 128)) for m in shown)])
titles, names = ["image", "error map, level 1", "level 2", "level 3"], list(versions)
figure = plots.image_grid([rows[0], rows[2]], titles, [names[0], names[2]], width=5.4)
text = ", ".join(f"{name} {share:.4g}" for name, share in zip(versions, shares, strict=True))
show(figure, alt=f"Error maps; share of the squared error of level 1 in its worst tenth of places: {text}")

# %% [markdown]
# The error of blur is sparse: it draws the edges, and most of it lies in a small part of the image. The error of pure
# noise is everywhere. After BayesShrink, level 1 has its error at edges and in texture, where detail could not be
# told from noise. On levels 2 and 3 the error is spread evenly: thresholds are lower there (see the BayesShrink table), so
# coarse noise stays.
#
# A map like this can also *train* a network. One of the course's papers (high-frequency error maps, later in the
# course) compares the detail bands of a super-resolved and a true photograph at several sizes and multiplies both images
# by the map, so that a perceptual loss looks where detail went wrong. What you measured here is its starting point.
#
# ### Exercise 5: criticise (5 minutes, medium)
#
# A report says: "our deblurred photographs have a high-frequency energy ratio of 1.00. Hence all fine detail was
# recovered." What is the strongest objection?
#
# - **a** the ratio must be measured with a longer wavelet than Haar
# - **b** the ratio should be above one for a sharp photograph
# - **c** the ratio counts how much detail there is, not whether it is the right one
# - **d** blur does not change the fine detail bands, so the ratio means nothing

# %% tags=["solution"]
### BEGIN SOLUTION
ratio_answer = "c"
### END SOLUTION

# %%
check("03.ratio", ratio_answer)

# %% [markdown]
# ### Exercise 6: criticise (5 minutes, easy)
#
# A report says: "On one photograph and one draw of the noise, db2 reached 27.61 dB and db3 reached 27.64 dB. Hence
# db3 is the better wavelet for denoising." What is the strongest objection?
#
# - **a** PSNR cannot be used for denoising
# - **b** 0.03 dB is smaller than what another draw or another photograph changes
# - **c** db3 has longer filters, so the comparison is unfair
# - **d** the noise should have been added before the image was scaled to [0, 1]

# %% tags=["solution"]
### BEGIN SOLUTION
objection_answer = "b"
### END SOLUTION

# %%
check("03.objection", objection_answer)

# %% [markdown]
# ## What it costs
#
# Per level and pixel an $L$-tap filter bank needs $2L$ multiplications: $L$ along each axis, for two filters at half
# the samples. Four levels cost $1 + \frac14 + \frac1{16} + \frac1{64}$ of that.

# %%
start = time.perf_counter()
wavelets.bayes_shrink(noisy[:1], sigma)
seconds = time.perf_counter() - start
pixels = sum(128 * 128 // 4**k for k in range(4))
taps = {name: len(wavelets.filter_bank(name)[0]) for name in ("haar", "sym4")}
fixed = {f"multiplications per channel, four levels, {name}": 2 * L * pixels for name, L in taps.items()}
measured = {"BayesShrink, seconds": seconds, "device": "cpu"}
show_cost("Wavelets on a 128 x 128 photograph", fixed={"parameters": 0, **fixed}, measured=measured)

# %% [markdown]
# ## You can now
# - decompose and rebuild an image exactly, choose wavelet and border mode, and check a filter bank against its two
#   equations;
# - explain why photographs are sparse and noise is not, and turn that into a denoiser with a threshold per band;
# - cure shift dependence by cycle spinning, and say with an interval what it gains and what it leaves open;
# - read ratio, error and map of the detail bands of a restoration, and criticise a claim that quotes only one of
#   them.
#
# **What next**: 04 builds the degradations that the restoration methods of this course learn to undo; 05 trains a
# network that beats the shrinkage of this notebook. Wavelet error maps return later in the course.
#
# **References**: D. Gabor, *Theory of communication*, 1946. S. Mallat, *A theory for multiresolution signal
# decomposition*, 1989. I. Daubechies, *Ten lectures on wavelets*, 1992. A. Cohen, I. Daubechies and J.-C. Feauveau,
# *Biorthogonal bases of compactly supported wavelets*, 1992. D. Donoho and I. Johnstone, *Ideal spatial adaptation by
# wavelet shrinkage*, 1994. R. Coifman and D. Donoho, *Translation-invariant de-noising*, 1995. S. Chang, B. Yu and M.
# Vetterli, *Adaptive wavelet thresholding for image denoising and compression*, 2000. A. Skodras, C. Christopoulos
# and T. Ebrahimi, *The JPEG 2000 still image compression standard*, 2001.
