"""An MLP inside a URN equals the MLP layer by layer or is refused; a URN unrolled equals the URN."""

import itertools

import pytest
import torch
from torch import nn

from urn.extracted_module import Dense
from urn.layout import Layout
from urn.mlp_conversion import embed, extract
from urn.network import URN
from urn.update_rules import UPDATES, find_update


def mlp(seed: int, widths: tuple[int, ...] = (5, 8, 6, 3), *, bias: str = "any", relu: bool = False) -> nn.Sequential:
    """bias: "any", "none", or "hidden<=0" (hidden biases negative, none at the output)."""
    generator = torch.Generator().manual_seed(seed)
    modules: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layer = nn.Linear(n_in, n_out, bias=bias != "none", dtype=torch.float64)
        layer.weight.data = torch.randn(n_out, n_in, generator=generator, dtype=torch.float64)
        if bias != "none":
            layer.bias.data = torch.randn(n_out, generator=generator, dtype=torch.float64)
        if bias == "hidden<=0":
            layer.bias.data = -layer.bias.data.abs() * (len(modules) < 2 * (len(widths) - 2))
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules if relu else modules[:-1])


def inputs(n: int = 40, width: int = 5) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


# --- embed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("update", ["plain", "residual_input"])
def test_each_iteration_holds_the_layer_of_the_mlp(update: str, relu: bool):
    net, x = mlp(0, relu=relu), inputs()
    urn = embed(net, update=update)
    assert urn.iterations == 3
    assert urn.output_activation == ("relu" if relu else "linear")
    hidden, start = x, 5
    states = urn.states(x)
    torch.testing.assert_close(states[0][:, :5], x, rtol=0, atol=0)
    for k, layer in enumerate(list(net)[::2]):
        hidden = layer(hidden)
        hidden = hidden.relu() if relu or k < 2 else hidden
        width = hidden.shape[1]
        torch.testing.assert_close(states[k + 1][:, start : start + width], hidden, rtol=1e-13, atol=1e-13)
        start += width
    torch.testing.assert_close(urn(x), net(x), rtol=1e-13, atol=1e-13)


def test_weights_stand_below_the_diagonal_block_by_block():
    net = mlp(0)
    urn = embed(net, port="digits")
    W = urn.W.detach()
    blocks = [(5, 13, 0, 5), (13, 19, 5, 13), (19, 22, 13, 19)]
    rest = W.clone()
    for layer, (top, bottom, left, right) in zip(list(net)[::2], blocks, strict=True):
        assert torch.equal(W[top:bottom, left:right], layer.weight)
        assert torch.equal(urn.b[top:bottom], layer.bias)
        assert urn.mask is not None
        assert urn.mask[top:bottom, left:right].all()
        rest[top:bottom, left:right] = 0
    assert not rest.any()
    assert not urn.b[:5].any()
    assert urn.mask is not None
    assert int(urn.mask.sum()) == 5 * 8 + 8 * 6 + 6 * 3
    assert urn.layout.ports["digits"].tolist() == [19, 20, 21]
    assert urn.layout.positions[:, 2].tolist() == [0] * 5 + [1] * 8 + [2] * 6 + [3] * 3


def test_training_keeps_the_blocks():
    urn = embed(mlp(0))
    W = urn.W.detach().clone()
    optimizer = torch.optim.AdamW(urn.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        urn(inputs()).pow(2).sum().backward()
        optimizer.step()
        urn.restore_frozen()
    changed = urn.W.detach() != W
    assert urn.mask is not None
    assert changed[urn.mask].float().mean() > 0.5
    assert not urn.W[~urn.mask].any()


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("relu", [False, True])
def test_negative_hidden_biases_and_no_output_bias_are_exact_under_all_rules(update: str, relu: bool):
    net, x = mlp(1, bias="hidden<=0", relu=relu), inputs()
    for iterations in (3, 6) if update in ("residual_input", "residual_output") else (3,):
        urn = embed(net, update=update, iterations=iterations)
        torch.testing.assert_close(urn(x), net(x), rtol=1e-13, atol=1e-13)
    assert net(x).abs().max() > 0.1


def test_rectified_outputs_may_have_negative_biases():
    net, x = mlp(1, bias="hidden<=0", relu=True), inputs()
    net[4].bias.data -= 0.5  # type: ignore[union-attr]
    torch.testing.assert_close(embed(net, update="residual_output", iterations=5)(x), net(x), rtol=1e-13, atol=1e-13)
    linear = nn.Sequential(*list(net)[:-1])
    with pytest.raises(ValueError, match=r"biases act at every iteration.*at l = 1"):
        embed(linear, update="residual_output")


@pytest.mark.parametrize("update", list(UPDATES))
def test_what_is_refused_would_be_wrong_and_what_is_embedded_is_right(update: str):
    x, outcome = inputs(), {True: 0, False: 0}
    for seed, bias, relu, extra in itertools.product(range(3), ("any", "none", "hidden<=0"), (False, True), (0, 1, 2)):
        net = mlp(seed, bias=bias, relu=relu)
        try:
            urn, accepted = embed(net, update=update, iterations=3 + extra), True
        except ValueError:
            urn, accepted = embed(net, update="plain"), False
            urn.update, urn.iterations = find_update(update), 3 + extra
            urn.set_parameters(urn.layout, urn.W.data, urn.b.data)
        equal = torch.allclose(urn(x), net(x), rtol=1e-12, atol=1e-12)
        assert equal == accepted, (seed, bias, relu, extra)
        outcome[accepted] += 1
    assert outcome[True] >= 12
    assert (outcome[False] > 0) == (update != "residual_input")


@pytest.mark.parametrize("update", list(UPDATES))
def test_biases_are_free_where_they_act_once(update: str):
    """The only layer of d = 1, and the hidden layer of d = 2, which nothing reads before the data are in it."""
    one, two, x = mlp(3, (5, 3)), mlp(4, (5, 8, 3)), inputs()
    two[2].bias.data.zero_()  # type: ignore[union-attr]
    for net in (one, two):
        torch.testing.assert_close(embed(net, update=update)(x), net(x), rtol=1e-13, atol=1e-13)


def test_pairs_of_weight_and_bias():
    net, x = mlp(2), inputs()
    pairs = [(layer.weight, layer.bias) for layer in net if isinstance(layer, nn.Linear)]
    torch.testing.assert_close(embed(pairs)(x), net(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(embed(pairs, output_activation="relu")(x), net(x).relu(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(embed([(pairs[0][0], None)])(x), x @ pairs[0][0].T)


def test_embedding_leaves_the_random_state_and_the_mlp_alone():
    net = mlp(0)
    before = torch.get_rng_state()
    urn = embed(net)
    assert torch.equal(torch.get_rng_state(), before)
    urn.W.data.add_(1.0)
    torch.testing.assert_close(net(inputs()), mlp(0)(inputs()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (mlp(0), {"iterations": 2}, "3 weight layers needs 3 iterations, not 2"),
        (mlp(0), {"iterations": 4}, "over before it is read"),
        (mlp(0, bias="none"), {"iterations": 4, "update": "residual_both"}, "added up repeatedly"),
        (mlp(0), {"update": "residual_output"}, "biases act at every iteration"),
        (mlp(0), {"update": "both"}, "no update rule is called 'both'"),
        (mlp(0), {"output_activation": "relu"}, "ends linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), {}, "layer 1 is a Tanh"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), {}, "layer 1 is a Linear; .* rectified"),
        (nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), {}, "layer 0 is a ReLU"),
        (nn.Sequential(), {}, "no layer"),
        ([], {}, "no layer"),
        ([(torch.ones(3, 2), None), (torch.ones(2, 4), None)], {}, r"layer 1 has weight \(2, 4\).* after 3 neurons"),
        ([(torch.ones(3, 2), torch.ones(2))], {}, r"bias \(2,\)"),
    ],
)
def test_each_mistake_has_its_own_sentence(net, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        embed(net, **options)


# --- extract ---------------------------------------------------------------------------------------------------------


def random_urn(
    update: str, output_activation: str, *, sends: bool = False, seed: int = 0, density: float = 0.12, S: int = 30
) -> URN:
    """A sparse net with biases, cycles, synapses into input neurons, and two output ports."""
    generator = torch.Generator().manual_seed(seed)
    layout = Layout.flat(S, 4, {"a": 3, "b": 2})
    urn = URN(layout, 4, update, output_activation, outputs_send=sends, dtype=torch.float64)
    W = torch.randn(S, S, generator=generator, dtype=torch.float64)
    W *= torch.rand(S, S, generator=generator) < density
    b = 0.3 * torch.randn(S, generator=generator, dtype=torch.float64)
    b *= torch.rand(S, generator=generator) < 0.4
    urn.set_parameters(layout, W, b)
    return urn


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("output_activation", ["relu", "linear"])
@pytest.mark.parametrize("sends", [False, True])
def test_the_extracted_module_has_the_same_outputs(update: str, output_activation: str, sends: bool):
    x, spread = inputs(20, 4), 0.0
    for seed, density in itertools.product(range(4), (0.03, 0.12, 0.5)):
        urn = random_urn(update, output_activation, sends=sends, seed=seed, density=density)
        for port, index in urn.layout.ports.items():
            expected = urn.states(x, port)[-1][:, index].detach()
            torch.testing.assert_close(extract(urn, port)(x), expected, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(extract(urn, port, x)(x), expected, rtol=1e-11, atol=1e-11)
            spread = max(spread, float((expected.amax(0) - expected.amin(0)).max()))
    assert spread > 1.0


@pytest.mark.parametrize("update", ["residual_input", "residual_both"])
def test_sequences_are_fed_step_by_step(update: str):
    urn = random_urn(update, "linear", density=0.2)
    x = torch.randn(20, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = urn.states(x, "a")[-1][:, urn.layout.ports["a"]]
    torch.testing.assert_close(extract(urn, "a")(x), expected, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(extract(urn, "a")(x[:, 0]), expected)


def test_an_embedded_mlp_comes_back_as_its_layers():
    net = mlp(0)
    module = extract(embed(net))
    blocks = [block for block in module.modules() if isinstance(block, Dense)]
    for block, layer in zip(blocks, list(net)[::2], strict=True):
        assert torch.equal(block.weight, layer.weight)
        assert torch.equal(block.bias, layer.bias)
    assert "5 -> 8, 40 synapses" in repr(module)


def test_only_what_matters_at_an_iteration_is_kept():
    """0, 1 -> 2 -> 3 -> output 7; 4 has no sender, 5 sends nothing, 6 is inhibited only."""
    layout = Layout.flat(8, 2, {"out": 1})
    W = torch.zeros(8, 8)
    W[2, 0], W[2, 1], W[3, 2], W[7, 3] = 1.0, 1.0, 1.0, 1.0
    W[7, 4], W[5, 2], W[6, 2], W[7, 6] = 1.0, 1.0, -1.0, 1.0
    sizes = {}
    for update in UPDATES:
        urn = URN(layout, 3, update, "linear")
        urn.set_parameters(layout, W.clone(), torch.zeros(8))
        blocks = {
            name: tuple(block.weight.shape) for name, block in extract(urn).named_modules() if name[-1:].isdigit()
        }
        sizes[update] = blocks
    plain = {"hidden.1": (1, 2), "hidden.2": (1, 1), "read.3": (1, 1)}
    assert sizes["plain"] == plain
    assert sizes["residual_input"] == plain
    assert sizes["residual_output"] == plain
    assert sizes["residual_both"] == plain


def test_a_linear_output_that_sends_may_be_negative():
    """Input 0 -> 1 -| output 3 -| 2 -> output 3: inhibited twice over, 2 is active."""
    layout = Layout.flat(4, 1, {"out": 1})
    W = torch.zeros(4, 4)
    W[1, 0], W[3, 1], W[2, 3], W[3, 2] = 1.0, -1.0, -1.0, 1.0
    urn = URN(layout, 4, "plain", "linear", outputs_send=True)
    urn.set_parameters(layout, W, torch.zeros(4))
    x = torch.rand(5, 1) + 0.1
    torch.testing.assert_close(urn.states(x)[-1][:, 3:].detach(), x)
    torch.testing.assert_close(extract(urn)(x), x)


def test_a_sample_leaves_out_what_is_silent_on_it():
    urn, x = embed(mlp(0)), inputs(1)
    everything, less = extract(urn), extract(urn, x=x)
    size = [sum(block.weight.numel() for block in m.modules() if isinstance(block, Dense)) for m in (everything, less)]
    assert size[1] < size[0]
    torch.testing.assert_close(less(x), everything(x), rtol=1e-13, atol=1e-13)


def test_a_block_that_is_applied_again_is_stored_once():
    layout = Layout.flat(6, 1, {"out": 1})
    W = torch.rand(6, 6)
    W[0] = 0
    urn = URN(layout, 6, "residual_input", "linear")
    urn.set_parameters(layout, W, torch.zeros(6))
    module = extract(urn)
    assert module.hidden["2"] is module.hidden["3"]
    x = torch.rand(5, 1)
    torch.testing.assert_close(module(x), urn(x).detach())


def test_it_exports_without_the_urn():
    urn = random_urn("residual_both", "linear", density=0.2)
    x = inputs(3, 4)
    module = extract(urn, "a").eval()
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("B", min=1)},))
    more = inputs(17, 4)
    expected = urn.states(more, "a")[-1][:, urn.layout.ports["a"]]
    torch.testing.assert_close(program.module()(more), expected, rtol=1e-11, atol=1e-11)
    assert not any(p.requires_grad for p in module.parameters())


def test_the_port_has_to_exist():
    urn = random_urn("plain", "linear")
    with pytest.raises(ValueError, match="name the output port"):
        extract(urn)
    with pytest.raises(ValueError, match="no output port is called 'c'"):
        extract(urn, "c")
