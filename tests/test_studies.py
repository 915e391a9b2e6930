"""The studies: off-screen sound in training, words that no picture shows, treated pictures, other CLIPs, the gap."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from training import RandomStore

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import UserError
from clipsynth.base.profiles import MINI, SMOKE
from clipsynth.base.tables import Estimate
from clipsynth.engine.diffusion_task import DiffusionTask
from clipsynth.model.query import as_condition
from clipsynth.results import audio_words, gap_measures, gap_training
from clipsynth.results.audio_words import PAIRS, REPEATS, WORDS, beyond, shortfall, sound_aspects, word_effect
from clipsynth.results.bench import Bench
from clipsynth.results.mixture_training import MixedTask
from clipsynth.results.offscreen import RATES, OffscreenTask, swap_pictures
from clipsynth.results.small_models import TreatedTask, noise_for, small_config, small_profile
from clipsynth.worlds.captioned import moments_at
from clipsynth.worlds.music import plan_pieces
from clipsynth.worlds.world import video_ids


@pytest.fixture(autouse=True)
def _noise_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of noise, of two classes in turn, wherever one is looked for."""
    for place in ("engine.diffusion_task", "results.mixture_training"):
        monkeypatch.setattr(f"clipsynth.{place}.Store", RandomStore)


def batch_of(task: DiffusionTask, seed: int = 0) -> dict[str, torch.Tensor]:
    return task.batch(numpy_rng("batch", seed=seed), 32)


def clips_shown(task: DiffusionTask, condition: torch.Tensor) -> np.ndarray:
    """The clip whose picture each condition is."""
    pictures = as_condition(torch.as_tensor(np.array(RandomStore().embedding)).float()).flatten(0, 1)
    return (torch.cdist(condition, pictures).argmin(1) // RandomStore().embedding.shape[1]).numpy()


def test_without_off_screen_sound_it_is_clipsynths_own_training() -> None:
    ours, plain = OffscreenTask(SMOKE, "mini-music", 0.0), DiffusionTask(SMOKE, "mini-music")
    for seed in range(3):
        mine, theirs = batch_of(ours, seed), batch_of(plain, seed)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours.unet.parameters(), plain.unet.parameters(), strict=True))


def test_at_rate_one_every_picture_is_of_another_class_and_the_sounds_stay() -> None:
    ours, plain = OffscreenTask(SMOKE, "mini-music", 1.0), DiffusionTask(SMOKE, "mini-music")
    mine, theirs = batch_of(ours), batch_of(plain)
    assert torch.equal(mine["mel"], theirs["mel"])
    labels = RandomStore().kept["label"].to_numpy()
    shown, sounding = clips_shown(ours, mine["condition"]), clips_shown(plain, theirs["condition"])
    assert (labels[shown] != labels[sounding]).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_higher_rate_adds_clips_and_changes_no_other(seed: int) -> None:
    labels, rows = np.array([f"class {k % 7}" for k in range(140)]), np.arange(0, 140, 2)
    mine = np.arange(len(labels))
    found = [swap_pictures(labels, rows, rate, seed) for rate in (0.0, *RATES, 1.0)]
    for less, more in zip(found, found[1:], strict=False):
        assert np.array_equal(more[less != mine], less[less != mine])
    for rate, shown in zip((0.0, *RATES, 1.0), found, strict=True):
        swapped = np.flatnonzero(shown != mine)
        assert len(swapped) == round(rate * len(rows)) and {*swapped, *shown[swapped]} <= set(rows)
        assert (labels[shown] != labels)[swapped].all()
    others = swap_pictures(labels, rows, 0.5, seed + 1)
    assert not np.array_equal(others, swap_pictures(labels, rows, 0.5, seed))


@pytest.mark.parametrize("rate", [-0.1, 1.01, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="give a share of the clips"):
        swap_pictures(np.array(["a", "b"]), np.arange(2), rate)


def test_one_class_alone_cannot_be_mismatched() -> None:
    with pytest.raises(UserError, match="two classes"):
        swap_pictures(np.array(["a", "a", "b"]), np.arange(2), 0.5)


def test_a_small_training_begins_afresh() -> None:
    """Whatever the profile's own training starts from, and however long it is."""
    recipe = replace(MINI.train["clipsynth"], steps=90_000, init="mini-music/clipsynth")
    config = small_config(recipe, steps=700, seed=1)
    assert (config.steps, config.seed, config.init) == (700, 1, "")
    assert small_profile(MINI).unet.channels * 2 == MINI.unet.channels


def test_silence_and_noise_have_no_pitch_and_finite_numbers() -> None:
    noise = torch.from_numpy(numpy_rng("noise").normal(size=(1, 65_536))).float() * 0.1
    found = sound_aspects(torch.cat([torch.zeros(1, 65_536), noise]))
    assert found["pitched"].tolist() == [0, 0] and found["pitch"].tolist() == [0, 0]
    assert all(np.isfinite(values).all() for values in found.values())


@pytest.mark.parametrize("note", [45, 60, 74])
def test_a_tone_an_octave_higher_is_twelve_semitones_higher(note: int) -> None:
    hertz = 440 * 2 ** ((torch.tensor([note, note + 12.0]) - 69) / 12)
    second = torch.arange(65_536) / 16_000
    tones = sum(0.2 / k * (2 * torch.pi * k * hertz[:, None] * second).sin() for k in (1, 2, 3))
    assert isinstance(tones, torch.Tensor)
    assert np.abs(sound_aspects(tones)["pitch"] - [note, note + 12]).max() < 0.1


def made_up(classes: int = 12) -> dict[str, np.ndarray]:
    count = len(WORDS) * classes * REPEATS
    rng = numpy_rng("made up")
    return {name: rng.normal(60, 2, count) for name in ("level", "pitch", "brightness")} | {"pitched": np.ones(count)}


def test_an_effect_is_found_in_its_direction_by_class() -> None:
    sounds, place = made_up(), WORDS.index("small {}")
    sounds["pitch"].reshape(len(WORDS), -1)[place] += 8
    there = word_effect(sounds, "small {}", "large {}", "pitch")
    back = word_effect(sounds, "large {}", "small {}", "pitch")
    assert there and back and there.low > 4 and there.n == 12 and there.unit == "classes"
    assert there.value == pytest.approx(-back.value)


def test_sounds_without_a_pitch_say_nothing_of_it() -> None:
    sounds = made_up()
    sounds["pitch"].reshape(len(WORDS), 12, -1)[:, 0] = 0.0
    sounds["pitched"].reshape(len(WORDS), 12, -1)[:, 0] = 0
    effect = word_effect(sounds, "shrill {}", "booming {}", "pitch")
    assert effect and effect.n == 11 and abs(effect.value) < 3


def test_within_and_beyond_a_margin() -> None:
    for low, high, within, past in ((-0.5, 0.9, True, False), (-0.5, 1.1, False, False), (1.2, 3, False, True),
                                    (-3, -1.2, False, True), (-1.2, 0.3, False, False)):
        found = beyond(Estimate((low + high) / 2, low, high, (low + high) / 2), 1.0)
        assert (found.high < 0, found.low > 0) == (within, past)
        assert (shortfall(Estimate(0, low, high, 0), 1.0).high < 0) == (past and low > 0)


def test_the_traits_of_a_moment_are_those_of_its_piece() -> None:
    """Also before the first piece begins, where the nearest one is told."""
    video = video_ids("violin", 50, 0, 0.2)[0]
    piece = plan_pieces(video, MINI.world)[0]
    for clip, second in ((f"{video}_000010", piece.end - 10.01), (f"{video}_000000", 0.0)):
        seen = moments_at("mini-music", MINI.world, [clip], [second])[0].seen
        assert tuple(seen.traits) == (piece.traits.size, piece.traits.warmth, piece.traits.tempo)


def test_other_worlds_have_no_traits_here() -> None:
    with pytest.raises(UserError, match="take mini-music"):
        audio_words.real_aspects(Bench(MINI, "mini-vggsound"))


def test_the_two_sides_of_a_pair_are_both_asked() -> None:
    assert len(set(WORDS)) == len(WORDS) == 1 + 2 * len(PAIRS)
    assert all(text.count("{}") == 1 for text in WORDS)


def test_a_treated_task_without_a_treatment_is_clipsynths_own_training() -> None:
    ours, plain = TreatedTask(SMOKE, "mini-music"), DiffusionTask(SMOKE, "mini-music")
    mine, theirs = batch_of(ours), batch_of(plain)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs) and ours.config() == plain.config()


@pytest.mark.parametrize("cosine", [0.5, 0.33])
def test_noise_changes_the_queries_and_no_window(cosine: float) -> None:
    width = RandomStore().embedding.shape[-1]
    noisy, plain = (TreatedTask(SMOKE, "mini-music", sigma=s) for s in (noise_for(cosine, width), 0.0))
    pairs = [(batch_of(noisy, seed), batch_of(plain, seed)) for seed in range(8)]
    assert all(torch.equal(mine["mel"], theirs["mel"]) for mine, theirs in pairs)
    found = [torch.cosine_similarity(mine["condition"], theirs["condition"]) for mine, theirs in pairs]
    assert abs(float(torch.cat(found).mean()) - cosine) < 0.05
    assert torch.allclose(pairs[0][0]["condition"].norm(dim=1), torch.tensor(width**0.5))


def test_replaced_embeddings_are_what_is_trained_on_and_no_bridge_of_others_is_kept() -> None:
    stored = torch.as_tensor(np.array(RandomStore().embedding)).float()
    task = TreatedTask(SMOKE, "mini-music", frames=-stored, about={"treatment": "mirrored"})
    plain = DiffusionTask(SMOKE, "mini-music")
    assert torch.equal(batch_of(task)["condition"], -batch_of(plain)["condition"])
    assert task.config()["treatment"] == "mirrored" and "image_centroid" not in task.config()
    assert not task.beside and "memory" in plain.beside
    with pytest.raises(UserError, match="embed all of its frames"):
        TreatedTask(SMOKE, "mini-music", frames=stored[:1])


def test_centring_takes_the_mean_of_each_kind_of_query(monkeypatch: pytest.MonkeyPatch) -> None:
    means = {kind: torch.full((8,), 0.1 * (k + 1)) for k, kind in enumerate(gap_training.QUERIES)}
    monkeypatch.setattr(gap_training, "query_means", lambda bench: means)
    how = gap_training.treatment(Bench(MINI, "mini-music"), "centred")
    points = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    for kind, mean in means.items():
        moved = how.ask(kind, points)
        assert torch.allclose(moved.norm(dim=1), torch.ones(5))
        assert torch.allclose(moved * (points - mean).norm(dim=1, keepdim=True), points - mean, atol=1e-6)
    assert how.train is not None and torch.equal(how.train(points), how.ask("image", points))


def unit_rows(count: int, width: int, name: str) -> np.ndarray:
    points = numpy_rng("unit rows", name).normal(size=(count, width)) + 0.3
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("width", [12, 30])
def test_measures_of_the_gap_do_not_depend_on_the_axes_or_on_the_order(width: int) -> None:
    """Turning the whole space, and another order of the pictures, change no measure."""
    image, text = unit_rows(60, width, "image"), unit_rows(40, width, "text")
    pairs = numpy_rng("pairs").integers(40, size=60)
    turn = np.linalg.qr(numpy_rng("turn").normal(size=(width, width)))[0]
    order = numpy_rng("order").permutation(60)
    found = gap_measures.gap_table(image, text, pairs)
    turned = gap_measures.gap_table(image @ turn, text @ turn, pairs)
    mixed = gap_measures.gap_table(image[order], text, pairs[order])
    for name, value in found.items():
        near = 0.1 if name == "linear separability" else 1e-9  # its scaling knows the axes, its folds the order
        assert turned[name] == pytest.approx(value, abs=near) and mixed[name] == pytest.approx(value, abs=near), name


def test_a_mean_shift_removes_the_centroid_gap_and_leaves_the_distribution_gap() -> None:
    image, text = unit_rows(80, 16, "image"), -unit_rows(50, 16, "text")
    moved = text + gap_measures.gap_vector(image, text)
    assert gap_measures.centroid_distance(image, text) > 0.5 > 1e-9 > gap_measures.centroid_distance(image, moved)
    left = [gap_measures.distribution_gap(image, side) for side in (text, moved)]
    assert left[0] == pytest.approx(left[1], abs=1e-9) and left[0] > 0.1


def test_half_of_a_mixed_batch_is_two_sounds_at_one_sounds_loudness() -> None:
    task = MixedTask(SMOKE, "mini-music")
    batches = [batch_of(task, seed) for seed in range(6)]
    width, pictures = RandomStore().embedding.shape[-1], as_condition(
        torch.as_tensor(np.array(RandomStore().embedding)).float()).flatten(0, 1)
    condition = torch.stack([batch["condition"] for batch in batches])
    mixed, single = (part.reshape(-1, width) for part in condition.split(16, 1))
    asked = [part[part.norm(dim=1) > 0] for part in (mixed, single)]
    dropped = 1 - sum(map(len, asked)) / (len(mixed) + len(single))
    assert 0.02 < dropped < 0.25 and torch.cdist(asked[1], pictures).amin(1).max() < 0.02
    means = (pictures[:, None] + pictures[None]).flatten(0, 1) / 2
    assert torch.cdist(asked[0], means).amin(1).max() < 0.02
    assert float((torch.cdist(asked[0], pictures).amin(1) < 0.02).float().mean()) < 0.1
    level = torch.stack([batch["mel"] for batch in batches]).split(16, 1)
    assert abs(float(level[0].mean() - level[1].mean())) < 0.01  # 3 dB would be 0.047
    assert task.config()["mixed"] == 0.5 and task.config()["dropped"] == 0.1
