"""explore: a live panel in front of a reader, three states without one, and no swallowed errors in either."""

import io
from types import SimpleNamespace

import ipywidgets
import pytest
from PIL import Image

from minirestore import widgets


def draw(figure, height, colour="blue"):
    figure.subplots().bar([0], [height], color=colour)
    return f"one {colour} bar of height {height}"


def broken(figure, height):
    if height > 1:
        raise ArithmeticError("cannot draw that")
    return draw(figure, height)


def test_headless_shows_three_states(monkeypatch, capsys):
    monkeypatch.setenv("MINIRESTORE_HEADLESS", "1")
    widgets.explore(draw, height=(1, 2, 3, 4, 5), colour=("red", "green", "blue"))
    assert capsys.readouterr().out == (
        "[figure] height = 1, colour = green: one green bar of height 1; "
        "height = 3, colour = green: one green bar of height 3; "
        "height = 5, colour = green: one green bar of height 5\n"
    )


def test_states_can_be_chosen(capsys):
    widgets.explore(draw, states=[{"height": 2}, {"height": 7}, {"height": 1}], height=(1, 2, 7))
    assert [part.split(":")[0] for part in capsys.readouterr().out.split("; ")] == [
        "[figure] height = 2", "height = 7", "height = 1",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="states: expected 3"):
        widgets.explore(draw, states=[{"height": 2}], height=(1, 2))


@pytest.mark.parametrize("controls", [{}, {"height": [1]}])
def test_controls_need_values(controls):
    with pytest.raises(ValueError, match="at least two values"):
        widgets.explore(draw, **controls)


@pytest.mark.parametrize("headless", ["0", "1"])
def test_an_error_in_draw_fails_the_cell(headless, monkeypatch):
    monkeypatch.setenv("MINIRESTORE_HEADLESS", headless)
    with pytest.raises(ArithmeticError, match="cannot draw that"):
        widgets.explore(broken, height=(2, 3, 4))


@pytest.mark.parametrize("headless", ["0", "1"])
def test_draw_must_return_a_measurement(headless, monkeypatch):
    monkeypatch.setenv("MINIRESTORE_HEADLESS", headless)
    with pytest.raises(TypeError, match="return the text alternative"):
        widgets.explore(lambda figure, height: None, height=(1, 2))
    with pytest.raises(ValueError, match="alt: expected a sentence"):
        widgets.explore(lambda figure, height: "no number in this sentence", height=(1, 2))


def test_a_reader_gets_a_panel(monkeypatch):
    shown = []
    monkeypatch.setenv("MINIRESTORE_HEADLESS", "0")
    monkeypatch.setattr("IPython.display.display", shown.append)
    widgets.explore(draw, height=(1, 2, 3), colour=("red", "green"))
    (box,) = shown
    slider, menu, picture, caption = box.children
    assert isinstance(slider, ipywidgets.SelectionSlider)
    assert isinstance(menu, ipywidgets.Dropdown)
    assert "one green bar of height 2" in caption.value
    assert Image.open(io.BytesIO(picture.value)).size == (240, 260)


def test_turning_a_knob_redraws():
    slider, menu, picture, caption = widgets.panel(
        draw, (2, 2), {"height": [1, 2, 3], "colour": ["red", "green"]}
    ).children
    before = picture.value
    menu.value = "red"
    assert "one red bar of height 2" in caption.value
    assert picture.alt == "one red bar of height 2"
    assert picture.value != before
    slider.value = 3
    assert "one red bar of height 3" in caption.value


def test_an_error_after_a_change_is_shown_and_raised():
    slider, picture, caption = widgets.panel(broken, (2, 2), {"height": [0, 1, 2]}).children
    with pytest.raises(ArithmeticError):
        slider.value = 2
    assert picture.value == b""
    assert "ArithmeticError" in caption.value
    slider.value = 0
    assert picture.value
    assert "height 0" in caption.value


def test_front_ends_are_recognised(monkeypatch):
    monkeypatch.delenv("MINIRESTORE_HEADLESS", raising=False)
    assert not widgets.reader_present()
    shell = SimpleNamespace(kernel=object(), user_ns={})
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert not widgets.reader_present()
    shell.user_ns["__vsc_ipynb_file__"] = "notebook"
    assert widgets.reader_present()
    shell.user_ns.clear()
    monkeypatch.setenv("JPY_SESSION_NAME", "03_wavelets.ipynb")
    assert widgets.reader_present()
    monkeypatch.setenv("MINIRESTORE_HEADLESS", "1")
    assert not widgets.reader_present()
    monkeypatch.setenv("MINIRESTORE_HEADLESS", "")
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns={}))
    assert not widgets.reader_present()
