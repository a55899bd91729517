"""Measure receptive fields: what neurons read of an image, how compact it is, and whether it lies where they are.

`urn.measures.structure.locality` measures whether synapses are short, from a neuron's place to those that it reads. A
neuron may read a compact part of the image and be elsewhere itself; here its field is measured about its own centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fields:
    """Of the neurons that read the image. centres: (n, 2), x and y of each field's centre, in units of the grid.
    spread: mean over neurons of the root mean square distance from it; shuffled: the same under the null; ratio: their
    quotient, 1 where fields are no more compact than by chance. map: correlation of the neurons' own places with the
    centres of their fields, the mean of those of x and of y; 1 is a map of the image (retinotopy), 0 none. nan: there
    is nothing to measure."""

    neurons: Tensor
    centres: Tensor
    spread: float
    shuffled: float
    ratio: float
    map: float


def fields(W: Tensor, positions: Tensor, inputs: Tensor, generator: torch.Generator, draws: int = 10) -> Fields:
    """Measure the receptive fields of a network with W (S, S), positions (S, 3) and input neurons (D_in,).

    Places in a field are weighted by W_ij^2, so that weights which are noise count little; planes of input neurons
    (colours) lie on one another. The null shuffles, `draws` times, the places of the pixels, so that no weight changes.
    Neurons that read one pixel have no spread and are left out."""
    inputs = inputs.to(W.device)
    energy = W[:, inputs].double().square()
    energy[inputs] = 0
    neurons = ((energy > 0).sum(1) > 1).nonzero().flatten()
    share = energy[neurons] / energy[neurons].sum(1, keepdim=True)
    places = positions[:, :2].to(share)
    pixels = places[inputs]
    centres, spread = _moments(share, pixels)
    shuffled = 0.0
    for _ in range(draws):
        mixed = torch.randperm(len(pixels), generator=generator).to(pixels.device)
        shuffled += _moments(share, pixels[mixed])[1] / draws
    ratio = spread / shuffled if shuffled else float("nan")
    return Fields(neurons.cpu(), centres.cpu(), spread, shuffled, ratio, _correlation(places[neurons], centres))


def _moments(share: Tensor, pixels: Tensor) -> tuple[Tensor, float]:
    """(n, 2) centres, and the mean over neurons of the root mean square distance from them."""
    if not len(share):
        return pixels[:0], float("nan")
    centres = share @ pixels
    squares = share @ pixels.square().sum(1) - centres.square().sum(1)
    return centres, float(squares.clamp(min=0).sqrt().mean())


def _correlation(a: Tensor, b: Tensor) -> float:
    """The mean over columns of Pearson's correlation of a (n, k) and b (n, k)."""
    if len(a) < 2:
        return float("nan")
    a, b = a - a.mean(0), b - b.mean(0)
    return float(((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).mean())
