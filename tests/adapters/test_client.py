"""The HTTP client against a real server that is slow, busy, broken or closed to us."""

from __future__ import annotations

import gzip
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from evals.adapters import client as client_module
from evals.adapters.client import Client, EndpointError, RequestRefused, check_url, read_key, reply_text
from evals.core.errors import UserError
from tests.support.fault_server import Act, FaultServer, Seen, chat_reply
from tests.support.forks import wait_for

KEY = "sk-test-3f9d1c7a5b2e4680"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without the waiting: the growth is tested apart."""
    monkeypatch.setattr(client_module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # a proxy that is not there: loopback must go round it


def make(server: FaultServer, **options: object) -> Client:
    return Client("tiny", server.url, **{"timeout": 5.0, "attempts": 4, **options})  # type: ignore[arg-type]


def hello(client: Client, text: str = "hi") -> dict:
    return client.chat([{"role": "user", "content": text}], max_tokens=8)


@pytest.mark.parametrize(
    "trouble",
    [
        Act(status=500, body={"error": "oops"}),
        Act(status=503, body=b"<html>busy</html>"),
        Act(status=429, body={"error": "slow down"}),
        Act(cut="before"),
        Act(cut="within", body=chat_reply("half")),
        Act(body=b'{"choices": [{"mess'),
        Act(body=b"\xff\xfe not json"),
        Act(body={"object": "no choices here"}),
        Act(body=b"[1, 2]"),
        Act(body=b"[" * 200_000),
        Act(body=b'{"choices": [' + b"9" * 5000 + b"]}"),
        Act(body=b"not gzip", headers={"Content-Encoding": "gzip"}),
        Act(body=b"", headers={"Content-Type": "text/event-stream"}),
    ],
    ids=[
        "500", "503-html", "429", "cut", "cut-within", "half-json", "no-utf8", "no-choices", "list", "deep", "digits",
        "no-gzip", "empty",
    ],
)  # fmt: skip
def test_passing_trouble_is_tried_again(trouble: Act) -> None:
    with FaultServer([trouble, trouble]) as server:
        client = make(server)
        assert reply_text(client.ask(hello(client))) == "fine"
        assert len(server.seen) == 3


def test_slow_server_times_out_then_answers() -> None:
    with FaultServer([Act(delay=2.0, body=chat_reply("late"))]) as server:
        client = make(server, timeout=0.3)
        assert reply_text(client.ask(hello(client))) == "fine"
        assert len(server.seen) == 2


def test_a_reply_that_drips_is_not_waited_for_beyond_the_timeout() -> None:
    """Each byte comes in time for a limit from one packet to the next; the whole would take 40 s."""
    with FaultServer([Act(drip=0.2, body=chat_reply("late" * 40))]) as server:
        client = make(server, timeout=1.0)
        start = time.monotonic()
        assert reply_text(client.ask(hello(client))) == "fine"
        assert time.monotonic() - start < 20
        assert len(server.seen) == 2


def test_headers_that_drip_are_not_waited_for_beyond_the_timeout() -> None:
    """Each comes in time for a limit from one packet to the next, and there is no end of them."""
    with FaultServer([Act(drip_headers=0.2, body=chat_reply("late"))]) as server:
        client = make(server, timeout=1.0)
        assert reply_text(client.ask(hello(client))) == "fine"
        assert len(server.seen) == 2


@pytest.mark.parametrize("status", [200, 500])
def test_a_reply_without_end_is_not_read_to_its_end(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LARGEST_REPLY", 3 << 20)
    with FaultServer(answer=lambda seen: Act(status, body=b" " * 65536, endless=True)) as server:
        client = make(server, attempts=2)
        with pytest.raises(EndpointError, match="a reply of more than 3 MB"):
            client.ask(hello(client))


def test_a_small_reply_that_unpacks_to_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LARGEST_REPLY", 3 << 20)
    packed = gzip.compress(bytes(300 << 20))
    with FaultServer([Act(body=packed, headers={"Content-Encoding": "gzip"})]) as server:
        client = make(server)
        assert reply_text(client.ask(hello(client))) == "fine"


def test_waiting_is_told_once() -> None:
    notes: list[str] = []
    with FaultServer(
        [Act(status=503), Act(status=429, headers={"Retry-After": "0"}), Act(cut="before")]
    ) as server:
        client = make(server, on_note=notes.append)
        client.ask(hello(client))
    assert notes == [f"{server.url} is in trouble (status 503): trying again"]


def test_no_patience_beyond_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LONGEST_PATIENCE_S", 0.0)
    with FaultServer(answer=lambda seen: Act(status=503)) as server:
        client = make(server, attempts=100)
        with pytest.raises(EndpointError, match="no answer after 1 tries"):
            client.ask(hello(client))


def test_half_a_character_is_replaced() -> None:
    body = b'{"choices": [{"message": {"content": "a\\ud83d b\\ud83d\\ude00"}}]}'
    with FaultServer([Act(body=body)]) as server:
        client = make(server)
        assert reply_text(client.ask(hello(client))) == "a\ufffd b\U0001f600"


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_honoured(as_date: bool) -> None:
    # dates have whole seconds: up to one second of the wait is lost in rounding
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True) if as_date else "1.2"
    with FaultServer([Act(status=429, headers={"Retry-After": when}, body={})]) as server:
        client = make(server)
        client.ask(hello(client))
        assert server.seen[1].at - server.seen[0].at >= 1.2


def test_retry_after_holds_for_every_thread() -> None:
    with FaultServer([Act(status=429, headers={"Retry-After": "1"}, body={})]) as server:
        client = make(server, parallel=1)
        list(client.ask_all([hello(client)]))
        client._quiet_until = time.monotonic() + 0.5
        start = time.monotonic()
        client.ask(hello(client))
        assert time.monotonic() - start >= 0.5


def test_a_retry_after_beyond_patience_stops() -> None:
    with FaultServer([Act(status=429, headers={"Retry-After": "86400"}, body={})]) as server:
        client = make(server)
        with pytest.raises(EndpointError, match="asks to wait 86400 s"):
            client.ask(hello(client))
        assert len(server.seen) == 1


def test_waits_double_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_WAIT_S", 1.0)
    monkeypatch.setattr(client_module.random, "uniform", lambda low, high: high)

    class State:
        outcome = None
        attempt_number = 1

    waits = []
    for State.attempt_number in range(1, 9):
        waits.append(client_module._wait(State()))  # type: ignore[arg-type]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_no_access_stops_at_once_with_one_line(status: int) -> None:
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    with FaultServer(answer=lambda seen: Act(status=status, body=echo)) as server:
        client = make(server, parallel=2)
        with pytest.raises(UserError) as caught:
            list(client.ask_all(hello(client, str(n)) for n in range(50)))
        assert "\n" not in str(caught.value)
        assert str(status) in str(caught.value)
        assert KEY not in str(caught.value)
        assert len(server.seen) <= 3


def test_gives_up_after_the_last_try() -> None:
    with FaultServer(answer=lambda seen: Act(status=502, body={})) as server:
        client = make(server)
        with pytest.raises(EndpointError, match="no answer after 4 tries") as caught:
            client.ask(hello(client))
        assert len(server.seen) == 4
        assert caught.value.status == 502


def test_no_server_at_all() -> None:
    with FaultServer() as server:
        url = server.url
    client = Client("tiny", url, attempts=2, timeout=1.0)
    with pytest.raises(EndpointError, match="ConnectError"):
        client.ask(hello(client))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with FaultServer() as other, FaultServer() as server:
        elsewhere = other.url.replace("127.0.0.1", "localhost") + "/chat/completions"
        server.script.append(Act(status=status, headers={"Location": elsewhere}, body={}))
        client = make(server)
        with pytest.raises(EndpointError, match="redirect"):
            client.ask(hello(client))
        assert len(server.seen) == 1
        assert other.seen == [], "neither the key nor the request goes to another host"


def test_a_refused_request_leaves_the_others_alone() -> None:
    def answer(seen: Seen) -> Act:
        text = seen.body["messages"][0]["content"]
        if text == "2":
            return Act(status=400, body={"error": {"message": f"too long\n\x1b[31m {KEY}"}})
        return Act(body=chat_reply(text))

    with FaultServer(answer=answer) as server:
        client = make(server, parallel=3)
        out = dict(client.ask_all(hello(client, str(n)) for n in range(6)))
    refused = out.pop(2)
    assert isinstance(refused, RequestRefused)
    assert str(refused) == "the server answers 400: too long [31m ***"
    assert {index: reply_text(reply) for index, reply in out.items()} == {n: str(n) for n in (0, 1, 3, 4, 5)}


def test_nothing_is_asked_before_the_last_reply_was_dealt_with() -> None:
    with FaultServer(answer=lambda seen: Act(body=chat_reply("x"))) as server:
        client = make(server, parallel=2)
        replies = client.ask_all(hello(client, str(n)) for n in range(20))
        for dealt_with in range(20):
            next(replies)
            time.sleep(0.02)
            assert len(server.seen) <= dealt_with + 2, "a kill here would lose more than is under way"
        assert list(replies) == []


def test_newer_name_of_the_token_limit() -> None:
    def answer(seen: Seen) -> Act:
        if "max_tokens" in seen.body:
            text = "Unsupported parameter: use 'max_completion_tokens' instead."
            return Act(status=400, body={"error": {"message": text, "param": "max_tokens"}})
        return Act(body=chat_reply(str(seen.body["max_completion_tokens"])))

    with FaultServer(answer=answer) as server:
        client = make(server)
        assert reply_text(client.ask(hello(client))) == "8"
        assert reply_text(client.ask(hello(client))) == "8"
        assert len(server.seen) == 3


def test_no_more_than_the_limit_at_once_and_results_as_they_come() -> None:
    taken = threading.Event()

    def answer(seen: Seen) -> Act:
        first = seen.body["messages"][0]["content"] == "0"
        return Act(until=None if first else taken, body=chat_reply("ok"))

    with FaultServer(answer=answer) as server:
        client = make(server, parallel=3)
        stream = client.ask_all(hello(client, str(n)) for n in range(12))
        assert next(stream)[0] == 0, "while others are under way"
        wait_for(lambda: server.most_at_once >= 2)
        taken.set()
        assert len(list(stream)) == 11
        assert server.most_at_once <= 3


def test_what_came_before_an_error_is_handed_over() -> None:
    script = [Act(body=chat_reply("a")), Act(body=chat_reply("b")), Act(status=401, body={})]
    with FaultServer(script) as server:
        client = make(server, parallel=1)
        got = []
        with pytest.raises(EndpointError):
            for index, _ in client.ask_all(hello(client, str(n)) for n in range(9)):
                got.append(index)
        assert got == [0, 1]


def test_closing_the_stream_stops_asking() -> None:
    with FaultServer(answer=lambda seen: Act(delay=0.05, body=chat_reply("ok"))) as server:
        client = make(server, parallel=2)
        stream = client.ask_all(hello(client, str(n)) for n in range(1000))
        next(stream)
        stream.close()
        time.sleep(0.3)
        asked = len(server.seen)
        time.sleep(0.3)
        assert len(server.seen) == asked < 20


def test_the_key_goes_to_the_server_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    script = [
        Act(status=429, headers={"Retry-After": "0"}, body={"error": KEY}),
        Act(cut="before"),
        Act(status=500),
    ]
    with FaultServer(script) as server:
        client = make(server)
        client.ask(hello(client))
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert caplog.records, "the libraries below log at this level: the search must have something to search"
    shown = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert KEY not in shown
    assert KEY not in repr(client)


def test_without_a_key_no_authorization_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with FaultServer() as server:
        client = make(server)
        client.ask(hello(client))
        assert "authorization" not in server.seen[0].headers


def test_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "abc")
    assert read_key("OTHER_KEY") == "abc"
    monkeypatch.delenv("OTHER_KEY")
    with pytest.raises(UserError, match="OTHER_KEY"):
        read_key("OTHER_KEY")
    monkeypatch.setenv("OTHER_KEY", "ab\ncd-secret")
    with pytest.raises(UserError) as caught:
        read_key("OTHER_KEY")
    assert "cd-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:pa55word@host/v1",
        "http://host/v1?key=pa55word",
        "http://pa55word@host/v1",
        "http://host#pa55word",
    ],
)
def test_credentials_in_an_address_are_refused_unseen(url: str) -> None:
    with pytest.raises(UserError) as caught:
        check_url(url)
    assert "pa55word" not in str(caught.value)
    assert "host" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "host:80", "ftp://host/v1", "http://", "http://[::1/v1", "http://host:pa55/v1"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UserError, match="--judge-url"):
        check_url(url, "--judge-url")


def test_offline_allows_this_machine_alone() -> None:
    for url in (
        "http://localhost:1/v1",
        "http://127.0.0.1:1/v1/",
        "http://[::1]:1/v1",
        "http://127.9.9.9/v1",
    ):
        assert check_url(url, offline=True) == url.rstrip("/")
    for url in (
        "http://10.0.0.1/v1",
        "https://api.example.com/v1",
        "http://localhost.example.com/v1",
        "http://0.0.0.0/v1",
    ):
        with pytest.raises(UserError, match="offline"):
            check_url(url, offline=True)


def test_threads_end() -> None:
    with FaultServer() as server:
        client = make(server, parallel=4)
        list(client.ask_all(hello(client) for _ in range(8)))
    time.sleep(0.1)
    assert not [t for t in threading.enumerate() if t.name.endswith("(work)")]
