"""`voicerelay loadtest` against a real server: what it tells is so, and agrees with the server's counters."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Server, server

pytestmark = pytest.mark.system

CALLS = 10
SECONDS = 3
AGREEMENT = 0.02
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server(relays=1, transceivers=1, extra=["--steering", "off"]) as found:
        yield found


def test_a_small_test_tells_the_truth_and_a_threshold_fails_it(
    running: Server, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"

    done = subprocess.run(
        [
            sys.executable, "-P", "-m", "voicerelay", "loadtest", running.http_url,
            "--run-dir", str(running.run_dir), "--calls", str(CALLS), "--duration", str(SECONDS),
            "--rate", "50", "--talk", "1", "--loss", "0.02", "--rebind-every", "2",
            "--fail-if", "connected<10", "--fail-if", "asked>9", "--json", "--html", str(page),
        ],
        check=False, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip

    assert done.stderr == "FAILED  asked>9: asked is 10\n"
    assert done.returncode == 1
    told: dict[str, Any] = json.loads(done.stdout)
    metrics, datagrams = told["metrics"], told["datagrams"]
    assert (metrics["asked"], metrics["connected"], metrics["failed"]) == (CALLS, CALLS, 0)
    assert told["dropped"] == {}
    assert told["failed_thresholds"] == ["asked>9: asked is 10"]
    # An independent look: the counters of relay and transceiver.
    assert abs(metrics["sent_agreement"] - 1) < AGREEMENT
    assert abs(metrics["received_agreement"] - 1) < AGREEMENT
    # The echo gives back what it gets, so each way loses its share, and the rebound calls go on.
    assert 0 < datagrams["lost_by_impairment_in"] < datagrams["voice_expected"] / 10
    assert datagrams["rebinds"] > 0
    assert datagrams["not_authentic"] == 0
    assert datagrams["verified"] > 0
    assert 0.02 < metrics["mouth_to_ear_p50"] < 1
    assert metrics["setup_p99"] is not None
    assert metrics["server_cpu_per_call"] > 0
    assert "<svg" in page.read_text()


def test_without_a_threshold_that_fails_the_exit_code_is_0(running: Server) -> None:
    done = subprocess.run(
        [
            sys.executable, "-P", "-m", "voicerelay", "loadtest", "--run-dir", str(running.run_dir),
            "--calls", "2", "--duration", "1", "--contract", "pipecat", "--fail-if", "dropped>0",
        ],
        check=False, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert "connected                         2" in done.stdout
