"""Photographs from installed packages, the motorcycle's geometry, and the reader of a user's own file."""

import hashlib
import importlib.metadata
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from minirestore import photos

PACKAGES = {"scikit-image", "scikit-learn", "PyWavelets", "matplotlib"}


def save(image, path, **options):
    image.save(path, **options)
    return path


def gradient(height=40, width=60, channels=3):
    """A colour ramp, uint8, different along both axes and in every channel."""
    y, x = np.mgrid[:height, :width]
    planes = [(y * 3 + x * 2 + 40 * c) % 256 for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


# ---------------------------------------------------------------- named photographs


@pytest.mark.parametrize("name", photos.names())
def test_every_photograph_loads_and_has_credit_and_licence(name):
    image, info = photos.load(name), photos.info(name)
    assert image.dtype == torch.float32 and image.shape[:2] == (1, 3) and min(image.shape[2:]) >= 256
    assert 0 <= image.min() < image.max() - 0.25 and 0.5 < image.max() <= 1
    assert info.name == name and info.package in PACKAGES and info.credit and info.licence and info.description


def test_sizes_and_channels_of_known_photographs():
    assert photos.load("astronaut").shape == (1, 3, 512, 512)
    assert photos.load("chelsea").shape == (1, 3, 300, 451)
    camera = photos.load("camera")
    assert torch.equal(camera[:, 0], camera[:, 2])


def test_load_equals_the_file_in_the_package():
    (file,) = (file for file in importlib.metadata.files("scikit-learn") if file.name == "china.jpg")
    expected = torch.from_numpy(np.array(Image.open(file.locate()))).permute(2, 0, 1)[None] / 255
    assert torch.equal(photos.load("china"), expected)


def test_unknown_name_lists_the_right_ones():
    with pytest.raises(ValueError, match="no photograph is called 'lena'.*astronaut"):
        photos.load("lena")


def test_missing_file_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(
        photos._PHOTOGRAPHS,
        "chelsea",
        photos.Photograph("chelsea", "scikit-image", "data/gone.png", "a cat", "nobody", "none"),
    )
    with pytest.raises(FileNotFoundError, match="data/gone.png is not part of the installed scikit-image"):
        photos.load("chelsea")


def test_loading_imports_none_of_the_heavy_packages():
    code = (
        "import sys; from minirestore import photos; photos.load('chelsea'); photos.load('china');"
        "print([m for m in ('skimage', 'sklearn', 'pooch', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_evaluation_and_colour_pool_are_disjoint():
    assert not set(photos.EVALUATION) & set(photos.COLOUR_POOL)
    assert photos.COLOUR_POOL == ("china", "flower", "retina", "hubble")


# ---------------------------------------------------------------- crops


@pytest.mark.parametrize("name", photos.EVALUATION)
def test_crops_are_windows_of_the_photograph_and_disjoint(name):
    photograph = photos.load(name)
    windows = photograph[0].unfold(1, 128, 1).unfold(2, 128, 1)  # (3, rows, columns, 128, 128)
    corners = []
    for crop in photos.crops(name):
        top_left = (windows[:, :, :, 0, 0] == crop[:, 0, 0].view(3, 1, 1)).all(0).nonzero()
        found = [tuple(at.tolist()) for at in top_left if torch.equal(windows[:, at[0], at[1]], crop)]
        assert found
        corners.append(found[0])
    (t0, l0), (t1, l1), (t2, l2), (t3, l3) = corners
    assert t0 == t1 and t2 == t3 and l0 == l2 and l1 == l3
    assert t2 - t0 >= 128 and l1 - l0 >= 128


def test_evaluation_crops_come_with_their_cluster():
    crops, clusters = photos.evaluation_crops(64)
    assert crops.shape == (24, 3, 64, 64) and len(clusters) == 24
    assert torch.equal(crops[8:12], photos.crops("coffee", 64)) and set(clusters[8:12]) == {"coffee"}
    assert [clusters.count(name) for name in photos.EVALUATION] == [4] * 6


@pytest.mark.parametrize("size", [1, 301])
def test_impossible_crops_are_refused(size):
    with pytest.raises(ValueError, match="size: must lie between 2 and 300"):
        photos.crops("chelsea", size)


def test_largest_crop_stays_inside():
    assert photos.crops("chelsea", 300).shape == (4, 3, 300, 300)


# ---------------------------------------------------------------- motorcycle


def test_motorcycle_depth_follows_from_disparity_and_calibration():
    scene = photos.middlebury_motorcycle()
    valid, depth, disparity = scene["valid"], scene["depth"], scene["disparity"]
    assert valid.dtype == torch.bool and valid.shape == depth.shape == (1, 1, 500, 741)
    assert 0.92 < valid.float().mean() < 0.93
    # full-size calibration of the data set: cam0 3979.911, doffs 124.343, baseline 193.001 mm, disparities 4 x larger
    expected = 193.001e-3 * 3979.911 / (4 * disparity[valid].double() + 124.343)
    torch.testing.assert_close(depth[valid].double(), expected, rtol=1e-5, atol=0)
    assert depth[valid].min() > 2.0 and depth.max() < 5.1
    assert (depth[~valid] == 0).all() and torch.isfinite(depth).all() and torch.isfinite(disparity).all()


def test_motorcycle_disparity_belongs_to_the_left_view():
    scene = photos.middlebury_motorcycle()
    H, W = scene["image"].shape[-2:]
    rows, columns = torch.arange(H)[:, None].expand(H, W), torch.arange(W).expand(H, W)

    def error(sign):
        source = (columns + sign * scene["disparity"][0, 0]).round().long()
        seen = scene["valid"][0, 0] & (source >= 0) & (source < W)
        warped = scene["right"][0, :, rows, source.clamp(0, W - 1)]
        return (warped - scene["image"][0]).abs().mean(0)[seen].median().item()

    assert error(-1) < 0.02 < 0.1 < error(1)


# ---------------------------------------------------------------- colour pool


def test_colour_pool_holds_pixels_of_the_four_photographs_in_order():
    pool = photos.colour_pool()
    assert pool.shape == (24576, 3) and pool.dtype == torch.float32
    code = torch.tensor([65536, 256, 1])
    for name, block in zip(photos.COLOUR_POOL, pool.split(6144), strict=True):
        pixels = ((photos.load(name)[0].flatten(1).T * 255).round().long() * code).sum(1)
        assert torch.isin(((block * 255).round().long() * code).sum(1), pixels).all()


def test_changing_the_returned_pool_changes_nothing():
    before = photos.colour_pool()
    photos.colour_pool().zero_()
    assert torch.equal(photos.colour_pool(), before) and before.max() > 0.9


# ---------------------------------------------------------------- a user's own file


def test_rgb_png_is_read_exactly(tmp_path):
    array = gradient()
    image = photos.read_image(save(Image.fromarray(array), tmp_path / "a.png"))
    assert image.shape == (1, 3, 40, 60) and image.dtype == torch.float32
    assert torch.equal(image[0], torch.from_numpy(array).permute(2, 0, 1) / 255)
    assert torch.equal(photos.read_image(str(tmp_path / "a.png")), image)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_rotation_is_applied(tmp_path, orientation, undo):
    array = gradient(24, 36)
    exif = Image.Exif()
    exif[274] = orientation
    path = save(Image.fromarray(array), tmp_path / "a.png", exif=exif)
    expected = torch.from_numpy(undo(array).copy()).permute(2, 0, 1) / 255
    assert torch.equal(photos.read_image(path)[0], expected)


def test_grey_bilevel_and_cmyk(tmp_path):
    grey = gradient(channels=1)[..., 0]
    image = photos.read_image(save(Image.fromarray(grey), tmp_path / "grey.png"))
    assert torch.equal(image[0], (torch.from_numpy(grey) / 255).expand(3, -1, -1))
    bilevel = photos.read_image(save(Image.fromarray(grey > 99), tmp_path / "bilevel.png"))
    assert torch.equal(bilevel[0, 0], torch.from_numpy(grey > 99).float())
    cmyk = photos.read_image(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.tif"))
    assert torch.allclose(cmyk, torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand_as(cmyk), atol=0.02)


def test_alpha_is_laid_over_white(tmp_path):
    array = np.zeros((4, 6, 4), np.uint8)
    array[..., 0], array[:, 3:, 3], array[:, 2, 3] = 200, 255, 51
    for name in ("a.png", "a.webp"):
        options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
        image = photos.read_image(save(Image.fromarray(array), tmp_path / name, **options))[0]
        assert (image[:, :, :2] == 1).all()
        assert torch.allclose(image[:, 0, 3], torch.tensor([200 / 255, 0, 0]))
        assert torch.allclose(image[:, 0, 2], torch.tensor([0.8 + 0.2 * 200 / 255, 0.8, 0.8]))
    grey = photos.read_image(save(Image.fromarray(array[..., [0, 3]], "LA"), tmp_path / "la.png"))[0]
    assert (grey[:, :, :2] == 1).all() and torch.allclose(grey[:, 0, 3], torch.tensor(200 / 255))


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (6, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 3, 4))
    opaque = photos.read_image(save(image, tmp_path / "p.png"))[0]
    assert opaque[:, 0, 0].tolist() == [1, 0, 0] and opaque[:, 0, 5].tolist() == [0, 0, 1]
    clear = photos.read_image(save(image, tmp_path / "t.png", transparency=0))[0]
    assert clear[:, 0, 0].tolist() == [1, 1, 1] and clear[:, 0, 5].tolist() == [0, 0, 1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_is_scaled_not_clipped(tmp_path, suffix):
    array = np.linspace(0, 65535, 48 * 32).astype(np.uint16).reshape(32, 48)
    image = photos.read_image(save(Image.fromarray(array), tmp_path / f"a.{suffix}"))
    torch.testing.assert_close(image[0, 1].double(), torch.from_numpy(array / 65535), rtol=1e-6, atol=1e-7)


def sixteen_bit_rgb_png(array):
    """The bytes of a 16-bit RGB PNG, which Pillow can read but not write."""
    H, W, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_sixteen_bit_colour_keeps_its_range(tmp_path):
    array = np.linspace(0, 65535, 16 * 20 * 3).reshape(16, 20, 3).astype(np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(sixteen_bit_rgb_png(array))
    expected = torch.from_numpy(array / 65535).permute(2, 0, 1).float()
    assert (photos.read_image(path)[0] - expected).abs().max() < 1 / 200


def test_float_tiff_must_lie_in_range(tmp_path):
    array = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    image = photos.read_image(save(Image.fromarray(array), tmp_path / "a.tif"))
    assert torch.equal(image[0, 0], torch.from_numpy(array))
    with pytest.raises(ValueError, match="values outside"):
        photos.read_image(save(Image.fromarray(array * 300), tmp_path / "b.tif"))


@pytest.mark.parametrize("dtype", [np.int32, np.int16])
def test_integers_of_unknown_range_are_refused(tmp_path, dtype):
    """Divided by 65535 they could come out nearly black."""
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.arange(48, dtype=dtype).reshape(6, 8), sample_format=2))
    with pytest.raises(ValueError, match=r"a\.tif holds signed or 32-bit integers.*save it as 8 or 16 bit"):
        photos.read_image(path)


def tiff(array, sample_format):
    """The bytes of an uncompressed big-endian grey TIFF; sample_format is 1 for unsigned, 2 for signed integers."""
    data = array.astype(array.dtype.newbyteorder(">")).tobytes()
    H, W = array.shape
    tags = [(256, W), (257, H), (258, 8 * array.itemsize), (259, 1), (262, 1), (273, 8), (277, 1), (278, H)]
    tags += [(279, len(data)), (339, sample_format)]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    return b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + struct.pack(">H", len(tags)) + entries + bytes(4)


def test_other_sixteen_bit_files_are_scaled(tmp_path):
    """Big-endian TIFF, and PGM, which Pillow opens in its 32-bit mode (16-bit PNG too in old versions)."""
    array = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    (tmp_path / "a.tif").write_bytes(tiff(array, sample_format=1))
    (tmp_path / "a.pgm").write_bytes(b"P5 8 6 65535\n" + array.astype(">u2").tobytes())
    for name in ("a.tif", "a.pgm"):
        image = photos.read_image(tmp_path / name)
        torch.testing.assert_close(image[0, 1].double(), torch.from_numpy(array / 65535), rtol=1e-6, atol=1e-7)


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert photos.read_image(tmp_path / "a.gif")[0, :, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("factor", [2, 3])
def test_large_images_are_averaged_over_areas(tmp_path, factor):
    small = gradient(30, 40)
    noise = np.random.default_rng(0).integers(-9, 10, (30, factor, 40, factor, 1))
    noise -= noise.mean((1, 3), keepdims=True).round().astype(int)
    large = (small.clip(20, 230)[:, None, :, None] + noise).astype(np.uint8)
    averages = torch.from_numpy(large.mean((1, 3))).permute(2, 0, 1) / 255
    path = save(Image.fromarray(large.reshape(30 * factor, 40 * factor, 3)), tmp_path / "a.png")
    image = photos.read_image(path, max_side=40)
    assert image.shape == (1, 3, 30, 40)
    assert (image[0] - averages).abs().max() < 1 / 255  # whole squares are averaged with 8-bit rounding


def test_max_side_keeps_proportions_and_none_keeps_the_size(tmp_path):
    path = save(Image.fromarray(gradient(60, 150)), tmp_path / "a.png")
    assert photos.read_image(path, max_side=100).shape == (1, 3, 40, 100)
    assert photos.read_image(path, max_side=150).shape == (1, 3, 60, 150)
    assert photos.read_image(path, max_side=None).shape == (1, 3, 60, 150)
    thin = save(Image.fromarray(gradient(3, 300)), tmp_path / "thin.png")
    assert photos.read_image(thin, max_side=20).shape == (1, 3, 2, 20)
    with pytest.raises(ValueError, match="max_side"):
        photos.read_image(path, max_side=1)


def damaged(kind):
    """Bytes of a file that cannot be an image."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG" if kind == "truncated JPEG" else "PNG")
    data = buffer.getvalue()
    middle = len(data) // 2
    return {
        "truncated PNG": data[:middle],
        "truncated JPEG": data[:middle],
        "bit flip in PNG": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
        "empty": b"",
        "garbage": np.random.default_rng(2).bytes(5000),
        "text": b"this is not an image\n" * 20,
        "header only": data[:20],
    }[kind]


@pytest.mark.parametrize(
    "kind", ["truncated PNG", "truncated JPEG", "bit flip in PNG", "empty", "garbage", "text", "header only"]
)
def test_damaged_files_give_one_clear_error(tmp_path, kind):
    path = tmp_path / "photo.bin"
    path.write_bytes(damaged(kind))
    with pytest.raises(ValueError, match="photo.bin is not a readable image, or it is damaged"):
        photos.read_image(path)


@pytest.mark.parametrize("side", [9_000, 30_000])
def test_decompression_bombs_are_refused_before_decoding(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="bomb.png has more than 80,000,000 pixels"):
        photos.read_image(path)


def test_compressed_text_bombs_are_refused(tmp_path):
    information = PngImagePlugin.PngInfo()
    information.add_text("comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK * 2), zip=True)
    path = save(Image.fromarray(gradient()), tmp_path / "text.png", pnginfo=information)
    with pytest.raises(ValueError, match="text.png is not a readable image"):
        photos.read_image(path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_images_of_one_pixel_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="both sides need at least 2"):
        photos.read_image(save(Image.fromarray(np.zeros((*shape, 3), np.uint8)), tmp_path / "a.png"))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        photos.read_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="not a readable image"):
        photos.read_image(tmp_path)


def test_reading_leaves_the_file_alone(tmp_path):
    path = save(Image.fromarray(gradient()), tmp_path / "a.png")
    before = hashlib.sha256(path.read_bytes()).digest()
    photos.read_image(path)
    assert hashlib.sha256(path.read_bytes()).digest() == before


@pytest.mark.parametrize("ending", [*photos.OUTPUT_FORMATS, ".PNG"])
def test_a_written_image_reads_back(tmp_path, ending):
    image = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    path = tmp_path / f"out{ending}"
    photos.write_image(image, path)
    tolerance = 0.2 if ending in (".jpg", ".jpeg") else 0.5 / 255 + 1e-6
    assert (photos.read_image(path) - image).abs().max() <= tolerance
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    for name in ("out.docx", "out", "out.pdf", "out.gif", "out.mpo"):
        with pytest.raises(ValueError, match=r"no ending that names an image format; use one of \.png, \.jpg"):
            photos.check_output(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder; add the name of a file"):
        photos.check_output(tmp_path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match="folder.png is a folder"):
        photos.check_output(tmp_path / "folder.png")
    (tmp_path / "folder.png").rmdir()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        photos.check_output(tmp_path / "absent" / "out.png")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        photos.write_image(torch.full((1, 3, 4, 4), 7.0), tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []
