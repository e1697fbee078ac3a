from __future__ import annotations

import os
import socket

import pytest

from oq.demo.caller import Caller
from oq.demo.refusals import Gone


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_client_that_waits_is_there(caller: Caller):
    assert not caller.gone()


def test_a_client_that_hung_up_is_gone(caller: Caller, client: socket.socket):
    client.close()
    assert caller.gone()


def test_a_client_that_closed_its_side_is_gone(caller: Caller, client: socket.socket):
    client.shutdown(socket.SHUT_WR)
    assert caller.gone()


def test_a_client_that_sent_its_next_request_is_there(caller: Caller, client: socket.socket):
    client.sendall(b"POST")
    assert not caller.gone()


def test_waiting_ends_when_there_is_something_to_read(caller: Caller, pipe: tuple[int, int]):
    os.write(pipe[1], b"x")
    assert caller.wait_readable(pipe[0], 60)


def test_waiting_ends_with_nothing_after_a_while(caller: Caller, pipe: tuple[int, int]):
    assert not caller.wait_readable(pipe[0], 0.01)


def test_waiting_ends_when_the_client_hangs_up(caller: Caller, client: socket.socket, pipe: tuple[int, int]):
    client.close()
    with pytest.raises(Gone):
        caller.wait_readable(pipe[0], 60)


def test_the_next_request_does_not_end_the_waiting(
    caller: Caller, client: socket.socket, pipe: tuple[int, int]
):
    client.sendall(b"POST")
    assert not caller.wait_readable(pipe[0], 0.01)
    os.write(pipe[1], b"x")
    assert caller.wait_readable(pipe[0], 60)
