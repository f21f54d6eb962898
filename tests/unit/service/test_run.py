"""The command itself: it reloads on SIGHUP and, told to stop, answers what it was asked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.dataset_folder import MODEL, write_dataset


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_the_command_serves_reloads_and_stops_without_a_dropped_request(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gensar_core", "serve", str(dataset), MODEL, "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            until = time.monotonic() + 120
            while time.monotonic() < until:
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    client.get("/health").raise_for_status()
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)

            def search(number: int) -> int:
                if number == 20:
                    server.send_signal(signal.SIGHUP)
                return client.post("/search", json={"query": f"piano {number}"}).status_code

            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(search, range(60))) == {200}
            while 'gensar_reloads_total{result="done"} 1' not in client.get("/metrics").text:
                assert time.monotonic() < until
                time.sleep(0.1)
            with ThreadPoolExecutor(8) as pool:
                asked = [pool.submit(search, number) for number in range(100, 108)]
                while 'gensar_requests_total{path="/search",code="200"} 6' not in client.get("/metrics").text:
                    time.sleep(0.01)
                server.send_signal(signal.SIGTERM)
                codes = [one.result() for one in asked]
            assert set(codes) == {200}
        assert server.wait(60) in (0, -signal.SIGTERM)
    finally:
        server.kill()
    assert "Traceback" not in (tmp_path / "log").read_text()
