"""Generate images from a seed and parameters, once, and cache them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from nesa.datasets import cache
from nesa.datasets.paths import DataDirs
from nesa.datasets.pixels import to_input_shape
from nesa.datasets.source import Arrays, ProgressCallback, no_progress

# draw(part, count, params, rng, progress) -> x (count, ...), y (count,); part is "train" or "test"
Draw = Callable[[str, int, Mapping[str, Any], np.random.Generator, ProgressCallback], tuple[np.ndarray, np.ndarray]]
LIBRARIES = ("numpy", "scikit-image", "scikit-learn")  # another version may draw otherwise


def make_loader(name: str, rule: int, draw: Draw, class_names: Sequence[str], origin: str) -> Callable[..., Arrays]:
    """Make a source's ``load`` of images from ``draw``: params["train"] and params["test"] of them, shuffled.

    ``rule`` counts the changes of what ``draw`` means; a new one makes old cache entries unused.
    """

    def load(
        params: Mapping[str, Any],
        *,
        size: tuple[int, ...],
        channels: int,
        seed: int,
        data: DataDirs,
        progress: ProgressCallback = no_progress,
    ) -> Arrays:
        def part(which: int, word: str) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng([seed, which])
            x, y = draw(word, params[word], params, rng, progress)
            order = rng.permutation(len(y))
            return to_input_shape(x[order], size, channels), y[order]

        def make() -> Arrays:
            return Arrays(*part(0, "train"), *part(1, "test"), class_names=tuple(class_names), origin=origin)

        identity = {"rule": rule, "params": dict(params), "seed": seed, "size": list(size), "channels": channels}
        return cache.load_or_make(name, identity | {library: version(library) for library in LIBRARIES}, data, make)

    return load


def balanced_labels(count: int, classes: int) -> np.ndarray:
    """Return int64 (count,): every class equally often, the first ones once more where it does not divide."""
    return np.arange(count, dtype=np.int64) % classes


def render_on_grey(mask: np.ndarray, rng: np.random.Generator, contrast: float, noise: float) -> np.ndarray:
    """Render ``mask`` (H, W), 0 to 1, on an even grey: uint8 (H, W), brighter or darker than it, with Gaussian noise.

    ``contrast`` and ``noise`` are in parts of the full range; each image's contrast lies within 0.05 of ``contrast``.
    """
    difference = rng.uniform(contrast - 0.05, contrast + 0.05) * rng.choice((-1, 1))
    image = rng.uniform(0.35, 0.65) + difference * mask
    image += noise * rng.standard_normal(mask.shape, np.float32)
    return np.clip(image * 255, 0, 255).astype(np.uint8)
