"""Find the folders of data sets and of the cache.

The order is: the folder given with ``--data``, the folder in ``$NESA_DATA``, the user's cache directory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nesa.errors import DataError

VARIABLE = "NESA_DATA"


def _user_cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("nesa", appauthor=False))


@dataclass(frozen=True)
class DataDirs:
    """The folders of one command: ``data`` is what ``--data`` named, ``cache`` replaces the user's cache directory."""

    data: Path | None = None
    cache: Path | None = None

    @property
    def store(self) -> Path:
        """Return the folder that downloads and decoded copies are written to."""
        return Path(self.cache) if self.cache is not None else _user_cache()

    @property
    def named(self) -> tuple[tuple[str, Path], ...]:
        """Return the folders to search, in order, each with where its name came from."""
        places = []
        if self.data is not None:
            places.append(("--data", Path(self.data).expanduser()))
        if os.environ.get(VARIABLE):
            places.append((f"${VARIABLE}", Path(os.environ[VARIABLE]).expanduser()))
        places.append(("the cache directory", self.store))
        return tuple(places)

    @property
    def roots(self) -> tuple[Path, ...]:
        """Return the folders to search, in order; a folder that was named twice appears once."""
        return tuple(dict.fromkeys(path for _, path in self.named))

    def _candidates(self, path: str) -> tuple[Path, ...]:
        asked = Path(path).expanduser()
        return (asked,) if asked.is_absolute() else (asked, *(root / asked for root in self.roots))

    def lookup(self, path: str) -> Path | None:
        """Find a user's ``path``: from the current folder, then from each data folder; None when it is in none."""
        return next((place for place in self._candidates(path) if place.exists()), None) if path else None

    def find(self, path: str, what: str) -> Path:
        """Find a user's ``path`` as ``lookup`` does. Raises DataError with every place searched."""
        if (found := self.lookup(path)) is None:
            places = ", ".join(str(place.absolute()) for place in self._candidates(path))
            raise DataError(f"{what} does not exist; looked for {places}")
        return found
