"""Real photographs: those that come inside installed packages, and reading and writing a user's own files.

Nothing is downloaded: every photograph is a file that scikit-image, scikit-learn, PyWavelets or matplotlib install with
themselves. Two groups never mix. The evaluation photographs are looked at only to report results; the colour pool
(scikit-learn's china and flower, retina, hubble) is what procedural images take their colours from and what anything
may be tuned on.
"""

import functools
import importlib.metadata
import importlib.util
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from minirestore import images
from minirestore.checkpoints import write_atomically

EVALUATION = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle", "grace_hopper")
COLOUR_POOL = ("china", "flower", "retina", "hubble")
MOTORCYCLE_FOCAL_LENGTH = 994.978  # pixels of the shipped images, a quarter of the 3979.911 of the full size
MOTORCYCLE_DOFFS = 31.086  # difference of the two principal points, pixels of the shipped images
MOTORCYCLE_BASELINE = 0.193001  # metres
MAX_PIXELS = 80_000_000  # larger files are refused before they are decoded
OUTPUT_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
}


@dataclass(frozen=True)
class Photograph:
    """Where a photograph comes from: its name, the package and file that hold it, its credit and its licence."""

    name: str
    package: str
    file: str
    description: str
    credit: str
    licence: str


_IMPORT_NAMES = {
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "PyWavelets": "pywt",
    "matplotlib": "matplotlib",
}
_MIDDLEBURY = (
    "N. Nesic, P. Westling, X. Wang, Y. Kitajima, G. Krathwohl, D. Scharstein, Middlebury College; cite D. Scharstein"
    " et al., High-resolution stereo datasets with subpixel-accurate ground truth, GCPR 2014"
)
_CC0 = "CC0 1.0"
_PUBLIC_DOMAIN = "public domain"
_PHOTOGRAPHS = {
    photograph.name: photograph
    for photograph in (
        Photograph("astronaut", "scikit-image", "data/astronaut.png", "Eileen Collins", "NASA", _PUBLIC_DOMAIN),
        Photograph("chelsea", "scikit-image", "data/chelsea.png", "a cat", "Stéfan van der Walt", _CC0),
        Photograph("coffee", "scikit-image", "data/coffee.png", "a cup of coffee", "Rachel Michetti", _CC0),
        Photograph("rocket", "scikit-image", "data/rocket.jpg", "launch of a Falcon 9", "SpaceX", _PUBLIC_DOMAIN),
        Photograph(
            "motorcycle",
            "scikit-image",
            "data/motorcycle_left.png",
            "a motorcycle, left view of a stereo pair",
            _MIDDLEBURY,
            "none stated; published for research with a request to cite",
        ),
        Photograph(
            "grace_hopper",
            "matplotlib",
            "mpl-data/sample_data/grace_hopper.jpg",
            "Grace Hopper",
            "James S. Davis, United States Navy",
            _PUBLIC_DOMAIN,
        ),
        Photograph(
            "china", "scikit-learn", "datasets/images/china.jpg", "a temple", "danielbuechele (Flickr)", "CC BY 2.0"
        ),
        Photograph(
            "flower", "scikit-learn", "datasets/images/flower.jpg", "a dahlia", "vultilion (Flickr)", "CC BY 2.0"
        ),
        Photograph("retina", "scikit-image", "data/retina.jpg", "a human retina", "Mikael Häggström", _CC0),
        Photograph(
            "hubble",
            "scikit-image",
            "data/hubble_deep_field.jpg",
            "Hubble eXtreme Deep Field",
            "NASA, ESA",
            _PUBLIC_DOMAIN,
        ),
        Photograph("camera", "scikit-image", "data/camera.png", "a cameraman, grey", "Lav Varshney", _CC0),
        Photograph("brick", "scikit-image", "data/brick.png", "a brick wall, grey", "CC0Textures.com", _CC0),
        Photograph("grass", "scikit-image", "data/grass.png", "grass, grey", "linolafett (DeviantArt)", _CC0),
        Photograph("gravel", "scikit-image", "data/gravel.png", "gravel, grey", "CC0Textures.com", _CC0),
        Photograph(
            "coins", "scikit-image", "data/coins.png", "coins, grey", "Brooklyn Museum", "no known restrictions"
        ),
        Photograph(
            "clock",
            "scikit-image",
            "data/clock_motion.png",
            "a clock blurred by real camera motion, grey",
            "Stéfan van der Walt",
            _PUBLIC_DOMAIN,
        ),
        Photograph(
            "ascent",
            "PyWavelets",
            "data/ascent.npz",
            "people on a stair, grey",
            "public-domain-image.com",
            _PUBLIC_DOMAIN,
        ),
        Photograph(
            "aero",
            "PyWavelets",
            "data/aero.npz",
            "an aerial photograph, grey",
            "PyWavelets",
            "none stated; distributed with PyWavelets (MIT)",
        ),
    )
}


def names() -> tuple[str, ...]:
    """Names of all photographs: the evaluation ones first, then the colour pool, then grey ones."""
    return tuple(_PHOTOGRAPHS)


def info(name: str) -> Photograph:
    """Credit, licence and source package of a photograph.

    Raises:
        ValueError: there is no photograph of that name.
    """
    if name not in _PHOTOGRAPHS:
        raise ValueError(f"name: no photograph is called {name!r}; choose one of {', '.join(_PHOTOGRAPHS)}")
    return _PHOTOGRAPHS[name]


def _package_file(package: str, file: str) -> Path:
    """Path of a file inside an installed package, without importing the package."""
    spec = importlib.util.find_spec(_IMPORT_NAMES[package])
    if spec is None:
        raise FileNotFoundError(f"{package} is not installed; install it to use its photographs")
    path = Path(spec.origin).parent / file
    if not path.is_file():
        version = importlib.metadata.version(package)
        raise FileNotFoundError(f"{file} is not part of the installed {package} {version}; install another version")
    return path


def load(name: str) -> Tensor:
    """Load a photograph by name, see ``names``.

    Returns:
        ``(1, 3, H, W)`` float32 RGB in [0, 1]; grey photographs have three equal channels.

    Raises:
        ValueError: there is no photograph of that name.
        FileNotFoundError: the installed version of its package does not hold the file.
    """
    photograph = info(name)
    path = _package_file(photograph.package, photograph.file)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            array = arrays["data"].astype(np.uint8)
    else:
        with Image.open(path) as image:
            array = np.asarray(image)
    return _three_channels(images.from_numpy(array))


def _three_channels(image: Tensor) -> Tensor:
    """Repeat the channel of a grey image: ``(1, 1, H, W) -> (1, 3, H, W)``."""
    return image.expand(-1, 3, -1, -1).contiguous() if image.shape[1] == 1 else image


def crops(name: str, size: int = 128) -> Tensor:
    """Four fixed square crops of a photograph, centred on its quadrants.

    They do not overlap while ``size`` is at most half the shorter side; larger ones are moved inside the frame.

    Returns:
        ``(4, 3, size, size)`` float32 in [0, 1]: top left, top right, bottom left, bottom right.

    Raises:
        ValueError: unknown name, or ``size`` is not between 2 and the photograph's shorter side.
    """
    photograph = load(name)
    _, _, H, W = photograph.shape
    if not 2 <= size <= min(H, W):
        raise ValueError(f"size: must lie between 2 and {min(H, W)}, the shorter side of {name}, got {size}")
    tops, lefts = ([min(max(side * q // 4 - size // 2, 0), side - size) for q in (1, 3)] for side in (H, W))
    windows = [photograph[..., top : top + size, left : left + size] for top in tops for left in lefts]
    return torch.cat(windows)  # (4, 3, size, size)


def evaluation_crops(size: int = 128) -> tuple[Tensor, tuple[str, ...]]:
    """Four crops of each of the six evaluation photographs, see ``crops``.

    Returns:
        ``(24, 3, size, size)`` float32 in [0, 1], and for each crop the name of its photograph: the cluster that
        intervals resample, because crops of one photograph are not independent.
    """
    return torch.cat([crops(name, size) for name in EVALUATION]), tuple(name for name in EVALUATION for _ in range(4))


def middlebury_motorcycle() -> dict[str, Tensor]:
    """The Middlebury 2014 "Motorcycle" stereo pair with metric depth, at a quarter of its full size.

    Depth follows from disparity d as ``Z = f B / (d + doffs)``, with the focal length f = 994.978 pixels, the
    difference of principal points doffs = 31.086 pixels (the full-size calibration 3979.911 and 124.343 divided by
    four) and the baseline B = 0.193001 m. Source of the calibration: Middlebury 2014 stereo data, Motorcycle-perfect,
    ``calib.txt``; the documentation of scikit-image's ``stereo_motorcycle`` gives the same numbers at this size.

    Returns:
        ``image``, ``right``: ``(1, 3, 500, 741)`` float32 RGB in [0, 1], the two rectified views.
        ``disparity``: ``(1, 1, 500, 741)`` float32 pixels; the point at column x of ``image`` is at x - d of ``right``.
        ``depth``: ``(1, 1, 500, 741)`` float32 planar depth of ``image`` in metres, 2.1 (near) to 5.0 (far).
        ``valid``: ``(1, 1, 500, 741)`` bool, true where the ground truth is known (93 % of the pixels). Disparity and
        depth are 0 elsewhere.
    """
    with np.load(_package_file("scikit-image", "data/motorcycle_disp.npz")) as arrays:
        disparity = torch.from_numpy(arrays["arr_0"].astype(np.float32))[None, None]  # (1, 1, H, W)
    with Image.open(_package_file("scikit-image", "data/motorcycle_right.png")) as image:
        right = images.from_numpy(np.asarray(image))
    valid = torch.isfinite(disparity) & (disparity > 0)
    depth = MOTORCYCLE_FOCAL_LENGTH * MOTORCYCLE_BASELINE / (disparity + MOTORCYCLE_DOFFS)
    return {
        "image": load("motorcycle"),
        "right": right,
        "disparity": torch.where(valid, disparity, 0),
        "depth": torch.where(valid, depth, 0),
        "valid": valid,
    }


@functools.lru_cache(maxsize=1)
def _pool_colours() -> Tensor:
    """The colours of ``colour_pool``, kept because every procedural image asks for them."""
    pool = []
    for name in COLOUR_POOL:
        photograph = load(name)[0]  # (3, H, W)
        _, H, W = photograph.shape
        rows, columns = np.linspace(0, H - 1, 64).astype(int), np.linspace(0, W - 1, 96).astype(int)
        pool.append(photograph[:, rows][:, :, columns].flatten(1).T)  # (64 * 96, 3)
    return torch.cat(pool)


def colour_pool() -> Tensor:
    """Colours of the four tuning photographs, from which procedural images take theirs.

    Returns:
        ``(24576, 3)`` float32 RGB in [0, 1]: 6144 pixels each of china, flower, retina and hubble in this order, on a
        grid of 64 rows and 96 columns, row by row, so that neighbouring entries are neighbours in the photograph.
    """
    return _pool_colours().clone()


def read_image(path: str | os.PathLike, max_side: int | None = 1024) -> Tensor:
    """Read a user's own image file: whatever Pillow opens, as RGB in [0, 1].

    The EXIF rotation is applied. Grey images get three equal channels, palettes are expanded, CMYK is converted,
    transparent images are laid over white, as on a page. 16-bit grey values are divided by 65535; Pillow keeps the
    upper 8 of 16 bits per channel in colour files. Floating-point files must already lie in [0, 1]; signed and 32-bit
    integers are refused. Of an animation the first frame is read. Values are taken as sRGB; embedded colour profiles
    are ignored.

    Args:
        path: the file.
        max_side: larger images are reduced by area averaging until their longer side has this many pixels; None keeps
            the size.

    Returns:
        ``(1, 3, H, W)`` float32 RGB in [0, 1], H and W >= 2.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image, truncated or damaged, more than 80 megapixels, a side of 1 pixel, values whose range
            is not known, or ``max_side`` < 2.
    """
    if max_side is not None and max_side < 2:
        raise ValueError(f"max_side: expected at least 2 pixels or None, got {max_side}")
    path = Path(path)
    if not path.exists():
        hint = "" if path.is_absolute() else "; a relative path starts in the working folder, for a notebook its own"
        raise FileNotFoundError(f"path: there is no file {path}{hint}")
    array = _decode(path, max_side)
    if min(array.shape[:2]) < 2:
        raise ValueError(f"path: {path.name} is {array.shape[1]} x {array.shape[0]} pixels; both sides need at least 2")
    if array.ndim == 3 and array.shape[2] in (2, 4):  # colour and alpha: lay over white
        array = array.astype(np.float32) / 255
        array = array[..., :-1] * array[..., -1:] + (1 - array[..., -1:])
    return _reduce(_three_channels(images.from_numpy(array)), max_side)


def _decode(path: Path, max_side: int | None) -> np.ndarray:
    """Decode a file to ``(H, W)`` or ``(H, W, C)``: unsigned integers or floats in [0, 1]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides, below
            with Image.open(path) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{file.width} x {file.height} pixels")
                image = ImageOps.exif_transpose(file)
                image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"path: {path.name} has more than {MAX_PIXELS:,} pixels; make it smaller first") from error
    except Exception as error:  # damaged files make Pillow's decoders raise almost anything
        raise ValueError(f"path: {path.name} is not a readable image, or it is damaged ({error})") from error
    if image.mode == "I" and file.format not in ("PNG", "PPM"):  # these two hold at most 16 bits in this mode
        raise ValueError(f"path: {path.name} holds signed or 32-bit integers, of unknown range; save it as 8 or 16 bit")
    return _to_array(image, path.name, max_side)


def _to_array(image: Image.Image, name: str, max_side: int | None) -> np.ndarray:
    """Pixels of a decoded image without loss of range: 8-bit L, LA, RGB, RGBA; 16-bit grey; floats in [0, 1].

    8-bit images at least twice too large are averaged over whole squares first, to save memory.
    """
    if image.mode.startswith("I"):
        return np.array(image).astype(np.uint16)
    if image.mode == "F":
        array = np.array(image)
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"path: {name} holds values outside 0..1; rescale it first")
        return array
    if image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    factor = max(image.size) // max_side if max_side else 1
    factor = min(factor, min(image.size) // 2)
    return np.asarray(image.reduce(factor) if factor > 1 else image)


def _reduce(image: Tensor, max_side: int | None) -> Tensor:
    """Area-average an image down to ``max_side``, keeping its proportions; smaller images are returned as they are."""
    H, W = image.shape[-2:]
    if max_side is None or max(H, W) <= max_side:
        return image
    size = [max(2, round(side * max_side / max(H, W))) for side in (H, W)]
    return F.interpolate(image, size=size, mode="area")


def check_output(path: str | os.PathLike) -> str:
    """Pillow's name of the format that the ending of ``path`` asks for.

    Raises:
        ValueError: an ending that is not in `OUTPUT_FORMATS`, or the path of a folder.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"path: {path} is a folder; add the name of a file")
    if path.suffix.lower() not in OUTPUT_FORMATS:
        endings = ", ".join(OUTPUT_FORMATS)
        raise ValueError(f"path: {path.name} has no ending that names an image format; use one of {endings}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {path.parent}; create it first")
    return OUTPUT_FORMATS[path.suffix.lower()]


def write_image(image: Tensor, path: str | os.PathLike) -> None:
    """Write one image ``(1, C, H, W)`` in [0, 1] as 8 bit, whole or not at all; errors as `check_output`."""
    kind = check_output(path)
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    buffer = io.BytesIO()
    Image.fromarray(images.to_uint8(images.check_images(image))).save(buffer, kind, **options)
    write_atomically(Path(path), buffer.getvalue())
