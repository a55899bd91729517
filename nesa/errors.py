"""Define the errors that a user can meet, as one tree.

NesaError                  the run failed                      exit code 1
 +- RunFailed              training diverged, disk full, ...   exit code 1
 +- UserError              the user's input is wrong           exit code 2
     +- CurriculumError    one or more problems in a YAML file, each with its place
     +- DataError          a data set is missing, broken or does not fit
     +- RunFolderError     a run folder is missing, foreign, locked or damaged

The command line prints ``str(error)`` and exits with ``error.exit_code``, with a traceback only under ``--debug``. Each
message names what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NesaError(Exception):
    """A failure with a message for the user."""

    exit_code = 1


class RunFailed(NesaError):
    """The run cannot continue: divergence, a full disk, too few free neurons."""


class UserError(NesaError):
    """The user's input is wrong."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a curriculum: where it is and what to do about it."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}:{self.column}: {key}{self.message}"


class CurriculumError(UserError):
    """All the problems of one curriculum at once."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class DataError(UserError):
    """A data set is missing, broken, or does not fit the curriculum."""


class RunFolderError(UserError):
    """A run folder is missing, is of another run, is locked, or is damaged."""
