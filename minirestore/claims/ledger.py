"""The ledger: per claim a CSV of measured values and a JSON card that says how they came about."""

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirestore.claims.definitions import KEY_COLUMNS, Claim, Protocol, Row, find_claim
from minirestore.config import data_root

CARD_FIELDS = ("id", "protocol", "protocol_hash", "checkpoints", "device", "wall_time_s", "csv_sha256")


@dataclass(frozen=True)
class Results:
    """The measured rows of a claim, sorted by seed, arm and image, and their card."""

    rows: tuple[Row, ...]
    card: dict[str, Any]


def ledger_folder(ledger: str | Path | None = None) -> Path:
    """``ledger``, or by default the shipped one."""
    return data_root() / "ledger" if ledger is None else Path(ledger)


def paths(id: str, ledger: str | Path | None = None) -> tuple[Path, Path]:
    """The CSV and the card of a claim."""
    folder = ledger_folder(ledger)
    return folder / f"{id}.csv", folder / f"{id}.json"


def check_grid(protocol: Protocol, rows: Sequence[Row]) -> None:
    """Raise ValueError unless ``rows`` hold every seed, arm and image exactly once, with finite values."""
    cells = [tuple(row[name] for name in KEY_COLUMNS) for row in rows]
    for problem, where in (
        ("is missing", sorted(protocol.cells - set(cells))),
        ("is not of the protocol", sorted(set(cells) - protocol.cells)),
        ("is there twice", sorted({cell for cell in cells if cells.count(cell) > 1}) if _repeats(cells) else []),
    ):
        if where:
            seed, arm, image = where[0]
            more = f" and {len(where) - 1} more" if len(where) > 1 else ""
            raise ValueError(f"seed {seed}, arm {arm}, image {image}{more} {problem}")
    for row in rows:
        for metric in protocol.metrics:
            if not math.isfinite(row[metric]):
                raise ValueError(
                    f"{metric} of seed {row['seed']}, arm {row['arm']}, image {row['image']} is not finite"
                )


def _repeats(cells: list) -> bool:
    return len(set(cells)) < len(cells)


def write_results(
    claim: Claim, rows: Sequence[Row], *, device: str, wall_time_s: float, ledger: str | Path | None = None
) -> Path:
    """Write the CSV and the card of ``claim``, each whole or not at all; returns the CSV's path.

    Args:
        rows: the complete grid of the claim's protocol, in any order; values are kept to six significant digits.
        device: what measured them, in words. wall_time_s: how long it took, in seconds.

    Raises:
        ValueError: the grid is not complete or a value is not finite; nothing is written then.
    """
    from minirestore.checkpoints import write_atomically

    try:
        check_grid(claim.protocol, rows)
    except ValueError as error:
        raise ValueError(f"rows: {claim.id}: {error}; nothing was written") from None
    payload = _as_csv(claim.protocol, rows)
    card = {
        "id": claim.id,
        "protocol": claim.protocol.as_dict(),
        "protocol_hash": claim.protocol.hash,
        "checkpoints": checkpoint_digests(claim),
        "device": device,
        "wall_time_s": round(wall_time_s, 1),
        "csv_sha256": hashlib.sha256(payload).hexdigest(),
    }
    csv_path, card_path = paths(claim.id, ledger)
    write_atomically(csv_path, payload)
    text = json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(card_path, (text + "\n").encode())
    return csv_path


def checkpoint_digests(claim: Claim) -> dict[str, str]:
    """The sha256 of each shipped checkpoint that the claim uses, from its card."""
    from minirestore.checkpoints import read_card

    return {name: read_card(name)["sha256"] for name in claim.checkpoints}


def _as_csv(protocol: Protocol, rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*KEY_COLUMNS, *protocol.metrics])
    for row in sorted(rows, key=lambda row: tuple(row[name] for name in KEY_COLUMNS)):
        writer.writerow([*(row[name] for name in KEY_COLUMNS), *(f"{row[metric]:.6g}" for metric in protocol.metrics)])
    return text.getvalue().encode()


def has_results(id: str, ledger: str | Path | None = None) -> bool:
    """Whether the ledger holds anything about the claim."""
    return any(path.is_file() for path in paths(id, ledger))


def read_results(id: str, ledger: str | Path | None = None) -> Results:
    """The results of a claim, verified; `stale_reason` says whether they are still those of its protocol.

    Raises:
        FileNotFoundError: the claim has not been measured; the message holds the command.
        ValueError: a file is missing, damaged or does not hold the grid that its card describes.
    """
    claim = find_claim(id)
    csv_path, card_path = paths(id, ledger)
    if not has_results(id, ledger):
        raise FileNotFoundError(f"ledger: {id} has no results in {csv_path.parent}; measure it: {claim.command}")
    try:
        card = _read_card(id, card_path)
        return Results(_read_csv(csv_path, card), card)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"ledger: the results of {id} in {csv_path.parent} are damaged: {reason}; "
            f"restore {csv_path.name} and {card_path.name}, or measure again: {claim.command}"
        ) from None


def _read_card(id: str, path: Path) -> dict[str, Any]:
    card = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(card, dict) or sorted(card) != sorted(CARD_FIELDS):
        raise ValueError(f"{path.name} does not hold exactly {', '.join(CARD_FIELDS)}")
    if card["id"] != id or Protocol(**card["protocol"]).hash != card["protocol_hash"]:
        raise ValueError(f"{path.name} is of another claim, or its protocol does not have its hash")
    return card


def _read_csv(path: Path, card: dict[str, Any]) -> tuple[Row, ...]:
    payload = path.read_bytes()
    protocol = Protocol(**card["protocol"])
    header, *lines = csv.reader(io.StringIO(payload.decode()), strict=True) if payload else [[]]
    columns = [*KEY_COLUMNS, *protocol.metrics]
    if header != columns:
        raise ValueError(f"{path.name} has the columns {', '.join(header) or 'none'}; expected {', '.join(columns)}")
    if uneven := [line for line in lines if len(line) != len(columns)]:
        raise ValueError(f"{path.name} has a line of {len(uneven[0])} values, expected {len(columns)}; is it cut off?")
    rows = []
    for seed, arm, image, *values in lines:
        numbers = {metric: float(value) for metric, value in zip(protocol.metrics, values, strict=True)}
        rows.append({"seed": int(seed), "arm": arm, "image": image, **numbers})
    check_grid(protocol, rows)
    if hashlib.sha256(payload).hexdigest() != card["csv_sha256"]:
        raise ValueError(f"{path.name} is not the file that its card was written with (the sha256 differs)")
    return tuple(rows)


def stale_reason(claim: Claim, card: dict[str, Any]) -> str:
    """Why results with this card are no longer those of ``claim``; empty if they are."""
    if card["protocol_hash"] != claim.protocol.hash:
        return f"the protocol has changed ({', '.join(_changes(card['protocol'], claim.protocol.as_dict()))})"
    try:
        shipped = checkpoint_digests(claim)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    names = sorted(shipped.keys() | card["checkpoints"].keys())
    changed = [name for name in names if shipped.get(name) != card["checkpoints"].get(name)]
    return f"the checkpoint has changed ({', '.join(changed)})" if changed else ""


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The fields and settings that differ, by name."""
    names = [f.name for f in dataclasses.fields(Protocol) if f.name != "settings" and before[f.name] != now[f.name]]
    old, new = before["settings"], now["settings"]
    absent = object()
    settings = [name for name in sorted(old.keys() | new.keys()) if old.get(name, absent) != new.get(name, absent)]
    return [*names, *settings]
