"""The voice path: what reports say of a stream (RFC 3550 A.1, A.3, A.8), and what leaves keeps its distances."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.transceiver.agent import AudioPacket
from voicerelay.transceiver.voice.path import (
    CLOCK_RATE_HZ,
    FRAME_S,
    FRAME_TICKS,
    MAX_SEQUENCE_JUMP,
    InboundStream,
    VoicePath,
)
from voicerelay.transceiver.voice.rtp import (
    NTP_EPOCH_OFFSET_S,
    ReportBlock,
    RtcpReport,
    RtpError,
    RtpPacket,
    SenderInfo,
    build_report,
    build_rtp,
    parse_rtcp,
    parse_rtp,
)

OURS, THEIRS, OPUS = 0x0A0A0A0A, 0x0B0B0B0B, 111
WALL = 1_800_000_000.0
NTP_MIDDLE = int((WALL + NTP_EPOCH_OFFSET_S) * 65536) & 0xFFFFFFFF


def path() -> VoicePath:
    return VoicePath(OURS, OPUS, "cname")


def rtp(sequence: int, timestamp: int = 0, ssrc: int = THEIRS, payload_type: int = OPUS) -> bytes:
    return build_rtp(RtpPacket(False, payload_type, sequence, timestamp, ssrc, b"opus"))


def stream(*sequences: int, base: int = 0) -> InboundStream:
    """A stream that received these numbers, counted from `base`, each on time."""
    made = InboundStream(THEIRS, base + sequences[0], base + sequences[0])
    for number in sequences:
        made.add((base + number) & 0xFFFF, number * FRAME_TICKS, number * FRAME_S)
    return made


def block_of(voice: VoicePath, now: float) -> ReportBlock:
    data = voice.report(now, WALL)
    assert data is not None
    (report,) = parse_rtcp(data)
    assert isinstance(report, RtcpReport)
    return report.blocks[0]


# ---- in ------------------------------------------------------------------------------------------


def test_an_agreed_packet_reaches_the_agent_as_it_is() -> None:
    data = build_rtp(RtpPacket(True, OPUS, 5, 960, THEIRS, b"opus"))

    assert path().receive(data, 0.0) == RtpPacket(True, OPUS, 5, 960, THEIRS, b"opus")


@pytest.mark.parametrize("data", [rtp(1, payload_type=0), rtp(1)[:12]], ids=["type", "empty"])
def test_another_payload_type_or_none_at_all_keeps_its_place_empty(data: bytes) -> None:
    voice = path()

    packet = voice.receive(data, 0.0)

    assert (packet.sequence, packet.payload) == (1, b"")
    assert voice.inbound is not None


def test_what_has_come_is_counted_in_octets_of_payload_from_the_first_packet_on() -> None:
    voice = path()
    assert (voice.heard_at, voice.octets_in, voice.lost_in) == (None, 0, 0)

    voice.receive(rtp(1), 5.0)
    voice.receive(rtp(3), 5.04)
    voice.receive(rtp(9, ssrc=99), 6.0)

    assert (voice.heard_at, voice.octets_in) == (5.0, 3 * len(b"opus"))


def test_what_is_not_rtp_is_refused() -> None:
    with pytest.raises(RtpError):
        path().receive(b"\x80", 0.0)


@pytest.mark.parametrize(
    ("received", "highest", "lost", "fraction"),
    [
        (range(8), 7, 0, 0),
        ((0, 1, 2, 4, 5, 6, 7), 7, 1, 32),  # 1 of 8: 256/8
        ((0, 2, 1, 4, 3, 5), 5, 0, 0),  # out of order is not lost
        ((0, 1, 1, 1, 2), 2, -2, 0),  # duplicates count as received (A.3), never as a fraction
        ((0, 3), 3, 2, 128),
        ((0, 1, 1, 3), 3, 0, 0),  # a duplicate hides a loss, as A.3 has it
        ((0, MAX_SEQUENCE_JUMP), MAX_SEQUENCE_JUMP, MAX_SEQUENCE_JUMP - 1, 255),
    ],
)
@pytest.mark.parametrize("base", [0, 65_533, 40_000])
def test_loss_is_counted_as_in_appendix_a3(
    received: tuple[int, ...], highest: int, lost: int, fraction: int, base: int
) -> None:
    found = stream(*received, base=base).report(0.0)

    assert (found.highest, found.lost, found.fraction_lost) == (base + highest, lost, fraction)


def test_the_fraction_is_of_the_interval_and_the_loss_of_the_whole() -> None:
    # given an interval with 1 of 4 lost
    inbound = stream(0, 1, 3)
    first = inbound.report(1.0)

    # when 2 of 8 get lost after it
    for number in (4, 5, 6, 9, 10, 11):
        inbound.add(number, number * FRAME_TICKS, number * FRAME_S)
    second, third = inbound.report(2.0), inbound.report(3.0)

    # then each report tells of its own interval
    assert [b.fraction_lost for b in (first, second, third)] == [64, 64, 0]
    assert [b.lost for b in (first, second, third)] == [1, 3, 3]


def test_sequence_numbers_wrap_as_often_as_they_like() -> None:
    inbound = stream(*range(0, 3 * 65_536, 2999))

    block = inbound.report(0.0)

    assert block.highest == 2999 * 65
    assert block.lost == 2999 * 65 + 1 - 66


def test_a_large_jump_is_a_new_beginning_and_no_loss() -> None:
    inbound = stream(0, 1, 2)

    inbound.add(2 + MAX_SEQUENCE_JUMP + 1, 0, 1.0)

    assert (inbound.base, inbound.highest, inbound.lost) == (3003, 3003, 0)


def test_a_late_packet_from_before_the_first_is_no_jump() -> None:
    inbound = stream(10)

    inbound.add(9, 0, 0.0)

    assert (inbound.highest, inbound.lost) == (10, -1)


def test_jitter_is_smoothed_as_in_appendix_a8() -> None:
    # given transit times of 0, 160, 160 and 80 ticks
    inbound = InboundStream(THEIRS, 0, 0)
    for number, late_ticks in enumerate((0, 160, 160, 80)):
        sent = number * FRAME_TICKS
        inbound.add(number, sent, (sent + late_ticks) / CLOCK_RATE_HZ)

    # then J += (|D| - J) / 16 for D = 160, 0, 80: 10, 9.375, 13.789
    assert inbound.jitter == pytest.approx(10 * 15 / 16 * 15 / 16 + 80 / 16)
    assert inbound.report(0.0).jitter == 13


def test_a_wrap_of_the_timestamp_is_no_jitter() -> None:
    inbound = InboundStream(THEIRS, 0, 0)

    for number in range(10):
        timestamp = (0xFFFFFFFF - 4 * FRAME_TICKS + number * FRAME_TICKS) & 0xFFFFFFFF
        inbound.add(number, timestamp, 100 + number * FRAME_S)

    assert inbound.jitter == pytest.approx(0.0, abs=0.01)


def test_a_new_source_begins_a_new_report() -> None:
    # given a source that lost some
    voice = path()
    for number in (0, 5):
        voice.receive(rtp(number), 0.0)

    # when another one speaks
    voice.receive(rtp(700, ssrc=THEIRS + 1), 0.1)

    # then the report is about it alone
    block = block_of(voice, 0.1)
    assert (block.ssrc, block.highest, block.lost) == (THEIRS + 1, 700, 0)


# ---- out -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)),
    st.lists(st.tuples(st.integers(-5, 50), st.integers(-5000, 50_000)), max_size=30),
)
def test_what_leaves_keeps_the_distances_of_what_was_given_over_every_wrap(
    first: tuple[int, int], steps: list[tuple[int, int]]
) -> None:
    voice = path()
    given_at = [first]
    for sequence, timestamp in steps:
        before = given_at[-1]
        after = (before[0] + sequence) & 0xFFFF, (before[1] + timestamp) & 0xFFFFFFFF
        given_at.append(after)

    sent = [
        parse_rtp(voice.packetize(AudioPacket(b"x", s, t, s % 2 == 0), 0.0)) for s, t in given_at
    ]

    for (sequence, timestamp), packet in zip(given_at, sent, strict=True):
        assert (packet.ssrc, packet.payload_type) == (OURS, OPUS)
        assert packet.marker == (sequence % 2 == 0)
        assert (packet.sequence - sent[0].sequence - sequence + first[0]) & 0xFFFF == 0
        assert (packet.timestamp - sent[0].timestamp - timestamp + first[1]) & 0xFFFFFFFF == 0


def test_our_first_sequence_is_far_from_a_wrap() -> None:
    """SRTP's roll-over counter cannot be guessed by a peer that misses the first packets (§3.3.1)."""
    for _ in range(50):
        assert parse_rtp(path().packetize(AudioPacket(b"x", 0, 0), 0.0)).sequence < 0x8000


def test_an_echo_of_a_new_source_goes_on_by_one_frame() -> None:
    # given an echo of one source
    voice = path()
    voice.receive(rtp(9, 0), 0.0)
    before = parse_rtp(voice.packetize(AudioPacket(b"x", 9, 0), 0.0))

    # when the source changes, and with it all numbers
    voice.receive(rtp(50_000, 4_000_000, THEIRS + 1), 0.1)
    after = parse_rtp(voice.packetize(AudioPacket(b"x", 50_000, 4_000_000), 0.0))

    # then ours go on
    assert (after.sequence - before.sequence) & 0xFFFF == 1
    assert (after.timestamp - before.timestamp) & 0xFFFFFFFF == FRAME_TICKS


# ---- our own frames --------------------------------------------------------------------------------


def frames(voice: VoicePath, *due: float) -> list[tuple[int, int, bool]]:
    """Sequence and timestamp after those of the first, and marker, of frames due then."""
    packets = [parse_rtp(voice.frame(b"opus", at)) for at in due]
    first = packets[0]
    return [
        (
            (p.sequence - first.sequence) & 0xFFFF,
            (p.timestamp - first.timestamp) & 0xFFFFFFFF,
            p.marker,
        )
        for p in packets
    ]


def test_frames_follow_each_other_and_the_first_is_marked() -> None:
    due = [7.0 + n * FRAME_S for n in range(200)]

    assert frames(path(), *due) == [(n, n * FRAME_TICKS, n == 0) for n in range(200)]


@pytest.mark.parametrize(
    ("pause_frames", "expected"), [(1.9, 2), (2.0, 2), (3.3, 3), (50.6, 51), (1e6, 1_000_000)]
)
def test_the_timestamp_runs_on_through_a_pause_in_whole_frames(
    pause_frames: float, expected: int
) -> None:
    after = 7.0 + pause_frames * FRAME_S

    sent = frames(path(), 7.0, after, after + FRAME_S)

    assert sent[1:] == [
        (1, expected * FRAME_TICKS, True),
        (2, (expected + 1) * FRAME_TICKS, False),
    ]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(10, 40).map(lambda n: n / 10), st.floats(1, 500)),
            st.integers(1, 30),
        ),
        max_size=40,
    )
)
def test_through_pauses_in_any_phase_the_timestamp_stays_with_the_clock(
    spurts: list[tuple[float, int]],
) -> None:
    """No pause may leave the timestamp behind: a receiver would take it for delay and keep it."""
    due = [3.0]
    for pause_frames, count in spurts:
        start = due[-1] + pause_frames * FRAME_S
        due += [start + n * FRAME_S for n in range(count)]

    sent = frames(path(), *due)

    for at, (number, (sequence, timestamp, _)) in zip(due, enumerate(sent), strict=True):
        assert sequence == number
        assert timestamp % FRAME_TICKS == 0
        assert abs(timestamp - (at - 3.0) * CLOCK_RATE_HZ) <= 0.56 * FRAME_TICKS
    steps = [b[1] - a[1] for a, b in itertools.pairwise(sent)]
    assert all(step >= FRAME_TICKS for step in steps)
    assert [step > FRAME_TICKS for step in steps] == [marker for _, _, marker in sent[1:]]


def test_frames_and_given_packets_share_one_stream() -> None:
    # given a frame of our own, then two given packets, then ours after a pause
    voice = path()
    first = parse_rtp(voice.frame(b"x", 1.0))
    second = parse_rtp(voice.packetize(AudioPacket(b"x", 900, 777), 1.02))
    third = parse_rtp(voice.packetize(AudioPacket(b"x", 902, 777 + 2 * FRAME_TICKS), 1.06))
    fourth = parse_rtp(voice.frame(b"x", 1.26))

    # then numbers go on from one to the other
    packets = [first, second, third, fourth]
    assert [(p.sequence - first.sequence) & 0xFFFF for p in packets] == [0, 1, 3, 4]
    ticks = [(p.timestamp - first.timestamp) & 0xFFFFFFFF for p in packets]
    assert ticks == [0, FRAME_TICKS, 3 * FRAME_TICKS, 13 * FRAME_TICKS]
    assert [p.marker for p in packets] == [True, False, False, True]
    assert voice.sent == 4


# ---- reports -------------------------------------------------------------------------------------


def test_nothing_is_reported_before_anything_has_happened() -> None:
    assert path().report(0.0, WALL) is None


def test_a_receiver_that_does_not_send_makes_a_receiver_report() -> None:
    voice = path()
    voice.receive(rtp(1), 0.0)

    data = voice.report(0.0, WALL)

    assert data is not None
    assert data[1] == 201


def test_a_sender_report_counts_what_was_sent() -> None:
    voice = path()
    sent = [parse_rtp(voice.packetize(AudioPacket(b"12345", n, n * 960), 0.0)) for n in range(3)]

    data = voice.report(0.5, WALL)

    assert data is not None
    assert data[1] == 200
    seconds, fraction, timestamp, packets, octets = (
        int.from_bytes(data[at : at + 4], "big") for at in range(8, 28, 4)
    )
    assert (seconds, fraction) == (int(WALL) + NTP_EPOCH_OFFSET_S, 0)
    # half a second after the last packet, and so is the timestamp (RFC 3550 §6.4.1)
    assert (timestamp - sent[-1].timestamp) & 0xFFFFFFFF == 24_000
    assert (packets, octets) == (3, 15)


def test_our_report_says_how_long_ago_the_last_sender_report_came() -> None:
    # given a sender report of the peer
    voice = path()
    voice.receive(rtp(1), 0.0)
    assert (block_of(voice, 1.0).last_sr, block_of(voice, 1.0).delay) == (0, 0)
    report = build_report(THEIRS, "c", SenderInfo(0x1111222233334444, 0, 1, 1), [])
    voice.receive_rtcp(report, 10.0, WALL)

    # when ours is made 1.5 s later
    block = block_of(voice, 11.5)

    # then it carries LSR, and DLSR in 1/65536 s
    assert (block.last_sr, block.delay) == (0x22223333, 3 * 32768)


def test_a_sender_report_of_somebody_else_is_passed_over() -> None:
    voice = path()
    voice.receive(rtp(1), 0.0)

    voice.receive_rtcp(build_report(99, "c", SenderInfo(1 << 40, 0, 1, 1), []), 10.0, WALL)

    assert block_of(voice, 11.0).last_sr == 0


@pytest.mark.parametrize(
    ("ago_s", "held_s", "rtt_s"), [(0.25, 0.125, 0.125), (5.25, 5.25, 0.0), (0.1, 0.2, None)]
)
def test_the_round_trip_comes_from_lsr_and_dlsr(
    ago_s: float, held_s: float, rtt_s: float | None
) -> None:
    """RFC 3550 §6.4.1: A - LSR - DLSR; a negative one is the clocks' rounding and no figure."""
    voice = path()
    last_sr = (NTP_MIDDLE - round(ago_s * 65536)) & 0xFFFFFFFF
    block = ReportBlock(OURS, 64, 3, 10, 0, last_sr, round(held_s * 65536))

    voice.receive_rtcp(build_report(THEIRS, "c", None, [block]), 0.0, WALL)

    assert voice.rtt_s == (rtt_s if rtt_s is None else pytest.approx(rtt_s, abs=1e-4))
    assert (voice.remote_fraction_lost, voice.remote_reports) == (0.25, 1)
    assert voice.remote_lost == 3


def test_a_report_about_somebody_else_or_without_lsr_gives_no_round_trip() -> None:
    voice = path()
    blocks = [ReportBlock(99, 255, 0, 0, 0, NTP_MIDDLE, 0), ReportBlock(OURS, 0, 0, 0, 0, 0, 0)]

    voice.receive_rtcp(build_report(THEIRS, "c", None, blocks), 0.0, WALL)

    assert (voice.rtt_s, voice.remote_fraction_lost) == (None, 0.0)
