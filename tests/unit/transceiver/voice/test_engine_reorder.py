"""In one batch a packet that Python must place, and after it the one that is next: heard in order."""

import numpy as np
import pytest

from tests.support.voices import clean, numbered
from tests.unit.transceiver.voice.test_engine import PATH, needs_library
from tests.unit.transceiver.voice.test_engine_alike import Hearers
from voicerelay.transceiver.voice.rtp import build_rtp


@needs_library
@pytest.mark.parametrize(
    "batches", [[[0], [1], [3, 2], [4]], [[0], [1], [3], [2], [4]]], ids=["together", "apart"]
)
def test_packets_that_overtake_each_other_in_a_batch_are_heard_in_order(
    batches: list[list[int]],
) -> None:
    hearers = Hearers(0, 0, batch=80)
    hearers.listen(0)
    secrets = [hearers.tx.protect(build_rtp(numbered(n))) for n in range(5)]

    for batch in batches:
        for number in batch:
            secret = secrets[number]
            assert secret is not None
            assert hearers.engine.take(secret, PATH) == 1
        hearers.engine.hand_on()

    assert hearers.one.hearing.frames == [np.asarray(frame).tobytes() for frame in clean()[:5]]
    inbound = hearers.one.hearing._inbound
    assert inbound is not None
    assert inbound.stats.reordered == 1
