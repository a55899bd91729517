"""Convert images to grey, to a number of channels and to a size, as torchvision's transforms of PIL images do.

Images are uint8, (n, H, W) for grey and (n, H, W, 3) for colour.
"""

from __future__ import annotations

import numpy as np


def grey(colour: np.ndarray) -> np.ndarray:
    """Convert (..., 3) uint8 to ITU-R 601 luma (...): torchvision's Grayscale of a PIL image, bit for bit."""
    r, g, b = (colour[..., i].astype(np.uint32) for i in range(3))
    return ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(np.uint8)


def resize(images: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize images (n, h, w[, 3]) to (H, W): bilinear with antialiasing, as torchvision resizes PIL images."""
    H, W = size
    if images.shape[1:3] == (H, W):
        return images
    from PIL import Image

    out = np.empty((len(images), H, W, *images.shape[3:]), np.uint8)
    for i, image in enumerate(images):
        out[i] = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((W, H), Image.Resampling.BILINEAR))
    return out


def to_input_shape(images: np.ndarray, size: tuple[int, ...], channels: int) -> np.ndarray:
    """Convert images (n, h, w[, 3]) to the channels and the size of a curriculum: (n, H, W[, 3])."""
    if channels == 1 and images.ndim == 4:
        images = grey(images)
    elif channels == 3 and images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    return resize(images, size)
