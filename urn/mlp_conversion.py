"""Convert a multi-layer perceptron to a URN and back: `embed` (paper eq 1, figure 1) and `extract`.

`embed` puts the layers of an MLP one after the other on the sub-diagonal of W. A URN applies *all* of W and b at
every iteration, so while the data are in layer k, all other layers compute from biases alone. For an MLP of d weight
layers run for I iterations, by update rule:

    plain            exact for I = d: at l = k, layer k is the MLP's layer k, whatever it was before.
    residual_input   exact for I >= d: the input is added again, so layer k is the MLP's layer k for all l >= k.
    residual_output  the port adds up what it reads at every l; that is the MLP's output plus what it reads at l != d.
                     Exact for I >= d if it reads nothing then: phi_out(W_d c + b_d) = 0 for the constant state c of
                     the last hidden layer at l - 1. Enough: b_d = 0 (b_d <= 0 for relu outputs), hidden biases <= 0.
    residual_both    the same for I = d; for I > d the answer would be added I - d + 1 times.

`extract` unrolls the iterations of a URN over the neurons that matter at each and keeps W[A_(l+1), A_l] alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from urn.extracted_module import Dense, Step, Unrolled
from urn.layout import Layout
from urn.measures.graph import Synapses, index_mask
from urn.network import URN
from urn.update_rules import Update, find_update

Pairs = Sequence[tuple[Tensor, Tensor | None]]
Layers = list[tuple[Tensor, Tensor]]


def embed(
    mlp: nn.Sequential | Pairs,
    *,
    update: str = "plain",
    iterations: int | None = None,
    output_activation: str | None = None,
    port: str = "output",
) -> URN:
    """Embed an MLP in a URN that computes the same, in its dtype and with its weights to the letter.

    mlp: Linear layers with a ReLU between each two, and at the end or not; or pairs (weight (n_out, n_in), bias
    (n_out,) or None) of such layers. iterations: I, the number of layers by default. output_activation: "linear" or
    "relu"; read from a Sequential, "linear" by default for pairs. Neurons are numbered layer by layer, x = place in
    the layer, z = layer; `mask` allows the blocks of eq 1 alone, so that training keeps them.

    Raises ValueError for other kinds of layers, for sizes that do not fit, and for an MLP that is not exact under
    the rule (see the head of this module).
    """
    layers, activation = _layers(mlp, output_activation)
    rule, depth = find_update(update), len(layers)
    iterations = depth if iterations is None else iterations
    _check_exact(layers, activation, rule, iterations)
    widths = [layers[0][0].shape[1]] + [len(W) for W, _ in layers]
    start = torch.tensor([0, *widths]).cumsum(0).tolist()
    S, dtype = start[-1], layers[0][0].dtype
    positions = torch.cat([torch.tensor([[x, 0, z] for x in range(n)]) for z, n in enumerate(widths)]).float()
    layout = Layout(positions, torch.arange(widths[0]), {port: torch.arange(start[-2], S)})
    W, b, mask = torch.zeros(S, S, dtype=dtype), torch.zeros(S, dtype=dtype), torch.zeros(S, S, dtype=torch.bool)
    for k, (weight, bias) in enumerate(layers):
        rows, columns = slice(start[k + 1], start[k + 2]), slice(start[k], start[k + 1])
        W[rows, columns], b[rows], mask[rows, columns] = weight, bias, True
    network = URN(layout, iterations, update, activation, mask=mask, generator=torch.Generator(), dtype=dtype)
    network.set_parameters(layout, W, b)
    return network


def _layers(mlp: nn.Sequential | Pairs, activation: str | None) -> tuple[Layers, str]:
    """The (weight, bias) of each layer, detached and on the CPU, and the output activation."""
    if isinstance(mlp, nn.Sequential):
        pairs, ends = _linears(mlp)
        if activation not in (None, ends):
            raise ValueError(f"output_activation is {activation!r}, but the Sequential ends {ends}")
        activation = ends
    else:
        pairs = mlp
    if not pairs:
        raise ValueError("there is no layer to embed")
    layers: Layers = []
    for k, (weight, bias) in enumerate(pairs):
        W = weight.detach().cpu()
        b = W.new_zeros(len(W)) if bias is None else bias.detach().cpu()
        if W.dim() != 2 or b.shape != W.shape[:1] or (layers and W.shape[1] != len(layers[-1][0])):
            after = f", after {len(layers[-1][0])} neurons" if layers else ""
            raise ValueError(f"layer {k} has weight {tuple(W.shape)} and bias {tuple(b.shape)}{after}")
        layers.append((W, b))
    return layers, activation or "linear"


def _linears(mlp: nn.Sequential) -> tuple[Pairs, str]:
    """The (weight, bias) of each Linear, and "relu" or "linear" for how the Sequential ends."""
    pairs = []
    for place, module in enumerate(mlp):
        if isinstance(module, nn.Linear) and place % 2 == 0:
            pairs.append((module.weight, module.bias))
        elif not (isinstance(module, nn.ReLU) and place % 2 == 1):
            raise ValueError(
                f"layer {place} is a {type(module).__name__}; embed takes Linear, ReLU, Linear, ... in turn, because "
                "every hidden neuron of a URN is rectified"
            )
    return pairs, "relu" if len(mlp) % 2 == 0 else "linear"


def _check_exact(layers: Layers, activation: str, rule: Update, iterations: int) -> None:
    """Raise ValueError when the MLP is not exact under the rule; see the head of this module for the conditions."""
    depth = len(layers)
    if depth > iterations:
        raise ValueError(f"an MLP of {depth} weight layers needs {depth} iterations, not {iterations}")
    if depth < iterations and rule.name in ("plain", "residual_both"):
        why = "the output is over before it is read" if rule.name == "plain" else "the output is added up repeatedly"
        raise ValueError(f"under the rule {rule.name}, {depth} weight layers need I = {depth}, not {iterations}: {why}")
    if not rule.residual_output:
        return
    constant = [layers[0][0].new_zeros(layers[0][0].shape[1])] + [torch.zeros_like(b) for _, b in layers]
    for level in range(1, iterations + 1):
        constant = [constant[0]] + [W @ c + b for c, (W, b) in zip(constant[:-1], layers, strict=True)]
        read = constant[-1] if activation == "linear" else constant[-1].relu()
        if level != depth and (read != 0).any():
            raise ValueError(
                f"not exact under {rule.name}: biases act at every iteration, and at l = {level} they add up to "
                f"{float(read.abs().max()):.3g} to the output; take hidden biases <= 0 and no output bias, or the rule "
                "plain or residual_input"
            )
        constant = [constant[0], *(c.relu() for c in constant[1:])]


@torch.no_grad()
def extract(network: URN, port: str | None = None, x: Tensor | None = None) -> Unrolled:
    """Extract the network that ends in the output port `port` (the only one when None) as a plain torch module.

    Small dense layers with the same outputs, under every rule, with skips and recurrences. At iteration l it has the
    neurons A_l that can be other than zero (a path leads to them from the input, or from a bias, within l steps) and
    that the output can still depend on. x: optional sample (B, D_in) or (B, I, D_in); neurons that are inactive at l on
    all of it are left out too, so that outputs are equal on x and on all data that activate no other neuron. Raises
    ValueError when the port does not exist.
    """
    out, inputs, S, iterations = network._port(port).cpu(), network.layout.inputs.cpu(), network.S, network.iterations
    rule, linear = network.update, network.output_activation == "linear"
    W, b = network.W.detach(), network.b.detach().cpu()
    is_input, is_out, sends = index_mask(S, inputs), index_mask(S, out), torch.ones(S, dtype=torch.bool)
    if not network.outputs_send:
        for other in network.layout.ports.values():
            sends[other.cpu()] = False
    active = None if x is None else [(N != 0).any(0).cpu() for N in network.states(x, port)]
    edges = Synapses.of(W, None if active is None else torch.stack(active).any(0) | is_input | is_out)
    edges = edges.select(sends[edges.sender])

    possible = _possible(edges, b, is_input, is_out, rule, linear, iterations)
    if active is not None:
        possible = [P & on for P, on in zip(possible, active, strict=True)]
    neurons, read = [torch.zeros(S, dtype=torch.bool)] * (iterations + 1), [rule.residual_output] * iterations + [True]
    for level in range(iterations - 1, -1, -1):
        receivers = neurons[level + 1] | is_out if read[level + 1] else neurons[level + 1]
        neurons[level] = index_mask(S, edges.sender[receivers[edges.receiver]]) & possible[level]
        read[level] = read[level] or bool((neurons[level] & is_out).any())

    component, place = torch.full((S,), -1), torch.full((S,), -1)
    component[inputs], place[out] = torch.arange(len(inputs)), torch.arange(len(out))
    shared: dict[tuple, Dense] = {}  # the same block is stored once, however often it is applied

    def dense(rows: Tensor, columns: Tensor) -> Dense:
        key = (tuple(rows.tolist()), tuple(columns.tolist()))
        if key not in shared:
            shared[key] = Dense(W[rows.to(W.device)[:, None], columns.to(W.device)].cpu(), b[rows])
        return shared[key]

    zero_without_senders = rule.residual_output and bool((b[out] == 0).all() if linear else (b[out] <= 0).all())
    before, steps = neurons[0].nonzero().flatten(), []
    first = component[before]
    for level in range(1, iterations + 1):
        has_sender = index_mask(S, edges.receiver[neurons[level - 1][edges.sender]])
        A, fed = neurons[level], is_input & neurons[level] & rule.residual_input
        plain = (A & ~is_out & ~fed).nonzero().flatten()
        both = (fed & (has_sender | (b > 0))).nonzero().flatten()
        only_x = (fed & ~has_sender & (b <= 0)).nonzero().flatten()
        sent = (A & is_out).nonzero().flatten()
        computed = torch.cat([plain, both])
        skipped = zero_without_senders and level < iterations and not has_sender[out].any()
        steps.append(
            Step(
                hidden=dense(computed, before) if len(computed) else None,
                read=dense(out, before) if read[level] and not skipped else None,
                add_x=component[both],
                only_x=component[only_x],
                sent=place[sent],
            )
        )
        before = torch.cat([computed, only_x, sent])
    return Unrolled(first, steps, outputs=len(out), linear=linear, accumulate=rule.residual_output)


def _possible(
    edges: Synapses, b: Tensor, is_input: Tensor, is_out: Tensor, rule: Update, linear: bool, iterations: int
) -> list[Tensor]:
    """(S,) bool for each l = 0..I: the neurons that can be other than zero for some x.

    A rectified neuron needs a positive bias, or a possible sender that is excitatory or may be negative itself."""
    signed_out = is_out & linear
    possible = [is_input]
    for _ in range(iterations):
        signed = (is_input & (len(possible) == 1 or rule.residual_input)) | signed_out
        excites = (edges.weight > 0) | signed[edges.sender] | signed_out[edges.receiver]
        now = (
            index_mask(edges.S, edges.receiver[excites & possible[-1][edges.sender]])
            | (b > 0)
            | (signed_out & (b != 0))
        )
        now |= is_out & possible[-1] & rule.residual_output
        now |= is_input & rule.residual_input
        possible.append(now)
    return possible
