# %% [markdown]
# # 01 Images and metrics
#
# **You will be able to**
# - say what the numbers of a digital image mean: layout, range, 8 bit, sRGB and linear light, luma;
# - bring your own photograph, of any size, to a form that every method of this course accepts;
# - derive PSNR, explain SSIM, HaarPSI and GMSD, and say why they disagree;
# - compare two restoration methods with an interval that means what it says.
#
# **You need** nothing but a CPU: under 40 seconds for all cells, about 75 minutes for you. Some Python and school
# statistics (mean, standard deviation) are enough; everything else is explained where it is first used.

# %% tags=["parameters"]
profile = "quick"
seed = 0
gallery = "coffee"
gallery_psnr = 22.0
noise = 25.0
draws = 4
studies = 1000
my_photo = ""

# %% tags=["setup"]
import math
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from minirestore import degradations, fourier, images, metrics, photos, plots, statistics, wavelets
from minirestore.exercises import check
from minirestore.plots import show, show_cost, show_table
from minirestore.widgets import explore

sigma = noise / 255
photograph = photos.crops(gallery, 192)[:1]  # (1, 3, 192, 192)

# %% [markdown]
# ## The idea as a picture
#
# Restoration means: from a damaged picture, recover the one it came from. To learn anything we must say how close we
# came, in a number. The customary number is the mean squared error, or PSNR, the same thing on a logarithmic scale.
# The next pictures show what it cannot see. Each is the same photograph with one kind of damage, and the strength of
# every damage was searched so that all have the *same* PSNR. Wang and Bovik made this figure famous; we compute our
# own.

# %%
def shift(x, pixels):
    """Move the picture to the right by a fraction of pixels: turn the phase of its mirrored rows."""
    W = x.shape[-1]
    phase = torch.exp(-2j * math.pi * pixels * torch.fft.rfftfreq(2 * W))
    rows = torch.fft.rfft(torch.cat([x, x.flip(-1)], -1)) * phase  # (B, C, H, W + 1)
    return torch.fft.irfft(rows, n=2 * W)[..., :W].clamp(0, 1)


damages = {  # name: (function of image and strength, strongest)
    "contrast": (lambda x, s: x.mean() + (1 - s) * (x - x.mean()), 1.0),
    "noise": (lambda x, s: degradations.gaussian_noise(x, s, seed), 100.0),
    "blur": (lambda x, s: degradations.gaussian_blur(x, max(s, 0.05)), 10.0),
    "shift": (shift, 10.0),
    "JPEG": (lambda x, s: degradations.diff_jpeg(x, 100 - s), 99.0),
}

# %%
def match_psnr(damage, image, psnr):
    """The image damaged just so much that its PSNR is ``psnr`` dB, by bisection on the strength."""
    function, high = damages[damage]
    low = 0.0
    for _ in range(16):
        middle = (low + high) / 2
        if metrics.psnr(function(image, middle), image).item() > psnr:
            low = middle
        else:
            high = middle
    return function(image, low)


# %%
damaged = {name: match_psnr(name, photograph, gallery_psnr) for name in damages}
scores = {name: metrics.psnr(image, photograph).item() for name, image in damaged.items()}
titles = ["original", *(f"{name}, {value:.4g} dB" for name, value in scores.items())]
pictures = [image[..., 32:160, 32:160] for image in (photograph, *damaged.values())]
figure = plots.image_grid([pictures[:3], pictures[3:]], ["", "", ""], width=4.8)
for axes, title in zip(figure.axes, titles, strict=True):
    axes.set_title(title, fontsize=9)
show(figure, alt=f"One photograph ({gallery}) and five damaged versions of nearly equal PSNR: {', '.join(titles[1:])}")

# %% [markdown]
# A person would not give these five the same mark. Keep the picture in mind: the second half of this notebook
# explains it. First, what are the numbers inside an image?
#
# ## What a digital image is
#
# A sensor counts photons in a grid of **pixels**, three times: through a red, a green and a blue filter. A file
# usually stores each count in 8 bits, an integer from 0 to 255. Libraries disagree on how to lay this out in memory:
# Pillow, NumPy and matplotlib use height, width, channel (HWC) and integers, PyTorch uses batch, channel, height,
# width (BCHW) and floats. This course has one convention at every public boundary: **float tensors (B, C, H, W), RGB,
# in [0, 1]**. `images.from_numpy` and `images.to_uint8` are the only doors.

# %%
array = images.to_uint8(photograph)
tensor = images.from_numpy(array)
print(f"as in a file  {array.shape}, {array.dtype}, {array.min()} to {array.max()}, {np.unique(array).size} levels")
print(f"in the course {tuple(tensor.shape)}, {tensor.dtype}, {tensor.min():.4f} to {tensor.max():.4f}")
half = F.avg_pool2d(photograph, 2)  # averages of four pixels need not be multiples of 1/255
stored = images.from_numpy(images.to_uint8(half))
print(f"PSNR after storing in 8 bit: {metrics.psnr(stored, half).item():.4g} dB")
print(f"uniform rounding error:      {10 * math.log10(12 * 255**2):.4g} dB")

# %% [markdown]
# The last two lines deserve a thought. Rounding moves a value by up to half a step, uniformly. A uniform variable of
# width $1/255$ has variance $1/(12 \cdot 255^2)$, so a stored picture typically scores about
# $10\log_{10}(12\cdot 255^2)$ dB against the exact one, and more only when its values happen to lie near the levels:
# a picture that has been stored before loses nothing. The measured value differs a little because averages of four
# 8-bit values are not spread evenly between two levels.
#
# ### Values are not light
#
# A file does not store the photon count but roughly its 2.2-th root, the **sRGB** encoding (IEC 61966-2-1). The eye
# is more sensitive to differences in the dark, so this spends the 256 levels where they are seen. The price: the sum
# of two lights is not the sum of their values. An optical blur adds up *light*; a blur of the values is another
# operation.

# %%
x = torch.linspace(0, 1, 101)
light = degradations.srgb_to_linear(x)
middle_light = degradations.srgb_to_linear(torch.tensor(0.5)).item()
middle_value = degradations.linear_to_srgb(torch.tensor(0.5)).item()
bright = photos.crops("rocket")[2:3]
blurred = [degradations.gaussian_blur(bright, 5, linear_light=flag) for flag in (False, True)]
figure, axes = plots.subplots(1, 3, width=7.4, height=2.6)
axes[0].plot(x, light)
axes[0].set(title="sRGB decoding", xlabel="stored value", ylabel="light (share of white)")
for axis, picture, title in zip(axes[1:], blurred, ("values blurred", "light blurred"), strict=True):
    plots.image_axes(axis, picture, f"{title}, mean {picture.mean():.4g}")
text = f"the stored value 0.5 is {middle_light:.4g} of the light of white, half the light is stored as {middle_value:.4g}"
text = f"The decoding curve bends upwards: {text}. A blurred launch has mean value {blurred[0].mean():.4g}"
show(figure, alt=f"{text}, or {blurred[1].mean():.4g} when the light is blurred: highlights spread further")

# %% [markdown]
# Most restoration papers, and most of this course, compute on stored values because data sets and metrics do.
# Notebook 04 blurs in linear light where a real camera would.
#
# ### Luma
#
# The eye resolves brightness better than colour. **Luma** is the weighted mean of the stored channels, $Y = 0.299\,R
# + 0.587\,G + 0.114\,B$ (ITU-R BT.601). SSIM is often, and super-resolution PSNR nearly always, reported on a
# luma-like channel alone. That changes the number, as you are about to find out.
#
# ## Exercise 1: predict (5 minutes, medium)
#
# Independent noise of equal strength is added to R, G and B. PSNR over the three channels is $P$. What is the PSNR of
# the luma, roughly? Hint: variances of independent variables add, with squared weights.
#
# - **a** $P$: the same noise, the same error
# - **b** $P + 3.5$ dB
# - **c** $P + 4.8$ dB, as for a mean of three
# - **d** $P - 3.5$ dB

# %% tags=["solution"]
### BEGIN SOLUTION
luma_answer = "b"
### END SOLUTION

# %%
check("01.luma", luma_answer)

# %%
grainy = photograph + sigma * torch.randn(photograph.shape, generator=torch.Generator().manual_seed(seed))
error = grainy - photograph
rgb, grey = (-10 * math.log10(e.square().mean().item()) for e in (error, images.luma(error)))
print(f"PSNR over RGB {rgb:.4g} dB, of luma {grey:.4g} dB, difference {grey - rgb:.4g} dB")
print(f"from the squared weights: {-10 * math.log10(sum(w * w for w in images.LUMA_BT601)):.4g} dB")

# %% [markdown]
# ### The photographs of this course
#
# They come inside installed packages, so nothing is downloaded. Six are **evaluation photographs**: results are shown
# on them and nothing is ever chosen on them. China, flower, retina and hubble are there for everything that is tuned.

# %%
thumbnails = [F.adaptive_avg_pool2d(photos.crops(name, 300)[:1], 100) for name in photos.EVALUATION]
figure = plots.image_row(thumbnails, photos.EVALUATION, width=6.2)
clean, ids = photos.evaluation_crops()  # four fixed 128-pixel crops of each
text = f"results use {len(clean)} crops of 128 pixels, of mean value {clean.mean():.4g}"
show(figure, alt=f"A piece of each evaluation photograph, reduced; {text}")
for name in photos.EVALUATION + photos.COLOUR_POOL:
    entry, (H, W) = photos.info(name), photos.load(name).shape[-2:]
    line = f"{name}, {W} x {H}: {entry.credit}; {entry.licence}; comes with {entry.package}"
    print(textwrap.fill(line, 110, subsequent_indent="    "))

# %% [markdown]
# ### Your own photograph
#
# `photos.read_image` turns any file that Pillow opens into the convention: it applies the EXIF rotation of phones,
# lays transparency over white, scales 16-bit greys by 65535 and reduces huge images. A damaged file gives one clear
# error, never a plausible picture. Put the path of your own image into the parameter `my_photo` (a full path, or
# one relative to the folder `notebooks`), run the parameters cell, and then this one again.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(my_photo or Path(folder) / "phone.jpg")
    if not my_photo:
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: the phone was held upright
        Image.fromarray(array[:128]).save(path, exif=exif)
    print(f"read {tuple(photos.read_image(path, max_side=512).shape)}; the file stored {Image.open(path).size}")
    broken = Path(folder) / "broken.jpg"
    broken.write_bytes(b"not a photograph")
    try:
        photos.read_image(broken)
    except ValueError as problem:
        print(str(problem).partition(" (")[0])

# %% [markdown]
# ### Any size: padding and tiling
#
# Networks that halve the image five times need sides divisible by 32, and a large photograph may not fit in memory.
# Two helpers solve this for every method of the course. `apply_padded` extends the image by mirror reflection and
# crops the result. `apply_tiled` runs overlapping windows and blends them. A method looks at a neighbourhood of each
# pixel, its *receptive field*; near the edge of a tile it sees the mirror instead of the real neighbour. Overlap pays
# for that.

# %%
def soft_focus(x):
    """Stands for a network: it looks 20 pixels far, and it refuses sides that are not multiples of 32."""
    assert x.shape[-1] % 32 == 0 and x.shape[-2] % 32 == 0, x.shape
    return degradations.gaussian_blur(x, 5)


odd = photograph[..., :100, :90]
print(f"padded {tuple(images.pad_to_multiple(odd, 32).shape)}, out {tuple(images.apply_padded(soft_focus, odd, 32).shape)}")
whole = soft_focus(photograph)
for overlap in (0, 16, 32):
    error = (images.apply_tiled(soft_focus, photograph, tile=64, overlap=overlap) - whole).abs() * 255
    print(f"overlap {overlap:2d} pixels: mean error {error.mean():.4g}, largest {error.max():.4g} / 255")

# %% [markdown]
# ## How restoration is judged
#
# ### From likelihood to PSNR
#
# Let $x$ be the true image with $N$ values and $\hat x$ our estimate. Suppose the errors were independent and
# Gaussian with variance $s^2$. Then
#
# $$-\log p(x \mid \hat x) = \frac{1}{2 s^2}\sum_i (x_i - \hat x_i)^2 + \frac N2\log(2\pi s^2),$$
#
# and minimising it means minimising the **mean squared error** $\mathrm{MSE} = \frac1N\sum_i (x_i-\hat x_i)^2$. On a
# logarithmic scale, relative to the largest possible value $M$, it is the **peak signal-to-noise ratio** in decibels:
#
# $$\mathrm{PSNR} = 10 \log_{10}\frac{M^2}{\mathrm{MSE}}, \qquad M = 1 \text{ here.}$$
#
# Half the error energy is $10\log_{10}2 \approx 3$ dB more. Noise of standard deviation $\sigma$ has $\mathrm{PSNR} =
# -20\log_{10}\sigma$. The assumption is the catch: errors of a blur are neither independent nor Gaussian, and nothing
# in the formula knows where an error lies or what it looks like.
#
# ## Exercise 2: PSNR per image (code, 10 minutes, easy)
#
# Write `my_psnr(prediction, target)` for tensors `(B, C, H, W)` in [0, 1]: one number *per image*, shape `(B,)`.

# %% tags=["solution"]
def my_psnr(prediction, target):
    """PSNR in dB of every image of the batch."""
    ### BEGIN SOLUTION
    mse = (prediction - target).square().mean((1, 2, 3))
    return -10 * mse.log10()
    ### END SOLUTION


# %%
check("01.psnr", my_psnr)

# %% [markdown]
# ### Four bugs that print believable numbers
#
# All five lines compare one noisy crop, a piece of sky, with its clean original. Only the first is right, and none
# stops with an error.

# %%
def decibels(difference, peak=1.0):
    """10 log10(peak^2 / MSE) with nothing checked."""
    return 10 * math.log10(peak**2 / difference.square().mean().item())


target = photos.crops("rocket")[:1]
noisy = degradations.gaussian_noise(target, noise, seed)
print(f"right                                    {decibels(noisy - target):.4g} dB")
print(f"values 0 to 255, peak 1                  {decibels(255 * noisy - 255 * target):.4g} dB")
print(f"values -1 to 1, peak 1 instead of 2      {decibels(2 * noisy - 2 * target):.4g} dB")
print(f"peak taken from the picture (data_range) {decibels(noisy - target, (target.max() - target.min()).item()):.4g} dB")
print(f"grey against colour, silently broadcast  {decibels(images.luma(noisy) - target):.4g} dB")

# %% [markdown]
# The functions of `minirestore.metrics` refuse such input. They never broadcast, check ranges, compute in double
# precision and return one number per image.

# %%
for wrong in (255 * noisy, 2 * noisy - 1, images.luma(noisy), noisy.permute(0, 2, 3, 1)):
    try:
        metrics.psnr(wrong, target)
    except ValueError as problem:
        print(textwrap.shorten(str(problem), 105))

# %% [markdown]
# ### SSIM: compare structure, not values
#
# The structural similarity index (Wang et al. 2004) looks through a small window and compares three things: the means
# $\mu$ (brightness), the standard deviations $\sigma$ (contrast) and the correlation (structure). Multiplied and
# simplified,
#
# $$\mathrm{SSIM} = \frac{(2\mu_x\mu_y + c_1)(2\sigma_{xy} + c_2)}{(\mu_x^2+\mu_y^2+c_1)(\sigma_x^2+\sigma_y^2+c_2)},
# \qquad c_1 = 0.01^2,\ c_2 = 0.03^2,$$
#
# averaged over all windows. It is 1 for equal images. The constants avoid division by zero, but also decide what
# happens in flat regions: where $\sigma_x$ is small, a little noise makes $\sigma_y^2$ dominate, and SSIM collapses.
# The package computes it through torchmetrics; with a Gaussian window it is short enough to build here.

# %%
def ssim_map(x, y):
    """SSIM at every pixel, under an 11 x 11 Gaussian window of sigma 1.5."""
    local = degradations.Blur(degradations.gaussian_kernel(11, 1.5))
    mean_x, mean_y = local(x), local(y)
    variance_x, variance_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    brightness = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return brightness * (2 * covariance + 0.03**2) / (variance_x + variance_y + 0.03**2)


row, titles, means = [], [], []
for name in ("noise", "blur"):
    map_ = ssim_map(damaged[name].double(), photograph.double()).mean(1, keepdim=True)
    value = metrics.ssim(damaged[name], photograph).item()
    print(f"{name}: SSIM {value:.4f}; ours agrees to 1e-5: {abs(map_.mean().item() - value) < 1e-5}")
    row += [damaged[name][..., :128, :128], map_[..., :128, :128].clamp(0, 1)]
    titles += [name, f"SSIM map,\nmean {value:.4g}"]
    means.append(f"{name} {value:.4g}")
show(plots.image_row(row, titles, width=5.6), alt=f"Equal PSNR, and where SSIM is lost (dark): {' and '.join(means)}")

# %% [markdown]
# Noise is punished in flat regions, where the eye sees it; blur is punished in texture and at edges.
#
# ## Exercise 3: SSIM from moments (code, 15 minutes, medium)
#
# Write `my_ssim(x, y)` for two grey images `(H, W)` with the whole image as a single window: population mean,
# variance and covariance (divide by the number of pixels), and the two constants above. Return a number.

# %% tags=["solution"]
def my_ssim(x, y):
    """SSIM with the whole image as its window."""
    ### BEGIN SOLUTION
    c1, c2 = 0.01**2, 0.03**2
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    luminance = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
    return luminance * (2 * covariance + c2) / (x.var(correction=0) + y.var(correction=0) + c2)
    ### END SOLUTION


# %%
check("01.ssim", my_ssim)

# %% [markdown]
# ### The others, briefly
#
# - **MS-SSIM** (Wang, Simoncelli and Bovik 2003) multiplies SSIM terms over five sizes of the image.
# - **HaarPSI** (Reisenhofer et al. 2018) compares Haar wavelet magnitudes $g$ (notebook 03) by
#   $(2gg'+C)/(g^2+g'^2+C)$, weighted by where coarse structure is. Its authors report high agreement with human
#   ratings, and it needs no trained weights: it is this course's default perceptual score.
# - **GMSD** (Xue et al. 2014) does the same with gradients and takes the *standard deviation* of the map. Lower is
#   better. It asks how unevenly an image is damaged.
# - **High-frequency energy ratio** divides the energy of the finest Haar details of the prediction by the target's: 1
#   is right, below 1 too smooth, above 1 noise or invented detail. **High-frequency error** does so for the
#   difference, and hence knows whether detail is the *right* detail.
# - **LPIPS** (Zhang et al. 2018) compares features of a trained classifier. Its weights are a download, so it is
#   never required here; with random weights it would still print numbers, which is why the package refuses to guess.
#
# The sources are `minirestore/metrics/image.py` and `perceptual.py`, one short function each.

# %%
hub = torch.hub.get_dir()
with tempfile.TemporaryDirectory() as empty:
    torch.hub.set_dir(empty)  # a computer without the weights
    try:
        metrics.evaluate(noisy, target, "lpips-alex")
    except FileNotFoundError as problem:
        print(textwrap.fill(str(problem).replace(str(Path(empty)), "(torch hub)"), 105))
torch.hub.set_dir(hub)

# %% [markdown]
# ### They disagree
#
# Look again at the five pictures of equal PSNR. Before you run the next cell: which does SSIM like best, which worst?

# %%
columns = ("psnr", "ssim", "ms_ssim", "haarpsi", "gmsd", "high_frequency_energy_ratio", "high_frequency_error")
table = {}
for name, image in damaged.items():
    values = metrics.evaluate(image, photograph, columns)
    table[name] = [value.item() for value in values.values()]
show_table(["PSNR (dB)", "SSIM", "MS-SSIM", "HaarPSI", "GMSD", "HF ratio", "HF error"], table)
for k, (metric, sign) in enumerate((("SSIM", 1), ("MS-SSIM", 1), ("HaarPSI", 1), ("GMSD", -1)), 1):
    order = sorted(table, key=lambda name: -sign * table[name][k])
    print(f"{metric:<8} best to worst: {', '.join(order)}")

# %% [markdown]
# The error energies agree by construction; the rankings do not. All four metrics forgive the loss of contrast most.
# After that they part: SSIM puts noise last, the other three put JPEG last. None is wrong: each answers another
# question. Note the shift. It looks perfect, and nobody would see it without the original beside it, yet all of them
# mark it down, because they compare pixel by pixel. Only the energy ratio, which looks at no pixel in particular, is
# close to 1.
#
# ## Look inside: same error energy, another frequency
#
# By Parseval's theorem (notebook 02) the squared error is the sum of squared Fourier coefficients of the error. Equal
# PSNR means equal totals. It says nothing about *which* frequencies are wrong, in cycles per pixel, and that is what
# we see.

# %%
figure, axis = plots.subplots(1, 1, width=6.6, height=3.0)
radius, shares = fourier.radial_frequency(192, 192), {}
for name, image in damaged.items():
    difference = image - photograph
    frequency, power = fourier.radial_power_spectrum(difference)
    axis.plot(frequency[1:], power[0, 1:], label=name)
    spectrum = fourier.fft2(difference).abs().square().sum((0, 1))
    shares[name] = (spectrum[radius < 0.05].sum() / spectrum.sum()).item()
axis.set(title="Power of the error", xlabel="frequency (cycles/pixel)", ylabel="power", yscale="log")
axis.legend(ncols=3, loc="lower left")
text = ", ".join(f"{name} {share:.4g}" for name, share in shares.items())
show(figure, alt=f"Error spectra of equal total energy; share of the energy below 0.05 cycles per pixel: {text}")

# %% [markdown]
# Noise is wrong equally at all frequencies, so its spectrum is flat. The others follow the photograph's own falling
# spectrum because they remove, move or scale what is there. Choose a damage and a strength (its PSNR; lower is
# stronger), and watch the metrics.

# %%
def draw(figure, damage, psnr):
    """One damaged crop above, its scores as bars below."""
    original = photograph[..., 32:160, 32:160]
    image = match_psnr(damage, original, psnr)
    result = metrics.evaluate(image, original, ("psnr", "ssim", "haarpsi", "gmsd"))
    reached, *others = (value.item() for value in result.values())
    axes = figure.subplots(2, 1, height_ratios=(2, 1))
    plots.image_axes(axes[0], image, f"PSNR {reached:.4g} dB")
    axes[1].barh(["SSIM", "HaarPSI", "GMSD\n(low is good)"], others, color=plots.COLOURS[:3])
    axes[1].set(xlim=(0, 1), xlabel="score")
    axes[1].invert_yaxis()
    return f"PSNR {reached:.4g} dB, SSIM {others[0]:.4g}, HaarPSI {others[1]:.4g}, GMSD {others[2]:.4g}"


states = [{"damage": name, "psnr": 26} for name in ("noise", "blur", "JPEG")]
explore(draw, size=(2.3, 3.0), states=states, damage=tuple(damages), psnr=(34, 30, 26, 22, 18))

# %% [markdown]
# ## Two goals in conflict
#
# All metrics so far are **full-reference**: they compare with the one true image. But many clean images fit a noisy
# one. The estimate with the least expected squared error is the mean over all of them, $\hat x = \mathbb E[x \mid
# y]$, and a mean of many plausible pictures is smooth: it is itself not plausible. A random draw $x_s$ from $p(x\mid
# y)$ is as plausible as a real image, but
#
# $$\mathbb E\|x - x_s\|^2 = \mathbb E\|x-\hat x\|^2 + \mathbb E\|x_s-\hat x\|^2 = 2\,\mathbb E\|x-\hat x\|^2,$$
#
# because given $y$ the truth and the sample are independent and equally distributed. It pays 3 dB. Between the two
# lies the **perception-distortion trade-off** (Blau and Michaeli 2018): past some point, less error means less like a
# real image.
#
# We can show it exactly where $p(x\mid y)$ is known: on Gaussian clouds with the spectrum $S(f)$ of a photograph. The
# mean is the Wiener filter, with gain $S/(S+\sigma^2)$ per frequency, and the spread around it has the power
# $S\sigma^2/(S+\sigma^2)$.

# %%
def coloured(white, power):
    """White noise filtered to a power spectrum (H, W)."""
    return fourier.ifft2(fourier.fft2(white) * power.sqrt())


generator = torch.Generator().manual_seed(seed)
white = [torch.randn(16, 1, 128, 128, generator=generator, dtype=torch.float64) for _ in range(3)]
S = 1 / (fourier.radial_frequency(128, 128) ** 2 + 0.02**2)
S = S * 0.15**2 / S.mean()  # standard deviation 0.15
truth = coloured(white[0], S)
observed = truth + sigma * white[1]
mean = fourier.ifft2(fourier.fft2(observed) * S / (S + sigma**2))
residual = coloured(white[2], S * sigma**2 / (S + sigma**2))

# %%
def distortion_and_perception(estimate):
    """RMSE to the truth, and the distance between the spectra of estimates and of clean clouds; both in 1/255."""
    amplitude = fourier.fft2(estimate).abs().square().mean((0, 1)).sqrt()
    reference = fourier.fft2(truth).abs().square().mean((0, 1)).sqrt()
    spectra = (amplitude - reference).square().mean().sqrt()
    return 255 * (estimate - truth).square().mean().sqrt().item(), 255 * spectra.item()


weights = (0, 0.25, 0.5, 0.75, 1)
curve = [distortion_and_perception(mean + weight * residual) for weight in weights]
figure, axes = plots.subplots(1, 4, width=7.6, height=2.3, width_ratios=(1.7, 1, 1, 1))
axes[0].plot(*zip(*curve, strict=True), "o-")
axes[0].set(title="from mean to sample", xlabel="distortion: RMSE (1/255)", ylabel="spectral distance (1/255)")
for axis, image, title in zip(axes[1:], (truth, mean, mean + residual), ("truth", "mean", "sample"), strict=True):
    plots.image_axes(axis, image[:1, :, :64, :64] + 0.5, title)
gap = 20 * math.log10(curve[-1][0] / curve[0][0])
text = f"from {curve[0][1]:.4g} to {curve[-1][1]:.4g} while RMSE rises from {curve[0][0]:.4g} to {curve[-1][0]:.4g} of 255"
show(figure, alt=f"Adding the missing variance to the mean lowers the spectral distance {text}: a loss of {gap:.4g} dB")

# %% [markdown]
# The vertical axis needs no pairing: it compares what the outputs look like *as a group* with what clean images look
# like. It does not reach zero because sixteen clouds are a finite sample. Diffusion models, from notebook 05 on,
# produce such samples. Judging them by PSNR alone would reward the blurry mean, judging them by appearance alone
# would reward invention. This course always reports both.
#
# ## How sure are we?
#
# Now a real comparison: total variation (TV; Rudin, Osher and Fatemi 1992, in Chambolle's algorithm) against wavelet
# BayesShrink on noisy photographs. Each has one setting, chosen by PSNR on china and flower, never on the evaluation
# crops.

# %%
def total_variation(noisy, weight):
    """Chambolle's total-variation denoiser of scikit-image, one image at a time."""
    from skimage.restoration import denoise_tv_chambolle

    arrays = [images.to_numpy(image).astype(np.float64) for image in noisy]
    results = [denoise_tv_chambolle(array, weight, channel_axis=-1).clip(0, 1) for array in arrays]
    return torch.cat([images.from_numpy(result) for result in results])


tuning = torch.cat([photos.crops(name) for name in ("china", "flower")])
tuning_noisy = degradations.gaussian_noise(tuning, noise, seed + 1000)
by_weight = {w: metrics.psnr(total_variation(tuning_noisy, w), tuning).mean().item() for w in (0.06, 0.08, 0.1, 0.15)}
shrunk = {w: wavelets.bayes_shrink(tuning_noisy, sigma, w).clamp(0, 1) for w in ("haar", "db2", "sym4", "coif2")}
by_wavelet = {w: metrics.psnr(image, tuning).mean().item() for w, image in shrunk.items()}
best_weight, best_wavelet = max(by_weight, key=by_weight.get), max(by_wavelet, key=by_wavelet.get)
print("TV weight ", {w: f"{v:.4g} dB" for w, v in by_weight.items()}, "->", best_weight)
print("wavelet   ", {w: f"{v:.4g} dB" for w, v in by_wavelet.items()}, "->", best_wavelet)

# %% [markdown]
# Both now restore all evaluation crops, with several draws of the noise. We keep **per-image arrays**, never only a
# mean: everything below is computed from the *paired* differences, TV minus BayesShrink on the same noisy crop.
# Pairing removes how hard each crop is. `gains` is their mean over the draws, one number per crop.

# %%
runs = []
for number in range(draws):
    degraded = degradations.gaussian_noise(clean, noise, seed + number)
    shrunk = wavelets.bayes_shrink(degraded, sigma, best_wavelet).clamp(0, 1)
    runs.append((total_variation(degraded, best_weight), shrunk))
by_draw = [metrics.psnr(tv, clean) - metrics.psnr(shrunk, clean) for tv, shrunk in runs]  # (24,) each, dB
first, gains = runs[0], torch.stack(by_draw).mean(0)  # gains: mean over the draws, (24,)
mse = (first[0] - clean).square().mean((1, 2, 3))
print(f"TV, mean of the PSNRs      {metrics.psnr(first[0], clean).mean():.4g} dB")
print(f"TV, PSNR of the mean error {-10 * mse.mean().log10():.4g} dB")

# %% [markdown]
# The two lines differ although both are called "average PSNR". The logarithm is concave, so by Jensen's inequality
# the mean of PSNRs is never below the PSNR of the mean; a few easy, smooth images raise it. Papers use both. Say
# which.

# %%
figure, axis = plots.subplots(1, 1, width=6.6, height=2.6)
groups = gains.view(6, 4).numpy()  # photograph, crop
for position, group in enumerate(groups):
    axis.plot([position] * 4, group, "o", color=plots.COLOURS[position], alpha=0.8)
    axis.hlines(group.mean(), position - 0.25, position + 0.25, color=plots.COLOURS[position])
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(6), photos.EVALUATION)
axis.set(title="Four crops per photograph; bars: their mean", xlabel="photograph", ylabel="TV minus BayesShrink (dB)")
between, within = 4 * groups.mean(1).var(ddof=1), groups.var(1, ddof=1).mean()
correlation = (between - within) / (between + 3 * within)
text = f"photograph means from {groups.mean(1).min():.4g} to {groups.mean(1).max():.4g} dB"
show(figure, alt=f"PSNR differences of 24 crops cluster by photograph: {text}, intraclass correlation {correlation:.4g}")

# %% [markdown]
# Crops of one photograph rise and fall together: same camera, same light, same kind of texture. The **intraclass
# correlation** $\rho$ is the share of the variance that lies between photographs. With $m$ crops each, the variance
# of the overall mean is $1 + (m-1)\rho$ times what independent crops would give (Kish 1965). Twenty-four crops are
# not 24 pieces of evidence.
#
# An **interval** at 95 % is a recipe that catches the true mean in 95 of 100 repeated studies. Three recipes, three
# questions:
#
# - over noise draws: would *these crops* give the same result with new noise?
# - over crops, as if independent: the naive one;
# - over photographs: would *new photographs* give the same result? Resample whole photographs (the clustered
#   **bootstrap**), or take a Student t interval of the photograph means.

# %%
photo_means = groups.mean(1)
intervals = {
    "t over noise draws": statistics.t_interval(torch.stack(by_draw).mean(1)),
    "t over crops (naive)": statistics.t_interval(gains),
    "bootstrap over photographs": statistics.paired_bootstrap(gains, ids, seed),
    "t over photographs": statistics.t_interval(photo_means),
}
figure, axis = plots.subplots(1, 1, width=6.6, height=2.2)
for position, interval in enumerate(intervals.values()):
    axis.plot([interval.low, interval.high], [position, position], "|-", linewidth=2.5, markersize=10)
    axis.plot(interval.mean, position, "o", color="black", markersize=4)
axis.axvline(0, color="black", linewidth=0.8)
axis.set_yticks(range(4), intervals)
axis.invert_yaxis()
axis.set(title="The same data, four intervals", xlabel="TV minus BayesShrink (dB)")
show(figure, alt="; ".join(f"{name}: {interval}" for name, interval in intervals.items()))

# %% [markdown]
# ### Does the naive interval keep its promise?
#
# We cannot repeat the study with new photographs, but we can simulate it: draw an effect per photograph and one per
# crop so that their intraclass correlation is $\rho$, build each interval, and count how often it contains the true
# mean, here 0.

# %%
def covers(rho, generator):
    """Whether three 95 % intervals of one simulated study, 6 photographs of 4 crops, contain the truth."""
    effects = generator.normal(size=(6, 1)) * math.sqrt(rho) + generator.normal(size=(6, 4)) * math.sqrt(1 - rho)
    flat = effects.ravel()
    bootstrap = statistics.paired_bootstrap(flat, np.repeat(range(6), 4), seed, resamples=500)
    return 0 in statistics.t_interval(flat), 0 in bootstrap, 0 in statistics.t_interval(effects.mean(1))


rng, rhos = np.random.default_rng((seed, studies)), (0.0, 0.25, 0.5, 0.75)
coverage = {rho: np.mean([covers(rho, rng) for _ in range(studies)], axis=0) for rho in rhos}
labels = ("naive t over crops", "bootstrap over photographs", "t over photographs")
show_table(labels, {f"rho {rho}": values for rho, values in coverage.items()})
print(f"standard error of a coverage near 0.95: {math.sqrt(0.95 * 0.05 / studies):.4g}")

# %% [markdown]
# The naive interval promises 95 % and breaks the promise as soon as crops resemble each other. The clustered
# bootstrap hardly depends on $\rho$, but with only six photographs its percentile interval is too narrow as
# well: resampling six things cannot show all that six new things could be. The t interval of the photograph means is
# right here because the simulated effects are Gaussian; real ones may be skewed, which the bootstrap handles better.
# Hence the course's rule: cluster by photograph, print n beside the interval, and do not trust one that barely
# excludes zero. Over training *seeds* the t interval is used too: few values, independent by design.
#
# ## Exercise 4: criticise (5 minutes, medium)
#
# A paper cuts 1,000 patches from 10 photographs, trains one model once, and reports "+0.12 dB, 95 % interval [0.10,
# 0.14], n = 1,000". What is the strongest objection?
#
# - **a** 1,000 patches are too few for an interval
# - **b** the patches are not 1,000 independent units; photographs and training seeds are
# - **c** the interval should have been at 99 %
# - **d** PSNR differences must not be averaged

# %% tags=["solution"]
### BEGIN SOLUTION
interval_answer = "b"
### END SOLUTION

# %%
check("01.interval", interval_answer)

# %% [markdown]
# ### Many claims: Holm
#
# Test twenty useless methods at the 5 % level and one "works". **Holm's** procedure (1979) keeps the chance of even
# one false discovery among $m$ claims below 5 %: sort the p-values, multiply the smallest by $m$, the next by $m-1$,
# and so on, and never let a later value fall below an earlier one.
#
# ## Exercise 5: criticise (3 minutes, easy)
#
# A report tries five metrics, with p-values 0.012, 0.02, 0.2, 0.4 and 0.7, and announces the first as significant at
# 5 %. What is its Holm-adjusted p-value? Answer with a number, and decide for yourself whether the announcement
# stands.

# %% tags=["solution"]
### BEGIN SOLUTION
holm_answer = 5 * 0.012
### END SOLUTION

# %%
check("01.holm", holm_answer)

# %% [markdown]
# ## Does it hold?
#
# **Claim**: tuned TV denoises photographs better than tuned BayesShrink. We ask five metrics, averaged over the
# draws, each turned so that positive means "TV is better" (for the energy ratio: closer to 1, by the logarithm).
# Intervals resample photographs;
# p-values are t tests on the photograph means, adjusted by Holm.

# %%
columns = ("psnr", "ssim", "haarpsi", "gmsd", "high_frequency_energy_ratio")
turned = {"psnr": 1, "ssim": 1, "haarpsi": 1, "gmsd": -1}
per_draw = {name: [] for name in (*turned, "HF ratio")}
for pair in runs:
    tv, shrunk = (metrics.evaluate(image, clean, columns) for image in pair)
    for name, sign in turned.items():
        per_draw[name].append(sign * (tv[name] - shrunk[name]))
    logs = [result["high_frequency_energy_ratio"].log().abs() for result in (tv, shrunk)]
    per_draw["HF ratio"].append(logs[1] - logs[0])
advantage = {name: torch.stack(values).mean(0) for name, values in per_draw.items()}  # (24,) each

# %%
boot = {name: statistics.paired_bootstrap(value, ids, seed) for name, value in advantage.items()}
raw = [statistics.paired_t(value.view(6, 4).mean(1)) for value in advantage.values()]
adjusted = statistics.holm(raw)
rows = {n: [i.mean, i.low, i.high, p, a] for (n, i), p, a in zip(boot.items(), raw, adjusted, strict=True)}
show_table(["mean", "low", "high", "p", "Holm p"], rows)
counts = [sum(0 not in interval for interval in boot.values()), sum(p <= 0.05 for p in raw), sum(adjusted <= 0.05)]
print(f"of {len(boot)} metrics, bootstrap {counts[0]}, t test {counts[1]}, t test with Holm {counts[2]} find a difference")
print(f"claim {'supported' if counts[2] == len(boot) else 'not resolved'} with {boot['psnr'].n} photographs")

# %% [markdown]
# Read what was printed, not what you hoped for. A test that passes alone and fails with Holm is one that luck, asked
# five times, could have passed. Where the bootstrap is clear of zero and the t test is a close call, remember the
# simulation above: with six photographs the bootstrap interval is too narrow. Being unresolved is not being equal:
# every mean points the same way, and more photographs would decide. More crops or more draws of the noise would
# hardly help. And "better" always needs the words "by which metric".
#
# ## What it costs

# %%
from time import perf_counter

seconds = {}
for name in ("psnr", "ssim", "haarpsi", "gmsd"):
    start = perf_counter()
    metrics.METRICS[name].function(first[0][:4], clean[:4])
    seconds[f"{name}, seconds"] = perf_counter() - start
show_cost("Four crops of 128 x 128 pixels", fixed={"parameters": 0, "pixels": 4 * 128 * 128}, measured=seconds)

# %% [markdown]
# ## You can now
# - name layout, range, encoding and luma of an image, and read your own;
# - compute PSNR and SSIM yourself and recognise the usual bugs by their size;
# - explain why equal PSNR is not equal quality, in space and in frequency;
# - say why a plausible sample costs 3 dB;
# - report a paired difference with an interval over photographs, and correct for many claims.
#
# **Next**: 02 looks at images, blur and noise through Fourier's lens; 03 adds *where*; 04 builds damage to order.
#
# **References**: Z. Wang and A. Bovik, *Mean squared error: love it or leave it?*, 2009. Z. Wang, A. Bovik, H. Sheikh
# and E. Simoncelli, *Image quality assessment: from error visibility to structural similarity*, 2004. Z. Wang, E.
# Simoncelli and A. Bovik, *Multiscale structural similarity*, 2003. R. Reisenhofer et al., *A Haar wavelet-based
# perceptual similarity index*, 2018. W. Xue et al., *Gradient magnitude similarity deviation*, 2014. R. Zhang et al.,
# *The unreasonable effectiveness of deep features as a perceptual metric*, 2018. Y. Blau and T. Michaeli, *The
# perception-distortion tradeoff*, 2018. L. Rudin, S. Osher and E. Fatemi, *Nonlinear total variation based noise
# removal algorithms*, 1992. A. Chambolle, *An algorithm for total variation minimization*, 2004. A. Davison and D.
# Hinkley, *Bootstrap methods and their application*, 1997. L. Kish, *Survey sampling*, 1965. S. Holm, *A simple
# sequentially rejective multiple test procedure*, 1979.
