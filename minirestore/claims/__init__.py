"""The papers' claims, one file per paper: what was measured, how sure we are, and which of them survive.

A claim is a small function that measures one arm with one seed (`claim`, `Claim`, `Protocol`). The queue runs it over
the whole grid and keeps every finished job (`run_claim`); the ledger holds the numbers (`read_results`); `assess`
turns them into a verdict, and `status_rows`, `print_report` and `forest` show all of them.
"""

from minirestore.claims.definitions import (
    CLAIMS,
    Claim,
    Job,
    OutOfTime,
    Protocol,
    Row,
    claim,
    find_claim,
    load_claims,
    register,
)
from minirestore.claims.ledger import Results, read_results, stale_reason, write_results
from minirestore.claims.queue import Run, run_claim, run_claims
from minirestore.claims.report import alt_text, forest, print_report, status_rows
from minirestore.claims.verdicts import Assessment, assess

__all__ = [
    "CLAIMS",
    "Assessment",
    "Claim",
    "Job",
    "OutOfTime",
    "Protocol",
    "Results",
    "Row",
    "Run",
    "alt_text",
    "assess",
    "claim",
    "find_claim",
    "forest",
    "load_claims",
    "print_report",
    "read_results",
    "register",
    "run_claim",
    "run_claims",
    "stale_reason",
    "status_rows",
    "write_results",
]
