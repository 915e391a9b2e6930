"""A model travels: into a folder, from a stand-in of the Hub on this machine, and to one of its client."""
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from clipsynth.base.process import UserError
from clipsynth.engine.cards import CARD, CLIP_CARD, CONFIG, WEIGHTS
from clipsynth.engine.hub import from_pretrained, push_to_hub, save_pretrained
from clipsynth.engine.synth import Synthesizer

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed CLIPSynth of MiniMUSIC as a folder to share."""
    return save_pretrained(tmp_path_factory.mktemp("shared") / "clipsynth-mini-music")


@pytest.fixture
def hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """So much of the Hub as a download needs: it answers for one repository, and notes what it was asked."""
    asked: list[tuple[str, str | None]] = []
    files = {path.name: path.read_bytes() for path in saved.iterdir()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            asked.append((self.path, self.headers["authorization"]))
            owner, name, _, _, file = (self.path.strip("/").split("/", 4) + [""] * 5)[:5]
            content = files.get(file) if (owner, name) == ("somebody", "a-model") else None
            self.send_response(200 if content is not None else 404)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body:
                self.wfile.write(content or b"")

        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield SimpleNamespace(asked=asked, files=files)
    server.shutdown()
    server.server_close()


def same_sounds(one: Synthesizer, other: Synthesizer) -> bool:
    query = torch.nn.functional.normalize(torch.ones(1, one.unet.config.condition))
    return torch.equal(*(synthesizer.mels(query, [0], steps=2) for synthesizer in (one, other)))


def test_a_folder_makes_the_same_sounds(saved: Path) -> None:
    there = {path.name for path in saved.iterdir()}
    assert there == {CARD, CLIP_CARD, CONFIG, *WEIGHTS.values()} - {WEIGHTS["hifigan"]}
    loaded = from_pretrained(saved, device="cpu")
    assert same_sounds(loaded, Synthesizer("mini-music", device="cpu"))
    assert loaded.embed_text(["violin"]).shape == (1, loaded.unet.config.condition)


def test_the_card_says_what_a_stranger_should_know(saved: Path) -> None:
    card = (saved / CARD).read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: clipsynth\nlicense: apache-2.0\n")
    sections = ("Use", "Data", "Training", "Evaluation", "Licence", "Limits")
    assert all(f"\n## {name}\n" in card for name in sections)
    assert "clipsynth train clipsynth mini-music" in card


def test_from_the_hub(hub: Any, saved: Path, tmp_path: Path) -> None:
    loaded = from_pretrained("somebody/a-model", device="cpu", token="hf_secret", cache=tmp_path)
    assert same_sounds(loaded, from_pretrained(saved, device="cpu"))
    paths = [path for path, _ in hub.asked]
    assert {path.split("/")[-1] for path in paths} == {CONFIG, *WEIGHTS.values()} - {WEIGHTS["hifigan"]}
    assert all(f"/resolve/{COMMIT}/" in path for path in paths if CONFIG not in path), "all from one commit"
    assert all(tmp_path in path.parents for path in loaded.paths.values())


def test_a_repository_names_no_files(hub: Any, tmp_path: Path) -> None:
    """What a repository says is checked before anything more is fetched, and nothing is written outside."""
    config = json.loads(hub.files[CONFIG])
    for wrong in ({"sha256": {**config["sha256"], "../../up.safetensors": "0"}}, {"model": "../up"}, {"sha256": []}):
        hub.files[CONFIG] = json.dumps({**config, **wrong}).encode()
        hub.asked.clear()
        with pytest.raises(UserError, match=f"{CONFIG} is none of"):
            from_pretrained("somebody/a-model", cache=tmp_path / str(len(str(wrong))))
        assert {path.split("/")[-1] for path, _ in hub.asked} == {CONFIG}


def test_other_weights_than_said_are_refused(hub: Any, tmp_path: Path) -> None:
    hub.files[WEIGHTS["magnitude"]] = hub.files[WEIGHTS["denoiser"]]
    with pytest.raises(UserError, match="is not the file of config.json"):
        from_pretrained("somebody/a-model", cache=tmp_path)


def test_a_mistake_gets_one_line_without_the_token(hub: Any, tmp_path: Path) -> None:
    for name in ("somebody/else", "no repository", "a/b/c", "somebody/.."):
        with pytest.raises(UserError) as told:
            from_pretrained(name, token="hf_secret", cache=tmp_path)
        assert "\n" not in str(told.value) and "hf_secret" not in str(told.value)


def test_offline_is_told_at_once(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched before loads from the cache; for the rest there is one line, and nobody waits for a retry."""
    there = from_pretrained("somebody/a-model", device="cpu", cache=tmp_path).paths

    def waits(seconds: float) -> None:
        raise AssertionError(f"waited {seconds} s for a Hub that is not there")

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr("time.sleep", waits)
    assert from_pretrained("somebody/a-model", device="cpu", cache=tmp_path).paths == there
    with pytest.raises(UserError, match="the Hub does not answer, and there is no copy here"):
        from_pretrained("somebody/else", cache=tmp_path)
    with pytest.raises(UserError, match="cannot send to somebody/a-model: "):
        push_to_hub("somebody/a-model", token="hf_secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert from_pretrained("somebody/a-model", device="cpu", cache=tmp_path).paths == there
    with pytest.raises(UserError, match="go online"):
        from_pretrained("somebody/else", cache=tmp_path)


def test_home_in_a_path(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert save_pretrained("~/mine") == tmp_path / "mine"
    loaded = from_pretrained("~/mine", device="cpu")
    assert all((tmp_path / "mine") in path.parents for path in loaded.paths.values())


class Client:
    """Stands in for `huggingface_hub.HfApi`."""

    def __init__(self, fails: bool = False):
        self.fails, self.calls, self.sent = fails, [], {}  # type: ignore[var-annotated]

    def create_repo(self, name: str, **options: Any) -> None:
        self.calls.append((name, options))

    def upload_folder(self, repo_id: str, folder_path: str, **options: Any) -> Any:
        if self.fails:
            raise OSError("403 Forbidden\nwith Bearer hf_secret")
        self.sent = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url=f"https://example.org/{repo_id}/commit/1")


def test_to_the_hub(saved: Path) -> None:
    client = Client()
    assert push_to_hub("somebody/a-model", api=client) == "https://example.org/somebody/a-model/commit/1"
    assert client.calls == [("somebody/a-model", {"private": True, "exist_ok": True})]
    assert client.sent == {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(UserError, match="cannot send to somebody/a-model: 403 Forbidden with Bearer …"):
        push_to_hub("somebody/a-model", token="hf_secret", api=Client(fails=True))
