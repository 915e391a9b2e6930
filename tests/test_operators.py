"""Several queries at once, asked of the committed weights."""
import pytest
import torch

from clipsynth.base.process import UserError
from clipsynth.engine.synth import Synthesizer
from clipsynth.model.operators import AND, OPERATORS, combine_mels, combine_sounds, operator

WORDS = ["violin", "drum", "tuba"]


@pytest.fixture(scope="module")
def guided() -> Synthesizer:
    return Synthesizer("mini-music", "clipsynth-guided", "mini", "cpu")


def asked(model: Synthesizer, words: list[str], many: int) -> list[torch.Tensor]:
    return [model.embed_text([word]).expand(many, -1) for word in words]


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_makes_sounds_of_two_and_three_queries(guided: Synthesizer, name: str) -> None:
    for words in (WORDS[:2], WORDS):
        how = guided.mels, guided.waveforms, guided.diffusion
        sounds = combine_sounds(name, *how, asked(guided, words, 2), [0, 1], steps=3)
        assert sounds.shape == (2, 65_536) and sounds.abs().max() <= 1
        assert (10 * sounds.square().mean(1).log10() > -60).all() and not torch.equal(sounds[0], sounds[1])


@pytest.mark.parametrize("name", [name for name in OPERATORS if not operator(name).sounds])
def test_a_sample_does_not_depend_on_what_else_is_made(guided: Synthesizer, name: str) -> None:
    def made(seeds: list[int]) -> torch.Tensor:
        queries = asked(guided, WORDS[:2], len(seeds))
        return combine_mels(name, guided.mels, guided.diffusion, queries, seeds, 2.0, steps=3)

    assert (made([7, 8])[1] - made([8])[0]).abs().max() < 1e-3


def test_the_default_sounds_as_loud_as_one_and_differs_from_the_first_alone(guided: Synthesizer) -> None:
    queries, seeds = asked(guided, WORDS[:2], 4), [0, 1, 2, 3]
    both = combine_sounds(AND, guided.mels, guided.waveforms, guided.diffusion, queries, seeds)
    one = guided.waveforms(guided.mels(queries[0], seeds))
    apart = 10 * (both.square().mean(1) / one.square().mean(1)).log10()
    assert apart.abs().mean() < 3 and (both - one).abs().max() > 0.01


def test_an_operator_that_turns_back_refuses_the_ancestral_sampler(guided: Synthesizer) -> None:
    paper = Synthesizer("mini-music", "clipsynth-guided", "mini", "cpu", sampler="ancestral")
    with pytest.raises(UserError, match="does not turn back"):
        combine_mels("langevin", paper.mels, paper.diffusion, asked(guided, WORDS[:2], 1), [0], steps=3)
