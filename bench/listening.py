"""Many listeners at once on the listening test's server, which is killed in mid-run: bench/results/listening.json.

Each listener starts, votes trial after trial with pauses of about a second, sends every vote until it is acknowledged,
repeats some that were, and asks for its code. The server runs in a process of its own, started by the command. It is
killed with SIGKILL whenever another share of the votes is acknowledged, and started again on the same port and file.
At each kill every vote that was acknowledged must be in the database, and in the end every vote exactly once. The same
is done before without a kill, for the answer times of a server that is left alone.

Usage: python bench/listening.py [--listeners 200] [--kills 3] [--pause 1.0]      (two minutes on two cores)
"""

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipsynth.base.hashing import numpy_rng
from clipsynth.listen.building import build_test
from clipsynth.listen.design import Plan
from clipsynth.listen.sounds import SoundKey, Sounds
from clipsynth.listen.test_folder import ListeningTest, read_test

RESULTS = Path(__file__).parent / "results" / "listening.json"
COMMAND = "from clipsynth.engine.command import main; raise SystemExit(main())"
Votes = list[dict[str, Any]]


def make_test(folder: Path, listeners: int, pairs: int = 10) -> ListeningTest:
    """A test of the paper's size, with short sounds."""
    systems = ("alpha", "beta", "gamma", "delta", "real")
    keys = [SoundKey(system, "tiny", f"query {n}", "0") for system in systems for n in range(12)]
    waves = {key: 0.1 * numpy_rng("bench listening", *key).normal(size=4_000) for key in keys}
    build_test(folder, Sounds(8_000, waves), Plan(listeners=listeners, pairs=pairs), salt="bench")
    return read_test(folder)


def votes_of(trials: Votes, sounds: dict[str, Any], rng: np.random.Generator) -> list[Votes]:
    """What a listener's page would send, one request for each trial."""
    found = []
    for place, trial in enumerate(trials):
        heard = {f"played_{side}": sounds[trial[side]]["seconds"] for side in ("left", "right")}
        about = {"trial": trial["id"], "seconds": float(rng.uniform(1, 30)), "position": place, **heard}
        found.append([{"vote_id": rng.bytes(16).hex(), "criterion": name, "score": float(rng.choice([0, 0.5, 1])),
                       **about} for name in trial["criteria"]])
    return found


@dataclass
class Server:
    """The server as the command starts it."""
    test: ListeningTest
    file: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on the port that it had."""
        words = ["listen", "serve", self.test.folder, "--votes", self.file, "--port", self.port, "--starts", 100_000]
        self.process = subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, words)], text=True,
                                        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        if not told:
            raise SystemExit("the server did not start")
        self.port = int(told.split("/")[2].rpartition(":")[2])

    def stop(self, how: int = signal.SIGKILL) -> None:
        """Kill it."""
        assert self.process is not None and self.process.stdout is not None
        os.kill(self.process.pid, how)
        self.process.wait()
        self.process.stdout.close()

    def stored(self) -> list[tuple[str, str, str, str]]:
        """The votes in the database: id, listener, trial, criterion."""
        db = sqlite3.connect(self.file)
        try:
            return db.execute("SELECT vote_id, listener, trial, criterion FROM votes").fetchall()
        finally:
            db.close()


@dataclass
class Crowd:
    """What many listeners did."""
    server: Server
    acknowledged: set[str] = field(default_factory=set)  # ids of votes
    sent: set[tuple[str, str]] = field(default_factory=set)  # id and trial of every vote
    seconds: list[float] = field(default_factory=list)  # of each answer to votes
    starts: list[float] = field(default_factory=list)  # of each answer to a new listener
    repeats: int = 0  # requests that were sent again though they had been acknowledged
    unanswered: int = 0  # requests without an answer, as the server was gone
    codes: list[str] = field(default_factory=list)
    lost: int = 0  # acknowledged votes that were not in the database after a kill

    async def ask(self, method: str, path: str, token: str = "", body: Any = None) -> tuple[int, Any]:
        """One request over a connection of its own; raises OSError where the server is gone."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            data = b"" if body is None else json.dumps(body).encode()
            head = [f"{method} {path} HTTP/1.1", "Host: here", "Connection: close", f"Content-Length: {len(data)}"]
            head += ["Content-Type: application/json"] + ([f"Authorization: Bearer {token}"] if token else [])
            writer.write("\r\n".join([*head, "", ""]).encode() + data)
            answer = await reader.read()
        finally:
            writer.close()
        top, _, text = answer.partition(b"\r\n\r\n")
        if not top.startswith(b"HTTP/1.1 ") or f"content-length: {len(text)}".encode() not in top.lower():
            raise OSError("cut off")
        return int(top[9:12]), json.loads(text) if b"application/json" in top.lower() else text.decode()

    async def insist(self, path: str, token: str, body: Any, times: list[float] | None = None) -> Any:
        """Ask until there is an answer, as the page does."""
        while True:
            began = time.perf_counter()
            try:
                status, answer = await self.ask("POST", path, token, body)
            except OSError:
                self.unanswered += 1
                await asyncio.sleep(0.1)
                continue
            if status in (429, 503):
                await asyncio.sleep(0.5)
                continue
            if status >= 300:
                raise SystemExit(f"{path}: {status} {answer}")
            if times is not None:
                times.append(time.perf_counter() - began)
            return answer

    async def listener(self, number: int, pause: float) -> None:
        """One listener's whole test."""
        rng = numpy_rng("listener", number)
        await asyncio.sleep(float(rng.uniform(0, 2 * pause)))
        mine = await self.insist("/api/start", "", {"consent": True}, self.starts)
        token, practice = mine["listener"], self.server.test.design["practice"]
        sounds = self.server.test.sounds_of(mine["slot"])
        for votes in votes_of([*practice, *mine["trials"]], sounds, rng):
            self.sent |= {(vote["vote_id"], vote["trial"]) for vote in votes}
            await self.insist("/api/votes", token, {"votes": votes}, self.seconds)
            self.acknowledged |= {vote["vote_id"] for vote in votes}
            if rng.random() < 0.2:
                self.repeats += 1
                await self.insist("/api/votes", token, {"votes": votes})
            await asyncio.sleep(float(rng.uniform(0, 2 * pause)))
        self.codes.append((await self.insist("/api/finish", token, {}))["code"])

    async def killer(self, kills: int, total: int) -> None:
        """Kill and restart the server whenever another share of all votes is acknowledged."""
        for turn in range(kills):
            while len(self.acknowledged) < total * (turn + 1) / (kills + 1):
                await asyncio.sleep(0.01)
            self.server.stop()
            self.lost += len(self.acknowledged - {row[0] for row in self.server.stored()})
            await asyncio.to_thread(self.server.start)

    async def all(self, listeners: int, kills: int, pause: float) -> None:
        """Everybody at once."""
        trials = self.server.test.of_slot(0)
        total = listeners * sum(len(trial["criteria"]) for trial in trials)
        await asyncio.gather(*(self.listener(n, pause) for n in range(listeners)), self.killer(kills, total))


def crowd(folder: Path, listeners: int, kills: int, pause: float, pairs: int = 10) -> tuple[Crowd, dict[str, Any]]:
    """Let a crowd vote; what they did, and the numbers of it."""
    server = Server(make_test(folder / "test", min(listeners, 30), pairs), folder / "votes.sqlite")
    server.start()
    people, began = Crowd(server), time.perf_counter()
    try:
        asyncio.run(people.all(listeners, kills, pause))
    finally:
        server.stop(signal.SIGKILL)
    rows, spent = server.stored(), time.perf_counter() - began
    once = len({(who, trial, name) for _, who, trial, name in rows}) == len(rows)
    numbers = {
        "listeners": listeners, "kills": kills, "votes": len(people.sent), "stored": len(rows),
        "stored exactly once": once and {(row[0], row[2]) for row in rows} == people.sent,
        "acknowledged but lost": people.lost + len(people.acknowledged - {row[0] for row in rows}),
        "repeated requests": people.repeats, "requests without an answer": people.unanswered,
        "codes": len({*people.codes}), "seconds": round(spent, 1), "votes per second": round(len(rows) / spent, 1),
        **{f"answer, {q}th percentile, ms": round(1e3 * float(np.percentile(people.seconds, q)), 1)
           for q in (50, 90, 99)},
        "slowest answer, ms": round(1e3 * max(people.seconds), 1),
    }
    return people, numbers


if __name__ == "__main__":
    from timing import machine, save

    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--listeners", type=int, default=200)
    words.add_argument("--kills", type=int, default=3)
    words.add_argument("--pause", type=float, default=1.0, help="mean seconds between a listener's trials")
    given = words.parse_args()
    found = {}
    for title, kills in (("left alone", 0), ("killed", given.kills)):
        with tempfile.TemporaryDirectory() as name:
            found[title] = crowd(Path(name), given.listeners, kills, given.pause)[1]
    save(RESULTS, {**machine(), "pause": given.pause, **found})
    print(json.dumps(found, indent=1))
    if any(not numbers["stored exactly once"] or numbers["acknowledged but lost"] for numbers in found.values()):
        raise SystemExit("votes are not what was sent")
