"""Profiles, settings, folders and front ends: what a run may be told, where its files live, and who watches.

A setting is a name and a value that must already exist with the same type: in a frozen dataclass (`override`) or in a
dictionary of defaults (`check_values`). A wrong name or type is refused with the list of right ones.
"""

import ast
import dataclasses
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

PROFILES = ("quick", "reduced", "full")
Config = TypeVar("Config")


def check_profile(profile: str) -> str:
    """Return ``profile`` if it is one of ``PROFILES``; otherwise raise ValueError that lists them."""
    if profile not in PROFILES:
        raise ValueError(f"profile: got {profile!r}; choose one of {', '.join(PROFILES)}")
    return profile


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """Split command-line settings ``["key=value", ...]`` into a dictionary of texts.

    Raises:
        ValueError: a setting without ``=`` or without a name, or a name given twice.
    """
    parsed: dict[str, str] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        name = name.strip()
        if not separator or not name.isidentifier():
            raise ValueError(f"--set: expected key=value, got {setting!r}")
        if name in parsed:
            raise ValueError(f"--set: {name} is given twice; give it once")
        parsed[name] = text.strip()
    return parsed


def convert(name: str, value: Any, default: Any) -> Any:
    """Give ``value`` the type of ``default``; texts are read as Python literals first.

    An integer is accepted where the default is a float, a list where it is a tuple, a single value where it is a tuple
    of one, any literal where it is None.
    Nothing else is converted: ``steps=2.5`` is refused when the default is an integer. The elements of a tuple are
    converted like those of the default, the last of which stands for any that follow.

    Raises:
        TypeError: the value has another type; the message names the setting, the type wanted and what was got.
        ValueError: a tuple without elements, or more or fewer than two where the default is a pair of floats (a range).
    """
    if isinstance(value, str) and not isinstance(default, str):
        value = _literal(value)
    if isinstance(default, tuple) and len(default) == 1 and type(value) in (bool, int, float):
        value = (value,)
    if isinstance(default, tuple) and default and isinstance(value, tuple | list):
        if not value:
            raise ValueError(f"{name}: expected at least one element (as in {default!r}), got {value!r}")
        if [type(element) for element in default] == [float, float] and len(value) != 2:
            raise ValueError(f"{name}: expected two numbers (as in {default!r}), got {value!r}")
        like = (*default, *default[-1:] * len(value))
        return tuple(convert(f"{name}[{i}]", element, like[i]) for i, element in enumerate(value))
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, list) and isinstance(value, tuple):
        return list(value)
    wanted = type(default).__name__
    raise TypeError(f"{name}: expected {wanted} (as in {default!r}), got {value!r}")


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_values(values: Mapping[str, Any], defaults: Mapping[str, Any], *, what: str = "parameter") -> dict[str, Any]:
    """Return ``values`` converted to the types of ``defaults``.

    Args:
        values: names to new values; texts (from the command line or a YAML file) are converted.
        defaults: every name that exists, with its default value.
        what: what a name is called in the error message.

    Raises:
        ValueError: an unknown name; the message lists the right ones.
        TypeError: a value of the wrong type.
    """
    for name in values:
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            known = ", ".join(defaults) or "none"
            raise ValueError(f"unknown {what} {name!r}{hint} (known: {known})")
    return {name: convert(name, value, defaults[name]) for name, value in values.items()}


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a copy of the dataclass ``config`` with fields replaced by ``values``, checked by `check_values`."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"config: expected a dataclass instance, got {config!r}")
    defaults = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.init}
    what = f"{type(config).__name__} setting"
    return dataclasses.replace(config, **check_values(values, defaults, what=what))


def repository_root() -> Path | None:
    """The clone of the repository that this package, or else the working directory, lies in; None if there is none."""
    for start in (Path(__file__).resolve().parent, Path.cwd()):
        for folder in (start, *start.parents):
            if (folder / "notebooks" / "src").is_dir() and (folder / "pyproject.toml").is_file():
                return folder
    return None


def data_root() -> Path:
    """Folder of the shipped data (checkpoints, manifests, ledger).

    The environment variable ``MINIRESTORE_DATA`` when set, else ``data`` in the repository, else the copy inside the
    installed package.

    Raises:
        FileNotFoundError: ``MINIRESTORE_DATA`` names a folder that does not exist.
    """
    named = os.environ.get("MINIRESTORE_DATA")
    if named:
        if not Path(named).is_dir():
            raise FileNotFoundError(f"MINIRESTORE_DATA: {named} is not a folder; create it or unset the variable")
        return Path(named)
    root = repository_root()
    return root / "data" if root else Path(__file__).resolve().parent / "shipped_data"


def reader_present() -> bool:
    """Whether someone can move a slider or watch a bar: the code runs in a live front end.

    ``MINIRESTORE_HEADLESS=1`` says no and ``MINIRESTORE_HEADLESS=0`` says yes; the course's own runners set the former.
    Otherwise the answer is yes only inside an IPython kernel that a known front end started: Jupyter servers
    (JupyterLab, Notebook, Binder) name the notebook in ``JPY_SESSION_NAME``; VS Code and Colab leave other marks.
    papermill, nbclient, nbconvert and nbval leave none of these, so they get the static form.
    """
    headless = os.environ.get("MINIRESTORE_HEADLESS", "")
    if headless in ("0", "1"):
        return headless == "0"
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return False
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns or "google.colab" in sys.modules


def progress_bar(total: int, label: str, initial: int = 0) -> Any:
    """A tqdm progress bar in a terminal or a live notebook, silent everywhere else."""
    live = reader_present()
    if live:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm(total=total, desc=label, initial=initial, disable=not (live or sys.stderr.isatty()), leave=False)
