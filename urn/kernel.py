"""The iteration of a URN with hand-written gradients: only the blocks of W that matter are multiplied.

Letters: B batch, S neurons, I iterations, D_in / D_out port sizes, F fixed senders (their incoming weights do not
train), T trainable senders, P the output port that is read, in the input port. Per iteration l = 1..I-1 the senders
are computed from those of iteration l-1, and the port only where it is read:

    N_l[T] = relu(drive_l[T] + N_(l-1) W[T, senders]^T)
    N_l[F] = relu(drive_l[F] + N_(l-1)[F] W[F, F]^T)        no gradient: a fixed neuron reads fixed neurons only
    P      = phi_out(drive_I[P] + N_(I-1) W[P, senders]^T)  plain; its sum over l = 1..I under residual_output

The drive is what the input port sends: b + x W[., in]^T at l = 1. Later it is b alone, or, under a residual input
rule with input neurons that never fire themselves, the same again: then it is computed once. Input neurons that do
fire after l = 0 are ordinary senders, to which that rule adds x.

The activity term of the loss enters here, because its gradient for rectified neurons is a constant where they fire
(paper eq 5). It covers l = 1..I-1: at l = I a hidden neuron cannot influence the output, so its only effect would be
to shrink (`urn.penalties.literal_penalty` is the paper's sum to the letter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from urn.row_partition import RowIndex, RowPartition

Index = slice | Tensor
GradientSupport = tuple[
    tuple[int, int, int, int], ...
]  # rectangles of W, apart from each other: first and last row and column


def as_index(indices: Tensor, device: torch.device) -> Index:
    """A slice where `indices` rises by one from entry to entry, so that a block of W is a view and not a copy."""
    n = len(indices)
    if n == 0:
        return slice(0, 0)
    first = int(indices[0])
    if bool((indices == torch.arange(first, first + n)).all()):
        return slice(first, first + n)
    return indices.to(device)


def block(W: Tensor, rows: Index, cols: Index) -> Tensor:
    """W[rows, cols]: a view for slices, a gathered copy otherwise."""
    W = W[rows] if isinstance(rows, slice) else W.index_select(0, rows)
    return W[:, cols] if isinstance(cols, slice) else W.index_select(1, cols)


def add_to_block(W: Tensor, rows: Index, cols: Index, left: Tensor, right: Tensor, *, onto: bool = True) -> None:
    """W[rows, cols] += left^T right, in place; between slices, not `onto` what is there but instead of it."""
    if isinstance(rows, slice) and isinstance(cols, slice) and left.dtype == W.dtype:
        W[rows, cols].addmm_(left.T, right, beta=1 if onto else 0)
        return
    product = (left.T @ right).to(W.dtype)
    if isinstance(rows, slice):
        if isinstance(cols, slice):
            W[rows, cols].add_(product) if onto else W[rows, cols].copy_(product)
        else:
            W[rows].index_add_(1, cols, product)
    elif isinstance(cols, slice):
        W[:, cols].index_add_(0, rows, product)
    else:
        W.index_put_((rows[:, None], cols), product, accumulate=True)


def affine(drive: Tensor, N: Tensor, W: Tensor, out: Tensor | None = None) -> Tensor:
    """drive + N W^T, in the dtype of the drive, whatever N and W are multiplied in."""
    if N.dtype == drive.dtype:
        return torch.addmm(drive, N, W.T, out=out)  # type: ignore[call-overload]
    return torch.add(drive, N @ W.T, out=out)


@dataclass(frozen=True)
class Plan:
    """Which neurons are computed at which iteration. Lists are indexed by l = 0..I-1; entry 0 is empty.

    senders[l] are the fixed[l] (n_fixed of them) followed by the free[l]: columns of W. Rows of W are those of this
    process (`share`): own_fixed[l] (own_n_fixed of them), own_free[l], port; in one process they are all. spots[l],
    spots_free[l] and spots_port say which rank has which. counted[l]: 1.0 for each own_free[l] that the activity term
    counts. refed[l]: under a residual input rule, where firing input neurons sit in senders[l] and
    which components of x they show. driven: whether the input port drives at every l. uniform: the same sets at
    every l, so that the gradient of W is one product. disjoint: the gradient's blocks are views, any two of them the
    same or apart. reach: where all sets are views, input neurons never fire and the senders of l are among those of
    l - 1, the rectangles of W that its gradient can fill.
    """

    iterations: int
    inputs: Index
    port: Index
    senders: tuple[Index, ...]
    frozen: tuple[Index, ...]
    free: tuple[Index, ...]
    n_fixed: tuple[int, ...]
    n_senders: tuple[int, ...]
    partition: RowPartition
    own_fixed: tuple[Index, ...]
    own_free: tuple[Index, ...]
    own_n_fixed: tuple[int, ...]
    own_n: tuple[int, ...]
    row_index: tuple[RowIndex, ...]
    row_index_free: tuple[RowIndex, ...]
    row_index_port: RowIndex
    counted: tuple[Tensor, ...]
    refed: tuple[tuple[Tensor, Tensor] | None, ...]
    driven: bool
    uniform: bool
    disjoint: bool
    gradient_support: GradientSupport | None
    residual_output: bool
    linear_output: bool


def make_plan(
    *,
    iterations: int,
    inputs: Tensor,
    port: Tensor,
    frozen: Tensor,
    computed: Sequence[Tensor],
    residual_input: bool,
    residual_output: bool,
    linear_output: bool,
    like: Tensor,
    partition: RowPartition,
) -> Plan:
    """fixed: (S,) bool. computed[l]: (S,) bool, the senders computed at l = 1..I-1 (entry 0 is unused). Under a
    residual input rule all input neurons are computed at all of these l, or none ever. like: W's dtype and device."""
    device = like.device
    is_input = torch.zeros_like(frozen)
    is_input[inputs] = True
    component = torch.zeros(len(frozen), dtype=torch.long)
    component[inputs] = torch.arange(len(inputs))
    none = torch.zeros(0, dtype=torch.long)
    sets = [(none, none)]
    for level in range(1, iterations):
        now = computed[level]
        sets.append(((now & frozen).nonzero().flatten(), (now & ~frozen).nonzero().flatten()))
    both = [torch.cat(pair) for pair in sets]
    own = [(partition.rows(F), partition.rows(T)) for F, T in sets]
    refed: list[tuple[Tensor, Tensor] | None] = []
    for senders in both:
        place = is_input[senders].nonzero().flatten()
        shows = residual_input and len(place) > 0
        refed.append((place.to(device), component[senders[place]].to(device)) if shows else None)
    return Plan(
        iterations=iterations,
        inputs=as_index(inputs, device),
        port=as_index(partition.rows(port), device),
        senders=tuple(as_index(senders, device) for senders in both),
        frozen=tuple(as_index(F, device) for F, _ in sets),
        free=tuple(as_index(T, device) for _, T in sets),
        n_fixed=tuple(len(F) for F, _ in sets),
        n_senders=tuple(map(len, both)),
        partition=partition,
        own_fixed=tuple(as_index(F, device) for F, _ in own),
        own_free=tuple(as_index(T, device) for _, T in own),
        own_n_fixed=tuple(len(F) for F, _ in own),
        own_n=tuple(len(F) + len(T) for F, T in own),
        row_index=tuple(partition.row_index(senders, device) for senders in both),
        row_index_free=tuple(partition.row_index(T, device) for _, T in sets),
        row_index_port=partition.row_index(port, device),
        counted=tuple((~is_input[T[partition.owner[T] == partition.rank]]).to(like) for _, T in sets),
        refed=tuple(refed),
        driven=residual_input and not any(entry is not None for entry in refed),
        uniform=(uniform := all(torch.equal(senders, both[1]) for senders in both[2:])),
        disjoint=(uniform or len(torch.cat(both).unique()) == sum(map(len, both)))
        and not any(bool(is_input[senders].any()) for senders in both)
        and _views(inputs, port, *both, *(T for _, T in sets)),
        gradient_support=_reach(inputs, partition.rows(port), both, [T for _, T in own], is_input),
        residual_output=residual_output,
        linear_output=linear_output,
    )


def _reach(inputs: Tensor, port: Tensor, both: Sequence[Tensor], own_free: Sequence[Tensor], is_input: Tensor):
    """What `Plan` says of its reach. port and own_free[l] are rows of W, inputs and the senders both[l] are columns."""
    sets = [both[1], *both[2:]] if len(both) > 1 else []
    nested = all(bool(torch.isin(after, before).all()) for before, after in pairwise(sets))
    fed = any(bool(is_input[senders].any()) for senders in sets)
    if fed or not nested or not _views(inputs, port, *sets, *own_free):
        return None
    first, second = (own_free[l] if l < len(own_free) else own_free[0] for l in (1, 2))
    senders = sets[0] if sets else inputs[:0]
    rectangles = ((first, inputs), (second, senders), (port, inputs), (port, senders))
    return tuple((*_ends(rows), *_ends(columns)) for rows, columns in rectangles if len(rows) and len(columns))


def _ends(run: Tensor) -> tuple[int, int]:
    return int(run[0]), int(run[-1]) + 1


def _views(*sets: Tensor) -> bool:
    return all(isinstance(as_index(indices, indices.device), slice) for indices in sets)


class GradientBuffer:
    """Memory for the gradient of W that is used again from step to step: at S = 5,000 a fresh allocation costs more
    than the product that fills it. Only for a loop with one forward pass for each backward pass, because a second
    one would write over the first."""

    def __init__(self):
        self.gradient: Tensor | None = None
        self.plan: Plan | None = None
        self.every = False

    def take(self, W: Tensor, plan: Plan, every: bool) -> Tensor:
        """The gradient of W, zero wherever the blocks of a disjoint plan do not write. every: is the port read after
        each iteration? Then there are more of them."""
        kept = self.gradient
        if kept is None or (kept.shape, kept.dtype, kept.device) != (W.shape, W.dtype, W.device):
            self.gradient = kept = torch.zeros_like(W)
        elif self.plan is not plan or self.every != every or not (plan.disjoint or plan.gradient_support):
            kept.zero_()
        elif not plan.disjoint:
            for top, bottom, left, right in plan.gradient_support or ():
                kept[top:bottom, left:right].zero_()
        self.plan, self.every = plan, every
        return kept


class Iterate(torch.autograd.Function):
    """(output, activity) of a batch under a Plan.

    x: (B, D_in), or (B, I, D_in) for a sequence under the residual input rule. W: (S, S), b: (S,).
    costs[l]: the price of one unit of activity at iteration l, the reduction over the batch included.
    watch: sees the senders' (B, n) activations of each iteration, or None. slab: memory for the gradient of W.
    every: read the port after each iteration. multiply: the dtype of the products, factors and results, W's by default;
    what is added to them and rectification stay in W's. Returns the port's (B, D_out), or (I, B, D_out) for every
    iteration, and the scalar sum over l = 1..I-1 of costs[l] * sum |N_l| over counted neurons.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, x, W, b, plan: Plan, costs: Sequence[float], tracker, gradient_buffer=None, every=False, multiply=None
    ):
        I, partition = plan.iterations, plan.partition
        frames = [frame.to(W.dtype) for frame in (x.unbind(1) if x.dim() == 3 else (x,))]
        V = W if multiply is None else W.to(multiply)  # what is multiplied, N with it
        N: list[Tensor] = [V.new_empty(x.shape[0], 0)]  # nothing but the drive arrives at l = 1
        rectified: list[Tensor] = [W.new_empty(x.shape[0], 0)]
        pre_port: list[Tensor] = []
        out, activity = None, W.new_zeros(())
        outs: list[Tensor] = []
        again: list[Tensor] = []
        buffer = None
        if plan.uniform and I > 2:
            buffer = V.new_empty(I - 1, x.shape[0], plan.n_senders[1])
        for level in range(1, I + 1):
            before, came = N[-1], plan.senders[level - 1]
            last = level == I
            rows = (plan.port,) if last else (plan.own_fixed[level], plan.own_free[level], plan.port)
            if level == 1 or (plan.driven and not (len(frames) == 1 and plan.uniform)):
                frame = frames[min(level, len(frames)) - 1]
                drives = [affine(b[r], frame.to(V.dtype), block(V, r, plan.inputs)) for r in rows]
                again = drives
            elif plan.driven:
                drives = again[-len(rows) :]
            else:
                drives = [b[r].expand(x.shape[0], -1) for r in rows]
            if plan.residual_output or last or every:
                Z = affine(drives[-1], before, block(V, plan.port, came))
                pre_port.append(Z)
                read = Z if plan.linear_output else Z.relu()
                out = read if out is None or not plan.residual_output else out + read
                outs.append(out)
            if last:
                break
            k, block_at = plan.own_n_fixed[level], None if buffer is None else buffer[level - 1]
            room = block_at if V is W else None
            own = room if room is not None and partition.world == 1 else W.new_empty(x.shape[0], plan.own_n[level])
            if k:
                reads = before[:, : plan.n_fixed[level - 1]]
                affine(drives[0], reads, block(V, plan.own_fixed[level], plan.frozen[level - 1]), out=own[:, :k])
            affine(drives[1], before, block(V, plan.own_free[level], came), out=own[:, k:])
            now = partition.gather(own.relu_(), plan.row_index[level], room)
            if tracker is not None:
                tracker.update(level, plan.senders[level], now)
            if costs[level]:
                activity += costs[level] * (own[:, k:].sum(0) @ plan.counted[level])
            rectified.append(own)
            if (refed := plan.refed[level]) is not None:
                now = now.index_add(1, refed[0], frames[min(level, len(frames) - 1)][:, refed[1]])
            if V is not W:
                now = now.to(V.dtype) if block_at is None or refed is not None else block_at.copy_(now)
            N.append(now)
        ctx.save_for_backward(W, V, b, *frames, *N, *rectified, *pre_port)
        ctx.plan, ctx.costs, ctx.n_frames = plan, costs, len(frames)
        ctx.gradient_buffer, ctx.every = gradient_buffer, every
        read = [partition.gather(out, plan.row_index_port) for out in (outs if every else outs[-1:])]
        return torch.stack(read) if every else read[0], partition.total(activity) if any(costs) else activity

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out: Tensor, d_activity: Tensor):  # type: ignore[override]
        plan: Plan = ctx.plan
        I, partition = plan.iterations, plan.partition
        if partition.world > 1:
            d_out = d_out.index_select(-1, plan.row_index_port.mine)
        W, V, b, *saved = ctx.saved_tensors
        frames, saved = saved[: ctx.n_frames], saved[ctx.n_frames :]
        N, rectified, pre_port = saved[:I], saved[I : 2 * I], saved[2 * I :]
        gradient_buffer: GradientBuffer | None = ctx.gradient_buffer
        d_read = d_outs = d_out  # (B, D_out); (I, B, D_out) of every readout
        dW = torch.zeros_like(W) if gradient_buffer is None else gradient_buffer.take(W, plan, ctx.every)
        db = torch.zeros_like(b)
        written: set[tuple] = set()

        def add(left: Tensor, right: Tensor, rows: Index, cols: Index) -> None:
            onto = not (plan.disjoint and gradient_buffer is not None)
            if not onto and isinstance(rows, slice) and isinstance(cols, slice):
                block_at = (rows.start, rows.stop, cols.start, cols.stop)
                onto = block_at in written
                written.add(block_at)
            add_to_block(dW, rows, cols, left.to(V.dtype), right.to(V.dtype), onto=onto)

        one_drive = plan.driven and len(frames) == 1 and plan.uniform
        to_free: list[Tensor] = []  # dZ of the free senders, from l = I-1 down to 1
        to_port: list[Tensor] = []  # dZ of the port, from l = I down
        dN: Tensor | None = None
        for level in range(I, 0, -1):
            came = plan.senders[level - 1]
            driven = level == 1 or (plan.driven and not one_drive)
            frame = frames[min(level, len(frames)) - 1]
            back = None
            if level < I:
                assert dN is not None
                if ctx.costs[level]:
                    dN = torch.addcmul(dN, d_activity.to(W.dtype), plan.counted[level], value=ctx.costs[level])
                dZ = dN.mul_(rectified[level][:, plan.own_n_fixed[level] :] > 0)
                T = plan.own_free[level]
                _add_rows(db, T, dZ.sum(0))
                if level > 1:
                    back = (dZ.to(V.dtype) @ block(V, T, plan.free[level - 1])).to(W.dtype)
                    if not (plan.uniform and I > 2):
                        add(dZ, N[level - 1], T, came)
                if driven and not one_drive:
                    add(dZ, frame, T, plan.inputs)
                to_free.append(dZ)
            if level == I or plan.residual_output or ctx.every:
                pre = pre_port[level - 1 if plan.residual_output or ctx.every else 0]
                if ctx.every:  # what is added at l stands in all later readouts
                    d_read = d_outs[level - 1 :].sum(0) if plan.residual_output else d_outs[level - 1]
                dP = d_read if plan.linear_output else d_read * (pre > 0)
                _add_rows(db, plan.port, dP.sum(0))
                if driven and not one_drive:
                    add(dP, frame, plan.port, plan.inputs)
                to_port.append(dP)
                if level > 1:
                    add(dP, N[level - 1], plan.port, came)
                    through = (dP.to(V.dtype) @ block(V, plan.port, plan.free[level - 1])).to(W.dtype)
                    back = through if back is None else back.add_(through)
            dN = back if back is None else partition.reduce(back, plan.row_index_free[level - 1])
        if one_drive:
            if to_free:
                add(_sum(to_free), frames[0], plan.own_free[1], plan.inputs)
            add(_sum(to_port), frames[0], plan.port, plan.inputs)
        if plan.uniform and I > 2:
            before = torch.cat(N[1 : I - 1]) if plan.refed[1] is not None else _stacked(N[1 : I - 1])
            add(torch.cat(to_free[-2::-1]), before, plan.own_free[1], plan.senders[1])
        # a second handle on the slab: autograd takes over what nobody else holds, and copies the rest
        return None, dW if gradient_buffer is None else dW.detach(), db, None, None, None, None, None, None


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _add_rows(db: Tensor, rows: Index, value: Tensor) -> None:
    if isinstance(rows, slice):
        db[rows] += value
    else:
        db.index_add_(0, rows, value)


def _stacked(N: list[Tensor]) -> Tensor:
    """The states of iterations 1..I-2 under one another; they lie so in memory already."""
    if len(N) == 1:
        return N[0]
    return N[0].as_strided((len(N) * N[0].shape[0], N[0].shape[1]), (N[0].stride(0), 1))
