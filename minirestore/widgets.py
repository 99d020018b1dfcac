"""Interactive explorers with a static form.

``explore(draw, sigma=(0, 10, 25, 50))`` is a panel of sliders when a reader sits in front of the notebook and a
figure of three states when it is run without one (built, tested, printed). An exception in ``draw`` fails
the cell in both cases.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minirestore import plots
from minirestore.config import reader_present

if TYPE_CHECKING:
    from ipywidgets import VBox

STATES = 3


def explore(
    draw: Callable[..., str],
    *,
    size: tuple[float, float] = (2.4, 2.6),
    states: Sequence[Mapping[str, Any]] | None = None,
    **controls: Sequence[Any],
) -> None:
    """Let the reader turn the knobs of ``draw``, or show three of its states when nobody is there.

    Args:
        draw: ``draw(figure, **values) -> alt``. It draws into a matplotlib (sub)figure, with ``figure.subplots(...)``,
            and returns what was measured, as for ``plots.show``.
        size: inches (width, height) of one state; states stand side by side while they fit, else below each other.
        states: the three states of the static figure, as dictionaries of values; by default the first control goes
            from its first through its middle to its last value while the others stay in the middle.
        controls: for every argument of ``draw`` the values it can take, in order: numbers become a slider, texts
            a menu.

    Raises:
        ValueError: no control, a control with fewer than two values, or not three states; whatever ``draw`` raises.
    """
    controls = {name: list(values) for name, values in controls.items()}
    if not controls or any(len(values) < 2 for values in controls.values()):
        raise ValueError(f"controls: expected at least two values for each, got {controls}")
    if states is not None and len(states) != STATES:
        raise ValueError(f"states: expected {STATES} dictionaries, got {len(states)}")
    if reader_present():
        from IPython.display import display

        display(panel(draw, size, controls))
        return
    show_states(draw, size, states or default_states(controls))


def default_states(controls: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """First, middle and last value of the first control; the other controls stay at their middle value."""
    middle = {name: values[len(values) // 2] for name, values in controls.items()}
    name, values = next(iter(controls.items()))
    return [{**middle, name: value} for value in (values[0], middle[name], values[-1])]


def show_states(draw: Callable[..., str], size: tuple[float, float], states: Sequence[Mapping[str, Any]]) -> None:
    """Draw ``states`` in one figure, titled by their values, and show it with their joined text alternatives."""
    width, height = size
    side_by_side = width * len(states) <= 8.5
    rows, columns = (1, len(states)) if side_by_side else (len(states), 1)
    figure = plots.new_figure(width * columns, (height + 0.25) * rows)
    texts = []
    for part, values in zip(figure.subfigures(rows, columns, squeeze=False).flat, states, strict=True):
        label = ", ".join(f"{name} = {value}" for name, value in values.items())
        part.suptitle(label, fontsize=9, weight="bold")
        texts.append(f"{label}: {plots.check_alt(_drawn(draw, part, values))}")
    plots.show(figure, alt="; ".join(texts))


def panel(draw: Callable[..., str], size: tuple[float, float], controls: Mapping[str, Sequence[Any]]) -> "VBox":
    """The live form: one widget per control, the picture, and its text alternative below.

    The first drawing happens here, so that an error in ``draw`` fails the cell. An error after a later change is shown
    in place of the picture and raised again.
    """
    import ipywidgets

    middle = {name: values[len(values) // 2] for name, values in controls.items()}
    knobs = {name: _knob(name, values, middle[name]) for name, values in controls.items()}
    picture, caption = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def redraw(_change: Any = None) -> None:
        values = {name: knob.value for name, knob in knobs.items()}
        figure = plots.new_figure(*size)
        try:
            alt = plots.check_alt(_drawn(draw, figure, values))
        except Exception as error:
            picture.value = b""
            caption.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"
            raise
        picture.value, picture.alt = plots.png_bytes(figure), alt
        caption.value = f"<small>{html.escape(alt)}</small>"

    redraw()
    for knob in knobs.values():
        knob.observe(redraw, names="value")
    return ipywidgets.VBox([*knobs.values(), picture, caption])


def _drawn(draw: Callable[..., str], figure: Any, values: Mapping[str, Any]) -> str:
    """Call ``draw`` and return its text."""
    text = draw(figure, **values)
    if not isinstance(text, str):
        raise TypeError(f"draw: expected it to return the text alternative, got {type(text).__name__}")
    return text


def _knob(name: str, values: Sequence[Any], value: Any) -> Any:
    """A menu for texts, a slider that moves over the given values for everything else."""
    import ipywidgets

    style = {"description_width": "initial"}
    if any(isinstance(option, str) for option in values):
        return ipywidgets.Dropdown(options=values, value=value, description=name, style=style)
    return ipywidgets.SelectionSlider(
        options=values, value=value, description=name, style=style, continuous_update=False
    )
