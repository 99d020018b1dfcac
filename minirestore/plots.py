"""Figures with tested text alternatives.

``show(fig, alt="...")`` displays a figure as a PNG together with a sentence that states what was measured. Screen
readers read the sentence and nbval compares it, so a figure that changes its numbers fails the notebook's test.
"""

import base64
import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minirestore import images, statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

DPI = 100
SHORTEST_ALT = 20
LARGEST_PNG = 8_000
FIGURE_PREFIX = "[figure] "
COST_PREFIX = "[cost] "
# Okabe and Ito: told apart by readers with any common form of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def use_house_style() -> None:
    """Give matplotlib the settings of the course's figures; the functions below do so themselves."""
    import matplotlib
    from cycler import cycler

    style = {
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "figure.dpi": DPI,
        "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "grid.alpha": 0.3,
        "image.cmap": "gray",
        "image.interpolation": "nearest",
        "legend.frameon": False,
        "lines.linewidth": 1.6,
    }
    matplotlib.rcParams.update(style)


def new_figure(width: float = 7.0, height: float = 2.6) -> "Figure":
    """An empty figure in the house style, ``width`` x ``height`` inches; it is never shown twice by Jupyter."""
    from matplotlib.figure import Figure

    use_house_style()
    return Figure(figsize=(width, height))


def subplots(rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 2.6, **options: Any) -> tuple:
    """``(figure, axes)`` like ``matplotlib.pyplot.subplots``, in the house style; sizes in inches."""
    figure = new_figure(width, height)
    return figure, figure.subplots(rows, columns, **options)


def image_axes(axes: "Axes", image: "Tensor", title: str = "", *, low: float = 0.0, high: float = 1.0) -> None:
    """Draw one image ``(1, C, H, W)`` or ``(C, H, W)``, C = 1 or 3, on ``axes``; [low, high] maps to black..white."""
    array = (images.to_numpy(image) - low) / (high - low)
    axes.imshow(array.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def image_row(pictures: Sequence["Tensor"], titles: Sequence[str], *, width: float = 7.0) -> "Figure":
    """One row of images with a title each; see `image_grid`."""
    return image_grid([pictures], titles, width=width)


def image_grid(
    rows: Sequence[Sequence["Tensor"]], titles: Sequence[str], row_titles: Sequence[str] = (), *, width: float = 7.0
) -> "Figure":
    """A grid of images in [0, 1]: ``rows`` of equally many images ``(1, C, H, W)``, column titles, row titles.

    Raises:
        ValueError: rows of different lengths, or a number of titles that does not match.
    """
    columns = len(titles)
    if not rows or any(len(row) != columns for row in rows):
        raise ValueError(f"rows: expected {columns} images in every row, got {[len(row) for row in rows]}")
    if row_titles and len(row_titles) != len(rows):
        raise ValueError(f"row_titles: expected {len(rows)} titles, got {len(row_titles)}")
    shape = rows[0][0].shape
    height = len(rows) * width / columns * shape[-2] / shape[-1] + 0.3 * max(title.count("\n") + 1 for title in titles)
    figure, axes = subplots(len(rows), columns, width=width, height=height, squeeze=False)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            image_axes(axes[i][j], picture, titles[j] if i == 0 else "")
        if row_titles:
            axes[i][0].text(-0.04, 0.5, row_titles[i], rotation=90, va="center", ha="right",
                            transform=axes[i][0].transAxes, fontsize=9)  # fmt: skip
    return figure


def check_alt(alt: str) -> str:
    """Return the text alternative ``alt`` stripped, or raise ValueError when it says too little to be tested."""
    text = " ".join(str(alt).split())
    if len(text) < SHORTEST_ALT or not any(character.isdigit() for character in text):
        raise ValueError(
            f"alt: expected a sentence of at least {SHORTEST_ALT} characters with a measured number, got {text!r}; "
            "say what the figure shows and what was measured"
        )
    return text


def png_bytes(figure: "Figure") -> bytes:
    """The figure as PNG; a picture that would be large is reduced to 256 colours so that notebooks stay small."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    if buffer.tell() <= LARGEST_PNG:
        return buffer.getvalue()
    reduced = io.BytesIO()
    palette = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    palette.save(reduced, format="png", optimize=True)
    return min(buffer.getvalue(), reduced.getvalue(), key=len)


def show(figure: "Figure", alt: str) -> None:
    """Display ``figure`` with its text alternative and close it.

    Args:
        figure: any matplotlib figure.
        alt: a sentence that says what the figure shows, with the measured numbers (four significant digits).

    Raises:
        ValueError: ``alt`` is shorter than 20 characters or holds no number.
    """
    _display(figure, FIGURE_PREFIX + check_alt(alt))


def show_cost(title: str, fixed: Mapping[str, int], measured: Mapping[str, Any]) -> None:
    """Display a cost card: what a run costs and what it was measured on.

    Args:
        title: what was run.
        fixed: deterministic whole numbers such as ``{"parameters": 997379, "MACs": 1200000000}``; they are the text.
        measured: whatever depends on the clock or the machine, such as ``{"seconds": 3.2, "device": "cpu"}``; floats
            are rounded to two digits. They are drawn only, so that the card's text is the same everywhere.
    """
    strangers = [name for name, value in fixed.items() if type(value) is not int]
    if strangers:
        raise TypeError(
            f"fixed: expected whole numbers, got {strangers[0]}={fixed[strangers[0]]!r}; pass it as measured"
        )
    lines = [f"{name}: {value:,}" for name, value in fixed.items()]
    lines += [
        f"{name}: {value:.2g}" if isinstance(value, float) else f"{name}: {value}" for name, value in measured.items()
    ]
    figure = new_figure(7.0, 0.35 + 0.2 * len(lines))
    figure.text(0.02, 0.97, title, va="top", fontsize=10, weight="bold")
    figure.text(0.02, 0.97 - 0.25 / figure.get_figheight(), "\n".join(lines), va="top", fontsize=9, linespacing=1.4)
    text = "; ".join(f"{name} {value}" for name, value in fixed.items()) or "no deterministic field"
    _display(figure, f"{COST_PREFIX}{title}: {text}")


def show_table(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
    """Print a table with a name and four significant digits per number, e.g. one row per photograph."""
    first = max(len(name) for name in [*rows, ""])
    widths = [max(len(column), 9) for column in columns]
    print(" " * first + "".join(f"  {column:>{width}}" for column, width in zip(columns, widths, strict=True)))
    for name, values in rows.items():
        cells = "".join(
            f"  {statistics.significant(value):>{width}}" for value, width in zip(values, widths, strict=True)
        )
        print(f"{name:<{first}}{cells}")


def _display(figure: "Figure", text: str) -> None:
    from IPython import get_ipython
    from IPython.display import display

    png = png_bytes(figure)
    if "matplotlib.pyplot" in sys.modules:
        import matplotlib.pyplot as plt

        plt.close(figure)
    if get_ipython() is None:
        print(text)
        return
    display({"image/png": base64.b64encode(png).decode(), "text/plain": text}, raw=True)
