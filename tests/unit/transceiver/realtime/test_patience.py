"""How often, and how long, a lost backend is tried again."""

from voicerelay.transceiver.realtime.patience import (
    FIRST_WAIT_S,
    LAST_WAIT_S,
    MAX_RECONNECTS,
    RECONNECT_S,
    Patience,
)


def test_waits_double_and_end_with_the_time_there_is() -> None:
    patience, now, waits = Patience(), 100.0, []
    patience.begin(now)

    while (wait_s := patience.next_wait_s(now)) is not None:
        waits.append(wait_s)
        now += wait_s

    assert waits[:3] == [FIRST_WAIT_S, FIRST_WAIT_S * 2, FIRST_WAIT_S * 4]
    assert RECONNECT_S - LAST_WAIT_S < sum(waits) <= RECONNECT_S


def test_a_backend_that_is_lost_again_and_again_is_given_up() -> None:
    patience = Patience()

    given = []
    for number in range(MAX_RECONNECTS + 1):
        patience.begin(number * 100.0)
        given.append(patience.next_wait_s(number * 100.0) is not None)

    assert given == [True] * MAX_RECONNECTS + [False]
