"""What each event causes between a call and its backend: playing, clearing, truncating, passing on."""

import base64
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voicerelay.shm.counters import TransceiverCounter as Count
from voicerelay.transceiver.agent import Speech
from voicerelay.transceiver.realtime.bridge import (
    BATCH_BYTES,
    BYTES_PER_MS,
    MAX_SEGMENTS,
    Bridge,
    EndOfSpeech,
    Interrupt,
    Output,
    Play,
    ToBackend,
    ToClient,
)
from voicerelay.transceiver.realtime.oai import Event

FRAME = bytes(20 * BYTES_PER_MS)


def bridge(asked_for: Event | None = None, own_vad: bool = False) -> Bridge:
    return Bridge(asked_for or {}, own_vad)


def delta(ms: int, response: str = "r1", item: str = "i1", kind: str = "output_audio") -> Event:
    audio = base64.b64encode(bytes(ms * BYTES_PER_MS)).decode()
    where = {"response_id": response, "item_id": item, "content_index": 0}
    return {"type": f"response.{kind}.delta", "delta": audio} | where


def about(kind: str, response: str = "r1") -> Event:
    return {"type": f"response.{kind}", "response": {"id": response}}


def speaking(ms: int = 3000, played_ms: int = 0, made: bool = False) -> Bridge:
    """A bridge that plays an answer; `made`: all of it is here."""
    one = bridge()
    one.backend_event(about("created"), played_ms)
    one.backend_event(delta(ms), played_ms)
    one.playing("r1")
    if made:
        one.backend_event(about("done"), played_ms)
    return one


def told(outputs: list[Output]) -> list[str]:
    """What the client is told, as types."""
    return [output.event["type"] for output in outputs if isinstance(output, ToClient)]


def asked(outputs: list[Output]) -> list[Event]:
    """What the backend is told, without ids."""
    events = [output.event for output in outputs if isinstance(output, ToBackend)]
    return [{k: v for k, v in event.items() if k != "event_id"} for event in events]


TRUNCATE = {"type": "conversation.item.truncate", "item_id": "i1", "content_index": 0}
STARTED = {"type": "input_audio_buffer.speech_started"}
CLEAR = {"type": "output_audio_buffer.clear"}


# ---- the caller's voice --------------------------------------------------------------------------


def test_two_frames_of_the_caller_are_one_event() -> None:
    one = bridge()

    assert one.heard(FRAME) is None
    event = one.heard(FRAME)

    assert event is not None
    assert event["type"] == "input_audio_buffer.append"
    assert base64.b64decode(event["audio"]) == FRAME * 2
    assert len(FRAME) * 2 == BATCH_BYTES


# ---- the backend's voice -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["output_audio", "audio"])
def test_audio_is_played_and_never_passed_on(kind: str) -> None:
    outputs = bridge().backend_event(delta(100, kind=kind), 0)

    assert outputs == [Play(bytes(100 * BYTES_PER_MS), "r1")]


def test_playing_is_announced_once_and_its_end_when_all_was_sent() -> None:
    one = bridge()
    one.backend_event(delta(100), 0)
    assert told(one.playing("r1")) == ["output_audio_buffer.started"]
    assert one.playing("r1") == []

    done = one.backend_event(about("done"), 50)

    assert done == [ToClient(about("done")), EndOfSpeech("r1")]
    assert told(one.drained("r1")) == ["output_audio_buffer.stopped"]
    assert one.drained("r1") == []


def test_a_response_without_audio_plays_nothing() -> None:
    assert bridge().backend_event(about("done"), 0) == [ToClient(about("done"))]


def test_half_a_sample_waits_for_its_other_half() -> None:
    one, pcm = bridge(), b"\x01\x02\x03\x04"
    halves = [base64.b64encode(pcm[:3]).decode(), base64.b64encode(pcm[3:]).decode()]

    outputs = [o for half in halves for o in one.backend_event(delta(0) | {"delta": half}, 0)]

    assert outputs == [Play(pcm[:2], "r1"), Play(pcm[2:], "r1")]


@pytest.mark.parametrize("audio", ["%", "A", None, 7, {}])
def test_audio_that_is_none_is_dropped_and_counted(audio: Any) -> None:
    one = bridge()

    assert one.backend_event(delta(0) | {"delta": audio}, 0) == []
    assert one.dropped == {Count.BACKEND_DROPPED_BAD_AUDIO: 1}


# ---- barge-in ------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [STARTED, CLEAR])
def test_an_interruption_clears_and_truncates_to_what_was_sent(event: Event) -> None:
    one = speaking(3000, made=True)

    outputs = one.client_event(event, 1240) if event is CLEAR else one.backend_event(event, 1240)

    assert Interrupt() in outputs
    assert "output_audio_buffer.cleared" in told(outputs)
    assert asked(outputs) == [TRUNCATE | {"audio_end_ms": 1240}]
    # and only once
    assert asked(one.backend_event(STARTED, 1240)) == []


def test_speech_while_nothing_is_played_is_only_passed_on() -> None:
    one = speaking(100, made=True)
    one.drained("r1")

    assert one.backend_event(STARTED, 100) == [ToClient(STARTED)]


def test_late_audio_of_an_interrupted_response_is_not_played_and_the_next_one_is() -> None:
    one = speaking()
    one.backend_event(STARTED, 100)

    assert one.backend_event(delta(100), 100) == []
    assert one.dropped == {Count.BACKEND_DROPPED_MUTED: 1}
    one.backend_event(about("done"), 100)
    one.backend_event(about("created", "r2"), 100)
    assert one.backend_event(delta(20, "r2", "i2"), 100) == [Play(FRAME, "r2")]


def test_the_second_truncation_counts_from_the_second_answer() -> None:
    # given an answer of 3 s of which 1 s was sent, and another of which 500 ms were
    one = speaking(3000, made=True)
    one.backend_event(STARTED, 1000)
    one.backend_event(delta(2000, "r2", "i2"), 1000)
    one.playing("r2")

    outputs = one.backend_event(STARTED, 1500)

    assert asked(outputs) == [TRUNCATE | {"item_id": "i2", "audio_end_ms": 500}]


def test_of_several_items_those_that_were_heard_are_left_alone() -> None:
    one = bridge()
    for item in ("i1", "i2", "i3"):
        one.backend_event(delta(1000, item=item), 0)
    one.playing("r1")

    outputs = one.client_event(CLEAR, 1500)

    assert [(e["item_id"], e["audio_end_ms"]) for e in asked(outputs)] == [("i2", 500), ("i3", 0)]


def test_a_slow_backend_does_not_make_an_item_begin_again() -> None:
    one = speaking(500)
    one.backend_event(delta(500), 500)  # all of the first half has been sent

    assert asked(one.client_event(CLEAR, 700)) == [TRUNCATE | {"audio_end_ms": 700}]


def test_a_session_that_is_not_to_be_interrupted_is_not() -> None:
    one = speaking()
    detection = {"type": "server_vad", "interrupt_response": False}
    session = {"audio": {"input": {"turn_detection": detection}}}
    one.backend_event({"type": "session.updated", "session": session}, 0)

    assert one.backend_event(STARTED, 100) == [ToClient(STARTED)]
    assert Interrupt() in one.client_event(CLEAR, 100)


def test_items_that_wait_are_bounded() -> None:
    one = bridge()
    for number in range(MAX_SEGMENTS + 3):
        one.backend_event(delta(20, item=f"i{number}"), 0)

    assert one.dropped == {Count.BACKEND_ITEMS_UNTRACKED: 3}
    assert len(asked(one.client_event(CLEAR, 0))) == MAX_SEGMENTS


# ---- events --------------------------------------------------------------------------------------


def test_other_events_pass_both_ways_as_they_are() -> None:
    one = bridge()
    create = {"type": "response.create", "event_id": "x", "response": {"instructions": "sing"}}
    transcript = {"type": "response.output_audio_transcript.delta", "delta": "la"}

    assert one.client_event(create, 0) == [ToBackend(create)]
    assert one.backend_event(transcript, 0) == [ToClient(transcript)]


def test_errors_about_events_of_ours_are_not_the_clients_affair() -> None:
    one = speaking()
    (ours,) = (o.event for o in one.client_event(CLEAR, 1) if isinstance(o, ToBackend))

    failed = {"type": "error", "error": {"event_id": ours["event_id"], "code": "x"}}

    assert one.backend_event(failed, 1) == []
    others = failed | {"error": {"event_id": "event_of_the_client"}}
    assert one.backend_event(others, 1) == [ToClient(others)]


def test_audio_formats_are_ours_to_choose() -> None:
    one = bridge()
    audio = {"input": {"format": {"type": "audio/pcmu"}, "noise_reduction": None}}
    wanted = {"instructions": "be", "input_audio_format": "g711_ulaw", "audio": audio}

    outputs = one.client_event({"type": "session.update", "session": wanted}, 0)

    session = {
        "type": "realtime",
        "instructions": "be",
        "audio": {"input": {"noise_reduction": None}},
    }
    assert asked(outputs) == [{"type": "session.update", "session": session}]


def test_a_new_connection_is_configured_as_the_offer_and_the_client_wanted() -> None:
    one = bridge({"instructions": "be", "voice": "x"})
    one.client_event({"type": "session.update", "session": {"instructions": "sing"}}, 0)

    (event,) = one.connected()

    assert event["session"] == {"type": "realtime", "instructions": "sing", "voice": "x"}
    assert bridge().connected() == []


def test_a_lost_connection_stops_the_voice_and_asks_nobody() -> None:
    one = speaking()

    outputs = one.lost(100)

    assert told(outputs) == ["output_audio_buffer.cleared"]
    assert Interrupt() in outputs
    assert asked(outputs) == []


# ---- turns that are detected here ----------------------------------------------------------------


def test_our_own_turn_detection_cancels_commits_and_asks_for_an_answer() -> None:
    one = bridge(own_vad=True)
    one.backend_event(about("created"), 0)
    one.backend_event(delta(1000), 0)
    one.playing("r1")

    began, ended = one.speech(Speech(True, 40), 300), one.speech(Speech(False, 900), 300)

    assert [e["type"] for e in asked(began)] == ["response.cancel", "conversation.item.truncate"]
    assert told(began) == ["input_audio_buffer.speech_started", "output_audio_buffer.cleared"]
    assert told(ended) == ["input_audio_buffer.speech_stopped"]
    assert [e["type"] for e in asked(ended)] == ["input_audio_buffer.commit", "response.create"]


def test_a_backend_without_detection_is_never_asked_for_it() -> None:
    one = bridge(own_vad=True)
    wanted = {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}

    outputs = one.client_event({"type": "session.update", "session": wanted}, 0)

    for event in (*one.connected(), *asked(outputs)):
        assert event["session"]["audio"]["input"]["turn_detection"] is None


# ---- whatever comes ------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
KEYS = ("response", "response_id", "item_id", "session", "error", "delta", "content_index", "audio")
KINDS = ("session.updated", "response.created", "response.done", "error", "response.audio.delta")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(KEYS), JSON)), max_size=8
    )
)
def test_no_event_of_a_backend_breaks_the_bridge(events: list[tuple[str, Event]]) -> None:
    one = bridge()
    for played_ms, (kind, fields) in enumerate(events):
        one.backend_event(fields | {"type": kind}, played_ms)
    one.client_event(CLEAR, len(events))
