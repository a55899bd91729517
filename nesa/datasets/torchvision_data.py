"""Find, read or download published data sets: torchvision's files first, then image folders.

A data set is described by a ``Published``; cifar10.py and mnist.py hold one each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nesa.datasets import cache, image_folder
from nesa.datasets.paths import DataDirs
from nesa.datasets.pixels import to_input_shape
from nesa.datasets.source import Arrays, ProgressCallback
from nesa.errors import DataError

Parts = tuple[Any, Any, Any, Any, tuple[str, ...]]  # train_x, train_y, test_x, test_y, class names


class MissingDataError(DataError):
    """A data set is in none of the places looked in and could not be downloaded: the case for a task's fallback."""


@dataclass(frozen=True)
class Published:
    """``layout``: torchvision's folder and ``files`` in it; ``folders``: names of an image folder.

    ``read(root)`` decodes torchvision's files under ``root`` (raises DataError when they are damaged);
    ``download(root, progress)`` puts them there.
    """

    name: str
    layout: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[Path], Parts]
    download: Callable[[Path, ProgressCallback], None]

    def _torchvision(self, data: DataDirs) -> Path | None:
        return next((r for r in data.roots if all((r / self.layout / f).is_file() for f in self.files)), None)

    def _image_folder(self, data: DataDirs) -> Path | None:
        places = (root / name for root in data.roots for name in self.folders)
        return next((place for place in places if image_folder.has_layout(place)), None)

    def available(self, data: DataDirs) -> bool:
        """Check whether the data set is on this machine, by names of files only."""
        return self._torchvision(data) is not None or self._image_folder(data) is not None

    def _describe_missing(self, root: Path) -> str:
        """Describe an incomplete copy under ``root``, or return nothing."""
        missing = [f for f in self.files if not (root / self.layout / f).is_file()]
        if (root / self.layout).is_dir():
            return f": {self.layout} is there, but lacks {', '.join(missing)}"
        there = next((root / name for name in self.folders if (root / name).is_dir()), None)
        return f": {there} is there, but lacks train/CLASS and test/CLASS" if there else ""

    def load(self, size: tuple[int, ...], channels: int, data: DataDirs, progress: ProgressCallback) -> Arrays:
        """Load uint8 (n, H, W[, 3]) at the wanted size, decoded once and then read from the cache directory.

        Raises MissingDataError when there is nothing to read, DataError when what is there is damaged.
        """
        wanted = {"size": list(size), "channels": channels}
        if (root := self._torchvision(data)) is None:
            if folder := self._image_folder(data):
                identity = (
                    wanted
                    | {"decoder": image_folder.DECODER}
                    | cache.folder_identity([folder / part for part in image_folder.PARTS])
                )
                return cache.load_or_make(
                    self.name, identity, data, lambda: image_folder.load(folder, size, channels, progress)
                )
            root = self._fetch(data, progress)
        place = root

        def make() -> Arrays:
            train_x, train_y, test_x, test_y, names = self.read(place)
            origin = f"torchvision's files in {place / self.layout}"
            train_x, test_x = to_input_shape(train_x, size, channels), to_input_shape(test_x, size, channels)
            return Arrays(train_x, train_y, test_x, test_y, names, origin=origin)

        return cache.load_or_make(self.name, wanted | cache.folder_identity([root / self.layout]), data, make)

    def _fetch(self, data: DataDirs, progress: ProgressCallback) -> Path:
        try:
            self.download(data.store, progress)
        except DataError as error:
            looked = "\n".join(f"  {path} ({origin}){self._describe_missing(path)}" for origin, path in data.named)
            raise MissingDataError(
                f"{self.name} was not found and could not be downloaded.\nLooked in:\n{looked}\n"
                f"Put one of these into one of them:\n"
                f"  {self.layout}/ with {', '.join(self.files)} (as torchvision keeps them)\n"
                f"  {self.folders[0]}/train/CLASS/* and {self.folders[0]}/test/CLASS/* (image files)\n"
                f"and name the folder with --data DIR or $NESA_DATA. The download said: {error}"
            ) from error
        return data.store
