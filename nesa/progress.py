"""Show the progress of a run on stderr.

On a terminal: one bar for the current task, which stays as one line when the task is done. Elsewhere (a log file, a
batch job): one plain line for each epoch. ``NO_COLOR`` is respected. Nothing is written to stdout.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from typing import Any, TextIO

BAR = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"  # no rate: it jumps
YELLOW, PLAIN = "\033[33m", "\033[0m"


class Progress:
    """Shows tasks, epochs, steps and downloads; a context manager that closes its bar.

    ``stream`` is stderr unless given; ``quiet`` shows messages and warnings only.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False):
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.terminal and not os.environ.get("NO_COLOR")
        self.quiet = quiet
        self._bar: Any = None  # the tqdm bar of the task, or of the load, that is shown
        self._label = ""
        self._loading = ""
        self._epochs = self._fine_tuning_epochs = 0
        self._started = 0.0

    def task(self, name: str, index: int, total: int, epochs: int, steps: int, fine_tuning: int = 0) -> None:
        """Begin task ``name``, number ``index`` (from 0) of ``total``.

        It has ``epochs`` epochs of ``steps`` steps each, and after pruning ``fine_tuning`` further ones."""
        self._end()
        self._label, self._epochs, self._started = f"[{index + 1}/{total}] {name}", epochs, time.monotonic()
        self._fine_tuning_epochs = fine_tuning
        self._open(self._label, (epochs + fine_tuning) * steps, "step")
        if not (self.terminal or self.quiet):
            more = f", then pruning and fine-tuning with {fine_tuning} more" if fine_tuning else ""
            self._line(f"{self._label}: {epochs} epochs of {steps} steps{more}")

    def step(self, n: int = 1) -> None:
        """Count ``n`` more optimiser steps."""
        if self._bar is not None:
            self._bar.update(n)

    def epoch(self, number: int, **values: float) -> None:
        """Show that epoch ``number`` (from 1) is done, and values by name, such as loss=0.41, val_accuracy=0.92."""
        text = "  ".join(f"{name} {_number(value)}" for name, value in values.items())
        if self._bar is not None:
            pruning = self._fine_tuning_epochs and number == self._epochs
            stage = "pruning" if pruning else f"epoch {number}/{self._epochs}"
            self._bar.set_description_str(f"{self._label} {stage}", refresh=False)
            self._bar.set_postfix_str("  ".join(f"{name} {_number(v)}" for name, v in values.items() if name != "loss"))
        elif not self.quiet:
            seconds = time.monotonic() - self._started
            self._line(f"{self._label}: epoch {number}/{self._epochs}  {text}  {seconds:.0f} s")

    def __call__(self, label: str, done: int, total: int | None) -> None:
        """Show that something before training, such as a download, is at ``done`` of ``total`` (None: unknown)."""
        if label != self._loading:
            self._end()
            self._loading = label
            self._open(label, total, "")
            if not (self.terminal or self.quiet):
                self._line(f"{label} ...")
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        if total is not None and done >= total:
            self._end()

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self._line(self._fitted(text))

    def warning(self, text: str) -> None:
        """Print one warning above the bar."""
        line = self._fitted(f"warning: {text}")
        self._line(line.replace("warning:", f"{YELLOW}warning:{PLAIN}", 1) if self.colour else line)

    def close(self) -> None:
        """Close the bar; what was shown stays as text, and messages come below it."""
        self._end()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, label: str, total: int | None, unit: str) -> None:
        if not self.terminal or self.quiet:
            return
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            desc=label,
            file=self.stream,
            unit=unit or "",
            unit_scale=not unit,
            dynamic_ncols=True,
            mininterval=0.2,
            leave=bool(unit),
            colour="cyan" if self.colour else None,
            bar_format=BAR if unit else None,
        )

    def _fitted(self, text: str) -> str:
        """Wrap between words, where a terminal would break inside one; files get each line unchanged."""
        if not self.terminal:
            return text
        width = shutil.get_terminal_size().columns
        indent = [" " * (len(line) - len(line.lstrip()) + 2) for line in text.splitlines()]
        wrapped = (
            textwrap.wrap(line, width, subsequent_indent=more, break_long_words=False, break_on_hyphens=False)
            for line, more in zip(text.splitlines(), indent, strict=True)
        )
        return "\n".join("\n".join(lines) for lines in wrapped)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._loading = ""

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value) if value < 10_000 else f"{value / 1000:,.0f}k"
    return f"{value:.4g}"
