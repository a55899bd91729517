"""Define the Unstructured Recursive Network: one weight matrix, applied I times (paper eq 2 to 7).

Also written Unrestricted, Unstructured or Recurrent in the paper; all mean this network. Letters: B batch, S neurons,
I iterations, D_in and D_out port sizes; W[i, j] is the synapse from neuron j to neuron i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from urn.kernel import GradientBuffer, PassOptions, RecurrentKernel
from urn.layout import Layout
from urn.penalties import Penalty, early_readouts
from urn.plan import GradientSupport, Plan, as_index, make_plan
from urn.row_partition import RowPartition
from urn.update_rules import find_update

OUTPUT_ACTIVATIONS = ("relu", "linear")
Port = str | tuple[str, ...] | None  # name of an output port, names of several read side by side, the only one


class ForwardPass(NamedTuple):
    """What a training pass returns: logits (B, D_out), the activity term (a scalar), and the early readouts
    (L, B, D_out) where the penalty has a share for them, else None."""

    logits: Tensor
    activity: Tensor
    early: Tensor | None


class URN(nn.Module):
    """S neurons, all connected to all, updated I times; phi is ReLU.

    layout: ports and coordinates. iterations: I >= 1. update: a name of `urn.update_rules.UPDATES`.
    output_activation: "relu" (the paper) or "linear" (no output can die). outputs_send: whether output neurons feed
    other neurons (in the paper they may; here not unless asked, because several tasks share one network).
    gain: factor on the He-normal standard deviation sqrt(2 / S). mask: optional (S, S) bool, the synapses that may
    exist; all others stay exactly zero (`restore_frozen`). A feedforward layout has a mask of its own, runs `plain` for
    layers + 1 iterations, and computes only layer l at iteration l: the products of a multi-layer perceptron.

    Parameters W (S, S) and b (S,). `set_parameters` declares rows that training must not change, `restore_frozen` puts
    them back by value, so that no optimiser can move them. `reuse_gradient_memory = True` keeps the memory of W's
    gradient from step to step, for loops with one forward pass for each backward pass. `multiply` is the dtype in which
    a training step multiplies (`urn.precision`), W's own when None: W, what is added to products, and answers without
    gradients stay in W's. `compute_all_now = True` computes neurons that `set_inactive` leaves out.

    Raises ValueError for impossible sizes and unknown names.
    """

    def __init__(
        self,
        layout: Layout,
        iterations: int,
        update: str = "plain",
        output_activation: str = "relu",
        *,
        outputs_send: bool = False,
        gain: float = 1.0,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if iterations < 1:
            raise ValueError(f"a URN needs at least one iteration, not {iterations}")
        if output_activation not in OUTPUT_ACTIVATIONS:
            raise ValueError(f"output_activation is {' or '.join(OUTPUT_ACTIVATIONS)}, not {output_activation!r}")
        S = layout.S
        if mask is not None and mask.shape != (S, S):
            raise ValueError(f"the mask has shape {tuple(mask.shape)}, the network's W is ({S}, {S})")
        self.layout = layout
        self.iterations = iterations
        self.update = find_update(update)
        self.output_activation = output_activation
        self.outputs_send = outputs_send
        self.mask = layout.pattern() if mask is None else mask
        W = torch.randn(S, S, generator=generator, dtype=dtype).mul_(gain * (2 / layout.senders()) ** 0.5)
        self.set_parameters(layout, W, torch.zeros(S, dtype=dtype))

    reuse_gradient_memory = False
    multiply: torch.dtype | None = None
    compute_all_now = False

    def set_parameters(
        self, layout: Layout, W: Tensor, b: Tensor, frozen: Tensor | None = None, partition: RowPartition | None = None
    ) -> None:
        """Replace the neurons, weights and frozen rows, as new Parameters.

        (`urn.surgery.rebind_parameters` points an optimiser at them.) W (n, n), b (n,), frozen (n,) bool with n =
        layout.S. With the `partition` of several processes, W and b have this one's rows alone."""
        self.layout = layout
        self.partition = RowPartition.whole(layout.S) if partition is None else partition
        self.W, self.b = nn.Parameter(W), nn.Parameter(b)
        self.frozen = torch.zeros(layout.S, dtype=torch.bool) if frozen is None else frozen.cpu()
        self.inactive: Tensor | None = None  # (I, S) bool: neurons to leave out at iteration l
        if layout.layers is not None:  # biases act at every l, but only layer l matters at l
            if self.update.name != "plain" or self.iterations != layout.layers + 1:
                raise ValueError(
                    f"{layout.layers} layers need the rule plain and {layout.layers + 1} iterations, not "
                    f"{self.update.name} and {self.iterations}"
                )
            self.inactive = layout.layer != torch.arange(self.iterations)[:, None]
        self.tracker: Any = None  # a urn.compaction.ActivityTracker in training
        self._supports: set[GradientSupport | None] = set()  # of the passes since the last step
        self._plans: dict[tuple, Plan] = {}
        self._buffer = GradientBuffer()
        self._frozen_values = None
        self.mask = None if self.mask is None else self.mask.to(W.device)
        self._mute = [as_index(port, W.device) for port in layout.ports.values()]
        self.restore_frozen()
        rows = self.frozen[self.partition.neurons].nonzero().flatten().to(W.device)
        if len(rows):
            self._frozen_values = (rows, self.W.data[rows].clone(), self.b.data[rows].clone())

    def _apply(self, fn: Any, recurse: bool = True) -> URN:
        """Do what `to`, `cuda` and `double` do to the Parameters to the frozen values as well."""
        super()._apply(fn, recurse)
        self.mask = None if self.mask is None else fn(self.mask)
        self._frozen_values = None if self._frozen_values is None else tuple(map(fn, self._frozen_values))
        self._mute = [as_index(port, self.W.device) for port in self.layout.ports.values()]
        self._plans.clear()
        return self

    @property
    def S(self) -> int:
        return self.layout.S

    def extra_repr(self) -> str:
        ports = ", ".join(f"{name}: {len(port)}" for name, port in self.layout.ports.items())
        return (
            f"{self.S} neurons ({len(self.layout.inputs)} inputs, ports {{{ports}}}), {self.iterations} iterations of "
            f"{self.update.name}, {int(torch.count_nonzero(self.W))} synapses, {int(self.frozen.sum())} frozen neurons"
        )

    @torch.no_grad()
    def restore_frozen(self) -> None:
        """Restore every frozen row to its value, and every synapse outside of the mask to zero.

        Zeroing gradients would not do: momentum, Adam's moments and weight decay move weights without a gradient."""
        if not self.outputs_send:
            for port in self._mute:
                self.W.data[:, port] = 0
        if self.mask is not None:
            self.W.data.mul_(self.mask)
        if self._frozen_values is not None:
            rows, W, b = self._frozen_values
            self.W.data[rows] = W
            self.b.data[rows] = b

    def set_inactive(self, inactive: Tensor | None) -> None:
        """Leave neurons out of the products: inactive (I, S) bool, by iteration (entry 0 is unused); None for none."""
        self.inactive = inactive
        self._plans.clear()

    def take_gradient_support(self) -> GradientSupport | None:
        """Return the rectangles of W outside of which the passes since the last call gave no gradient, or None."""
        supports, self._supports = self._supports, set()
        return supports.pop() if len(supports) == 1 else None

    # --- outputs -------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, port: Port = None) -> Tensor:
        """Logits (B, D_out) of the output port `port` (the only one when None) for x (B, D_in)."""
        return self.training_pass(x, port, Penalty()).logits

    def training_pass(self, x: Tensor, port: Port, penalty: Penalty, batch: int | None = None) -> ForwardPass:
        """Return the logits with what the penalty adds to the loss: the activity term and the early readouts.

        The activity term is the sum over l = 1..I-1 of c_N(l) sum |N^(l)| over free hidden neurons (paper eq 5); at
        l = I too where the penalty is literal, and of inputs and port too where it counts ports. Either asks for full
        products, as eq 5 is written. batch: samples by which the term is divided, those of x by default. In a
        feedforward network, whose last layer is computed before l = I alone, early readouts are the port's biases."""
        self._check(x)
        costs = penalty.activity_costs(self.iterations, len(x) if batch is None else batch)
        every = penalty.early_readout > 0
        if self.outputs_send or x.requires_grad or penalty.literal or penalty.ports:
            readouts, activity = self._full_pass(x, port, penalty, costs)
        else:
            readouts, activity = self._planned_pass(x, port, costs, every)
        if not every:
            return ForwardPass(readouts[-1], activity, None)
        return ForwardPass(readouts[-1], activity, early_readouts(readouts))

    def _full_pass(self, x: Tensor, port: Port, penalty: Penalty, costs: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Readouts (I, B, D_out) and activity term from the states as eq 3 to 7 are written."""
        states, index = self.states(x, port), self._port(port)
        counted = self.layout.hidden
        if penalty.ports:
            counted = torch.cat([counted, self.layout.inputs, index])
        counted = counted[~self.frozen[counted]].to(x.device)  # the activity of frozen neurons is no longer a choice
        if self.tracker is not None and torch.is_grad_enabled():
            for level in range(1, self.iterations):
                self.tracker.update(level, slice(None), states[level])
        last = self.iterations + 1 if penalty.literal else self.iterations
        terms = [costs[level] * states[level][:, counted].abs().sum() for level in range(1, last)]
        self._supports.add(None)
        return torch.stack([N[:, index] for N in states[1:]]), sum(terms, self.W.new_zeros(()))

    def _planned_pass(self, x: Tensor, port: Port, costs: Sequence[float], every: bool) -> tuple[Tensor, Tensor]:
        """Readouts, (I, B, D_out) or the last alone, and activity term; computes what the plan says."""
        training, plan = torch.is_grad_enabled(), self._plan(port)
        if training:
            leaves_out = self._leaves_out() and self.layout.layers is None
            self._supports.add(plan.gradient_support if leaves_out else None)
        options = PassOptions(
            costs=tuple(costs),
            every=every,
            tracker=self.tracker if training else None,  # evaluation decides nothing
            buffer=self._buffer if self.reuse_gradient_memory and self.W.grad is None else None,
            multiply=self.multiply if training else None,
        )
        return RecurrentKernel.apply(x, self.W, self.b, plan, options)  # type: ignore[return-value]

    def states(self, x: Tensor, port: Port = None) -> list[Tensor]:
        """Compute [N^(0), ..., N^(I)], each (B, S), by the update rule to the letter, with full products.

        The reference for everything that is faster. With `port`, only that port is an output; otherwise all are."""
        self._check(x)
        frames = x.unbind(1) if x.dim() == 3 else [x] * self.iterations
        inputs = self.layout.inputs.to(x.device)
        names = list(self.layout.ports) if port is None else [port]
        out = torch.zeros(self.S, dtype=torch.bool, device=x.device)
        for name in names:
            out[self._port(name)] = True
        mute = None  # outputs that send nothing: their columns of W are zero, and must not get a gradient either
        if not self.outputs_send and self.layout.ports:
            mute = torch.cat(list(self.layout.ports.values())).to(x.device)
        N = x.new_zeros(x.shape[0], self.S, dtype=self.W.dtype).index_copy(1, inputs, frames[0].to(self.W.dtype))
        states = [N]
        for level in range(1, self.iterations + 1):
            sent = N if mute is None else N.index_fill(1, mute, 0)
            Z = self.partition.drive(sent, self.W, self.b)
            new = Z.relu() if self.output_activation == "relu" else torch.where(out, Z, Z.relu())
            if self.update.residual_output:
                new = torch.where(out, N + new, new)
            if self.update.residual_input and level < self.iterations:
                new = new.index_add(1, inputs, frames[level].to(self.W.dtype))
            elif self.update.residual_input:
                new = new.index_add(1, inputs, frames[-1].to(self.W.dtype))
            N = new
            states.append(N)
        return states

    def readouts(self, x: Tensor, port: Port = None) -> list[Tensor]:
        """Return the port's (B, D_out) after l = 1..I iterations, for the readout depth."""
        index = self._port(port)
        return [N[:, index] for N in self.states(x, port)[1:]]

    # --- parts ---------------------------------------------------------------------------------------------------

    def subnetwork(self, index: Tensor) -> URN:
        """Return a URN of the neurons `index` (n,) alone, renumbered in that order; ports not wholly inside vanish.

        Raises ValueError while the rows of W are split over several processes."""
        if self.partition.world > 1:
            raise ValueError("a part is cut out of a whole URN; put its rows together first: urn.surgery.unshard")
        index = index.cpu()
        where = index.to(self.W.device)
        part = URN.__new__(URN)
        nn.Module.__init__(part)
        part.layout = self.layout.take(index)
        part.iterations, part.update = self.iterations, self.update
        part.output_activation, part.outputs_send = self.output_activation, self.outputs_send
        part.mask = None if self.mask is None else self.mask[where][:, where]
        W = self.W.data.index_select(0, where).index_select(1, where)
        part.set_parameters(part.layout, W, self.b.data[where], self.frozen[index])
        return part

    # --- inside --------------------------------------------------------------------------------------------------

    def _port(self, port: Port) -> Tensor:
        if isinstance(port, tuple):
            return torch.cat([self._port(name) for name in port])
        if port is None:
            if len(self.layout.ports) != 1:
                raise ValueError(f"name the output port to read: {', '.join(self.layout.ports) or 'there is none'}")
            (index,) = self.layout.ports.values()
            return index
        try:
            return self.layout.ports[port]
        except KeyError:
            raise ValueError(f"no output port is called {port!r}; there are {', '.join(self.layout.ports)}") from None

    def _check(self, x: Tensor) -> None:
        d_in = len(self.layout.inputs)
        if x.dim() == 2 and x.shape[1] == d_in:
            return
        if x.dim() == 3 and x.shape[1:] == (self.iterations, d_in):
            if self.update.residual_input:
                return
            raise ValueError(f"a sequence of inputs needs a residual input rule, this network's is {self.update.name}")
        raise ValueError(
            f"input of shape {tuple(x.shape)}; expected (B, {d_in}), or (B, {self.iterations}, {d_in}) for a sequence"
        )

    def _plan(self, port: Port) -> Plan:
        layout, I = self.layout, self.iterations
        leaves_out = self._leaves_out()
        key = (port, self.W.device, leaves_out)
        if key not in self._plans:
            sends = ~self.still()
            for other in layout.ports.values():
                sends[other] = False
            computed = [sends] * I
            if leaves_out:
                assert self.inactive is not None
                computed = [sends & ~self.inactive[level].cpu() for level in range(I)]
            if self.update.residual_input and I > 1 and bool(sends[layout.inputs].any()):
                for level in range(1, I):  # the rule adds x to input neurons that are active: all of them, always
                    computed[level] = computed[level].index_fill(0, layout.inputs, True)
            self._plans[key] = make_plan(
                inputs=layout.inputs,
                port=self._port(port),
                frozen=self.frozen,
                computed=computed,
                residual_input=self.update.residual_input,
                residual_output=self.update.residual_output,
                linear_output=self.output_activation == "linear",
                like=self.W,
                partition=self.partition,
            )
        return self._plans[key]

    def _leaves_out(self) -> bool:
        return self.inactive is not None and (not self.compute_all_now or self.layout.layers is not None)

    def still(self) -> Tensor:
        """Return (S,) bool: frozen neurons that read nothing and are never active, as a rule the input neurons."""
        rows = self.frozen[self.partition.neurons].to(self.W.device)
        still = rows & (self.b.data <= 0)
        still[rows] &= ~(self.W.data[rows] != 0).any(1)
        return self.partition.collect(still).cpu()
