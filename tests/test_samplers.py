"""Samplers and denoiser wrappers: what holds for every seed, batch and dtype, and what is refused."""
from collections.abc import Callable

import pytest
import torch

from clipsynth.base.config import DiffusionConfig, UNetConfig
from clipsynth.base.hashing import torch_rng
from clipsynth.base.process import UserError
from clipsynth.model.diffusion import Diffusion
from clipsynth.model.editing import (
    add_sounds,
    blend,
    compose,
    continue_sampling,
    guide,
    inpaint,
    shorten,
    threshold,
    travelling,
)
from clipsynth.model.samplers import TAIL, Counted, ddim, dpm_solver, even_log_snr, heun
from clipsynth.model.unet import UNet

Sampler = Callable[..., torch.Tensor]
SAMPLERS = [Diffusion.sample, ddim, dpm_solver, heun]
PREDICTIONS = ["noise", "velocity"]
WIDTH, MELS = 8, 32
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.__name__)


@pytest.fixture(scope="module")
def unet() -> UNet:
    """A small U-Net that says something, as an untrained one would not."""
    torch.manual_seed(0)
    config = UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), heads=2, patch=4, condition=WIDTH)
    net = UNet(config, mels=MELS).eval().requires_grad_(False)
    for weights in net.parameters():
        if not weights.any():
            weights.normal_(std=0.05)
    return net


@pytest.fixture(params=PREDICTIONS)
def process(request: pytest.FixtureRequest) -> Diffusion:
    return Diffusion(DiffusionConfig(prediction=request.param))


def queries(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch_rng("queries"))


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same samples but for rounding, which the noisiest steps multiply by up to 80,000 in single values."""
    return one.shape == other.shape and bool((one - other).abs().mean() < 1e-3)


def made(sampler: Sampler, process: Diffusion, model: object, seeds: list[int], query: torch.Tensor | None = None,
         **options: object) -> torch.Tensor:
    """Samples of a few steps, one for each seed; the query of a seed is always the same."""
    query = queries(10)[seeds] if query is None else query
    return sampler(process, model, query, **{"seeds": seeds, "shape": (1, MELS, 32), "steps": 4, **options})


def wrappers(process: Diffusion, unet: UNet) -> dict[str, object]:
    known, mask = torch.rand(1, 1, MELS, 32, generator=torch_rng("known")) - 0.5, torch.arange(32) < 16
    return {
        "guided": guide(unet, 3.0, negative=queries(1)),
        "composed": compose(unet, [1.0, -0.5], [queries(1)]),
        "thresholded": threshold(process, guide(unet, 5.0)),
        "inpainted": inpaint(process, unet, known, mask),
        "pulled": inpaint(process, guide(unet, 2.0), known, mask, pull=1),
    }


@every_sampler
def test_sample_depends_on_its_seed_alone(sampler: Sampler, process: Diffusion, unet: UNet) -> None:
    """But for rounding: matrix products of another size do not round alike."""
    batch = made(sampler, process, unet, [3, 1, 7])
    assert torch.equal(batch, made(sampler, process, unet, [3, 1, 7]))
    for row, seed in enumerate([3, 1, 7]):
        assert near(batch[row], made(sampler, process, unet, [seed])[0])
    other = made(sampler, process, unet, [4], queries(10)[3:4])
    assert (batch[0] - other[0]).abs().max() > 0.01


@every_sampler
def test_denoiser_of_single_samples_is_batch_independent_to_the_bit(sampler: Sampler, process: Diffusion) -> None:
    def alone(x: torch.Tensor, time: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.9 * x, torch.zeros_like(x)], dim=1)

    assert torch.equal(made(sampler, process, alone, [3, 1, 7])[1], made(sampler, process, alone, [1])[0])


@every_sampler
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_batch_and_dtype_makes_float32(sampler: Sampler, unet: UNet, count: int, dtype: torch.dtype) -> None:
    query, model = queries(count).to(dtype), Counted(unet)
    mel = made(sampler, Diffusion(), model, list(range(count)), query, steps=2)
    assert mel.shape == (count, 1, MELS, 32) and mel.dtype == torch.float32
    assert mel.isfinite().all() and mel.abs().le(1).all()
    assert model.evaluations == count * (3 if sampler is heun else 2)


@every_sampler
def test_callback_sees_every_step(sampler: Sampler, process: Diffusion, unet: UNet) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []
    mel = made(sampler, process, unet, [0, 1], callback=lambda step, data: seen.append((step, tuple(data.shape))))
    assert seen == [(step, tuple(mel.shape)) for step in range(4)]


@every_sampler
def test_initial_mel_is_kept_as_far_as_asked(sampler: Sampler, process: Diffusion) -> None:
    def sees_nothing(x: torch.Tensor, time: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2, *x.shape[2:])

    old = torch.full((1, 1, MELS, 32), 0.5)
    near, far = (made(sampler, shorten(process, strength), sees_nothing, [0], initial=old, steps=2)
                 for strength in (0.02, 0.9))
    assert (near - old).abs().mean() < 0.1 < (far - old).abs().mean()


@every_sampler
def test_what_cannot_be_sampled_is_refused(sampler: Sampler, unet: UNet) -> None:
    query, mel = queries(1), torch.zeros(1, 1, MELS, 32)
    for wrong, words in [
        ({"query": query * float("nan")}, "finite"),
        ({"query": query[:, :5]}, r"condition of shape \(1, 8\)"),
        ({"query": query[0]}, r"got shape \(8,\)"),
        ({"query": queries(3)}, "1 seeds for 3 samples"),
        ({"seeds": None}, "either seeds"),
        ({"generator": torch_rng("both")}, "either seeds"),
        ({"steps": 0}, "choose 1 to 4000"),
        ({"steps": 4_001}, "choose 1 to 4000"),
        ({"initial": mel[..., :16]}, "is being made"),
        ({"initial": mel / 0}, "not finite"),
        ({"shape": (1, MELS, 30)}, "multiple of 8"),
    ]:
        with pytest.raises(UserError, match=words) as error:
            given = {"query": query, "seeds": [0], "shape": (1, MELS, 32), "steps": 4, **wrong}
            sampler(Diffusion(), unet, given.pop("query"), **given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("sampler", [ddim, dpm_solver, heun], ids=lambda sampler: sampler.__name__)
def test_paths(sampler: Sampler, process: Diffusion, unet: UNet) -> None:
    """A count and the very steps are the same path; a path that turns back is walked as well."""
    down = [int(step) for step in even_log_snr(process, 4)[::-1]]
    assert torch.equal(made(sampler, process, unet, [0], steps=4), made(sampler, process, unet, [0], steps=down))
    assert made(sampler, process, unet, [0], steps=travelling(down[::-1], 2, 3)).isfinite().all()
    for outside in ([], [4_000, 0], [5, -1]):
        with pytest.raises(UserError, match="steps to visit"):
            made(sampler, process, unet, [0], steps=outside)
    with pytest.raises(UserError, match="not finite"):
        made(sampler, process, lambda x, t, c: x * float("nan"), [0])


@pytest.mark.parametrize("steps", [1, 2, 8, 25, 50])
def test_range_grows_with_the_steps(steps: int) -> None:
    """Fewer steps walk less; a given sound is walked from where the process begins."""
    for process in (Diffusion(), shorten(Diffusion(), 0.3), shorten(Diffusion(), 0.05)):
        some, more = even_log_snr(process, steps), even_log_snr(process, 2 * steps)
        assert some[0] >= more[0] and some[-1] <= more[-1] and 1 <= len(some) <= steps
        assert more[-1] <= even_log_snr(process, steps, TAIL)[-1]
    assert even_log_snr(shorten(Diffusion(), 0.3), steps, TAIL)[-1] == 1_199


@pytest.mark.parametrize("wrapper", ["guided", "composed", "thresholded", "inpainted", "pulled"])
@every_sampler
def test_every_wrapper_with_every_sampler(sampler: Sampler, process: Diffusion, unet: UNet, wrapper: str) -> None:
    batch = made(sampler, process, wrappers(process, unet)[wrapper], [3, 1])
    alone = made(sampler, process, wrappers(process, unet)[wrapper], [1])
    assert near(batch[1], alone[0])
    assert batch.isfinite().all() and (batch - made(sampler, process, unet, [3, 1])).abs().mean() > 0.01


@every_sampler
def test_dials_that_are_off_change_nothing(sampler: Sampler, process: Diffusion, unet: UNet) -> None:
    plain, nowhere = made(sampler, process, unet, [2]), torch.zeros(32, dtype=torch.bool)
    mel = torch.zeros(1, 1, MELS, 32)
    for model in (guide(unet, 1.0), guide(unet, 5.0, interval=(-2.0, -1.0)),
                  compose(unet, [0.5, 0.5], [queries(10)[2:3]]),
                  inpaint(process, unet, mel, nowhere), inpaint(process, unet, mel, nowhere, pull=1)):
        assert near(made(sampler, process, model, [2]), plain)


@every_sampler
def test_inpainting_keeps_what_is_known(sampler: Sampler, process: Diffusion, unet: UNet) -> None:
    known = torch.rand(2, 1, MELS, 32, generator=torch_rng("known")) - 0.5
    for mask in (torch.arange(32) < 16, torch.arange(MELS)[:, None] < 16, torch.rand(MELS, 32) < 0.5):
        mel = made(sampler, process, inpaint(process, unet, known, mask), [0, 1])
        assert (mel - known)[mask.expand_as(mel)].abs().max() < 1e-4


def test_only_the_noise_half_is_guided(unet: UNet) -> None:
    x, time, query = torch.randn(2, 1, MELS, 32), torch.tensor([300.0, 600.0]), queries(2)
    plain, none = unet(x, time, query), unet(x, time, torch.zeros_like(query))
    strong = guide(unet, 4.0)(x, time, query)
    assert torch.allclose(strong[:, 1], plain[:, 1], atol=1e-5)
    assert torch.allclose(strong[:, 0], none[:, 0] + 4 * (plain[:, 0] - none[:, 0]), atol=1e-4)
    half = guide(unet, 4.0, interval=(500.0, 1000.0))(x, time, query)
    assert torch.allclose(half[0], plain[0], atol=1e-5) and torch.allclose(half[1], strong[1], atol=1e-5)


def test_dials_refuse(process: Diffusion, unet: UNet) -> None:
    mel, mask = torch.full((1, 1, MELS, 32), float("nan")), torch.arange(32) < 16
    for attempt, words in [
        (lambda: compose(unet, [1.0], [queries(1)]), "1 weights for 2 queries"),
        (lambda: made(ddim, process, guide(unet, 2.0, negative=queries(1)[:, :3]), [0]), "width"),
        (lambda: made(ddim, process, guide(unet, 2.0, negative=queries(1) / 0), [0]), "not finite"),
        (lambda: inpaint(process, unet, mel, mask), "not finite"),
        (lambda: shorten(process, 1.5), "strength 1.5"),
        (lambda: travelling([1, 2], 0), "must be 1 at least"),
        (lambda: dpm_solver(process, unet, queries(1), seeds=[0], order=3), "choose 1"),
    ]:
        with pytest.raises(UserError, match=words) as error:
            attempt()  # type: ignore[no-untyped-call]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("frames", [1, 31, 32, 33, 90])
def test_continuation(process: Diffusion, unet: UNet, frames: int) -> None:
    def pieces(seeds: list[int], **options: object) -> list[torch.Tensor]:
        given = {"seeds": seeds, "shape": (1, MELS, 32), "overlap": 8, "steps": 3, "pull": 1, **options}
        return list(continue_sampling(dpm_solver, process, unet, queries(10)[seeds], frames, **given))  # type: ignore[arg-type]

    parts, first = pieces([0, 4]), made(dpm_solver, process, unet, [0, 4], steps=3)
    mel = torch.cat(parts, dim=-1)
    assert mel.shape == (2, 1, MELS, frames) and max(part.shape[-1] for part in parts) <= 32
    assert torch.equal(mel[..., :32], first[..., :frames])  # it begins like any other sample
    assert near(mel[1:], torch.cat(pieces([4]), dim=-1))
    assert torch.cat(pieces([0, 4], after=first), dim=-1).shape[-1] == frames
    for wrong in ({"overlap": 0}, {"overlap": 32}, {"after": first[..., :4]}):
        with pytest.raises(UserError, match="cannot make"):
            pieces([0, 4], **wrong)


def test_blend_and_addition() -> None:
    a, b = (torch.nn.functional.normalize(torch.randn(5, 16, generator=torch_rng(name)), dim=-1) for name in "ab")
    for centroid in (None, a.mean(0)):
        assert torch.allclose(blend(a, b, 0.0, centroid), a, atol=1e-5)
        assert torch.allclose(blend(a, b, 1.0, centroid), b, atol=1e-5)
        assert torch.allclose(blend(a, b, 0.3, centroid), blend(b, a, 0.7, centroid), atol=1e-5)
        assert torch.allclose(blend(a, b, 0.4, centroid).norm(dim=-1), torch.ones(5))
    assert blend(a, -a, 0.5).isfinite().all()
    sound, silence = torch.rand(2, 100) - 0.5, torch.zeros(2, 100)
    assert torch.allclose(add_sounds(sound, silence), sound)
    assert add_sounds(sound, 9 * sound).abs().max() <= 1
