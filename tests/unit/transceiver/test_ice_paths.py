"""Which of its valid paths carries a call: nomination, NAT rebinding both ways, eviction, any history."""

import copy
import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from voicerelay.shm import stun
from voicerelay.shm.counters import TransceiverCounter as Drop
from voicerelay.shm.path import pack_path
from voicerelay.transceiver.ice import (
    MAX_VALID_PATHS,
    NO_MEDIA_SILENCE_S,
    RESTART_OVERLAP_S,
    SILENCE_S,
    Check,
    Credentials,
    IceAgent,
    IceState,
)

NOW = 5000.0
A, B, C = (pack_path(0, "192.0.2.7", port) for port in (1, 2, 3))
PATHS = [pack_path(0, "192.0.2.9", port) for port in range(1, 2 * MAX_VALID_PATHS)]
CREDENTIALS = Credentials(b"serverUfrag000000001", b"serverPassword0000000001", b"abcd")
JUST = 0.001


def request(credentials: Credentials, number: int, nominate: bool, password: bytes = b"") -> bytes:
    attributes = [(stun.USERNAME, credentials.ufrag + b":" + credentials.remote_ufrag)]
    if nominate:
        attributes.append((stun.USE_CANDIDATE, b""))
    key = password or credentials.password
    return stun.build(stun.BINDING_REQUEST, number.to_bytes(12, "big"), attributes, key)


class Caller:
    """A client of one agent: every check has a fresh transaction and is accepted at once."""

    def __init__(self) -> None:
        self.ice = IceAgent(CREDENTIALS, consent_at=NOW)
        self._numbers = itertools.count(1)

    def check(self, path: bytes, now: float, nominate: bool = False) -> bytes | None:
        found = self.ice.receive(
            request(self.ice.credentials, next(self._numbers), nominate), path, now
        )
        assert isinstance(found, Check)
        return self.ice.accept(found, now)


def test_nothing_takes_effect_before_the_flow_is_committed() -> None:
    ice = IceAgent(CREDENTIALS, consent_at=NOW)

    found = ice.receive(request(CREDENTIALS, 1, True), A, NOW + 1)

    assert isinstance(found, Check)
    assert (ice.state, ice.selected, ice.consent_at, len(ice.valid)) == (IceState.NEW, None, NOW, 0)


def test_the_first_check_selects_and_a_nomination_completes() -> None:
    caller = Caller()

    caller.check(A, NOW)
    assert (caller.ice.state, caller.ice.selected) == (IceState.CONNECTED, A)

    caller.check(B, NOW, nominate=True)
    assert (caller.ice.state, caller.ice.selected) == (IceState.COMPLETED, B)

    caller.check(C, NOW)  # a consent check never takes a nomination back
    assert (caller.ice.state, caller.ice.selected) == (IceState.COMPLETED, B)


def test_a_second_check_knows_its_path() -> None:
    caller = Caller()
    caller.check(A, NOW)

    known = caller.ice.receive(request(CREDENTIALS, 50, False), A, NOW)
    other = caller.ice.receive(request(CREDENTIALS, 51, False), B, NOW)

    assert isinstance(known, Check)
    assert isinstance(other, Check)
    assert (known.known_path, other.known_path) == (True, False)


@pytest.mark.parametrize(
    ("silent_s", "selected"), [(NO_MEDIA_SILENCE_S - JUST, A), (NO_MEDIA_SILENCE_S + JUST, B)]
)
def test_a_nomination_moves_a_talking_call_only_off_a_silent_path(
    silent_s: float, selected: bytes
) -> None:
    # given a call whose media comes from A
    caller = Caller()
    caller.check(A, NOW, nominate=True)
    caller.ice.media(A, NOW + 1)

    # when B is nominated so long after
    caller.check(B, NOW + 1 + silent_s, nominate=True)

    # then the call has moved, or stays where the media is
    assert caller.ice.selected == selected


def test_a_check_without_nomination_never_moves_a_call_by_itself() -> None:
    caller = Caller()
    caller.check(A, NOW, nominate=True)
    caller.ice.media(A, NOW)

    caller.check(B, NOW + 29)

    assert caller.ice.selected == A


@pytest.mark.parametrize(("silent_s", "selected"), [(SILENCE_S - JUST, A), (SILENCE_S + JUST, B)])
def test_the_call_follows_its_media_once_the_old_path_is_silent(
    silent_s: float, selected: bytes
) -> None:
    # given a call on A, and B validated (a NAT gave the client another address)
    caller = Caller()
    caller.check(A, NOW, nominate=True)
    caller.ice.media(A, NOW)
    caller.check(B, NOW)

    # when authentic media comes from B so long after the last from A
    moved = caller.ice.media(B, NOW + silent_s)

    assert (moved, caller.ice.selected) == (selected == B, selected)


def test_the_call_follows_its_media_there_and_back() -> None:
    caller = Caller()
    caller.check(A, NOW, nominate=True)
    caller.ice.media(A, NOW)
    caller.check(B, NOW)

    assert caller.ice.media(B, NOW + 1)
    assert not caller.ice.media(B, NOW + 1.02)
    assert caller.ice.media(A, NOW + 2)

    assert caller.ice.selected == A


def test_media_from_an_unchecked_path_changes_nothing() -> None:
    caller = Caller()
    caller.check(A, NOW, nominate=True)
    before = copy.deepcopy(caller.ice)

    assert not caller.ice.media(B, NOW + 20)

    assert caller.ice == before


def test_a_restart_leaves_the_call_where_it_is() -> None:
    caller = Caller()
    caller.check(A, NOW, nominate=True)

    caller.ice.restart(Credentials(b"other", b"password", b"abcd"), NOW + 1)

    assert caller.ice.selected == A
    assert A in caller.ice.valid


def test_the_first_nomination_after_a_restart_moves_the_call_at_once() -> None:
    # given a call that talks on A, and a restart
    caller = Caller()
    caller.check(A, NOW, nominate=True)
    caller.ice.media(A, NOW + 1)
    old = caller.ice.credentials
    caller.ice.restart(Credentials(b"other", b"password", b"abcd"), NOW + 1)

    # when a nomination under the old credentials still comes, then one under the new ones
    late = caller.ice.receive(request(old, 90, True), C, NOW + 1)
    assert isinstance(late, Check)
    caller.ice.accept(late, NOW + 1)
    assert caller.ice.selected == A
    caller.check(B, NOW + 1, nominate=True)
    assert caller.ice.selected == B

    # then it has moved (RFC 8445 §9), and the next ones move it only off a silent path again
    caller.ice.media(B, NOW + 1)
    caller.check(C, NOW + 1, nominate=True)
    assert caller.ice.selected == B


def test_a_lost_path_is_neither_valid_nor_selected_and_the_next_check_selects() -> None:
    caller = Caller()
    caller.check(A, NOW, nominate=True)
    caller.check(B, NOW)

    caller.ice.lose(B)
    assert (caller.ice.selected, list(caller.ice.valid)) == (A, [A])

    caller.ice.lose(A)
    assert (caller.ice.selected, list(caller.ice.valid)) == (None, [])

    caller.check(C, NOW + 1)
    assert caller.ice.selected == C


def test_too_many_paths_evict_the_longest_unchecked_but_never_the_selected_or_newest() -> None:
    # given as many paths as there may be, the selected one the oldest, the second checked again
    caller = Caller()
    for age, path in enumerate(PATHS[:MAX_VALID_PATHS]):
        assert caller.check(path, NOW + age, nominate=age == 0) is None
    caller.check(PATHS[1], NOW + 100)

    # when one more comes
    evicted = caller.check(PATHS[MAX_VALID_PATHS], NOW + 101)

    # then the third gives way
    assert evicted == PATHS[2]
    assert len(caller.ice.valid) == MAX_VALID_PATHS
    assert {PATHS[0], PATHS[MAX_VALID_PATHS]} <= set(caller.ice.valid)


class AnyHistory(RuleBasedStateMachine):
    """Checks, media, restarts, losses and forgeries in any order, over any time."""

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.ice = IceAgent(CREDENTIALS, consent_at=NOW)
        self.numbers = itertools.count(1)
        self.past: list[tuple[bytes, bytes]] = []  # data and path of checks that were answered
        self.previous: tuple[Credentials, float] | None = None

    @rule(seconds=st.floats(0.0, 40.0), fine=st.booleans())
    def wait(self, seconds: float, fine: bool) -> None:
        self.now += seconds / 100 if fine else seconds

    @rule(path=st.sampled_from(PATHS), nominate=st.booleans())
    def check(self, path: bytes, nominate: bool) -> None:
        data = request(self.ice.credentials, next(self.numbers), nominate)
        found = self.ice.receive(data, path, self.now)
        assert isinstance(found, Check)
        before = self.ice.selected
        forgotten = self.ice.accept(found, self.now)
        self.past.append((data, path))

        assert path in self.ice.valid
        assert forgotten is None or forgotten not in (path, before, self.ice.selected)
        assert self.ice.selected in (before or path, path if nominate else before or path)
        assert not self.ice.expired(self.now)

    @rule(path=st.sampled_from(PATHS))
    def media(self, path: bytes) -> None:
        before, valid = self.ice.selected, path in self.ice.valid
        moved = self.ice.media(path, self.now)

        assert moved == (self.ice.selected != before)
        assert not moved or (valid and self.ice.selected == path)

    @rule()
    def restart(self) -> None:
        number = next(self.numbers)
        self.previous = self.ice.credentials, self.now + RESTART_OVERLAP_S
        fresh = Credentials(b"ufrag%d" % number, b"password%d" % number, b"abcd")
        self.ice.restart(fresh, self.now)

    @rule(path=st.sampled_from(PATHS))
    def lose(self, path: bytes) -> None:
        self.ice.lose(path)

        assert path not in self.ice.valid

    @rule(path=st.sampled_from(PATHS), nominate=st.booleans())
    def old_credentials(self, path: bytes, nominate: bool) -> None:
        if self.previous is None:
            return
        credentials, until = self.previous
        found = self.ice.receive(request(credentials, next(self.numbers), nominate), path, self.now)

        assert isinstance(found, Check if self.now < until else Drop)

    @rule(path=st.sampled_from(PATHS), nominate=st.booleans(), junk=st.binary(max_size=40))
    def forge(self, path: bytes, nominate: bool, junk: bytes) -> None:
        before = copy.deepcopy(self.ice)

        forged = request(self.ice.credentials, next(self.numbers), nominate, b"guessed")
        assert self.ice.receive(forged, path, self.now) is Drop.DROPPED_BAD_INTEGRITY
        assert isinstance(self.ice.receive(junk, path, self.now), Drop)
        assert self.ice == before

    @rule(path=st.sampled_from(PATHS), which=st.integers(0, 30))
    def replay(self, path: bytes, which: int) -> None:
        if which >= len(self.past) or self.past[-1 - which][1] == path:
            return
        before = copy.deepcopy(self.ice)

        assert isinstance(self.ice.receive(self.past[-1 - which][0], path, self.now), Drop)
        assert self.ice == before

    @invariant()
    def the_selected_path_is_valid(self) -> None:
        assert self.ice.selected is None or self.ice.selected in self.ice.valid

    @invariant()
    def everything_is_bounded(self) -> None:
        assert len(self.ice.valid) <= MAX_VALID_PATHS


AnyHistory.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=60)
TestAnyHistory = AnyHistory.TestCase
