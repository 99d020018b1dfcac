"""Where every claim stands: as rows for programs, as a table, and as a forest plot."""

import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirestore.claims import ledger as ledgers
from minirestore.claims import verdicts
from minirestore.claims.definitions import Claim, claims_of, load_claims
from minirestore.claims.verdicts import Assessment, assess
from minirestore.statistics import significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOT_TESTABLE, NOT_RUN, STALE = "not testable here", "not run", "stale"
VERDICTS = (verdicts.SUPPORTED, verdicts.CONTRADICTED, verdicts.NOT_RESOLVED, STALE, NOT_RUN, NOT_TESTABLE)
WIDTH = 112  # characters of a printed line
FARTHEST = 4.0  # where the forest's axis turns logarithmic, in smallest effects of interest
ROW_INCHES = 0.42


def status_rows(paper: str | None = None, ledger: str | Path | None = None) -> list[dict[str, Any]]:
    """Where each claim of ``paper`` (of all papers by default) stands, in order, as plain JSON values.

    Returns:
        Per claim: id, paper, where, tier, statement, contrast, unit, paper_effect, paper_value, verdict, reason (why
        it is stale or not testable), effect and ci (raw: in ``unit`` and with the sign of ``contrast``), n_seeds,
        n_units (the seeds where something is trained, else the photographs, or what is counted), p, holm (``yes``,
        ``no`` or ``-``), and the command that measures it. effect, ci, n_seeds, n_units and p are None without current
        results.

    Raises:
        ValueError: no such paper, or damaged results.
    """
    rows = []
    for claim in claims_of(paper):
        verdict, reason, assessment = _status(claim, ledger)
        rows.append(_row(claim, verdict, reason, assessment))
    for name in {row["paper"] for row in rows}:
        tested = {row["id"]: row for row in rows if row["paper"] == name and row["p"] is not None}
        holm = verdicts.holm_column({id: (row["p"], row["verdict"]) for id, row in tested.items()})
        for id, row in tested.items():
            row["holm"] = holm[id]
    return rows


def _status(claim: Claim, ledger: str | Path | None) -> tuple[str, str, Assessment | None]:
    """Verdict, its reason if the ledger gives none, and the assessment of current results."""
    if claim.not_testable:
        return NOT_TESTABLE, claim.not_testable, None
    if not ledgers.has_results(claim.id, ledger):
        return NOT_RUN, "", None
    results = ledgers.read_results(claim.id, ledger)
    if reason := ledgers.stale_reason(claim, results.card):
        return STALE, reason, None
    assessment = assess(claim, results.rows)
    return assessment.verdict, "", assessment


def _row(claim: Claim, verdict: str, reason: str, assessment: Assessment | None) -> dict[str, Any]:
    fields = ("id", "paper", "where", "tier", "statement", "contrast", "unit", "paper_effect", "paper_value")
    return {
        **{name: getattr(claim, name) for name in fields},
        "verdict": verdict,
        "reason": reason,
        "effect": assessment and assessment.effect,
        "ci": assessment and [assessment.low, assessment.high],
        "n_seeds": assessment and assessment.n_seeds,
        "n_units": assessment and assessment.n_units,
        "p": assessment and assessment.p,
        "holm": "-",
        "command": claim.command,
    }


# ---------------------------------------------------------------- text


def effect_text(row: dict[str, Any]) -> str:
    """``0.1234 [0.05000, 0.2000] dB``; ``-`` without results."""
    if row["effect"] is None:
        return "-"
    low, high = (significant(end) for end in row["ci"])
    return f"{significant(row['effect'])} [{low}, {high}] {row['unit']}".rstrip()


def list_lines(rows: list[dict[str, Any]]) -> list[str]:
    """One line per claim, not longer than `WIDTH`; statements are shortened to fit."""
    columns = ("claim", "tier", "verdict", "effect [95 % interval]", "Holm")
    cells = [(row["id"], _tier(row), row["verdict"], effect_text(row), row["holm"]) for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    left = max(WIDTH - sum(widths) - 2 * len(widths), 24)
    statements = ["statement", *(_shortened(row["statement"], left) for row in rows)]
    return [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)), statement])
        for line, statement in zip((columns, *cells), statements, strict=True)
    ]


def _tier(row: dict[str, Any]) -> str:
    return "-" if row["verdict"] == NOT_TESTABLE else row["tier"]


def _shortened(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" ...")


def report_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The report as lines: a head and a few lines per claim, then the count of verdicts and how to read them."""
    known = load_claims()
    columns = ("claim", "verdict", "effect [95 % interval]", "n", "Holm")
    cells = [(row["id"], row["verdict"], effect_text(row), _units(row), row["holm"]) for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = []
    for i, line in enumerate((columns, *cells)):
        lines.append("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
        if i:
            lines += _details(known[line[0]], rows[i - 1], " " * (widths[0] + 2))
    return [*lines, "", *_footer(rows)]


def _units(row: dict[str, Any]) -> str:
    """The independent units with their number."""
    if row["n_units"] is None:
        return "-"
    claim = load_claims()[row["id"]]
    return f"{row['n_units']} {'seeds' if claim.trained else 'cells' if claim.counted else claim.clusters}"


def _details(claim: Claim, row: dict[str, Any], indent: str) -> list[str]:
    """What a claim says, what the paper reports, what decides, and what to do; each wrapped to `WIDTH`."""
    texts = [claim.statement, f"paper ({claim.where}): {claim.paper_effect}"]
    if not claim.not_testable:
        side = "above" if claim.sign > 0 else "below"
        null, smallest = (f"{claim.sign * value + 0.0:g}" for value in (claim.null, claim.smallest))
        texts.append(
            f"{claim.contrast}: paper's side {side} {null}, smallest effect of interest {smallest} {claim.unit}"
        )
    if row["reason"]:
        texts.append(f"reason: {row['reason']}")
    if row["verdict"] in (NOT_RUN, STALE):
        texts.append(f"run: {claim.command}")
    return [
        line
        for text in texts
        for line in textwrap.wrap(
            text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", max_lines=2, placeholder=" ..."
        )
    ]


def _footer(rows: list[dict[str, Any]]) -> list[str]:
    counts = Counter(row["verdict"] for row in rows)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    exact = "; exact binomial over cells of a table" if any(load_claims()[row["id"]].counted for row in rows) else ""
    rules = (
        "supported: the whole interval lies on the paper's side and the estimate reaches the smallest effect of "
        "interest. contradicted: the interval excludes that effect. Intervals: t over seeds where something is "
        f"trained, else the wider of bootstrap and t over photographs{exact}. Holm: the verdict survives correction "
        "for all claims of the paper that have results, at 5 %."
    )
    return [f"{len(rows)} claims: {said}", *textwrap.wrap(rules, WIDTH)]


def print_report(paper: str | None = None, ledger: str | Path | None = None) -> None:
    """Print where every claim of ``paper`` (of all papers by default) stands; errors as `status_rows`."""
    print("\n".join(report_lines(status_rows(paper, ledger))))


# ---------------------------------------------------------------- figure


def forest(paper: str | None = None, ledger: str | Path | None = None) -> "Figure":
    """Our effects with their intervals, and the paper's beside them, one row per claim that has current results.

    Effects have different units, so each row has its own: the distance from ``null`` in multiples of the distance from
    null to the smallest effect of interest, oriented so that the paper's side is to the right. Where both coincide,
    the multiples are of |null|. Beyond `FARTHEST` the axis is logarithmic. Errors as `status_rows`.

    Raises:
        ValueError: no claim has current results.
    """
    from matplotlib.lines import Line2D

    from minirestore import plots

    rows = _tested(status_rows(paper, ledger), paper)
    figure, axes = plots.subplots(width=9.0, height=1.35 + ROW_INCHES * len(rows))
    colours = dict(zip(VERDICTS[:3], (plots.COLOURS[0], plots.COLOURS[1], "#666666"), strict=True))
    markers = dict(zip(VERDICTS[:3], ("o", "X", "s"), strict=True))
    axes.set_xscale("symlog", linthresh=FARTHEST, linscale=2)
    axes.set_xmargin(0.05)
    axes.plot([0, 0], [-1, len(rows)], color="black", linewidth=1)
    for y, row in enumerate(rows):
        _draw_row(axes, load_claims()[row["id"]], row, y, colours[row["verdict"]], markers[row["verdict"]])
    low, high = axes.get_xlim()
    ticks = [t for t in (-1000, -100, -10, -4, -2, 0, 1, 2, 4, 10, 100, 1000) if low <= t <= high]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(rows)), [f"{row['id']}  {_shortened(row['contrast'], 34)}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    bend = f"; logarithmic beyond {FARTHEST:g}" if max(-low, high) > FARTHEST else ""
    axes.set_xlabel(f"distance from null, in smallest effects of interest (the paper's side is right{bend})")
    axes.set_title(f"Claims of {paper}" if paper else "Claims of all papers")
    handles = [
        *(Line2D([], [], color=colours[v], marker=markers[v], label=v) for v in VERDICTS[:3]),
        Line2D([], [], color="black", marker="D", markerfacecolor="none", linestyle="", label="the paper's effect"),
        Line2D([], [], color="black", marker="|", markersize=11, linestyle="", label="smallest effect of interest"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _tested(rows: list[dict[str, Any]], paper: str | None) -> list[dict[str, Any]]:
    tested = [row for row in rows if row["effect"] is not None]
    if not tested:
        raise ValueError(f"forest: no claim of {paper or 'any paper'} has current results; see minirestore claims list")
    return tested


def _draw_row(axes: "Axes", claim: Claim, row: dict[str, Any], y: int, colour: str, marker: str) -> None:
    """One claim at height ``y``: interval, estimate, smallest effect of interest, the paper's effect, our numbers."""
    scale = claim.smallest - claim.null or abs(claim.null) or 1.0

    def place(raw: float) -> float:
        return (claim.sign * raw - claim.null) / scale

    axes.plot(sorted(place(end) for end in row["ci"]), [y, y], color=colour, linewidth=2)
    axes.plot(place(row["effect"]), y, color=colour, marker=marker, markersize=6)
    axes.plot((claim.smallest - claim.null) / scale, y, color="black", marker="|", markersize=13)
    if row["paper_value"] is not None:
        axes.plot(place(row["paper_value"]), y, color="black", marker="D", markersize=6, markerfacecolor="none")
    axes.text(1.01, y, effect_text(row), transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def alt_text(paper: str | None = None, ledger: str | Path | None = None) -> str:
    """The text alternative of `forest`: verdict and effect of every row; errors as there."""
    rows = _tested(status_rows(paper, ledger), paper)
    parts = [f"{row['id']} {row['contrast']} {effect_text(row)}, {row['verdict']}" for row in rows]
    return f"Forest plot of {len(rows)} claims of {paper or 'all papers'}: {'; '.join(parts)}."
