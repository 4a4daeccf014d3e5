"""What is compared: the interface of a contender, no relay at all, and the relays one writes first."""

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from bench.relay.world import HOST, Flows, Processes, Target, free_udp_port, port_of, udp_sinks
from bench.relay.world import wait_bound as wait_until_bound

HERE = Path(__file__).resolve().parent


class Contender(ABC):
    """One way to bring a client's packet to its transceiver.

    `start` raises NotAvailable, and leaves nothing behind that `stop` does not end.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    stun_percent: ClassVar[int | None] = None  # None: what the run was asked for

    def __init__(self, programs: Path, scratch: Path, cpu: int) -> None:
        self.programs = programs  # the compiled C programs
        self.scratch = scratch  # an empty directory of its own
        self.processes = Processes(cpu)
        self.target: Target | None = None

    def start(self, flows: Flows) -> Target:
        """Bring it up with every flow known, its relay pinned to the relay's core."""
        self.target = self.launch(flows)
        if not self.target.ufrags:
            self.target.ufrags = [flows.ufrag(flow) for flow in range(flows.count)]
        return self.target

    @abstractmethod
    def launch(self, flows: Flows) -> Target:
        """Start what it consists of; where the clients send, and where it arrives."""

    def stop(self) -> None:
        """End every process and close every socket of it."""
        self.processes.stop()
        if self.target:
            for sink in self.target.sinks:
                sink.close()
            self.target = None


class NoRelay(Contender):
    """The limit: each flow sends to its transceiver's own port."""

    key = "none"
    title = "no relay at all"

    def launch(self, flows: Flows) -> Target:
        sinks = udp_sinks()
        return Target([(HOST, port_of(sink)) for sink in sinks], sinks, holdable=False)


class _OneProcess(Contender, ABC):
    """A program that takes the public port and the sinks' ports."""

    @abstractmethod
    def command(self) -> list[str]:
        """How to start it."""

    def launch(self, flows: Flows) -> Target:
        sinks = udp_sinks()
        port = free_udp_port()
        numbers = [str(port), *(str(port_of(sink)) for sink in sinks)]
        child = self.processes.start([*self.command(), *numbers])
        wait_until_bound(child, port)
        return Target([(HOST, port)], sinks, [child.pid])


class CLoop(_OneProcess):
    key = "c_loop"
    title = "C, `recvfrom` + `sendto`"

    def command(self) -> list[str]:
        return [str(self.programs / "relay_sendto")]


class CMmsg(_OneProcess):
    key = "c_mmsg"
    title = "C, `recvmmsg` + `sendmmsg`"

    def command(self) -> list[str]:
        return [str(self.programs / "relay_mmsg")]


class UvloopRelay(_OneProcess):
    key = "uvloop"
    title = "uvloop datagram protocol"

    def command(self) -> list[str]:
        return [sys.executable, "-P", str(HERE / "uvloop_relay.py")]
