from __future__ import annotations

import socket
import threading

import pytest
from waiting import DEADLINE, wait_until

from oq.demo.caller import Caller
from oq.demo.places import Places
from oq.demo.refusals import Gone


def test_there_are_as_many_as_were_made(caller: Caller):
    places = Places(2)
    with places.taken(caller), places.taken(caller):
        assert places._free == 0
    assert places._free == 2


def test_they_go_to_who_asked_first(caller: Caller):
    places, order = Places(1), []

    def ask(number: int) -> None:
        with places.taken(caller):
            order.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    with places.taken(caller):
        for number, thread in enumerate(threads):
            thread.start()
            wait_until(lambda waiting=number + 1: len(places._waiting) == waiting, "it waits")
    for thread in threads:
        thread.join(DEADLINE)
    assert order == list(range(20))
    assert places._free == 1


def test_a_client_that_hangs_up_leaves_the_line(caller: Caller, client: socket.socket):
    places = Places(1)
    stays, here = socket.socketpair()
    with stays, here, places.taken(Caller(here)):
        client.close()
        with pytest.raises(Gone), places.taken(caller):
            pytest.fail("the place is not free")
        assert not places._waiting
    assert places._free == 1


def test_a_place_is_free_again_after_an_error(caller: Caller):
    places = Places(1)
    with pytest.raises(ZeroDivisionError), places.taken(caller):
        raise ZeroDivisionError
    assert places._free == 1
