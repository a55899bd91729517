"""Lay out the neurons of a URN: the ports, the grid, and the distance between neurons (paper eq 8).

Neurons of an X x Y x Z grid are numbered plane by plane, index = z X Y + y X + x, so that plane 0 is the image read
row by row. Output ports are extra neurons with coordinates of their own, by default those of the centre of the last
plane, the paper's "centre 10 neurons". Growing appends planes and ports at the end: the index of an existing neuron
never changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # tensors have no truth value; a layout is equal to itself
class Layout:
    """Ports and coordinates of S neurons.

    positions: (S, 3) float32, columns x, y, z.
    inputs: (D_in,) int64, the input port in the order of the input's components.
    ports: for each task, (D_out,) int64, its output port.
    plane: (X, Y) of the grid, or None where the neurons have no geometry.
    layers: the number of hidden layers of a feedforward network, or None. Then z is a neuron's layer, 0 of the inputs
    and layers + 1 of the outputs, and each layer reads the one before alone (`pattern`).

    Raises ValueError for indices out of range and for a neuron that is in two ports, or twice in one.
    """

    positions: Tensor
    inputs: Tensor
    ports: Mapping[str, Tensor]
    plane: tuple[int, int] | None = None
    layers: int | None = None

    def __post_init__(self) -> None:
        places = torch.cat([self.inputs, *self.ports.values()])
        if not len(places):
            return
        if int(places.min()) < 0 or int(places.max()) >= self.S:
            wrong = int(places[(places < 0) | (places >= self.S)][0])
            raise ValueError(f"{self._port_of(wrong)[0]} contains neuron {wrong}, but there are {self.S}, from 0 on")
        count = torch.bincount(places, minlength=self.S)
        if int(count.max()) > 1:
            twice = int(count.argmax())
            owners = self._port_of(twice)
            where = f"twice in {owners[0]}" if len(owners) == 1 else f"in {owners[0]} and in {owners[1]}"
            raise ValueError(f"neuron {twice} is {where}; a neuron belongs to one port, once")

    def _port_of(self, neuron: int) -> list[str]:
        """Name the ports that contain a neuron, for messages."""
        named = {"the input port": self.inputs, **{f"port {name!r}": port for name, port in self.ports.items()}}
        return [name for name, port in named.items() if bool((port == neuron).any())]

    @property
    def S(self) -> int:
        return len(self.positions)

    @property
    def hidden(self) -> Tensor:
        """(H,) ascending indices of the neurons in no port."""
        inside = torch.ones(self.S, dtype=torch.bool)
        inside[self.inputs] = False
        for port in self.ports.values():
            inside[port] = False
        return inside.nonzero().flatten()

    @staticmethod
    def flat(S: int, d_in: int, ports: Mapping[str, int]) -> Layout:
        """Lay out S neurons without geometry: the first d_in are the input port, the last ones the output ports.

        (Paper eq 2 and 4.) Raises ValueError when the ports leave no hidden neuron."""
        total = sum(ports.values())
        if d_in < 1 or total < 1 or S <= d_in + total:
            raise ValueError(f"{S} neurons cannot hold {d_in} inputs, {total} outputs and at least one hidden neuron")
        layout = Layout(torch.zeros(S - total, 3), torch.arange(d_in), {})
        return layout.with_ports(ports)

    @staticmethod
    def grid(shape: tuple[int, int, int], channels: int, ports: Mapping[str, int]) -> Layout:
        """Lay out an X x Y x Z grid whose first `channels` planes are the input port, and the ports beside it.

        Raises ValueError when no plane is left for hidden neurons."""
        X, Y, Z = shape
        if min(X, Y) < 1 or channels < 1 or Z <= channels:
            raise ValueError(f"a {X} x {Y} x {Z} grid has no plane left beside {channels} input plane(s)")
        layout = Layout(_planes(X, Y, range(Z)), torch.arange(channels * X * Y), {}, (X, Y))
        return layout.with_ports(ports)

    @staticmethod
    def feedforward(widths: Sequence[int], d_in: int, ports: Mapping[str, int]) -> Layout:
        """Lay out hidden layers of these widths between the input port and the output ports.

        x is a neuron's place in its layer: a multi-layer perceptron as `urn.mlp_conversion.embed` lays it out (paper
        figure 1), with a port for each task. Raises ValueError for a layer without neurons."""
        if d_in < 1 or not widths or min(widths) < 1:
            raise ValueError(f"a feedforward network of {d_in} inputs and the layers {list(widths)} has an empty layer")
        rows = torch.cat([_row(range(n), z) for z, n in enumerate([d_in, *widths])])
        return Layout(rows, torch.arange(d_in), {}, layers=len(widths)).with_ports(ports)

    @property
    def layer(self) -> Tensor:
        """(S,) int64: z, in a feedforward network each neuron's layer."""
        return self.positions[:, 2].long()

    def pattern(self) -> Tensor | None:
        """Return (S, S) bool, the synapses that a feedforward network may have; None where all may exist."""
        return None if self.layers is None else self.layer[:, None] == self.layer + 1

    def senders(self) -> Tensor | int:
        """Count the neurons that each neuron may read: S, or in a feedforward network (S, 1) the layer before."""
        if self.layers is None:
            return self.S
        size = torch.bincount(self.layer, minlength=self.layers + 2).clamp(min=1)
        return size[(self.layer - 1).clamp(min=0)][:, None]

    def with_ports(self, sizes: Mapping[str, int]) -> Layout:
        """Append output ports at the centre of the last plane.

        Where there are ports already, at the centre of the first one's plane; in a feedforward network, in the layer
        behind the last one."""
        positions, ports = [self.positions], dict(self.ports)
        start = self.S
        for name, size in sizes.items():
            if name in ports:
                raise ValueError(f"there is already an output port called {name!r}")
            ports[name] = torch.arange(start, start + size)
            positions.append(self._centre(size))
            start += size
        return replace(self, positions=torch.cat(positions), ports=ports)

    def with_planes(self, count: int) -> Layout:
        """Append `count` planes of hidden neurons behind the last one.

        Without a grid, append `count` neurons; in a feedforward network as many to each layer."""
        if self.layers is not None:
            size = torch.bincount(self.layer).tolist()
            rows = [_row(range(size[z], size[z] + count), z) for z in range(1, self.layers + 1)]
            return replace(self, positions=torch.cat([self.positions, *rows]))
        if self.plane is None:
            return replace(self, positions=torch.cat([self.positions, torch.zeros(count, 3)]))
        last = int(self.positions[:, 2].max())
        X, Y = self.plane
        more = _planes(X, Y, range(last + 1, last + 1 + count))
        return replace(self, positions=torch.cat([self.positions, more]))

    def take(self, index: Tensor) -> Layout:
        """Lay out the neurons `index` (n,) alone, renumbered 0..n-1 in that order.

        Ports that are not wholly inside vanish. Raises ValueError when an input neuron is left out."""
        new = torch.full((self.S,), -1, dtype=torch.long)
        new[index] = torch.arange(len(index))
        inputs = new[self.inputs]
        if (inputs < 0).any():
            raise ValueError("a part of a network must contain the whole input port")
        ports = {name: new[port] for name, port in self.ports.items() if (new[port] >= 0).all()}
        return replace(self, positions=self.positions[index], inputs=inputs, ports=ports)

    def _centre(self, size: int) -> Tensor:
        """(size, 3): the cells nearest to the centre of the last plane; the origin where there is no grid."""
        if self.layers is not None:
            return _row(range(size), self.layers + 1)
        if self.plane is None:
            return torch.zeros(size, 3)
        X, Y = self.plane
        first = [port[0] for port in self.ports.values() if len(port)]
        cells = _planes(X, Y, [int(self.positions[first[0], 2] if first else self.positions[:, 2].max())])
        off = (cells[:, 0] - (X - 1) / 2) ** 2 + (cells[:, 1] - (Y - 1) / 2) ** 2
        nearest = off.argsort(stable=True)
        return cells[nearest[torch.arange(size) % len(cells)]]


def _row(xs: range, z: int) -> Tensor:
    """(len(xs), 3) coordinates of neurons beside one another in layer z."""
    return torch.tensor([[x, 0, z] for x in xs], dtype=torch.float32).reshape(-1, 3)


def _planes(X: int, Y: int, zs) -> Tensor:
    """(len(zs) X Y, 3) coordinates, plane by plane, row by row."""
    z, y, x = torch.meshgrid(torch.tensor(list(zs)), torch.arange(Y), torch.arange(X), indexing="ij")
    return torch.stack([x, y, z], dim=-1).reshape(-1, 3).float()


@dataclass(frozen=True)
class Distance:
    """ds^2 = dx^2 + dy^2 + beta dz^2 (paper eq 8), and its power gamma (eq 9)."""

    beta: float = 1.0
    gamma: float = 1.0

    def lengths(self, to: Tensor, frm: Tensor) -> Tensor:
        """Compute d_ij^gamma for positions `to` (n, 3) and `frm` (m, 3), as (n, m).

        On a large network call it for a few rows at a time: a full S x S matrix of distances takes as much memory as
        W."""
        to, frm = to.clone(), frm.clone()
        for positions in (to, frm):
            positions[:, 2] *= self.beta**0.5
        d = torch.cdist(to, frm, compute_mode="donot_use_mm_for_euclid_dist")
        return d if self.gamma == 1.0 else d.pow_(self.gamma)
