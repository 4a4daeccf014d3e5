"""One caller: its socket, ICE, DTLS, SRTP and voice. While it talks it has no task and no timer of its own."""

import asyncio
import contextlib
import random
import time
from typing import Protocol

from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters

from voicerelay.cli.loadtest import sdp
from voicerelay.cli.loadtest.contracts import Ask, Declined
from voicerelay.cli.loadtest.ear import Ear
from voicerelay.cli.loadtest.endpoint import Endpoint
from voicerelay.cli.loadtest.ice import IceClient, IceState
from voicerelay.cli.loadtest.impairment import Fate
from voicerelay.cli.loadtest.reception import Reception
from voicerelay.cli.loadtest.sdp import Address, Answer, SdpError
from voicerelay.cli.loadtest.signalling import Signalling
from voicerelay.cli.loadtest.speech import PACKETS_A_ROUND, SILENCE, is_mark
from voicerelay.cli.loadtest.talk import COMFORT_PACKETS, Spurt, spurts
from voicerelay.cli.loadtest.tally import SetupTimes, Tally
from voicerelay.shm.ufrag import make_password
from voicerelay.transceiver.dtls import Dtls
from voicerelay.transceiver.voice import rtp
from voicerelay.transceiver.voice.path import VoicePath
from voicerelay.transceiver.voice.srtp import Keyed

ICE_TIMEOUT_S = 10.0
DTLS_TIMEOUT_S = 10.0
MAX_READ_AT_ONCE = 32
MAX_LEFT_OVER = 2000  # datagrams of a call, read at its end
FIRST_RTP_BYTE = 128  # RFC 7983 §7
VERIFY_EVERY = 50  # packets: one is decrypted
REPORT_S = 5.0  # RTCP
UNANSWERED_S = 5.0  # at its end, a call whose checks have had no answer for so long was not up


class CallFailed(Exception):
    """The call did not come about; `reason` is short and the same for the same cause."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Party(Protocol):
    """What a call needs of its process."""

    tally: Tally
    payloads: tuple[bytes, ...]
    fingerprint: str
    signalling: Signalling

    def allowed(self, host: str) -> bool:
        """Whether media may go there."""

    def later(self, at: float, call: "Call", data: bytes) -> None:
        """Have `call.send(data)` called then."""

    def socket_changed(self, call: "Call", old_fd: int) -> None:
        """The NAT has moved the call: it has another socket."""


class Call:
    """Made, `connect`ed, then given its turns: `speak` each 20 ms, `take` when readable, `care` now and then."""

    def __init__(
        self,
        party: Party,
        name: str,
        seed: str,
        source: str,
        talk: float,
        fate: Fate,
        ear: Ear | None,
    ) -> None:
        self.times = SetupTimes()
        self.up_at = 0.0
        self.lost_because = ""  # not empty: dropped
        self.gone = asyncio.Event()  # for whoever waits for its end: it has been lost
        self.ear = ear
        self.reception = Reception(party.tally.arrivals)
        self._party = party
        self._tally = party.tally
        self._name = name
        self._chance = random.Random(seed)
        self._fate = fate
        self._spurts = spurts(talk, self._chance)
        self._spurt = Spurt(False, 0)
        self._said = self._chance.randrange(PACKETS_A_ROUND)
        self._ssrc = self._chance.randrange(1, 1 << 32)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._endpoint = Endpoint(source, party.tally)
        self._goodbye: Ask | None = None
        self._ice: IceClient | None = None
        self._dtls: Dtls | None = None
        self._rx: Keyed | None = None
        self._tx: Keyed | None = None
        self._voice: VoicePath | None = None
        self._next_report = self._next_rebind = float("inf")
        self._up_wall = 0.0

    # ---- its beginning -----------------------------------------------------------------------

    async def connect(self) -> None:
        """Signalling, ICE, DTLS. Raises CallFailed."""
        times = self.times
        began = time.monotonic()
        answer = await self._signal()
        answered = time.monotonic()
        times.signalling = answered - began
        self._loop.add_reader(self._endpoint.fileno(), self._read)
        try:
            await self._check(answer)
            checked = time.monotonic()
            times.ice = checked - answered
            await self._shake_hands()
        finally:
            self._loop.remove_reader(self._endpoint.fileno())
        self.up_at = time.monotonic()
        self._up_wall = time.time()
        times.dtls = self.up_at - checked
        times.setup = self.up_at - began
        self._next_report = self.up_at + REPORT_S * self._chance.uniform(0.2, 1.0)
        self._arm_rebind(self.up_at)

    async def _signal(self) -> Answer:
        ufrag = self._ufrag = f"{self._chance.getrandbits(40):010x}"
        password = self._password = make_password().decode()
        local = self._endpoint.local
        offer = sdp.offer(ufrag, password, self._party.fingerprint, self._ssrc, local)
        try:
            opened = await self._party.signalling.open(offer, self._name)
            self._goodbye = opened.goodbye
            answer = sdp.parse_answer(opened.sdp)
        except (Declined, SdpError) as exc:
            raise CallFailed(str(exc)) from None
        ours = [c for c in answer.candidates if (":" in c.host) == self._endpoint.ipv6]
        if not ours:
            raise CallFailed("no candidate of the caller's address family")
        if not all(self._party.allowed(c.host) for c in ours):
            raise CallFailed("media would leave this machine (--allow-remote)")
        return Answer(**vars(answer) | {"candidates": tuple(ours)})

    async def _check(self, answer: Answer) -> None:
        now = time.monotonic()
        ice = self._ice = IceClient(self._ufrag, self._password, answer, now, self._chance)
        remote = RTCDtlsParameters([RTCDtlsFingerprint(*one) for one in answer.fingerprints])
        dtls = self._dtls = Dtls("server" if answer.active else "client", remote, self.send)
        dtls.on("statechange", self._changed.set)
        if answer.active:
            dtls.begin()  # it listens; the server begins as soon as it has seen a check
        self._voice = VoicePath(self._ssrc, answer.payload_type, sdp.CNAME)
        until = now + ICE_TIMEOUT_S
        while ice.state is not IceState.COMPLETED:
            now = time.monotonic()
            if now >= until:
                raise CallFailed(f"ICE: no answer to checks in {ICE_TIMEOUT_S:.0f} s")
            self._send_checks(now)
            await self._wait(min(ice.deadline, until) - now)

    async def _shake_hands(self) -> None:
        assert self._dtls is not None
        self._dtls.begin()
        until = time.monotonic() + DTLS_TIMEOUT_S
        while self._dtls.state != "connected":
            if self._dtls.state in ("failed", "closed"):
                raise CallFailed(f"DTLS {self._dtls.state}")
            left = until - time.monotonic()
            if left <= 0:
                raise CallFailed(f"DTLS: no handshake in {DTLS_TIMEOUT_S:.0f} s")
            await self._wait(left)
        rx, tx = self._dtls.srtp_sessions()
        self._rx, self._tx = Keyed(rx), Keyed(tx)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._changed.wait()
        self._changed.clear()

    # ---- its turns ---------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._endpoint.fileno()

    def speak(self, due: float) -> None:
        """Its 20 ms that are due: speech, a comfort packet, or nothing."""
        while not self._spurt.packets:
            self._spurt = next(self._spurts)
        speech, left = self._spurt
        self._spurt = Spurt(speech, left - 1)
        number = -1
        if speech:
            number = self._said
            self._said = (number + 1) % PACKETS_A_ROUND
            payload = self._party.payloads[number]
        elif left % COMFORT_PACKETS == 0:
            payload = SILENCE
        else:
            return
        assert self._voice is not None
        assert self._tx is not None
        packet = self._tx.protect(self._voice.frame(payload, due))
        wait_s = self._fate.out()
        if packet is None or wait_s is None:
            self._tally.lost_out += 1
            return
        if wait_s:
            self._party.later(due + wait_s, self, packet)
        else:
            self.send(packet)
        self._tally.voice_sent += 1
        if number >= 0 and self.ear is not None and is_mark(number):
            self.ear.mark_sent(time.time())

    def take(self) -> bool:
        """One datagram that has come; False when there is none."""
        came = self._endpoint.receive()
        if came is None:
            return False
        data, at = came
        if data:
            if data[0] >= FIRST_RTP_BYTE:
                self._take_media(data, at)
            elif self._endpoint.remote is not None:
                self._take_other(data, self._endpoint.remote)
        return True

    def care(self, now: float) -> None:
        """Consent, reports, its NAT, its marks; about twice a second."""
        assert self._ice is not None
        assert self._dtls is not None
        self._send_checks(now)
        if self._ice.state is IceState.EXPIRED:
            self.lost_because = "consent lost: no answer to checks for 30 s"
        elif self._dtls.state != "connected":
            self.lost_because = "ended by the server"
        if now >= self._next_report:
            self._next_report = now + REPORT_S
            self._report(now)
        if now >= self._next_rebind:
            self._arm_rebind(now)
            self._rebind()
        if self.ear is not None:
            for delay in self.ear.delays(time.time()):
                self._tally.mouth_to_ear.add(delay)

    def send(self, data: bytes) -> None:
        self._endpoint.send(data)

    def _read(self) -> None:
        """While it connects: what has come, from whomever."""
        for _ in range(MAX_READ_AT_ONCE):
            came = self._endpoint.receive_from()
            if came is None:
                break
            data, source = came
            if data and data[0] >= FIRST_RTP_BYTE:
                self._take_media(data, time.time())
            elif data:
                self._take_other(data, source)
        self._changed.set()

    def _take_media(self, data: bytes, at: float) -> None:
        if rtp.is_rtcp(data):
            plain = self._rx.unprotect_rtcp(data) if self._rx and self._voice else None
            if plain is not None and self._voice is not None:
                with contextlib.suppress(rtp.RtpError):
                    self._voice.receive_rtcp(plain, time.monotonic(), time.time())
            return
        if not self._fate.arrives():
            self._tally.lost_in += 1
            return
        reception = self.reception
        fresh = reception.add(data, at)
        if reception.received == 1 and fresh:
            self.times.first_media = max(0.0, at - self._up_wall) if self._up_wall else 0.0
        if self._rx is not None and (
            self.ear is not None or reception.received % VERIFY_EVERY == 1
        ):
            plain = self._rx.unprotect(data)
            self._tally.verified += 1
            if plain is None:
                self._tally.not_authentic += fresh
            elif self.ear is not None and fresh:
                with contextlib.suppress(rtp.RtpError):
                    self.ear.packet_came(rtp.parse_rtp(plain).payload, at)

    def _take_other(self, data: bytes, source: Address) -> None:
        if data[0] < 20 and self._ice is not None:
            reply = self._ice.receive(data, source, time.monotonic())
            if reply is not None:
                self._endpoint.send(reply, source)
            if self._ice.selected is not None and self._endpoint.remote is None:
                self._endpoint.connect(self._ice.selected)
        elif 20 <= data[0] < 64 and self._dtls is not None:
            self._dtls.take(data)

    def _send_checks(self, now: float) -> None:
        assert self._ice is not None
        for check, to in self._ice.due(now):
            self._endpoint.send(check, to)

    def _report(self, now: float) -> None:
        assert self._voice is not None
        assert self._tx is not None
        self._voice.inbound = self.reception.stream
        plain = self._voice.report(now, time.time())
        packet = self._tx.protect_rtcp(plain) if plain is not None else None
        if packet is not None:
            self.send(packet)

    def _arm_rebind(self, now: float) -> None:
        after_s = self._fate.next_rebind_s()
        self._next_rebind = now + after_s if after_s is not None else float("inf")

    def _rebind(self) -> None:
        """As behind a NAT that gives a new port: the caller itself notices nothing."""
        self._party.socket_changed(self, self._endpoint.move())

    # ---- its end -----------------------------------------------------------------------------

    async def hang_up(self) -> None:
        """Goodbye by HTTP, where the contract has it, and by DTLS. Sets `lost_because` if it was not up."""
        since = self._ice.unanswered_since if self._ice is not None else None
        if since is not None and self.up_at and time.monotonic() - since > UNANSWERED_S:
            self.lost_because = self.lost_because or "no answer to its last checks"
        told = False
        if self._goodbye is not None:
            try:
                status = await self._party.signalling.close(self._goodbye)
            except Declined as exc:
                self._tally.goodbyes_failed[exc.reason] += 1
            else:
                told = status < 400
                if status == 404 and self.up_at:
                    self.lost_because = self.lost_because or "unknown to the server at its end"
                elif status >= 400:
                    self._tally.goodbyes_failed[f"HTTP {status}"] += 1
        if self._dtls is not None and not (told and self.up_at):
            await self._dtls.stop()
        for _ in range(MAX_LEFT_OVER):
            if not self.take():  # what came meanwhile was sent, so it is counted
                break
        self._endpoint.close()
