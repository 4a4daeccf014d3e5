"""The same system tests under both data planes."""

import pytest

from voicerelay.relay.steering import OBJECT
from voicerelay.shm.bpf import BpfObject, BpfUnavailable


def steering_unavailable() -> str:
    """Why the kernel cannot steer here; empty when it can."""
    try:
        program = BpfObject(OBJECT)
    except (BpfUnavailable, OSError) as exc:
        return str(exc)
    try:
        program.load()
    except OSError as exc:
        return str(exc)
    finally:
        program.close()
    return ""


@pytest.fixture(scope="module", params=["portable", "steering"])
def plane(request: pytest.FixtureRequest) -> str:
    """Name of the data plane; its tests are passed over where the kernel cannot steer."""
    name: str = request.param
    if name == "steering" and (reason := steering_unavailable()):
        pytest.skip(f"kernel steering: {reason}")
    return name


@pytest.fixture(scope="module")
def plane_options(plane: str) -> list[str]:
    """Options of `voicerelay start` for it."""
    return ["--steering", "on" if plane == "steering" else "off"]
