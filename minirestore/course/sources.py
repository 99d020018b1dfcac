"""The sources of the course: percent scripts ``notebooks/src/NN_name.py`` and ``notebooks/configs/NN_name.yaml``."""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from minirestore import config

DEFAULT_TIMEOUT = 600
LANGUAGE_INFO = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}
KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


@dataclass(frozen=True)
class Lesson:
    """One notebook of the course; ``root`` is the folder that holds ``src``, ``configs`` and ``labs``."""

    name: str
    root: Path

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def source(self) -> Path:
        return self.root / "src" / f"{self.name}.py"

    @property
    def notebook(self) -> Path:
        return self.root / f"{self.name}.ipynb"

    @property
    def lab(self) -> Path:
        return self.root / "labs" / f"{self.name}.ipynb"

    @property
    def configuration(self) -> Path:
        return self.root / "configs" / f"{self.name}.yaml"


@dataclass(frozen=True)
class Configuration:
    """The file ``notebooks/configs/NN_name.yaml``.

    Attributes:
        timeout, timeout_reduced, timeout_full: seconds the notebook may take at each profile before it is stopped.
        networks: whether the notebook needs data, weights or training time that a dry run should list.
        reduced, full: parameters that differ from the notebook's own, which are those of ``quick``.
    """

    timeout: int = DEFAULT_TIMEOUT
    timeout_reduced: int = 3 * 3600
    timeout_full: int = 14 * 24 * 3600
    networks: bool = False
    reduced: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)


def notebooks_root() -> Path:
    """The folder ``notebooks`` of the clone; FileNotFoundError outside a clone."""
    root = config.repository_root()
    if root is None:
        raise FileNotFoundError("no notebooks/src found here or above: run this inside a clone of the repository")
    return root / "notebooks"


def lessons(numbers: Sequence[str] = (), root: Path | None = None) -> list[Lesson]:
    """The lessons with these numbers (``"03"`` or ``"3"`` or ``"03_wavelets"``), all when none is given, in order.

    Raises:
        ValueError: a number that no notebook has; the message lists the right ones.
    """
    root = root or notebooks_root()
    found = [Lesson(path.stem, root) for path in sorted((root / "src").glob("[0-9][0-9]_*.py"))]
    known = {lesson.number: lesson for lesson in found}
    wanted = []
    for text in numbers:
        number = text.split("_")[0].zfill(2)
        if number not in known or text not in (number, str(int(number)), known[number].name):
            raise ValueError(f"notebook: got {text!r}; choose from {', '.join(known) or 'none found'}")
        wanted.append(known[number])
    return wanted or found


def source_hash(lesson: Lesson) -> str:
    """sha256 of the source text; line endings do not count."""
    text = lesson.source.read_text(encoding="utf-8").replace("\r\n", "\n")
    return hashlib.sha256(text.encode()).hexdigest()


def read_source(lesson: Lesson) -> NotebookNode:
    """The source as an unexecuted notebook with cell ids that depend only on the cells' text."""
    import jupytext

    parsed = jupytext.reads(lesson.source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook = nbformat.v4.new_notebook(cells=parsed.cells)
    notebook.nbformat_minor = 5
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNELSPEC),
        language_info=NotebookNode(LANGUAGE_INFO),
        minirestore=NotebookNode(source_sha256=source_hash(lesson)),
    )
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.metadata = NotebookNode(tags=tags(cell)) if tags(cell) else NotebookNode()
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def parameter_defaults(lesson: Lesson) -> dict[str, Any]:
    """The names and literal values of the ``parameters`` cell: ``profile``, ``seed`` and the notebook's own.

    Raises:
        ValueError: the first code cell is not tagged ``parameters``, or holds more than ``name = literal`` lines.
    """
    code = [cell for cell in read_source(lesson).cells if cell.cell_type == "code"]
    if not code or tags(code[0]) != ["parameters"]:
        raise ValueError(f'{lesson.name}: the first code cell must be headed # %% tags=["parameters"]')
    defaults = {}
    for statement in ast.parse(code[0].source).body:
        try:
            (target,) = statement.targets
            defaults[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            line = ast.unparse(statement)
            raise ValueError(f"{lesson.name}: the parameters cell may hold only name = literal, got {line!r}") from None
    missing = {"profile", "seed"} - set(defaults)
    if missing or defaults["profile"] != "quick":
        raise ValueError(f'{lesson.name}: the parameters cell must set profile = "quick" and seed')
    return defaults


def read_configuration(lesson: Lesson) -> Configuration:
    """Read and check the lesson's YAML file against its parameters cell."""
    import yaml

    text = lesson.configuration.read_text(encoding="utf-8") if lesson.configuration.is_file() else ""
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{lesson.configuration.name}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{lesson.configuration.name}: expected names and values, got {content!r}")
    found = config.override(Configuration(), content)
    for profile in ("reduced", "full"):
        _own_parameters(lesson, getattr(found, profile))
    return found


def _own_parameters(lesson: Lesson, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` checked against the parameters cell, which ``profile`` is not part of."""
    defaults = parameter_defaults(lesson)
    del defaults["profile"]
    if "profile" in values:
        raise ValueError("profile: choose it with --profile, not as a parameter")
    return config.check_values(values, defaults, what=f"parameter of notebook {lesson.number}")


def parameters(lesson: Lesson, profile: str = "quick", settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All parameters of one run: the notebook's own, then those of the profile, then ``settings``.

    Raises:
        ValueError, TypeError: unknown profile, unknown parameter (with the list of right ones) or wrong type.
    """
    config.check_profile(profile)
    values = {} if profile == "quick" else getattr(read_configuration(lesson), profile)
    values = _own_parameters(lesson, {**values, **(settings or {})})
    return {**parameter_defaults(lesson), **values, "profile": profile}
