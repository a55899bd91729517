"""Load folder: the user's own images, DIR/{train,test}/CLASS/*."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nesa.datasets import cache, image_folder
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress


def load(
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int,
    seed: int,
    data: DataDirs,
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Load uint8 (n, H, W[, 3]), decoded once, and again when a file has changed; see ``image_folder.load``."""
    path = data.find(params["path"], "the folder of a folder task")
    identity = {"size": list(size), "channels": channels, "mixed": params["mixed"], "decoder": image_folder.DECODER}
    identity |= cache.folder_identity([path / part for part in image_folder.PARTS if (path / part).is_dir()])
    return cache.load_or_make(
        "folder", identity, data, lambda: image_folder.load(path, size, channels, progress, mixed=params["mixed"])
    )


def _classes(params: Mapping[str, Any]) -> int | None:
    path = DataDirs().lookup(str(params.get("path") or ""))
    return (len(image_folder.class_names(path)) or None) if path else None


SOURCE = Source(
    name="folder",
    summary="your own images in DIR/train/CLASS/* and DIR/test/CLASS/*",
    difficulty="yours",
    load=load,
    classes=_classes,
    available=lambda params, data: (
        (found := data.lookup(params["path"])) is not None and image_folder.has_layout(found)
    ),
    params=(
        Param("path", str, None, "the folder, from here or from the data folder", required=True),
        Param("mixed", bool, False, "allow images of different sizes; each is resized"),
    ),
)
