"""Store the claimed neurons of all tasks, their frozen weights, and the owner of each neuron.

Between tasks the free part of a URN is empty (its weights are drawn afresh for each task), so only the inputs, the
ports and the claimed neurons are stored. A task is trained on a *task network*: a URN of the frozen neurons, the free
ones and the task's port, whose frozen rows are copies. Whatever training does to it cannot reach the store; `claim`
takes the rows of the neurons that are left and nothing else, after a check that the copies still have the stored bits.

Three rules keep old answers (Golkar, Kagan, Cho, arXiv 1903.04476, carried over to a recurrent matrix):
1. a claimed neuron's incoming weights and bias are final, those from free neurons are zero for ever;
2. the rows of the input neurons become final when the first task is claimed (claimed neurons read them);
3. a task is evaluated on its own sub-network (`network`), which contains no free and no later neuron.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from nesa.config.sizes import forecast, needed
from nesa.errors import RunFailed, UserError
from nesa.neuron_owner import FREE, INPUT, PORT
from nesa.training.sparse_tensors import pack, unpack
from urn.layout import Layout
from urn.network import URN


@dataclass(frozen=True)
class Dynamics:
    """How a network is iterated; every task keeps the dynamics that it was trained with."""

    iterations: int
    update: str
    output_activation: str


@dataclass
class Claim:
    """One task's entry: its name, dynamics, and the sub-network that answers it.

    members: (n,) global indices of the inputs and the claimed neurons that reach the port, ascending, then the port.
    extra: what belongs to the task and must be stored with it (the normalisation of its input, its class names).
    """

    name: str
    dynamics: Dynamics
    members: Tensor
    extra: dict[str, Any] = field(default_factory=dict)


class Accumulation:
    """layout: the whole network, with the ports of all tasks known so far. gain: factor on the He-normal standard
    deviation sqrt(2 / S) of fresh weights, where S counts the task's own port alone. inputs_receive: whether input
    neurons may read other neurons after l = 0 (in the paper they are ordinary neurons then; where not, their rows are
    frozen at zero from the start)."""

    def __init__(
        self, layout: Layout, gain: float = 1.0, *, inputs_receive: bool = True, dtype: torch.dtype = torch.float32
    ):
        self.layout = layout
        self.gain = gain
        self.inputs_receive = inputs_receive
        self.owner = torch.full((layout.S,), FREE, dtype=torch.int16)
        self.owner[layout.inputs] = INPUT
        for port in layout.ports.values():
            self.owner[port] = PORT
        self.claims: list[Claim] = []
        self.stored = torch.zeros(0, dtype=torch.long)  # (C,) global indices, ascending
        self.W = torch.zeros(0, 0, dtype=dtype)  # (C, C)
        self.b = torch.zeros(0, dtype=dtype)  # (C,)

    # --- sizes ---------------------------------------------------------------------------------------------------

    @property
    def free(self) -> Tensor:
        """Return the global indices of the free neurons."""
        return (self.owner == FREE).nonzero().flatten()

    @property
    def claimed(self) -> Tensor:
        """Return the global indices of the claimed hidden neurons, whichever task claimed them."""
        return (self.owner >= 0).nonzero().flatten()

    @property
    def hidden_count(self) -> int:
        """Return the number of hidden neurons, free or claimed."""
        return int((self.owner >= FREE).sum())

    def missing(self) -> int:
        """Return how many neurons must be added for the next task (`nesa.config.sizes.needed`); 0 or less for none.

        In a feedforward network so many are added that each layer has enough."""
        lack = [needed(len(owner)) - int((owner == FREE).sum()) for owner in self._pools()]
        return max(lack) * len(lack)

    def more(self, k: int) -> int | None:
        """Return how many tasks like task k fit before the network has to grow (`nesa.config.sizes.forecast`).

        None where task k claimed no neuron."""
        fits = [
            forecast(int((owner == FREE).sum()), claimed, len(owner))
            for owner in self._pools()
            if (claimed := int((owner == k).sum()))
        ]
        return (0 if self.missing() > 0 else min(n for n in fits if n is not None)) if fits else None

    def _pools(self) -> list[Tensor]:
        """The owners of the hidden neurons of which enough must be free: of all, or of each layer."""
        hidden, layers = self.owner >= FREE, self.layout.layers
        if layers is None:
            return [self.owner[hidden]]
        return [self.owner[hidden & (self.layout.layer == z)] for z in range(1, layers + 1)]

    def grow(self, count: int) -> None:
        """Append `count` planes of free neurons; without a grid, `count` neurons, or as many in each layer."""
        self._extend(self.layout.with_planes(count), FREE)

    def add_ports(self, sizes: dict[str, int]) -> None:
        """Append output ports for further tasks."""
        self._extend(self.layout.with_ports(sizes), PORT)

    def _extend(self, layout: Layout, owner: int) -> None:
        more = torch.full((layout.S - self.layout.S,), owner, dtype=torch.int16)
        self.layout, self.owner = layout, torch.cat([self.owner, more])

    # --- a task --------------------------------------------------------------------------------------------------

    def task_network(
        self, task: str, dynamics: Dynamics, generator: torch.Generator | None = None
    ) -> tuple[URN, Tensor]:
        """Create the URN that trains `task`; returns it and the global index (n,) of its neurons.

        Neurons are in the order frozen, free, port. Free rows and the port's rows are drawn He-normal, biases
        are zero. Before the first claim the input neurons' rows are free too. Raises UserError for a task that has
        been claimed: its answers are final."""
        if any(entry.name == task for entry in self.claims):
            raise UserError(
                f"task {task!r} has been learned already, and its answers are final; give each task a label and an "
                "output port of its own"
            )
        port = self.layout.ports[task]
        inputs, claimed, free = self.layout.inputs, self.claimed, self.free
        index = torch.cat([inputs, claimed, free, port])
        if self.layout.layers is not None:  # layer by layer, so that blocks of W are views
            index = index[self.layout.layer[index].argsort(stable=True)]
        n, owner = len(index), self.owner[index]
        frozen = (
            (owner == INPUT) | (owner >= 0)
            if self.claims or not self.inputs_receive
            else torch.zeros(n, dtype=torch.bool)
        )
        known, drawn, senders = frozen.nonzero().flatten(), (~frozen).nonzero().flatten(), n - len(port)
        W, b = torch.zeros(n, n, dtype=self.W.dtype), torch.zeros(n, dtype=self.W.dtype)
        W[drawn, :senders] = torch.randn(len(drawn), senders, generator=generator, dtype=W.dtype)
        of = self.layout.senders()
        W *= self.gain * (2 / (self._neurons(port) if isinstance(of, int) else of[index])) ** 0.5
        if self.claims:
            W[known[:, None], known], b[known] = self._rows(index[known])
        return self._network_of(self.layout.take(index), dynamics, W, b, frozen), index

    def claim(self, task: str, dynamics: Dynamics, task_network: URN, index: Tensor, **extra: Any) -> Claim:
        """Make the neurons of a pruned task network that are not frozen yet the task's own.

        index: (n,) the global indices of the network's neurons.
        Raises RunFailed when a frozen row no longer has the stored bits, when it reads a free neuron, or
        when a weight is not finite."""
        W, b = task_network.W.data.cpu(), task_network.b.data.cpu()
        frozen = task_network.frozen
        n = int(frozen.sum())  # before the first claim only input neurons that never receive are frozen, at zero
        stored_W, stored_b = self._rows(index[frozen]) if self.claims else (W.new_zeros(n, n), b.new_zeros(n))
        if not (torch.equal(W[frozen][:, frozen], stored_W) and torch.equal(b[frozen], stored_b)):
            raise RunFailed(
                f"task {task!r}: training has moved the frozen weights of earlier tasks, so it is not claimed. "
                "The optimiser step must be followed by URN.restore_frozen()."
            )
        if bool(W[frozen][:, ~frozen].any()):
            raise RunFailed(f"task {task!r}: a claimed neuron reads a free one, so the task is not claimed")
        if not bool(torch.isfinite(W).all() and torch.isfinite(b).all()):
            raise RunFailed(f"task {task!r}: some of its weights are not finite, so it is not claimed")
        number = len(self.claims)
        new = index[~frozen]
        merged = torch.cat([self.stored, self.layout.inputs, new]).unique()
        W_all, b_all = W.new_zeros(len(merged), len(merged)), b.new_zeros(len(merged))
        old = torch.searchsorted(merged, self.stored)
        W_all[old[:, None], old], b_all[old] = self.W, self.b  # input rows that never receive stay zero
        rows, columns = torch.searchsorted(merged, new), torch.searchsorted(merged, index)
        W_all[rows[:, None], columns], b_all[rows] = W[~frozen], b[~frozen]
        self.stored, self.W, self.b = merged, W_all, b_all
        hidden = new[self.owner[new] == FREE]
        self.owner[hidden] = number
        entry = Claim(task, dynamics, self._members(task, dynamics), dict(extra))
        self.claims.append(entry)
        return entry

    def network(self, task: str | int) -> URN:
        """Return the frozen sub-network that answers a claimed task, in the one form for which answers are exact.

        It has inputs, reached claimed neurons and port, indices ascending, contiguous, nothing padded."""
        entry = self.find(task)
        W, b = self._rows(entry.members)
        layout = self.layout.take(entry.members)
        network = self._network_of(layout, entry.dynamics, W, b, torch.ones(len(b), dtype=torch.bool))
        return network.requires_grad_(False).eval()

    def find(self, task: str | int) -> Claim:
        """Return the entry of a claimed task by name or number; raises KeyError."""
        if isinstance(task, int):
            return self.claims[task]
        for entry in self.claims:
            if entry.name == task:
                return entry
        raise KeyError(task)

    def full(self) -> tuple[Tensor, Tensor]:
        """Return W (S, S) and b (S,) of the whole network: stored rows, and zeros for free neurons."""
        W, b = self.W.new_zeros(self.layout.S, self.layout.S), self.b.new_zeros(self.layout.S)
        W[self.stored[:, None], self.stored], b[self.stored] = self.W, self.b
        return W, b

    # --- files ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers and strings only, which load with weights_only=True; W without its zeros."""
        return {
            "positions": self.layout.positions,
            "inputs": self.layout.inputs,
            "ports": dict(self.layout.ports),
            "plane": None if self.layout.plane is None else list(self.layout.plane),
            "layers": self.layout.layers,
            "gain": self.gain,
            "inputs_receive": self.inputs_receive,
            "owner": self.owner,
            "stored": self.stored,
            "W": pack(self.W),
            "b": self.b,
            "claims": [
                {"name": c.name, "rule": asdict(c.dynamics), "members": c.members, "extra": c.extra}
                for c in self.claims
            ],
        }

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> Accumulation:
        plane = None if state["plane"] is None else (state["plane"][0], state["plane"][1])
        layout = Layout(state["positions"], state["inputs"], state["ports"], plane, state.get("layers"))
        W = unpack(state["W"])
        self = Accumulation(layout, state["gain"], inputs_receive=state["inputs_receive"], dtype=W.dtype)
        self.owner, self.stored, self.W, self.b = state["owner"], state["stored"], W, state["b"]
        self.claims = [Claim(c["name"], Dynamics(**c["rule"]), c["members"], c["extra"]) for c in state["claims"]]
        return self

    # --- inside --------------------------------------------------------------------------------------------------

    def _neurons(self, port: Tensor) -> int:
        """S as a task sees it: without the ports of other tasks, so that its first weights do not depend on how many
        tasks come before or after it."""
        return self.layout.S - sum(map(len, self.layout.ports.values())) + len(port)

    def _rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Stored W[index][:, index] and b[index], contiguous."""
        place = torch.searchsorted(self.stored, index)
        return self.W[place[:, None], place], self.b[place]

    def _members(self, task: str, dynamics: Dynamics) -> Tensor:
        port = torch.searchsorted(self.stored, self.layout.ports[task])
        linked = self.W != 0
        reached = torch.zeros(len(self.stored), dtype=torch.bool)
        reached[port] = True
        frontier = reached.clone()
        for _ in range(dynamics.iterations - 1):  # backwards from the port; a hidden neuron is first active at l = 1
            frontier = linked[frontier].any(0) & ~reached
            reached |= frontier
        keep = self.stored[reached]
        senders = torch.cat([self.layout.inputs, keep[self.owner[keep] >= 0]]).unique()
        return torch.cat([senders, self.layout.ports[task]])

    def _network_of(self, layout: Layout, dynamics: Dynamics, W: Tensor, b: Tensor, frozen: Tensor) -> URN:
        tiny = Layout.flat(3, 1, {"": 1})  # no S x S draw for weights that are replaced at once
        network = URN(tiny, dynamics.iterations, dynamics.update, dynamics.output_activation, dtype=W.dtype)
        network.mask = layout.pattern()
        network.set_parameters(layout, W, b, frozen)
        return network
