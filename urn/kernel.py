"""Compute the iterations of a URN with hand-written gradients, multiplying only the blocks of W that matter.

Letters: B batch, S neurons, I iterations, D_in / D_out port sizes, F frozen senders, T trainable ones, P the output
port that is read, in the input port. Per iteration l = 1..I-1 the senders are computed from those of iteration l-1, and
the port only where it is read:

    N_l[T] = relu(drive_l[T] + N_(l-1) W[T, senders]^T)
    N_l[F] = relu(drive_l[F] + N_(l-1)[F] W[F, F]^T)        no gradient: a frozen neuron reads frozen neurons only
    P      = phi_out(drive_I[P] + N_(I-1) W[P, senders]^T)  plain; its sum over l = 1..I under residual_output

The drive is what the input port sends: b + x W[., in]^T at l = 1. Later it is b alone, or, under a residual input
rule with input neurons that are never active themselves, the same again: then it is computed once. Input neurons that
are active after l = 0 are ordinary senders, to which that rule adds x.

The activity term of the loss is computed here, because its gradient for rectified neurons is a constant where they are
active (paper eq 5). It covers l = 1..I-1: at l = I a hidden neuron cannot influence the output, so the only effect of
the term would be to shrink it (`urn.penalties.literal_penalty` is the paper's sum to the letter).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from urn.plan import Index, Plan


class Tracker(Protocol):
    """Notes which neurons are active (`urn.compaction.ActivityTracker`)."""

    def update(self, level: int, neurons: slice | Tensor, N: Tensor) -> None: ...


class GradientBuffer:
    """Memory for the gradient of W that is used again from step to step: at S = 5,000 a fresh allocation costs more
    than the product that fills it. Only for a loop with one forward pass for each backward pass, because a second
    one would write over the first."""

    def __init__(self):
        self.gradient: Tensor | None = None
        self.plan: Plan | None = None
        self.every = False

    def take(self, W: Tensor, plan: Plan, every: bool) -> Tensor:
        """Return the gradient of W, zero wherever the blocks of a disjoint plan do not write.

        every: whether the port is read after each iteration, as then there are more blocks."""
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


@dataclass(frozen=True)
class PassOptions:
    """costs[l]: the coefficient of one unit of activity at iteration l, the reduction over the batch included. every:
    read the port after each iteration. tracker: is given the senders' (B, n) activations of each iteration; they are
    overwritten later, so they cannot be returned. buffer: memory for the gradient of W. multiply: the dtype of the
    products, factors and results, W's by default; what is added to them and rectification stay in W's."""

    costs: tuple[float, ...]
    every: bool = False
    tracker: Tracker | None = None
    buffer: GradientBuffer | None = None
    multiply: torch.dtype | None = None


class RecurrentKernel(torch.autograd.Function):
    """(readouts, activity) of a batch under a Plan.

    x: (B, D_in), or (B, I, D_in) for a sequence under the residual input rule. W: (S, S), b: (S,). Returns the port's
    (I, B, D_out) after every iteration, or (1, B, D_out) after the last, and the scalar sum over l = 1..I-1 of
    costs[l] * sum |N_l| over counted neurons.
    """

    @staticmethod
    def forward(ctx, x: Tensor, W: Tensor, b: Tensor, plan: Plan, options: PassOptions):  # type: ignore[override]
        I, partition, costs, every = plan.iterations, plan.partition, options.costs, options.every
        frames = [frame.to(W.dtype) for frame in (x.unbind(1) if x.dim() == 3 else (x,))]
        V = W if options.multiply is None else W.to(options.multiply)  # what is multiplied, N with it
        N: list[Tensor] = [V.new_empty(x.shape[0], 0)]  # nothing but the drive arrives at l = 1
        rectified: list[Tensor] = [W.new_empty(x.shape[0], 0)]
        before_phi: list[Tensor] = []
        outs: list[Tensor] = []
        activity = W.new_zeros(())
        drives: list[Tensor] = []
        states = None
        if plan.uniform and I > 2:
            states = V.new_empty(I - 1, x.shape[0], plan.levels[1].n_senders)
        for level in range(1, I + 1):
            sent, came = N[-1], plan.levels[level - 1]
            here = plan.levels[level] if level < I else None
            rows = (plan.port,) if here is None else (here.own_frozen, here.own_free, plan.port)
            if level == 1 or (plan.driven and not (len(frames) == 1 and plan.uniform)):
                frame = frames[min(level, len(frames)) - 1].to(V.dtype)
                drives = [affine(b[r], frame, block(V, r, plan.inputs)) for r in rows]
            elif plan.driven:
                drives = drives[-len(rows) :]
            else:
                drives = [b[r].expand(x.shape[0], -1) for r in rows]
            if plan.residual_output or here is None or every:
                Z = affine(drives[-1], sent, block(V, plan.port, came.senders))
                before_phi.append(Z)
                read = Z if plan.linear_output else Z.relu()
                outs.append(outs[-1] + read if outs and plan.residual_output else read)
            if here is None:
                break
            # in one process and one dtype, states are computed where they are stacked
            slot = None if states is None else states[level - 1]
            room = slot if V is W else None
            in_place = room is not None and partition.world == 1
            own = room if in_place else W.new_empty(x.shape[0], here.own_n)
            assert own is not None
            k = here.own_n_frozen
            if k:
                reads = sent[:, : came.n_frozen]
                affine(drives[0], reads, block(V, here.own_frozen, came.frozen), out=own[:, :k])
            affine(drives[1], sent, block(V, here.own_free, came.senders), out=own[:, k:])
            now = partition.gather(own.relu_(), here.row_index, room)
            if options.tracker is not None:
                options.tracker.update(level, here.senders, now)
            if costs[level]:
                activity += costs[level] * (own[:, k:].sum(0) @ here.counted)
            rectified.append(own)
            if here.shown is not None:
                now = now.index_add(1, here.shown[0], frames[min(level, len(frames) - 1)][:, here.shown[1]])
            if V is not W:
                now = now.to(V.dtype) if slot is None or here.shown is not None else slot.copy_(now)
            N.append(now)
        ctx.save_for_backward(W, V, b, *frames, *N, *rectified, *before_phi)
        ctx.plan, ctx.options, ctx.n_frames = plan, options, len(frames)
        read = [partition.gather(out, plan.row_index_port) for out in (outs if every else outs[-1:])]
        return torch.stack(read), partition.total(activity) if any(costs) else activity

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_outs: Tensor, d_activity: Tensor):  # type: ignore[override]
        plan: Plan = ctx.plan
        options: PassOptions = ctx.options
        I, partition, every = plan.iterations, plan.partition, options.every
        if partition.world > 1:
            d_outs = d_outs.index_select(-1, plan.row_index_port.mine)
        W, V, b, *saved = ctx.saved_tensors
        frames, saved = saved[: ctx.n_frames], saved[ctx.n_frames :]
        N, rectified, before_phi = saved[:I], saved[I : 2 * I], saved[2 * I :]
        dW = torch.zeros_like(W) if options.buffer is None else options.buffer.take(W, plan, every)
        db = torch.zeros_like(b)
        add = _block_adder(dW, V.dtype, overwrite=plan.disjoint and options.buffer is not None)
        one_drive = plan.driven and len(frames) == 1 and plan.uniform
        to_free: list[Tensor] = []  # dZ of the free senders, from l = I-1 down to 1
        to_port: list[Tensor] = []  # dZ of the port, from l = I down
        dN: Tensor | None = None
        d_read = d_outs[-1]
        for level in range(I, 0, -1):
            came = plan.levels[level - 1]
            driven = (level == 1 or plan.driven) and not one_drive
            frame = frames[min(level, len(frames)) - 1]
            back = None
            if level < I:
                here = plan.levels[level]
                assert dN is not None
                if options.costs[level]:
                    dN = torch.addcmul(dN, d_activity.to(W.dtype), here.counted, value=options.costs[level])
                dZ = dN.mul_(rectified[level][:, here.own_n_frozen :] > 0)
                _add_rows(db, here.own_free, dZ.sum(0))
                if level > 1:
                    back = (dZ.to(V.dtype) @ block(V, here.own_free, came.free)).to(W.dtype)
                    if not (plan.uniform and I > 2):
                        add(dZ, N[level - 1], here.own_free, came.senders)
                if driven:
                    add(dZ, frame, here.own_free, plan.inputs)
                to_free.append(dZ)
            if level == I or plan.residual_output or every:
                Z = before_phi[level - 1 if plan.residual_output or every else 0]
                if every:  # what is added at l is in all later readouts
                    d_read = d_outs[level - 1 :].sum(0) if plan.residual_output else d_outs[level - 1]
                dP = d_read if plan.linear_output else d_read * (Z > 0)
                _add_rows(db, plan.port, dP.sum(0))
                if driven:
                    add(dP, frame, plan.port, plan.inputs)
                to_port.append(dP)
                if level > 1:
                    add(dP, N[level - 1], plan.port, came.senders)
                    through = (dP.to(V.dtype) @ block(V, plan.port, came.free)).to(W.dtype)
                    back = through if back is None else back.add_(through)
            dN = back if back is None else partition.reduce(back, came.row_index_free)
        if one_drive:
            if to_free:
                add(_sum(to_free), frames[0], plan.levels[1].own_free, plan.inputs)
            add(_sum(to_port), frames[0], plan.port, plan.inputs)
        if plan.uniform and I > 2:
            senders = plan.levels[1]
            before = torch.cat(N[1 : I - 1]) if senders.shown is not None else _stacked(N[1 : I - 1])
            add(torch.cat(to_free[-2::-1]), before, senders.own_free, senders.senders)
        # a second handle on the buffer: autograd takes over what nobody else holds, and copies the rest
        return None, dW if options.buffer is None else dW.detach(), db, None, None


def block(W: Tensor, rows: Index, cols: Index) -> Tensor:
    """Return W[rows, cols]: a view for slices, a gathered copy otherwise."""
    W = W[rows] if isinstance(rows, slice) else W.index_select(0, rows)
    return W[:, cols] if isinstance(cols, slice) else W.index_select(1, cols)


def affine(drive: Tensor, N: Tensor, W: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute drive + N W^T in the dtype of the drive, whatever N and W are multiplied in."""
    if N.dtype == drive.dtype:
        return torch.addmm(drive, N, W.T, out=out)  # type: ignore[call-overload]
    return torch.add(drive, N @ W.T, out=out)


def add_to_block(W: Tensor, rows: Index, cols: Index, left: Tensor, right: Tensor, *, onto: bool = True) -> None:
    """Add left^T right to W[rows, cols] in place; between slices, without `onto`, put it in the block's place."""
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


def _block_adder(dW: Tensor, dtype: torch.dtype, *, overwrite: bool) -> Callable[[Tensor, Tensor, Index, Index], None]:
    """A function that adds left^T right, multiplied in `dtype`, to dW[rows, cols]. overwrite: blocks are disjoint, and
    the first product of each takes the place of what the buffer holds from the step before."""
    written: set[tuple[int, int, int, int]] = set()

    def add(left: Tensor, right: Tensor, rows: Index, cols: Index) -> None:
        onto = True
        if overwrite and isinstance(rows, slice) and isinstance(cols, slice):
            place = (rows.start, rows.stop, cols.start, cols.stop)
            onto = place in written
            written.add(place)
        add_to_block(dW, rows, cols, left.to(dtype), right.to(dtype), onto=onto)

    return add


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
