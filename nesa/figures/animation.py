"""Draw the structure of one task during training as an animated GIF (the paper shows the same as a video).

During training an `Animation` stores, at the end of an epoch, the strongest synapses and how many there are: about
0.2 MB and some milliseconds (benchmarks/speed/figure_drawing.py). When the task is claimed the levels of its neurons
are known, and `Animation.gif` draws the frames with Pillow alone: synapses in space on the left, the weight matrix
sorted by final level on the right.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nesa.figures.connectome import COLOURS, DIRECTIONS, drawing_positions
from nesa.figures.style import COLD, FAINT, INK, WARM, array

STORED = 20_000  # synapses of a snapshot
DRAWN = 4_000  # of them, in space
FRAMES = 40  # at most; of a longer training every second, fourth, ... epoch
STRIP = 1024  # rows of W that are searched at a time
WIDTH, HEIGHT = 640, 372
SPACE, MATRIX = 330, 260  # sides of the two pictures
LIMIT = 0.25  # weight at which the colours end, as in nesa.figures.network
FRAME_MS, LAST_FRAME_MS = 220, 3000


class Snapshot(NamedTuple):
    """The E strongest of ``live`` synapses as (sender, receiver, weight), each (E,), strongest first.

    neurons: how many of the task's own neurons are active.
    """

    label: str
    sender: Any
    receiver: Any
    weight: Any
    live: int
    neurons: int


def snapshot(W: Any, index: Any, label: str, neurons: int, count: int = STORED) -> Snapshot:
    """Copy the strongest synapses of W (n, n), a torch tensor. index: (n,) the number of each neuron in the network."""
    import torch

    flat, live = W.reshape(-1), 0
    stride = max(1, flat.numel() // 200_000) | 1  # a threshold from a sample: W itself may be too large to sort
    sample = flat[::stride].abs()
    rank = min(len(sample), max(1, int(1.3 * count / stride)))
    least = max(float(sample.topk(rank).values[-1]), torch.finfo(W.dtype).tiny)
    candidates = []
    for first in range(0, len(W), STRIP):
        strip = W[first : first + STRIP]
        live += int(torch.count_nonzero(strip))
        receiver, sender = (strip.abs() >= least).nonzero().unbind(1)
        candidates.append(torch.stack([sender, receiver + first]))
    sender, receiver = torch.cat(candidates, 1)
    weight = W[receiver, sender]
    best = weight.abs().topk(min(count, len(weight))).indices
    number = index.to(torch.int32).to(W.device)
    senders, receivers = number[sender[best]].cpu(), number[receiver[best]].cpu()
    return Snapshot(label, senders, receivers, weight[best].to(torch.float16).cpu(), live, neurons)


class Animation:
    """Snapshots of one task, at most FRAMES of them and evenly spaced."""

    def __init__(self, state: Mapping[str, Any] | None = None, seen: int | None = None):
        """state: of an earlier Animation, to continue. seen: epochs that had ended then; later frames are dropped."""
        state = state or {"frames": [], "at": [], "every": 1, "seen": 0}
        self.every, self.seen = int(state["every"]), int(state["seen"] if seen is None else seen)
        stored = [(n, Snapshot(*frame)) for n, frame in zip(state["at"], state["frames"], strict=True) if n < self.seen]
        self.at, self.frames = [n for n, _ in stored], [frame for _, frame in stored]

    def state(self) -> dict[str, Any]:
        """Return a dictionary of tensors, numbers and text. at: how many epochs had ended before that of each frame."""
        frames = [list(frame) for frame in self.frames]
        return {"frames": frames, "at": self.at, "every": self.every, "seen": self.seen}

    def add(self, W: Any, index: Any, label: str, neurons: int) -> None:
        """Store a snapshot at the end of an epoch; drop every second one when there are more than FRAMES."""
        if self.seen % self.every == 0:
            self.at.append(self.seen)
            self.frames.append(snapshot(W, index, label, neurons))
        self.seen += 1
        if len(self.frames) > FRAMES:
            self.every *= 2
            left = [i for i, n in enumerate(self.at) if n % self.every == 0]
            self.at, self.frames = [self.at[i] for i in left], [self.frames[i] for i in left]

    def gif(self, title: str, last: Snapshot, positions: Any, inputs: Any, levels: Mapping[int, int]) -> bytes:
        """Draw the animation, with ``last`` (the pruned network) at its end.

        positions: (S, 3) of the whole network. inputs: indices of the input neurons. levels: {index: level} of the
        neurons that were claimed or used, the port included; all others were pruned.
        """
        frames = [*self.frames, last]
        used = np.unique(np.concatenate([array(part) for f in frames for part in (f.sender, f.receiver)]))
        used = np.union1d(used, array(inputs)).astype(np.int64)
        deepest = max(levels.values(), default=0) + 1
        level = np.array([levels.get(int(neuron), deepest) for neuron in used])
        level[np.isin(used, array(inputs))] = 0
        grid = np.ptp(array(positions), axis=0).any()
        space = drawing_positions(array(positions)[used], None if grid else np.where(level == deepest, 1, level))
        rank = np.empty(len(used), dtype=np.int64)
        rank[np.argsort(level, kind="stable")] = np.arange(len(used))
        borders = np.flatnonzero(np.diff(np.sort(level))) + 1
        return _gif([_frame(f"{title}, {f.label}", f, used, space, rank, borders) for f in frames])


def _frame(title: str, frame: Snapshot, used: Any, space: Any, rank: Any, borders: Any) -> Any:
    """Draw one frame: synapses in space and the weight matrix."""
    from PIL import Image, ImageDraw, ImageFont

    sender, receiver = np.searchsorted(used, array(frame.sender)), np.searchsorted(used, array(frame.receiver))
    weight = array(frame.weight).astype(np.float64)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image, "RGBA")
    text = ImageFont.load_default(12)
    drawn = slice(min(DRAWN, len(weight)))
    ends, box = _projected(space)
    rise = space[receiver, 2] - space[sender, 2]
    opacity = np.clip(255 * 12 / np.sqrt(len(weight[drawn]) + 1), 18, 160)
    top = np.abs(weight[:1]).max(initial=0) or 1.0
    for direction, compare in DIRECTIONS.items():
        red, green, blue = _rgb(COLOURS[direction])
        for at in np.flatnonzero(compare(rise[drawn], 0)):
            alpha = int(opacity * (0.2 + 0.8 * abs(weight[at]) / top))
            draw.line([*ends[sender[at]], *ends[receiver[at]]], fill=(red, green, blue, alpha))
    for corner in box:
        draw.line([*corner[0], *corner[1]], fill=(*_rgb(FAINT), 110))
    left, upper = WIDTH - MATRIX - 16, 46
    image.paste(_matrix(sender, receiver, weight, rank, len(used)), (left, upper))
    for border in borders * (MATRIX - 1) // len(used):
        draw.line([left + border, upper, left + border, upper + MATRIX], fill=(*_rgb(FAINT), 130))
        draw.line([left, upper + border, left + MATRIX, upper + border], fill=(*_rgb(FAINT), 130))
    draw.rectangle([left - 1, upper - 1, left + MATRIX, upper + MATRIX], outline=_rgb(FAINT))
    draw.text((14, 10), title, fill=INK, font=ImageFont.load_default(14))
    draw.text((left, upper - 18), "weights, sorted by the level at the end", fill=INK, font=text)
    shown = f"{len(weight):,} strongest of " if len(weight) < frame.live else ""
    space_shown = f"{len(weight[drawn]):,} strongest in space" if len(weight) > DRAWN else "all of them in space"
    draw.text((left, upper + MATRIX + 8), f"{shown}{frame.live:,} synapses", fill=INK, font=text)
    draw.text((left, upper + MATRIX + 24), f"{frame.neurons:,} new neurons; {space_shown}", fill=FAINT, font=text)
    return image


def _projected(space: NDArray[np.float64]) -> tuple[list[tuple[int, int]], list[Any]]:
    """Project positions, and the edges of each plane, to pixels, from the side and a little from above."""
    low, spread = space.min(0), np.ptp(space, axis=0)
    wide = max(float(spread[:2].max()), 1e-9)

    def pixels(points: NDArray[np.float64]) -> list[tuple[int, int]]:
        x, y, z = ((points - low - spread / 2) / np.array([wide, wide, max(spread[2], 1e-9)])).T
        angle = 0.6
        right, back = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        scale = 0.68 * SPACE
        across, down = 8 + SPACE / 2 + scale * right, 38 + SPACE / 2 + scale * (0.28 * back - 0.85 * z)
        return list(zip(np.rint(across).astype(int).tolist(), np.rint(down).astype(int).tolist(), strict=True))

    edges = []
    for z in np.unique(space[:, 2]):
        a, b, c, d = pixels(low + spread * np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]) + [0, 0, z - low[2]])
        edges += [(a, b), (b, c), (c, d), (d, a)]
    return pixels(space), edges


def _matrix(sender: Any, receiver: Any, weight: Any, rank: Any, n: int) -> Any:
    """Draw the strongest weight of each cell, red or blue through white."""
    from PIL import Image

    cell = rank[receiver] * MATRIX // n * MATRIX + rank[sender] * MATRIX // n
    cells, first = np.unique(cell, return_index=True)
    signed = np.clip(weight[first] / LIMIT, -1, 1)[:, None]
    signed = np.sign(signed) * (0.25 + 0.75 * np.abs(signed))  # one pixel of a pale colour would not be visible
    colour = np.where(signed > 0, _rgb(WARM), _rgb(COLD))
    pixels = np.full((MATRIX * MATRIX, 3), 255.0)
    pixels[cells] += np.abs(signed) * (colour - 255.0)
    return Image.fromarray(np.rint(pixels).astype(np.uint8).reshape(MATRIX, MATRIX, 3))


def _gif(frames: Sequence[Any]) -> bytes:
    """Encode frames with one palette, so that unchanged pixels cost nothing; rare colours are added by hand."""
    sample = frames[len(frames) // 2].copy()
    for k in range(16):
        strong, colour = 0.25 + 0.75 * (k % 8) / 7, _rgb((WARM, COLD)[k // 8])
        sample.paste(tuple(round(255 + strong * (part - 255)) for part in colour), (40 * k, 0, 40 * k + 40, 40))
    palette = sample.quantize(64)
    frames = [frame.quantize(palette=palette, dither=0) for frame in frames]
    file = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    frames[0].save(
        file, format="gif", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False
    )
    return file.getvalue()


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


__all__ = ["Animation", "Snapshot", "snapshot"]
