"""What a full receive buffer loses is seen."""

import socket

from voicerelay.shm.overflow import overflows


def test_datagrams_that_find_the_buffer_full_are_counted() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reader,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        # given a small buffer that nobody reads
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.bind(("127.0.0.1", 0))
        reader.setblocking(False)
        assert overflows(reader) == 0

        # when more comes than it holds
        sent, kept = 100, 0
        for _ in range(sent):
            sender.sendto(bytes(172), reader.getsockname())
        try:
            while reader.recv(2048):
                kept += 1
        except BlockingIOError:
            pass

        # then each packet is either there or counted
        assert 0 < kept < sent
        assert overflows(reader) == sent - kept
