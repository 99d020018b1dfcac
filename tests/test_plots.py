"""Figures carry a text alternative that states a measurement."""

import base64
import io

import pytest
import torch
from PIL import Image

from minirestore import plots


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed inside a notebook."""
    bundles = []
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def figure():
    fig, axes = plots.subplots(width=2, height=1)
    axes.plot([0, 1])
    return fig


def test_show_displays_png_and_text(shown):
    plots.show(figure(), alt="A line that\n  rises by 1 unit")
    (bundle,) = shown
    assert bundle["text/plain"] == "[figure] A line that rises by 1 unit"
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).size == (200, 100)


def test_show_prints_the_text_outside_a_notebook(capsys):
    plots.show(figure(), alt="A line that rises by 1 unit")
    assert capsys.readouterr().out == "[figure] A line that rises by 1 unit\n"


@pytest.mark.parametrize("alt", ["", "a line", "A line that rises slowly all the way", "1"])
def test_show_refuses_texts_that_cannot_be_tested(alt):
    with pytest.raises(ValueError, match="alt: expected a sentence"):
        plots.show(figure(), alt=alt)


def test_show_closes_pyplot_figures():
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(1, 1))
    plots.show(fig, alt="An empty figure of 1 inch")
    assert not plt.fignum_exists(fig.number)


def test_the_same_figure_gives_the_same_bytes():
    assert plots.png_bytes(figure()) == plots.png_bytes(figure())


def test_large_pictures_are_reduced_to_a_palette():
    noise = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    png = plots.png_bytes(plots.image_row([noise] * 4, ["a", "b", "c", "d"]))
    assert Image.open(io.BytesIO(png)).mode == "P"
    assert len(png) < 120_000
    assert Image.open(io.BytesIO(plots.png_bytes(figure()))).mode != "P"


def test_cost_cards_keep_clock_and_machine_out_of_the_text(shown):
    plots.show_cost("Training", fixed={"parameters": 1234}, measured={"seconds": 3.21, "device": "cpu"})
    plots.show_cost("Training", fixed={"parameters": 1234}, measured={"seconds": 99.0, "device": "cuda"})
    first, second = shown
    assert first["text/plain"] == second["text/plain"] == "[cost] Training: parameters 1234"
    assert first["image/png"] != second["image/png"]


def test_cost_cards_refuse_measurements_as_fixed():
    with pytest.raises(TypeError, match=r"seconds=3\.21"):
        plots.show_cost("Training", fixed={"seconds": 3.21}, measured={})


def test_image_grids_check_their_shape():
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="2 images in every row"):
        plots.image_grid([[image]], ["a", "b"])
    with pytest.raises(ValueError, match="row_titles: expected 1"):
        plots.image_grid([[image]], ["a"], ["first", "second"])


def test_image_axes_map_the_range_to_grey():
    _, axes = plots.subplots()
    plots.image_axes(axes, torch.tensor([[[[-1.0, 0.0, 3.0]]]]), low=-1, high=1)
    assert axes.images[0].get_array().tolist() == [[0.0, 0.5, 1.0]]


def test_tables_have_four_significant_digits(capsys):
    plots.show_table(["PSNR (dB)", "SSIM"], {"astronaut": [27.12345, 0.9], "cat": [3.0, 0.000123456]})
    assert capsys.readouterr().out.splitlines() == [
        "           PSNR (dB)       SSIM",
        "astronaut      27.12     0.9000",
        "cat            3.000  0.0001235",
    ]
