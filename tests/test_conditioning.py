"""A query concatenated without being built equals the plain concatenation: forward, backward, compiled, in bf16.

The plain way, the reference here: repeat the query everywhere, concatenate, convolve with the same weights.
"""
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clipsynth.base.config import UNetConfig
from clipsynth.base.hashing import torch_rng
from clipsynth.base.process import UserError
from clipsynth.model.conditioning import ConditionedConv2d
from clipsynth.model.unet import UNet

Way = Callable[[nn.Conv2d, torch.Tensor, torch.Tensor], torch.Tensor]
KINDS = [(3, 1), (3, 2), (1, 1), (1, 2), (5, 1)]  # kernel, stride
SIZES = [(1, 1), (1, 6), (2, 2), (3, 5), (4, 7), (5, 4), (8, 8), (9, 16)]
SMALL = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(8,), heads=2, patch=4, condition=6)


def built(layer: nn.Conv2d, features: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """The plain way, with channels that are there."""
    repeated = condition[:, :, None, None].expand(-1, -1, *features.shape[-2:])
    return F.conv2d(torch.cat([features, repeated], 1), layer.weight, layer.bias, layer.stride, layer.padding)


def ours(layer: nn.Conv2d, features: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """As the U-Net does it."""
    return layer(features, condition)


def answers(way: Way, layer: nn.Conv2d, features: torch.Tensor, condition: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients by weight, bias, features and condition of a sum that weighs each value differently."""
    features, condition = features.clone().requires_grad_(), condition.clone().requires_grad_()
    output = way(layer, features, condition)
    weighting = torch.randn(output.shape, generator=torch_rng("weighting")).to(output.dtype)
    assert layer.bias is not None
    return [output, *torch.autograd.grad((output * weighting).sum(), [layer.weight, layer.bias, features, condition])]


def apart(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The largest difference of two lists of tensors, each in units of its largest value."""
    pairs = [(a.detach(), b.detach()) for a, b in zip(some, others, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def layer_and_inputs(kind: tuple[int, int], size: tuple[int, int]) -> tuple[nn.Conv2d, torch.Tensor, torch.Tensor]:
    """A layer of 8 features and 16 numbers of a query, and three of each."""
    torch.manual_seed(0)
    rng = torch_rng("conditioning", size)
    draws = torch.randn(3, 8, *size, generator=rng), torch.randn(3, 16, generator=rng)
    return ConditionedConv2d(8, 16, 12, *kind), *draws


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_backward_in_float64(size: tuple[int, int], kind: tuple[int, int]) -> None:
    """Equal to twelve digits: the same function, and not one that comes near."""
    layer, features, condition = layer_and_inputs(kind, size)
    given = layer.double(), features.double(), condition.double()
    expected = answers(built, *given)
    assert all(tensor.abs().max() > 1e-3 for tensor in expected)
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = features.double().to(memory_format=layout)
        assert apart(answers(ours, layer, laid, given[2]), expected) < 1e-12


@pytest.mark.parametrize("kind", KINDS[:4])
def test_compiled(kind: tuple[int, int]) -> None:
    """Traced by torch.compile, forward and backward; `aot_eager` needs no compiler and no particular CPU."""
    layer, *given = layer_and_inputs(kind, (5, 8))
    torch._dynamo.reset()
    way = torch.compile(ours, backend="aot_eager", fullgraph=True)
    assert apart(answers(way, layer, *given), answers(built, layer, *given)) < 1e-4


@pytest.mark.parametrize("kind", KINDS[:4])
def test_autocast(kind: tuple[int, int]) -> None:
    """In bfloat16 as near to the truth as eight bits of mantissa are; gradients come back in float32."""
    layer, *given = layer_and_inputs(kind, (5, 8))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = answers(ours, layer, *given)
    assert [tensor.dtype for tensor in mixed] == [torch.bfloat16] + 4 * [torch.float32]
    assert apart([tensor.float() for tensor in mixed], answers(built, layer, *given)) < 0.08


def test_weights_move_freely() -> None:
    """The state is that of an ordinary convolution of all channels, and an even kernel has no middle to stand on."""
    layer = ConditionedConv2d(8, 16, 12, 3, 2)
    nn.Conv2d(24, 12, 3, 2, 1).load_state_dict(layer.state_dict())
    with pytest.raises(UserError, match="kernel 2"):
        ConditionedConv2d(8, 16, 12, 2)


def awake(config: UNetConfig) -> UNet:
    """A U-Net in which no weight is zero, so that every layer is heard."""
    torch.manual_seed(0)
    net = UNet(config).eval()
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=torch_rng("awake"))
    return net


def asked(net: UNet, noisy: torch.Tensor, time: torch.Tensor, query: torch.Tensor | None) -> list[torch.Tensor]:
    """Output and all gradients."""
    output = net(noisy, time, query)
    inputs = [*net.parameters(), *([] if query is None else [query])]
    weighting = torch.randn(output.shape, generator=torch_rng("weighting"))
    return [output, *torch.autograd.grad((output * weighting).sum(), inputs)]


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy spectrograms, times and queries."""
    rng = torch_rng("u-net", batch)
    noisy, times = torch.randn(batch, 1, 64, 32, generator=rng), 1000 * torch.rand(batch, generator=rng)
    return noisy, times, torch.randn(batch, 6, generator=rng).requires_grad_()


@pytest.mark.parametrize("compiled", [False, True])
def test_the_whole_network(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The U-Net with the channels built in every block is the same network, down to each gradient."""
    net, given = awake(SMALL), inputs(3)
    torch._dynamo.reset()
    mine = asked(torch.compile(net, backend="aot_eager") if compiled else net, *given)  # type: ignore[arg-type]
    monkeypatch.setattr(ConditionedConv2d, "forward", built)
    assert apart(mine, asked(net, *given)) < 1e-3


@pytest.mark.parametrize("compiled", [False, True])
def test_film(compiled: bool) -> None:
    """FiLM adds W q + b to the time's embedding: for one query, no more than another bias of a network without any."""
    film, (noisy, time, query) = awake(replace(SMALL, conditioning="film")), inputs(1)
    assert film.time.query is not None
    bare = awake(replace(SMALL, conditioning="none"))
    state = {name: value for name, value in film.state_dict().items() if not name.startswith("time.query")}
    bare.load_state_dict(state)
    with torch.no_grad():
        bare.time.second.bias += film.time.query(query)[0]
    torch._dynamo.reset()
    output, *gradients = asked(torch.compile(film, backend="aot_eager") if compiled else film,  # type: ignore[arg-type]
                               noisy, time, query)
    expected, *others = asked(bare, noisy, time, None)
    mine = dict(zip([*dict(film.named_parameters()), "query"], gradients, strict=True))
    theirs = dict(zip(dict(bare.named_parameters()), others, strict=True))
    assert apart([output, *(mine[name] for name in theirs)], [expected, *theirs.values()]) < 1e-3
    bias = theirs["time.second.bias"]
    by_query = [bias, torch.outer(bias, query.detach()[0]), (bias @ film.time.query.weight)[None]]
    assert apart([mine["time.query.bias"], mine["time.query.weight"], mine["query"]], by_query) < 1e-3
