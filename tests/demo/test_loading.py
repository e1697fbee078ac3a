"""Which models are loaded, and who waits for whom; with real engines, each its own process."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from waiting import DEADLINE, wait_until

from oq.demo import RunningServer
from oq.demo.caller import Caller
from oq.demo.knobs import Knobs
from oq.demo.loading import LoadedModels
from oq.demo.models import models_of
from oq.demo.refusals import ApiError, Gone
from oq.demo.weights import find_weights
from tests.demo.asking import ENDLESS, children, endless, generate, is_alive, loaded, post
from tests.demo.conftest import Serve

pytestmark = pytest.mark.slow


def test_a_model_makes_room_for_the_next(narrow: RunningServer):
    for name in ("smollm2", "smollm2-b", "smollm2"):
        assert generate(narrow.url, name).status_code == 200
        assert loaded(narrow.url) == [f"{name}:latest"]
        assert len(children(narrow.pid)) == 1


def test_other_load_options_load_the_model_anew_and_others_do_not(narrow: RunningServer):
    generate(narrow.url)
    first = children(narrow.pid)
    generate(narrow.url, options={"num_predict": 1, "temperature": 0.5, "top_k": 3})
    assert children(narrow.pid) == first
    generate(narrow.url, options={"num_predict": 1, "num_ctx": 512})
    second = children(narrow.pid)
    assert second != first
    ps = httpx.get(f"{narrow.url}/api/ps").json()["models"]
    assert [model["context_length"] for model in ps] == [512]


def test_a_model_in_use_stays_until_its_answer_is_over(narrow: RunningServer):
    with ThreadPoolExecutor() as threads:
        with endless(narrow.url) as lines:
            waiting = threads.submit(generate, narrow.url, "smollm2-b")
            for _ in range(20):
                assert "response" in next(lines)
            assert loaded(narrow.url) == ["smollm2:latest"]
            assert not waiting.done()
        assert waiting.result(DEADLINE).status_code == 200
    assert loaded(narrow.url) == ["smollm2-b:latest"]


def test_who_would_wait_for_a_load_past_the_limit_is_told_503(narrow: RunningServer):
    with ThreadPoolExecutor() as threads:
        with endless(narrow.url):
            asked = [threads.submit(generate, narrow.url, "smollm2-b") for _ in range(2)]
            wait_until(lambda: any(answer.done() for answer in asked), "one of two is refused")
            refused = next(answer for answer in asked if answer.done()).result()
            assert refused.status_code == 503
            text = "server busy, please try again.  maximum pending requests exceeded"
            assert refused.json() == {"error": text}
        assert sorted(answer.result(DEADLINE).status_code for answer in asked) == [200, 503]


def test_hanging_up_frees_the_place_for_the_next(narrow: RunningServer):
    with endless(narrow.url):
        pass
    # There is one place. Were the first answer still being written, this would have to wait for minutes.
    assert generate(narrow.url).status_code == 200


def test_hanging_up_frees_the_place_also_of_an_answer_in_one_piece(narrow: RunningServer):
    generate(narrow.url)  # so that the time below is not spent on loading
    body = {"model": "smollm2", "stream": False} | ENDLESS
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{narrow.url}/api/generate", json=body, timeout=2)
    assert generate(narrow.url).status_code == 200


def test_with_one_place_the_next_request_waits_its_turn(narrow: RunningServer):
    with ThreadPoolExecutor() as threads:
        with endless(narrow.url) as lines:
            waiting = threads.submit(generate, narrow.url)
            for _ in range(20):
                next(lines)
            assert not waiting.done()
        assert waiting.result(DEADLINE).status_code == 200


def test_who_hangs_up_while_waiting_for_a_place_leaves_it_to_others(narrow: RunningServer):
    with endless(narrow.url):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{narrow.url}/api/generate", json={"model": "smollm2", "prompt": "Hi"}, timeout=0.2)
    assert generate(narrow.url).status_code == 200


def test_with_several_places_answers_are_written_side_by_side(model_server: str):
    with endless(model_server) as first, endless(model_server) as second:
        for _ in range(5):
            assert next(first)["done"] is next(second)["done"] is False


def test_keep_alive_0_unloads_after_the_answer(narrow: RunningServer):
    assert generate(narrow.url, keep_alive=0).status_code == 200
    wait_until(lambda: not loaded(narrow.url), "the model is unloaded")
    assert children(narrow.pid) == []


def test_an_unload_waits_for_the_answer_that_is_being_written(narrow: RunningServer):
    with endless(narrow.url) as lines:
        unload = {"model": "smollm2", "keep_alive": 0}
        assert post(narrow.url, "/api/generate", unload).json()["done_reason"] == "unload"
        assert "response" in next(lines)
        assert loaded(narrow.url) == ["smollm2:latest"]
    wait_until(lambda: not loaded(narrow.url), "the model is unloaded")


def test_an_unused_model_is_unloaded_after_its_time(serve: Serve):
    server = serve(KEEP_ALIVE="1s")
    assert generate(server.url, keep_alive=-1).status_code == 200
    assert generate(server.url, "smollm2-b").status_code == 200
    wait_until(lambda: loaded(server.url) == ["smollm2:latest"], "the one without keep_alive is unloaded")


def test_a_killed_engine_ends_the_answer_with_ollamas_error_and_the_next_request_starts_another(
    narrow: RunningServer,
):
    with endless(narrow.url) as lines:
        for pid in children(narrow.pid):
            os.kill(pid, signal.SIGKILL)
        *_, last = lines
    assert last == {"error": "an error was encountered while running the model: unexpected EOF"}
    assert generate(narrow.url).status_code == 200


def test_an_engine_that_was_killed_while_idle_is_started_again(narrow: RunningServer):
    generate(narrow.url)
    (engine,) = children(narrow.pid)
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: not is_alive(engine), "the engine is dead")
    assert generate(narrow.url).status_code == 200
    assert children(narrow.pid) != [engine]


def test_hanging_up_during_a_load_aborts_it(narrow: RunningServer):
    post(narrow.url, "/api/generate", {"model": "smollm2", "keep_alive": 0})
    post(narrow.url, "/api/generate", {"model": "smollm2-b", "keep_alive": 0})
    wait_until(lambda: not children(narrow.pid), "nothing is loaded")
    port = httpx.URL(narrow.url).port
    assert port is not None
    body = b'{"model": "smollm2"}'
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: children(narrow.pid), "it begins to load")
    wait_until(lambda: not children(narrow.pid), "it is aborted")
    assert loaded(narrow.url) == []


def test_weights_that_are_none_are_an_error_of_the_server(tmp_path: Path, caller: Caller):
    weights = tmp_path / "broken.gguf"
    weights.write_bytes(b"not a model")
    models = LoadedModels(models_of(weights), Knobs())
    with pytest.raises(ApiError) as found, models.use("smollm2", {}, None, caller):
        pytest.fail("it cannot load")
    models.close()
    assert found.value.status == 500
    assert found.value.message.startswith("llama-server process has terminated: exit status 1")


def test_after_closing_no_engine_is_left_and_none_is_started(caller: Caller):
    models = LoadedModels(models_of(find_weights()), Knobs())
    with models.use("smollm2", {}, None, caller) as used:
        assert used.runner.is_alive()
        models.close()
        assert not used.runner.is_alive()
    with pytest.raises(Gone), models.use("smollm2", {}, None, caller):
        pytest.fail("it is closed")
    assert models.listing() == []
