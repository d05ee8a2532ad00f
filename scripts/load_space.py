"""Put load on the Space's page: many gradio_client users at once, each asking again as soon as it is answered.

    python scripts/load_space.py --pipeline pretrained/poly-inr-emoji --clients 20 --seconds 60 --json load.json

Starts the server of space/app.py and prints the seconds to the first image from a cold start, then, of the load, for
each kind of request: answers, refusals because the queue was full, seconds until an answer (median and 95th
percentile); other errors, and the server's memory every ten seconds. One user makes films and one rebuilds an image of
its own, again and again; of what the others ask for, eight in ten are previews (64 pixels, as while a picture is
dragged), one is a part of an image and one a mixture or a morph, both of `--size`.
"""

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import httpx
import psutil
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from PIL import Image
from tqdm import tqdm

from polyinr_hf.commands import make_parser

APP = Path(__file__).resolve().parents[1] / "space" / "app.py"
START_SECONDS, PAUSE, MEMORY_SECONDS = 300, 0.1, 10


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument("--clients", type=int, default=20, help="number of simultaneous users (default: 20)")
    parser.add_argument("--seconds", type=float, default=60, help="duration of the load in seconds (default: 60)")
    parser.add_argument(
        "--size", type=int, default=256, help="side in pixels of all images but previews (default: 256)"
    )
    parser.add_argument("--json", type=Path, help="file to write the results to")
    return parser.parse_args(argv)


def start_server(pipeline: str, folder: str) -> tuple[subprocess.Popen, str]:
    """The process and its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipeline = str(Path(pipeline).resolve()) if Path(pipeline).is_dir() else pipeline
    settings = {"POLYINR_MODEL": pipeline, "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": folder}
    process = subprocess.Popen([sys.executable, str(APP)], env={**os.environ, **settings}, stdout=subprocess.DEVNULL)
    address, give_up = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        try:
            httpx.get(address)
            return process, address
        except httpx.TransportError:
            time.sleep(0.1)
    process.kill()
    sys.exit("error: the server did not start")


class Load:
    """Users of one server, and what became of their requests."""

    def __init__(self, address: str, size: int, folder: str):
        self.address, self.size, self.folder = address, size, folder
        self.seconds, self.refused, self.errors = defaultdict(list), Counter(), Counter()
        self.lock = threading.Lock()
        self.photo = str(Path(folder, "slope.png"))
        Image.linear_gradient("L").save(self.photo)

    def be_user(self, number: int, until: float) -> None:
        choose = random.Random(number)
        client = None
        while time.monotonic() < until:
            kind, settings = self.request(number, choose)
            try:
                client = client or Client(self.address, verbose=False, download_files=self.folder)
                began = time.monotonic()
                client.predict(**settings, api_name=kind)
                with self.lock:
                    self.seconds[kind].append(time.monotonic() - began)
                continue
            except QueueError:
                failed, key = self.refused, kind
            except Exception as error:  # whatever it is, it is counted and shown
                failed, key = self.errors, f"{kind}: {type(error).__name__}: {error}"
            with self.lock:
                failed[key] += 1
            time.sleep(PAUSE)

    def request(self, number: int, choose: random.Random) -> tuple[str, dict]:
        """The endpoint, and what it is given."""
        if number == 0:
            return "/film", {"seed": choose.randrange(10**6), "num_frames": 12, "size": self.size}
        if number == 1:
            return "/rebuild", {"image": handle_file(self.photo), "num_steps": 20, "size": self.size}
        sample = {"seed": choose.randrange(10**6)}
        place = {"row": choose.random(), "column": choose.random(), "zoom": choose.uniform(-1, 4)}
        die = choose.randrange(10)
        if die < 8:
            return "/preview", sample | place
        if die == 8:
            return "/zoom", sample | place | {"size": self.size}
        second = {"second_seed": choose.randrange(10**6), "size": self.size}
        return choose.choice([("/mix", sample | second), ("/morph", sample | second | {"position": choose.random()})])

    def figures(self) -> dict:
        """Of each kind of request: answers, refusals, seconds."""
        figures = {}
        for kind in sorted(self.seconds.keys() | self.refused.keys()):
            seconds = self.seconds[kind]
            figures[kind] = {"answered": len(seconds), "queue_full": self.refused[kind]}
            if len(seconds) > 1:
                quantile = statistics.quantiles(seconds, n=20)[-1]
                figures[kind] |= {"median_seconds": statistics.median(seconds), "p95_seconds": quantile}
        return figures


def measure(args) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process, address = start_server(args.pipeline, folder)
        try:
            Client(address, verbose=False, download_files=folder).predict(api_name="/preview")
            cold = time.monotonic() - began
            load, until = Load(address, args.size, folder), time.monotonic() + args.seconds
            users = [threading.Thread(target=load.be_user, args=(i, until)) for i in range(args.clients)]
            for user in users:
                user.start()
            memory, server = [], psutil.Process(process.pid)
            for _ in tqdm(range(max(1, round(args.seconds / MEMORY_SECONDS))), unit_scale=MEMORY_SECONDS, unit="s"):
                time.sleep(min(MEMORY_SECONDS, args.seconds))
                memory.append(round(server.memory_info().rss / 2**20))
            for user in users:
                user.join()
            memory.append(round(server.memory_info().rss / 2**20))
        finally:
            process.terminate()
            process.wait(20)
    return {"cold_start_seconds": cold, **load.figures(), "errors": dict(load.errors), "memory_mb": memory}


def main(argv=None):
    args = parse_args(argv)
    result = measure(args)
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {v:.2f}" if isinstance(v, float) else f"{key} {v}" for key, v in value.items())
        print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
