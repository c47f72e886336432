"""One bulk connection: what its two ends notice of each other, and how soon."""

import socket
import threading

import pytest

from godwit.transfer.connection import BulkConnection, ConnectionLostError


@pytest.fixture
def ends():
    """Both ends of a loopback connection, with a stall time that no test can wait for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = BulkConnection.open("127.0.0.1", server.getsockname()[1], stall_s=60)
        far = BulkConnection(server.accept()[0], stall_s=60)
    yield near, far
    near.close()
    far.close()


def send_until_lost(connection: BulkConnection, lost: threading.Event) -> None:
    payload = memoryview(bytes(1 << 20))
    with pytest.raises(ConnectionLostError):
        while True:
            connection.send_parts((b"head", payload))
    lost.set()


@pytest.mark.parametrize("drained", [False, True])
def test_a_blocked_sender_hears_at_once_that_the_receiver_broke_off(ends, drained):
    """Also where the receiver's buffer was full, and was emptied before the socket was closed: the
    kernel then neither opens the window nor answers the sender's probes, unless told to reset.
    """
    near, far = ends
    lost = threading.Event()
    sending = threading.Thread(target=send_until_lost, args=(near, lost))
    sending.start()
    head = memoryview(bytearray(4))
    far.receive(head)  # so that bytes are known to be on their way
    bytes_before = 0
    while (bytes_now := bytes_waiting(far._sock)) > bytes_before:  # until nothing more fits
        bytes_before = bytes_now
        assert not lost.wait(0.1)
    far.break_off()
    if drained:
        with pytest.raises(ConnectionLostError):
            far.receive(memoryview(bytearray(64 << 20)))
    far.close()
    assert lost.wait(5)
    sending.join()


def bytes_waiting(sock: socket.socket) -> int:
    return len(sock.recv(64 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT))


def test_what_was_sent_before_an_orderly_close_arrives(ends):
    near, far = ends
    near.send_parts((b"head", memoryview(b"payload")))
    near.send(b"end")
    near.close()
    came = memoryview(bytearray(14))
    far.receive(came)
    assert bytes(came) == b"headpayloadend"
    with pytest.raises(ConnectionLostError, match="closed"):
        far.receive(came)


class Takes:
    """A socket that takes so many bytes of what is given together."""

    def __init__(self, sock, byte_count):
        self._sock = sock
        self._byte_count = byte_count
        self.sendall = sock.sendall
        self.close = sock.close

    def sendmsg(self, parts):
        return self._sock.send(b"".join(parts)[: self._byte_count])


@pytest.mark.parametrize("taken", range(1, 13))
def test_parts_arrive_whole_wherever_the_socket_stopped(ends, taken):
    near, far = ends
    near._sock = Takes(near._sock, taken)
    near.send_parts((b"one", memoryview(b"two"), b"", memoryview(b"threes")))
    came = memoryview(bytearray(12))
    far.receive(came)
    assert bytes(came) == b"onetwothrees"


def test_breaking_off_and_closing_may_be_repeated(ends):
    near, _ = ends
    near.break_off()
    near.close()
    near.close()
    near.break_off()
    with pytest.raises(ConnectionLostError):
        near.send(b"more")
