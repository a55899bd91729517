"""The Unstructured Recursive Network: one weight matrix, applied I times (paper eq 2 to 7).

Also written Unrestricted, Unstructured or Recurrent in the paper; all mean this network. Letters: B batch, S neurons,
I iterations, D_in and D_out port sizes; W[i, j] is the synapse from neuron j to neuron i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from urn.kernel import GradientBuffer, GradientSupport, Iterate, Plan, as_index, make_plan
from urn.layout import Layout
from urn.row_partition import RowPartition
from urn.update_rules import find_update

OUTPUT_ACTIVATIONS = ("relu", "linear")


class URN(nn.Module):
    """S neurons, all connected to all, updated I times; phi is ReLU.

    layout: ports and coordinates. iterations: I >= 1. update: a name of `urn.update_rules.UPDATES`.
    output_activation: "relu" (the paper) or "linear" (no output can die). outputs_send: whether output neurons feed
    other neurons (in the paper they may; here not unless asked, because several tasks share one network).
    gain: factor on the He-normal standard deviation sqrt(2 / S). support: optional (S, S) bool, the synapses that may
    exist; all others are held at exactly zero by `hold`. A feedforward layout has a support of its own, runs `plain`
    for layers + 1 iterations, and computes only layer l at iteration l: the products of a multi-layer perceptron.

    Parameters W (S, S) and b (S,). `become` declares rows that training must not change and `hold` puts them back by
    value, so that no optimiser can move them. `recycle_gradient = True` keeps the memory of W's gradient from step to
    step, for loops with one forward pass for each backward pass. `multiply` is the dtype in which a training step
    multiplies (`urn.precision`), W's own when None: W, what is added to products, and answers without gradients stay in
    W's.

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
            raise ValueError(f"support has shape {tuple(mask.shape)}, the network's W is ({S}, {S})")
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
        """Takes on another set of neurons, weights and fixed rows, as new Parameters (an optimiser must be told:
        `urn.compaction.follow`). W (n, n), b (n,), fixed (n,) bool with n = layout.S. With `share`, of several
        processes, W and b have this one's rows alone."""
        self.layout = layout
        self.partition = RowPartition.whole(layout.S) if partition is None else partition
        self.W, self.b = nn.Parameter(W), nn.Parameter(b)
        self.frozen = torch.zeros(layout.S, dtype=torch.bool) if frozen is None else frozen.cpu()
        self.inactive: Tensor | None = None  # (I, S) bool: neurons known to be silent at iteration l
        if layout.layers is not None:  # not silent (biases act at every l), but only layer l has a say at l
            if self.update.name != "plain" or self.iterations != layout.layers + 1:
                raise ValueError(
                    f"{layout.layers} layers need the rule plain and {layout.layers + 1} iterations, not "
                    f"{self.update.name} and {self.iterations}"
                )
            self.inactive = layout.layer != torch.arange(self.iterations)[:, None]
        self.tracker: Any = None  # a urn.compaction.Watch while training
        self._reached: set[GradientSupport | None] = set()  # by the forward passes since the last step
        self._plans: dict[tuple, Plan] = {}
        self._slab = GradientBuffer()
        self._frozen_values = None
        self.mask = None if self.mask is None else self.mask.to(W.device)
        self._mute = [as_index(port, W.device) for port in layout.ports.values()]
        self.restore_frozen()
        rows = self.frozen[self.partition.neurons].nonzero().flatten().to(W.device)
        if len(rows):
            self._frozen_values = (rows, self.W.data[rows].clone(), self.b.data[rows].clone())

    def _apply(self, fn: Any, recurse: bool = True) -> URN:
        """What `to`, `cuda` and `double` do to the Parameters, done to what `hold` puts back as well."""
        super()._apply(fn, recurse)
        self.mask = None if self.mask is None else fn(self.mask)
        self._frozen_values = None if self._frozen_values is None else tuple(map(fn, self._frozen_values))
        self._mute = [as_index(port, self.W.device) for port in self.layout.ports.values()]
        self._plans.clear()
        return self

    @property
    def S(self) -> int:
        return self.layout.S

    @torch.no_grad()
    def restore_frozen(self) -> None:
        """Puts every fixed row back to its value, and every synapse that may not exist to zero. Zeroing gradients
        would not do: momentum, Adam's moments and weight decay move weights that have no gradient."""
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
        """silent: (I, S) bool, neurons to leave out at iteration l (entry 0 is unused); None computes all. While
        `look` is True they are computed nevertheless, to see who fires."""
        self.inactive = inactive
        self._plans.clear()

    def take_gradient_support(self) -> GradientSupport | None:
        """The rectangles of W outside of which there is no gradient, after forward passes that left neurons out; None
        where it may be everywhere. Forgets these passes."""
        reached, self._reached = self._reached, set()
        return reached.pop() if len(reached) == 1 else None

    # --- outputs -------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, port: str | None = None) -> Tensor:
        """Logits (B, D_out) of the output port `port` (the only one when None) for x (B, D_in)."""
        return self.forward_with_activity(x, port, (0.0,) * (self.iterations + 1))[0]

    def forward_with_activity(
        self,
        x: Tensor,
        port: str | None,
        costs: Sequence[float],
        *,
        literal: bool = False,
        ports: bool = False,
        every: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, D_out), and the activity term sum over l = 1..I-1 of costs[l] * sum |N^(l)| over free hidden
        neurons (paper eq 5; the batch's reduction is in the costs). literal: l = I too. ports: the input neurons and
        the port too, the residual inputs in them included. Either asks for full products, as eq 5 is written.
        every: the logits of each readout, l = 1..I, (I, B, D_out) in the place of the last; in a feedforward
        network, whose last layer is computed before l = I alone, the earlier ones are the port's biases."""
        self._check(x)
        tracker = self.tracker if torch.is_grad_enabled() else None  # what is only looked at decides nothing
        if self.outputs_send or x.requires_grad or literal or ports:
            states = self.states(x, port)
            counted = self.layout.hidden
            if ports:
                counted = torch.cat([counted, self.layout.inputs, self._port(port)])
            counted = counted[~self.frozen[counted]].to(x.device)  # the activity of fixed neurons is no longer a choice
            if tracker is not None:
                for level in range(1, self.iterations):
                    tracker.update(level, slice(None), states[level])
            last = self.iterations + 1 if literal else self.iterations
            terms = [costs[level] * states[level][:, counted].abs().sum() for level in range(1, last)]
            activity = sum(terms, self.W.new_zeros(()))
            index = self._port(port)
            self._reached.add(None)
            return (torch.stack([N[:, index] for N in states[1:]]) if every else states[-1][:, index]), activity
        gradient_buffer = self._slab if self.reuse_gradient_memory and self.W.grad is None else None
        multiply, plan = None, self._plan(port)
        if torch.is_grad_enabled():
            multiply = self.multiply
            self._reached.add(plan.gradient_support if self._narrowed() and self.layout.layers is None else None)
        return Iterate.apply(x, self.W, self.b, plan, costs, tracker, gradient_buffer, every, multiply)  # type: ignore

    def states(self, x: Tensor, port: str | None = None) -> list[Tensor]:
        """[N^(0), ..., N^(I)], each (B, S): the update rule to the letter, with full products. The reference for
        everything that is faster. With `port`, only that port is an output; otherwise all are."""
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

    def readouts(self, x: Tensor, port: str | None = None) -> list[Tensor]:
        """The port's (B, D_out) as it stands after l = 1..I iterations, for the readout depth."""
        index = self._port(port)
        return [N[:, index] for N in self.states(x, port)[1:]]

    # --- parts ---------------------------------------------------------------------------------------------------

    def subnetwork(self, index: Tensor) -> URN:
        """A URN of the neurons `index` (n,) alone, renumbered in that order; ports not wholly inside vanish.
        Raises ValueError while the rows of W are with several processes."""
        if self.partition.world > 1:
            raise ValueError("a part is cut out of a whole URN; put its rows together first: urn.row_partition.unshard")
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

    def _port(self, port: str | None) -> Tensor:
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

    def _plan(self, port: str | None) -> Plan:
        layout, I = self.layout, self.iterations
        narrowed = self._narrowed()
        key = (port, self.W.device, narrowed)
        if key not in self._plans:
            sends = ~self.still()
            for other in layout.ports.values():
                sends[other] = False
            computed = [sends] * I
            if narrowed:
                assert self.inactive is not None
                computed = [sends & ~self.inactive[level].cpu() for level in range(I)]
            if self.update.residual_input and I > 1 and bool(sends[layout.inputs].any()):
                for level in range(1, I):  # the rule shows x at input neurons that fire: all of them, always
                    computed[level] = computed[level].index_fill(0, layout.inputs, True)
            self._plans[key] = make_plan(
                iterations=I,
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

    def _narrowed(self) -> bool:
        return self.inactive is not None and (not self.compute_all_now or self.layout.layers is not None)

    def still(self) -> Tensor:
        """(S,) fixed neurons that read nothing and so never fire: as a rule the input neurons."""
        rows = self.frozen[self.partition.neurons].to(self.W.device)
        still = rows & (self.b.data <= 0)
        still[rows] &= ~(self.W.data[rows] != 0).any(1)
        return self.partition.collect(still).cpu()
