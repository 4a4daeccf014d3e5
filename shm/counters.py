"""Per-process figures in shared memory: one block a process, written by it alone, read by anyone."""

import os
import time
from collections.abc import Iterator
from enum import IntEnum

BLOCK_BYTES = 512
WORDS = BLOCK_BYTES // 8
MAX_RELAYS = 64
MAX_TRANSCEIVERS = 256
BLOCKS = 1 + MAX_RELAYS + MAX_TRANSCEIVERS
COUNTERS_BYTES = BLOCKS * BLOCK_BYTES

# Words that every block begins with.
PID, GENERATION, STARTED_NS, HEARTBEAT_NS = range(4)
FIRST_COUNTER = 4


class RelayCounter(IntEnum):
    """Relay figures. Received = forwarded + all that is dropped."""

    PACKETS_RECEIVED = FIRST_COUNTER
    BYTES_RECEIVED = 5
    PACKETS_FORWARDED = 6
    FRAMES_SENT = 7
    WAKEUPS = 8
    SOCKETS_READ = 9
    DROPPED_EMPTY = 10
    DROPPED_OVERSIZED = 11
    DROPPED_NOT_WEBRTC = 12
    DROPPED_MALFORMED_STUN = 13
    DROPPED_UNKNOWN_UFRAG = 14
    DROPPED_UNKNOWN_FLOW = 15
    DROPPED_TRANSCEIVER_GONE = 16
    DROPPED_QUEUE_FULL = 17
    COMPILED = 18  # 1: the loop in C runs
    SOCKET_OVERFLOWS = 19  # lost by the kernel before they were received, of the sockets read now


class TransceiverCounter(IntEnum):
    """Transceiver figures. Received = delivered + all that is dropped."""

    PACKETS_RECEIVED = FIRST_COUNTER
    FRAMES_RECEIVED = 5
    PACKETS_DELIVERED = 6
    PACKETS_SENT = 7
    SEND_FAILURES = 8
    SESSIONS = 9
    SESSIONS_STARTED = 10
    MAX_SESSIONS = 11
    OFFERS_REFUSED = 12
    DROPPED_MALFORMED_FRAME = 13
    DROPPED_MALFORMED_STUN = 14
    DROPPED_UNKNOWN_UFRAG = 15
    DROPPED_UNKNOWN_PATH = 16
    DROPPED_BAD_INTEGRITY = 17
    DROPPED_REPLAYED_CHECK = 18
    DROPPED_UNVALIDATED_PATH = 19
    DROPPED_PLAINTEXT_ALERT = 20
    DROPPED_SRTP = 21
    DROPPED_QUEUE_FULL = 22
    DROPPED_NOT_REQUEST = 23
    DROPPED_CONTROL_UNAVAILABLE = 24
    DROPPED_NOT_WEBRTC = 25
    DROPPED_LATE_VOICE = 26  # its place was filled before it came
    DROPPED_DUPLICATE_VOICE = 27
    DROPPED_CORRUPT_VOICE = 28  # no Opus; concealed
    DROPPED_STRAY_VOICE = 29  # its sequence number is far from the stream's
    FRAME_LATENESS_P99_US = 30  # of the last seconds, behind the schedule of 20 ms
    LOOP_LAG_US = 31  # how late the last heartbeat was
    OVERLOADED = 32  # 1: frames come late, no new calls
    SOCKET_OVERFLOWS = 33  # steered packets lost by the kernel before they were received
    HTTP_CONNECTIONS_REFUSED = 34  # there were too many
    HTTP_CLIENTS_TOO_SLOW = 35  # no request within its time
    MESSAGES_DROPPED_UNREAD = 36  # of data channels, for an agent that does not read them
    EVENTS_DROPPED_NO_CHANNEL = 37  # Realtime, to a client that has not opened it
    EVENTS_DROPPED_TOO_LARGE = 38
    EVENTS_DROPPED_CONGESTED = 39  # or its channel has closed
    EVENTS_REFUSED = 40  # of a client or sideband, answered with an `error`
    BACKENDS_LOST = 41  # connections that broke in mid-call
    BACKEND_DROPPED_NO_EVENT = 42
    BACKEND_DROPPED_MUTED = 43  # audio of a response that was interrupted
    BACKEND_DROPPED_BAD_AUDIO = 44
    BACKEND_DROPPED_OWN_ERROR = 45  # about an event that the client has not sent
    BACKEND_ITEMS_UNTRACKED = 46  # too many to be truncated
    HTTP_REQUESTS_MALFORMED = 47  # no HTTP, or a body that cannot be unpacked
    DRAINING = 48  # 1: no new calls
    DRAIN_LEFT_S = 49  # until the running ones are ended
    STRAGGLERS_ENDED = 50  # calls ended by a drain's deadline


class ControlCounter(IntEnum):
    """Control's figures."""

    ROUTES = FIRST_COUNTER
    FLOWS = 5
    SOCKETS_ADOPTED = 6
    RELAYS_KILLED = 7
    TRANSCEIVERS_KILLED = 8
    REQUESTS_REFUSED = 9
    RECORDS_REPAIRED = 10
    PEERS = 11
    STEERED_BY_FLOW = 12
    STEERED_BY_UFRAG = 13
    STEERED_TO_RELAY = 14
    STEERED_DROPPED_NO_RELAY = 15


Counter = RelayCounter | TransceiverCounter | ControlCounter


class Block:
    """One process's block. `add` and `set` are for its owner only."""

    def __init__(self, words: memoryview) -> None:
        self.words = words

    def claim(self, generation: int = 0) -> None:
        """Start afresh as this process's own block."""
        for index in range(WORDS):
            self.words[index] = 0
        self.words[GENERATION] = generation
        self.words[STARTED_NS] = time.monotonic_ns()
        self.own()

    def own(self) -> None:
        """Mark the block as this process's; its figures stay."""
        self.words[PID] = os.getpid()
        self.beat()

    def beat(self) -> None:
        """Say that the loop which does the work is alive (law 6)."""
        self.words[HEARTBEAT_NS] = time.monotonic_ns()

    def clear(self) -> None:
        """Mark the block as nobody's (by control, for a process that is gone)."""
        self.words[PID] = 0

    def add(self, counter: Counter, by: int = 1) -> None:
        self.words[counter] += by

    def set(self, counter: Counter, value: int) -> None:
        self.words[counter] = value

    def get(self, counter: Counter) -> int:
        return int(self.words[counter])

    @property
    def pid(self) -> int:
        return int(self.words[PID])

    @property
    def generation(self) -> int:
        return int(self.words[GENERATION])

    @property
    def heartbeat_ns(self) -> int:
        return int(self.words[HEARTBEAT_NS])

    @property
    def started_ns(self) -> int:
        return int(self.words[STARTED_NS])


class Counters:
    """All blocks of the segment."""

    def __init__(self, buffer: memoryview) -> None:
        self._words = buffer[:COUNTERS_BYTES].cast("Q")
        self._blocks: dict[int, Block] = {}

    def control(self) -> Block:
        return self._block(0)

    def relay(self, index: int) -> Block:
        if not 0 <= index < MAX_RELAYS:
            raise ValueError("relay index")
        return self._block(1 + index)

    def transceiver(self, slot: int) -> Block:
        if not 0 <= slot < MAX_TRANSCEIVERS:
            raise ValueError("transceiver slot")
        return self._block(1 + MAX_RELAYS + slot)

    def relays(self) -> Iterator[tuple[int, Block]]:
        """Blocks in use, with their index."""
        return ((i, self.relay(i)) for i in self._in_use(1, MAX_RELAYS))

    def transceivers(self) -> Iterator[tuple[int, Block]]:
        """Blocks in use, with their slot."""
        return ((i, self.transceiver(i)) for i in self._in_use(1 + MAX_RELAYS, MAX_TRANSCEIVERS))

    def release(self) -> None:
        """Let go of the buffer, so that the segment can be closed."""
        for block in self._blocks.values():
            block.words.release()
        self._words.release()

    def _in_use(self, first: int, count: int) -> list[int]:
        """Which of `count` blocks have an owner; one copy, as every offer asks."""
        pids = self._words[first * WORDS + PID : (first + count) * WORDS : WORDS].tolist()
        return [index for index, pid in enumerate(pids) if pid]

    def _block(self, index: int) -> Block:
        block = self._blocks.get(index)
        if block is None:
            block = self._blocks[index] = Block(self._words[index * WORDS : (index + 1) * WORDS])
        return block
