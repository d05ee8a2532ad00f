"""Put load on the Space's page: many gradio_client users at once, each asking again as soon as it is answered.

    python scripts/load_space.py --pipeline pretrained/poly-inr-emoji --clients 20 --seconds 60 --json load.json

Starts the server of space/app.py and prints the seconds to the first image from a cold start, then, of the load: images
answered, refusals because the queue was full, other errors, seconds until an answer (median and 95th percentile), and
the server's memory every ten seconds. One user in ten uploads an image and has it rebuilt.
"""

import argparse
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
from collections import Counter
from pathlib import Path

import httpx
import psutil
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from PIL import Image
from tqdm import tqdm

APP = Path(__file__).resolve().parents[1] / "space" / "app.py"
START_SECONDS, PAUSE, MEMORY_SECONDS = 300, 0.1, 10


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument("--clients", type=int, default=20, help="users at once (default: 20)")
    parser.add_argument("--seconds", type=float, default=60, help="duration of the load in seconds (default: 60)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels of the images asked for (default: 256)")
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
        self.seconds, self.outcomes, self.lock = [], Counter(), threading.Lock()
        self.photo = str(Path(folder, "slope.png"))
        Image.linear_gradient("L").save(self.photo)

    def be_user(self, seed: int, until: float) -> None:
        choose = random.Random(seed)
        client = None
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                client = client or Client(self.address, verbose=False, download_files=self.folder)
                began = time.monotonic()
                self.ask(client, choose, rebuilds=seed % 10 == 0)
                outcome = "answered"
            except QueueError:
                outcome = "queue full"
            except Exception as error:  # whatever it is, it is counted and shown
                outcome = f"{type(error).__name__}: {error}"
            with self.lock:
                self.outcomes[outcome] += 1
                if outcome == "answered":
                    self.seconds.append(time.monotonic() - began)
            if outcome != "answered":
                time.sleep(PAUSE)

    def ask(self, client: Client, choose: random.Random, rebuilds: bool) -> None:
        if rebuilds:
            client.predict(image=handle_file(self.photo), num_steps=10, size=self.size, api_name="/rebuild")
            return
        name, settings = choose.choice(
            [
                ("/generate", {"count": 1}),
                ("/zoom", {"zoom": choose.uniform(-1, 4)}),
                ("/mix", {"second_seed": choose.randrange(10**6)}),
                ("/morph", {"position": choose.random()}),
            ]
        )
        client.predict(**settings, seed=choose.randrange(10**6), size=self.size, api_name=name)


def measure(args) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process, address = start_server(args.pipeline, folder)
        try:
            Client(address, verbose=False, download_files=folder).predict(count=1, size=args.size, api_name="/generate")
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
    errors = {kind: n for kind, n in load.outcomes.items() if kind not in ("answered", "queue full")}
    answers = sorted(load.seconds)
    result = {"cold_start_seconds": cold, "answered": load.outcomes["answered"], "errors": errors}
    result |= {"queue_full": load.outcomes["queue full"], "memory_mb": memory}
    if len(answers) > 1:
        result |= {"median_seconds": statistics.median(answers), "p95_seconds": statistics.quantiles(answers, n=20)[-1]}
    return result


def main(argv=None):
    args = parse_args(argv)
    result = measure(args)
    for name, value in result.items():
        print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
