"""MiniCLIP beside open_clip's own class and tokenizer; captions are true; files of another size load by path."""
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipsynth.base.config import EverydayConfig, WorldConfig
from clipsynth.base.hashing import numpy_rng
from clipsynth.base.places import weights_file
from clipsynth.base.process import UserError
from clipsynth.base.weights import load_weights, save_weights
from clipsynth.model.miniclip import MINI_CLIP, load_mini_clip, mini_clip
from clipsynth.model.miniclip_training import WORLDS, picture_block
from clipsynth.model.query import QueryEncoder
from clipsynth.model.tokens import CaptionTokenizer, learn_merges
from clipsynth.worlds.captioned import moments_of
from clipsynth.worlds.captions import Seen, caption, facts_of

TEXTS = ["a photo of playing violin", "A small  red (&amp;) violin's 12 ½ ²", "二胡 (erhu) 🎻", "", "x " * 60,
         "ﬁddle “quoted”", "Ünïcode <end_of_text> a", "it's don't we'll ♯ \u200d", "vehicle horn, car horn, honking"]


def theirs(config: dict[str, Any]) -> Any:
    """open_clip's own model of a MiniCLIP's configuration."""
    from open_clip.model import CLIP

    shape = copy.deepcopy(config["architecture"])
    shape["text_cfg"]["vocab_size"] = 512 + len(config["merges"]) + 2
    return CLIP(**shape).eval()


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """Of the committed MiniCLIP."""
    return load_weights(weights_file("mini", None, "miniclip"))[1]


def test_the_committed_one_equals_open_clips(config: dict[str, Any]) -> None:
    """The same names and shapes of state, the same embeddings to 1e-6, of trained weights."""
    mine, tokenizer, labels = load_mini_clip(weights_file("mini", None, "miniclip"))
    other, mine = theirs(config), mine.eval()
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    other.load_state_dict(mine.state_dict())
    pictures = np.concatenate([picture_block(world, 0, 16)[0] for world in WORLDS])
    encoder = QueryEncoder("mini")
    with torch.inference_mode():
        for a, b in ((encoder.image(pictures), other.encode_image(encoder.pixels(pictures), normalize=True)),
                     (encoder.text(TEXTS), other.encode_text(tokenizer(TEXTS), normalize=True))):
            assert torch.allclose(a, b, atol=1e-6), (a - b).abs().max()
    assert len(labels) == 67 and encoder.labels == labels and encoder.width == 64


def test_tokens_equal_open_clips(config: dict[str, Any], tmp_path: Path) -> None:
    import gzip

    from open_clip.tokenizer import SimpleTokenizer

    text = "\n".join(["#version: 1", *(" ".join(pair) for pair in config["merges"])])
    (tmp_path / "merges.txt.gz").write_bytes(gzip.compress(text.encode()))
    other = SimpleTokenizer(bpe_path=str(tmp_path / "merges.txt.gz"), context_length=24)
    mine, rng = CaptionTokenizer(config["merges"]), numpy_rng("odd texts")
    odd = ["".join(map(chr, rng.integers(32, 0x2FFF, 12))) for _ in range(300)]
    assert torch.equal(mine([*TEXTS, *odd]), other([*TEXTS, *odd]))
    assert mine.decode(mine.encode("a small violin")) == other.decode(other.encode("a small violin"))


def test_one_of_another_size_loads_by_path(tmp_path: Path) -> None:
    """MiniCLIPs published for one world had wider pictures, fewer merges and fewer labels."""
    shape = copy.deepcopy(MINI_CLIP)
    shape["vision_cfg"]["width"] = 12
    older = {"model": "miniclip", "architecture": shape, "merges": learn_merges(["a violin", "a tuba"] * 3, 9),
             "names": ["tuba", "violin"], "recipe": {"pictures": 20000, "seed": 0}}
    path = save_weights(tmp_path / "miniclip.safetensors", mini_clip(older), older)
    encoder = QueryEncoder(f"mini:{path}")
    assert encoder.labels == ["tuba", "violin"] and encoder.text(["a violin"]).shape == (1, 64)
    with pytest.raises(UserError, match="no MiniCLIP at"):
        QueryEncoder(f"mini:{tmp_path / 'none.safetensors'}")


def test_one_serves_both_worlds() -> None:
    assert weights_file("mini", "mini-vggsound", "miniclip") == weights_file("mini", None, "miniclip")
    assert weights_file("mini", "mini-music", "miniclip-seed1").parent == weights_file("mini", None, "miniclip").parent


def test_captions_are_true() -> None:
    """Over random pictures: a trait in the middle is never told, and a number only where it is so."""
    rng = numpy_rng("true captions")
    for _ in range(2000):
        second = "cat meowing" if rng.random() < 0.3 else ""
        seen = Seen("mini-vggsound", "church bell ringing", tuple(rng.random(3)), second)
        said = caption(seen, rng)
        assert set(said.says) - {"class", "family", "number", "action"} <= set(facts_of(seen))
        assert not second or not any(word in said.text.split() for word in ("one", "single"))
        assert ("cat" in said.text or "kit" in said.text) <= bool(second)


def test_a_clips_caption_is_its_own() -> None:
    """Fewer instruments, or more clips of a label: the captions of the others stay."""
    worlds = (WorldConfig(instruments=names, videos=2) for names in (("tuba",), ("tuba", "drum")))
    few, more = (moments_of("mini-music", world) for world in worlds)
    assert few == [row for row in more if row.seen.label == "tuba"] and len(few) < len(more)
    rows = moments_of("mini-vggsound", EverydayConfig(labels=("raining", "dog barking"), clips=12))
    assert len({row.file for row in rows}) == len(rows) == 24
