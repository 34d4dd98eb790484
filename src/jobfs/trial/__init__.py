"""`jobfs doctor JOB --try`: what jobfs relies on, asked of a real server in a hidden directory of its own."""

from jobfs.trial.asking import Finding, Mounting, Row, Trial, Verdict
from jobfs.trial.place import Place, rooted
from jobfs.trial.report import document
from jobfs.trial.run import QUESTIONS, clear, known, run

__all__ = [
    "QUESTIONS",
    "Finding",
    "Mounting",
    "Place",
    "Row",
    "Trial",
    "Verdict",
    "clear",
    "document",
    "known",
    "rooted",
    "run",
]
