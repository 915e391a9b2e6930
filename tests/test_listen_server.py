"""The listening test's server: nothing lost or told to whom it is not for, whatever is sent; killed in mid-run."""
import asyncio
import json
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run
from listener import SCRIPT, answers, small_test

from clipsynth.base.process import UserError
from clipsynth.listen import vote_store
from clipsynth.listen.server import HEADERS, Limits, make_app
from clipsynth.listen.test_folder import ListeningTest, read_key, read_test
from clipsynth.listen.vote_store import VoteFile

pytest.importorskip("starlette", reason="no server: pip install clipsynth[listen]")
sys.path.insert(0, str(ROOT / "bench"))


@pytest.fixture(scope="module")
def test(tmp_path_factory: pytest.TempPathFactory) -> ListeningTest:
    return small_test(tmp_path_factory.mktemp("listening") / "test")


@pytest.fixture
def votes(test: ListeningTest, tmp_path: Path) -> Iterator[VoteFile]:
    file = VoteFile(tmp_path / "votes.sqlite", test)
    yield file
    file.close()


@pytest.fixture
def client(test: ListeningTest, votes: VoteFile) -> Iterator[Any]:
    """A client of the server, in this process."""
    from starlette.testclient import TestClient

    with TestClient(make_app(test, votes, Limits(burst=500)), raise_server_exceptions=False) as found:
        yield found


def started(client: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """A listener, and the headers of its requests."""
    mine = client.post("/api/start", json={"consent": True}).json()
    return mine, {"Authorization": f"Bearer {mine['listener']}"}


def everything(votes: VoteFile) -> list[Any]:
    """What the database holds."""
    with sqlite3.connect(votes.path) as db:
        return [db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("listeners", "votes")]


def test_forged_votes_are_refused(client: Any, test: ListeningTest, votes: VoteFile) -> None:
    """Wrong in any one way: a plain status, nothing stored, nothing told."""
    mine, head = started(client)
    (_, other_head), good = started(client), answers(test, mine["slot"])[1][0]
    foreign = next(t for t in test.design["slots"][(mine["slot"] + 1) % 3])
    changes: list[dict[str, Any]] = [
        {"trial": foreign["id"]}, {"trial": SCRIPT}, {"trial": None}, {"trial": ["x"]}, {"criterion": SCRIPT},
        {"criterion": {}}, {"vote_id": SCRIPT}, {"vote_id": 7}, {"vote_id": "A" * 32}, {"score": 2}, {"score": "1"},
        {"score": True}, {"score": None}, {"seconds": -1}, {"seconds": 1e9}, {"seconds": "3"}, {"seconds": True},
        {"played_left": 0}, {"played_right": 0.2}, {"played_left": 1e300}, {"position": -1}, {"position": 1.5},
        {"position": 99}, {"position": True}, {"listener": "someone else"}, {"comment": SCRIPT}]
    before = everything(votes)
    for change in changes:
        answer = client.post("/api/votes", json={"votes": [{**good, **change}]}, headers=head)
        assert answer.status_code == 400, change
        assert SCRIPT not in answer.text and answer.text.count("\n") == 1 and "Traceback" not in answer.text
        assert answer.headers["content-type"].startswith("text/plain")
    for name in good:
        less = {key: value for key, value in good.items() if key != name}
        assert client.post("/api/votes", json={"votes": [less]}, headers=head).status_code == 400, name
    whole = answers(test, mine["slot"])[1]
    assert client.post("/api/votes", json={"votes": [*whole, {**good, "score": 9}]}, headers=head).status_code == 400
    assert everything(votes) == before, "all or none"
    assert client.post("/api/votes", json={"votes": whole}, headers=head).json() == {"stored": 3}
    assert client.post("/api/votes", json={"votes": whole}, headers=other_head).status_code == 400
    assert client.post("/api/votes", json={"votes": [{**good, "score": 1}]}, headers=head).status_code == 409
    assert client.post("/api/votes", json={"votes": [{**good, "vote_id": "e" * 32}]}, headers=head).status_code == 409
    assert client.post("/api/votes", json={"votes": whole * 2}, headers=head).json() == {"stored": 0}, "a replay"
    assert votes.count() == (2, 0, 3)


def test_malformed_and_oversize_bodies_are_refused(client: Any, test: ListeningTest, votes: VoteFile) -> None:
    mine, head = started(client)
    good = answers(test, mine["slot"])[1]
    kind = {"Content-Type": "application/json"}
    bodies = {b"": 400, b"{": 400, b"\xff\xfe": 400, b"[" * 9_000: 400, b"null": 400, b"[]": 400, b'{"votes": {}}': 400,
              b'{"votes": []}': 400, b'{"votes": [NaN]}': 400, b'{"votes": [Infinity]}': 400, b'"x"': 400,
              b'{"votes": [' + b"1" * 6_000 + b"]}": 400, b" " * 20_000 + b"{}": 413,
              json.dumps({"votes": good, "more": 1}).encode(): 400, json.dumps({"votes": good * 3}).encode(): 400}
    for body, status in bodies.items():
        for path in ("votes", "headphones"):
            found = client.post(f"/api/{path}", content=body, headers={**head, **kind})
            assert found.status_code == status, (path, body[:40], found.text)
    assert client.post("/api/votes", content=json.dumps({"votes": good}), headers=head).status_code == 415
    for right in (-1, 2, 0.5, True, "1", None):
        assert client.post("/api/headphones", json={"right": right}, headers=head).status_code == 400
    for consent in (True, {}, {"consent": "yes"}, {"consent": True, "name": SCRIPT}):
        assert client.post("/api/start", json=consent).status_code == 400
    assert client.post("/api/finish", json={}, headers=head).status_code == 409
    assert votes.count() == (1, 0, 0) and everything(votes)[0][0][-3:] == (None, None, None)


def test_nothing_is_told_to_whom_it_is_not_for(client: Any, test: ListeningTest, votes: VoteFile) -> None:
    """The key, other trials, other sounds, files, and who else is there."""
    mine, head = started(client)
    key, own = read_key(test), {*mine["sounds"]}
    others = {*test.design["sounds"]} - own
    assert others and {name for trial in [*mine["trials"], *test.design["practice"]]
                       for name in (trial["left"], trial["right"])} == own
    page = client.get("/").text
    theirs = {trial["id"] for slot in test.design["slots"] for trial in slot}
    assert not any(word in page for word in theirs | others | {key["salt"] + '"', "alpha"})
    assert not any(id in json.dumps(mine) for id in theirs - {trial["id"] for trial in mine["trials"]})
    for name in sorted(others):
        assert client.get(f"/sounds/{name}.wav", headers=head).status_code == 404
    tricks = ["/sounds/../test.key.json", "/sounds/..%2f..%2ftest.key.json", "/sounds/%2e%2e/%2e%2e/etc/passwd.wav",
              "/sounds/....//....//etc/passwd.wav", "/sounds/\\..\\x.wav", "/sounds/%00.wav", f"/sounds/{min(own)}",
              f"/sounds/{min(own)}.wav/", "/sounds/", "/design.json", "/index.html", "/test.key.json", "/votes.sqlite",
              "//etc/passwd", "/api", "/api/", "/api/listeners", "/docs", "/openapi.json", "/.git/config"]
    for path in tricks:
        found = client.get(path, headers=head, follow_redirects=False)
        assert found.status_code in (404, 307), (path, found.status_code)
        assert len(found.text) < 60 and str(test.folder) not in found.text
    for token in ("", "x", "0" * 32, SCRIPT, mine["listener"].upper(), "' OR 1=1 --" + "0" * 21):
        bad = {"Authorization": f"Bearer {token}"}
        for path in ("/api/state", f"/sounds/{min(own)}.wav"):
            found = client.get(path, headers=bad)
            assert (found.status_code, found.text) == (401, "unknown listener\n")
    for method, path in (("PUT", "/"), ("DELETE", "/api/votes"), ("GET", "/api/votes"), ("POST", "/api/state"),
                         ("TRACE", "/"), ("OPTIONS", "/api/votes")):
        assert client.request(method, path, headers=head).status_code == 405
    text = b"".join(path.read_bytes() for path in votes.path.parent.iterdir())
    assert mine["listener"].encode() not in text, "tokens are not stored"


def test_every_answer_has_its_headers(client: Any, votes: VoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a refusal, a fault, and a disk that is full."""
    mine, head = started(client)
    sound = f"/sounds/{min(mine['sounds'])}.wav"
    found = [client.get("/"), client.get("/nothing"), client.put("/"), client.get("/api/state"),
             client.get("/api/state", headers=head), client.get(sound, headers=head)]
    assert [one.status_code for one in found] == [200, 404, 405, 401, 200, 200]

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(votes, "add", full)
    found.append(client.post("/api/votes", json={"votes": [{}]}, headers=head))
    assert (found[-1].status_code, found[-1].headers["retry-after"]) == (503, "2")
    monkeypatch.setattr(votes, "add", lambda *_: 1 / 0)
    found.append(client.post("/api/votes", json={"votes": [{}]}, headers=head))
    assert (found[-1].status_code, found[-1].text) == (500, "500\n")
    for one in found:
        assert {name: one.headers.get(name) for name in HEADERS} == HEADERS, one.url
    policy = found[0].headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy


def test_too_many_requests_wait(test: ListeningTest, votes: VoteFile) -> None:
    from starlette.testclient import TestClient

    with TestClient(make_app(test, votes, Limits(starts=3, requests=1e-6, burst=5))) as client:
        found = [client.post("/api/start", json={"consent": True}) for _ in range(5)]
        assert [one.status_code for one in found] == [201] * 3 + [429] * 2 and int(found[-1].headers["retry-after"]) > 0
        heads = [{"Authorization": f"Bearer {one.json()['listener']}"} for one in found[:2]]
        assert [client.get("/api/state", headers=heads[0]).status_code for _ in range(7)] == [200] * 5 + [429] * 2
        assert client.get("/api/state", headers=heads[1]).status_code == 200, "others are not kept waiting"
        forged = [client.get("/api/state", headers={"Authorization": f"Bearer {n:032}"}).status_code for n in range(7)]
        assert forged == [401] * 5 + [429] * 2
    assert votes.count() == (3, 0, 0)


def test_slots_ages_and_room(
        test: ListeningTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are given out evenly; who left gives the list back; who is too late is told; the test can be full."""
    file, now = VoteFile(tmp_path / "v.sqlite", test, most=6), vote_store._now()
    monkeypatch.setattr(vote_store, "_now", lambda: now)
    tokens = [file.start() for _ in range(4)]
    assert [slot for _, slot in tokens] == [0, 1, 2, 0]
    someone = file.listener(tokens[1][0])
    for part in answers(test, 1):
        file.add(someone, part)
    code = file.finish(someone)
    now += file.max_age * 1.01
    with pytest.raises(vote_store.Refused, match="too long ago"):
        file.listener(tokens[0][0])
    assert file.listener(tokens[1][0]).code == code, "who has finished may see the end again"
    assert [file.start()[1] for _ in range(2)] == [0, 2], "list 1 was finished"
    with pytest.raises(vote_store.Refused, match="all its listeners") as told:
        file.start()
    assert told.value.status == 403, "no reason to try again"
    file.close()
    other = small_test(tmp_path / "other", listeners=2)
    with pytest.raises(UserError, match="another test"):
        VoteFile(tmp_path / "v.sqlite", other)


def test_a_crowd_and_kill_9(tmp_path: Path) -> None:
    """Every acknowledged vote is there after each kill, and every vote exactly once in the end."""
    from listening import crowd

    people, numbers = crowd(tmp_path, listeners=40, kills=3, pause=0.05, pairs=2)
    assert numbers["stored exactly once"] and numbers["acknowledged but lost"] == 0
    assert numbers["votes"] == numbers["stored"] == 40 * 6 * 3 and numbers["codes"] == 40
    assert numbers["requests without an answer"] > 0 and numbers["repeated requests"] > 0
    with sqlite3.connect(tmp_path / "votes.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT COUNT(*) FROM listeners WHERE finished IS NOT NULL").fetchone() == (40,)


def test_slow_and_broken_clients_do_not_stop_the_server(test: ListeningTest, tmp_path: Path) -> None:
    """Half a request, nonsense, a header without end: others are served meanwhile."""
    from listening import Server

    begun = "POST /api/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    sent = (begun.encode(), b"\x16\x03\x01" * 50, b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000, b"GET / HTTP/9.9\r\n\r\n")
    server = Server(test, tmp_path / "votes.sqlite")
    server.start()
    try:
        half = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for number, one in enumerate(half):
            one.sendall(sent[number % 4])
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as one:
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                told = one.makefile("rb").read()
            assert told.startswith(b"HTTP/1.1 200") and b"\nserver:" not in told.lower()
            for one in half:
                one.close()
        assert server.process is not None and server.process.poll() is None and server.stored() == []
    finally:
        server.stop()


@pytest.mark.parametrize(("event", "status"), [("wait", 408), ("http.disconnect", 400)])
def test_a_body_that_does_not_come(test: ListeningTest, votes: VoteFile, event: str, status: int) -> None:
    said: list[Any] = []

    async def receive() -> dict[str, str]:
        if event == "wait":
            await asyncio.Event().wait()
        return {"type": event}

    async def send(message: Any) -> None:
        said.append(message)

    about = {"type": "http", "method": "POST", "path": "/api/start", "query_string": b"", "client": ("here", 1)}
    scope = {**about, "headers": [(b"content-type", b"application/json")]}
    asyncio.run(make_app(test, votes, Limits(patience=0.01))(scope, receive, send))
    assert said[0]["status"] == status and votes.count() == (0, 0, 0)


def test_command(tmp_path: Path) -> None:
    """Without its packages, the server says what to install; the built folder is whole."""
    asked = ("import sys; sys.modules['starlette'] = None\nfrom clipsynth.engine.command import main\n"
             f"raise SystemExit(main(['listen', 'serve', {str(tmp_path / 'test')!r}]))")
    small_test(tmp_path / "test")
    done = run(sys.executable, "-c", asked, check=False)
    assert done.returncode == 2 and 'pip install "clipsynth[listen]"' in done.stderr, done.stderr
    assert read_test(tmp_path / "test").design["rules"]["tone_seconds"] == 0.4
