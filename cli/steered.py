"""Kernel steering as the supervisor has it: sockets, program and pins, or what is missing for them."""

import logging
import socket
from pathlib import Path

from voicerelay.cli import network
from voicerelay.relay import steering
from voicerelay.relay.steering import SteeredGroup
from voicerelay.shm.bpf import BpfUnavailable
from voicerelay.shm.region import Sizes

log = logging.getLogger("voicerelay")


class Steering:
    """Off until `turn_on`.

    `portable_because`, `unpinned_because`: a line that names what is missing, empty when nothing is.
    """

    def __init__(self) -> None:
        self.sockets: list[list[socket.socket]] = []  # [transceiver][listen address]
        self.groups: list[SteeredGroup] = []
        self.portable_because = "--steering is off"
        self.unpinned_because = ""

    def turn_on(
        self,
        relays: list[list[socket.socket]],
        hosts: list[str],
        port: int,
        transceivers: int,
        sizes: Sizes,
    ) -> None:
        """Give the transceivers sockets of their own and the kernel its program, if it can be had.

        Raises UserError when the sockets cannot.
        """
        sockets = network.join_public_sockets(hosts, port, transceivers)
        try:
            self.groups = steering.load(relays, sockets, sizes)
        except BpfUnavailable as exc:
            network.close_all(sockets)
            self.portable_because = str(exc)
        else:
            self.sockets = sockets
            self.portable_because = ""

    def pin(self, directory: Path) -> None:
        """Give everything names in bpffs; where that cannot be, our descriptors go on serving."""
        if not self.groups:
            return
        try:
            steering.pin(self.groups, directory)
        except BpfUnavailable as exc:
            self.unpinned_because = str(exc)
            log.info("kernel steering is not pinned: %s", exc)

    def release(self) -> None:
        """Close everything; the pins are removed with the run directory."""
        network.close_all(self.sockets)
        for group in self.groups:
            group.close()
