"""Select the precision in which a training step multiplies: bfloat16 where the machine has instructions for it.

W, its moments and what is added to products stay float32; the factors of the products are rounded, to 8 bits of
mantissa, and so is each product (of a batch's states with a block of W, say) before anything is added to it. Passes
without gradients use float32, so what is claimed is measured, and saved, as it is.
"""

from __future__ import annotations

import torch

PRECISIONS = ("float32", "bfloat16", "auto")


def pays(device: torch.device) -> bool:
    """Check whether `device` has bfloat16 matrix units: AMX tiles on a CPU, tensor cores from capability 8.0 on a GPU.

    (AVX-512's bfloat16 dot product is no such unit: docs/results/speed.md.)"""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def multiply_in(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the value for `URN.multiply`: None for float32, which "auto" means where bfloat16 is not faster.

    Raises ValueError for a precision that is none of PRECISIONS."""
    if precision not in PRECISIONS:
        raise ValueError(f"the precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and pays(device)) else None
