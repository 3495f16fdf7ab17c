"""An OpenAI-compatible server as a source of replies: time limits, retries, a bound on parallel requests.

A request ends in one of three ways. A reply: checked JSON. `RequestRefused`: this request is no good to the
server (too long, say), others may be. `EndpointError`: nothing more can be had (no access, no such model, no
answer after every try); what came before it was handed over already.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import tenacity

from evals.core.errors import UserError
from evals.core.requests import RequestRefused
from evals.core.retry import retry_after

log = logging.getLogger(__name__)

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
LONGEST_RETRY_AFTER_S = 600.0
LONGEST_PATIENCE_S = 3600.0  # with one request, all tries together
LARGEST_REPLY = 32 << 20  # bytes; a full window's echoed log-probabilities are about 200,000
KEPT = "what it answered before is kept: run the same command again"
URL_HINT = "give it like http://127.0.0.1:8000/v1"
FATAL = {
    401: "it refuses the key",
    402: "it wants to be paid first",
    403: "the key has no access to it",
    404: "it knows no such address or model",
}
RETRIED = {408, 409, 425, 429}
# greedy means greedy: llama-cpp-python's server penalises repetition unless told not to, and others follow the
# model's generation_config.json; servers that do not know a field ignore it, or name it and get no such field again
UNPENALISED = {"repetition_penalty": 1.0, "repeat_penalty": 1.0}

Reply = dict[str, Any]


class EndpointError(UserError):
    """The server gives nothing more: the command stops with this one line. `status`: HTTP's, if any."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class _Transient(Exception):
    """A trouble that may pass: worth another try, after `wait` seconds if the server named a time."""

    def __init__(self, text: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(text)
        self.wait, self.status = wait, status


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: localhost or a loopback address. Names are not looked up."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def check_url(
    url: str, option: str = "--base-url", offline: bool = False, key_option: str = "--api-key-env"
) -> str:
    """The base address without a trailing slash; UserError if it cannot be one, or holds credentials."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UserError(f"the address given to {option} is no URL: {URL_HINT}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"the address given to {option} is no http(s) URL: {URL_HINT}")
    shown = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{parts.path}"
    if parts.username or parts.password or parts.query or parts.fragment:
        # a key on the command line is in the shell's history and in every server's log
        raise UserError(
            f"the address given to {option} ({shown}) carries more than host and path: "
            f"give a key through an environment variable ({key_option}), not in the address"
        )
    if offline and not is_loopback(host):
        raise UserError(
            f"offline: {shown} ({option}) is not on this machine; only loopback addresses are allowed"
        )
    return shown.rstrip("/")


def read_key(name: str | None, option: str = "--api-key-env") -> str | None:
    """The key in the environment variable; None (no key is sent) if the default variable is not set."""
    key = os.environ.get(name or DEFAULT_KEY_ENV, "").strip()
    if not key:
        if name is not None:
            raise UserError(f"no key in the environment variable {name} ({option}): export it first")
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        # told here: the HTTP library's own complaint would print the header
        raise UserError(f"the key in {name or DEFAULT_KEY_ENV} has characters that no HTTP header can carry")
    return key


class _BoundedHttp(openai.DefaultHttpxClient):
    """Reads a reply to its end within the time limit: the library's own holds from one packet to the next."""

    def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """The reply to a request, its body read. Raises _Transient for one that does not end.

        It is read in a thread, which is left behind when it is late: headers can drip for ever as well.
        """
        outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        late = threading.Event()

        def read() -> None:
            try:
                outcomes.put(self._whole(request, late, **options))
            except Exception as error:  # raised below
                outcomes.put(error)

        threading.Thread(target=read, daemon=True).start()
        try:
            outcome = outcomes.get(timeout=self.timeout.read)
        except queue.Empty:
            late.set()
            raise _Transient("a reply that was not whole in time") from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _whole(self, request: Any, late: threading.Event, **options: Any) -> Any:
        response = super().send(request, stream=True, **options)
        body = bytearray()
        with contextlib.closing(response):
            for part in response.iter_bytes():
                body += part
                if len(body) > LARGEST_REPLY:
                    raise _Transient(f"a reply of more than {LARGEST_REPLY >> 20} MB")
                if late.is_set():
                    break
        told = {name: value for name, value in response.headers.items() if name not in _OF_TRANSFER}
        return type(response)(response.status_code, headers=told, content=bytes(body), request=request)


_OF_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")


class Client:
    """Asks one model of one server. `parallel` requests at most are under way; `attempts` tries for each."""

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        key_env: str | None = None,
        parallel: int = 4,
        timeout: float = 600.0,
        attempts: int = 6,
        offline: bool = False,
        option: str = "--base-url",
        key_option: str = "--api-key-env",
        on_note: Callable[[str], None] = log.warning,
    ) -> None:
        self.model = model
        self.base_url = check_url(base_url, option, offline, key_option)
        self.parallel = parallel
        self.attempts = attempts
        self._key = read_key(key_env, key_option)
        self._key_env = key_env or DEFAULT_KEY_ENV
        self.refused_fields: set[str] = set()
        self._new_limit = False
        self._quiet_until = 0.0
        self._on_note = on_note
        self._wait_told = False
        self._options: Any = {} if self._key else {"headers": {"Authorization": openai.Omit()}}
        limits = openai.Timeout(timeout, connect=min(timeout, 20.0))
        http = _BoundedHttp(
            timeout=limits,
            # a redirect could lead off this machine, and proxies do not know it
            follow_redirects=False,
            trust_env=not is_loopback(urlsplit(self.base_url).hostname or ""),
        )
        self._api = openai.OpenAI(
            api_key=self._key or "none",
            base_url=self.base_url,
            timeout=limits,
            max_retries=0,  # ours below also cover broken JSON, can be stopped, heed long Retry-After times
            http_client=http,
        )

    def chat(self, messages: Iterable[dict[str, str]], max_tokens: int, **settings: Any) -> Reply:
        """The body of a chat completion."""
        return {"model": self.model, "messages": list(messages), "max_tokens": max_tokens, **settings}

    def completion(self, prompt: str | list[int], max_tokens: int, **settings: Any) -> Reply:
        """The body of a plain completion."""
        return {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, **settings}

    def ask(self, body: Reply, attempts: int | None = None, stop: threading.Event | None = None) -> Reply:
        """One reply; tried again after troubles that may pass. Raises RequestRefused or EndpointError."""
        stop = stop or threading.Event()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            stop=tenacity.stop_after_attempt(attempts or self.attempts)
            | tenacity.stop_after_delay(LONGEST_PATIENCE_S),
            wait=_wait,
            before_sleep=self._tell_wait,
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )
        try:
            reply: Reply = retrying(self._ask_once, body, stop)
            return reply
        except _Transient as trouble:
            raise EndpointError(
                f"{self.base_url} gives no answer after {retrying.statistics['attempt_number']} tries "
                f"(last: {trouble}); {KEPT} later",
                trouble.status,
            ) from None

    def ask_all(self, bodies: Iterable[Reply]) -> Iterator[tuple[int, Reply | RequestRefused]]:
        """(index, reply or refusal) of each body as they come, in any order; raises EndpointError.

        The next body is taken when the caller is done with a reply: whoever stores each reply loses at most the
        requests under way. Closing the iterator, or an error, stops the work; the threads are daemons, so that a
        hanging server cannot keep the process alive.
        """
        todo, stop = iter(enumerate(bodies)), threading.Event()
        done: queue.SimpleQueue[tuple[int, Reply | Exception]] = queue.SimpleQueue()

        def work(index: int, body: Reply) -> None:
            try:
                done.put((index, self.ask(body, stop=stop)))
            except Exception as error:  # handed to the caller's thread
                done.put((index, error))

        def start(n: int) -> int:
            taken = list(itertools.islice(todo, n))
            for pair in taken:
                threading.Thread(target=work, args=pair, daemon=True).start()
            return len(taken)

        failure: Exception | None = None
        try:
            under_way = start(self.parallel)
            # after a failure, what other threads have finished by now is not lost
            while under_way and (failure is None or not done.empty()):
                index, outcome = done.get()
                under_way -= 1
                if isinstance(outcome, dict | RequestRefused):
                    yield index, outcome
                    under_way += start(1) if failure is None else 0
                else:
                    failure = failure or outcome
        finally:
            stop.set()
        if failure is not None:
            raise failure

    def _ask_once(self, body: Reply, stop: threading.Event) -> Reply:
        # a time asked for through Retry-After holds for every thread, not only the one that was told
        while (left := self._quiet_until - time.monotonic()) > 0 and not stop.wait(left):
            pass
        if stop.is_set():
            raise EndpointError("somebody else's error ended the work")
        path = "/chat/completions" if "messages" in body else "/completions"
        while True:
            sent = self._adapted(body)
            try:
                return _checked(self._api.post(path, body=sent, cast_to=object, options=self._options))
            except openai.APIStatusError as error:
                trouble = self._trouble_of_status(error)
                if error.status_code in (400, 422) and self._adapt_to(str(error.body), sent):
                    continue
            except openai.APIConnectionError as error:
                # the cause's name only: its text may hold what was sent
                trouble = _Transient(type(error.__cause__ or error).__name__)
            except (ValueError, RecursionError, openai.APIError):  # RecursionError: brackets without end
                trouble = _Transient("its answer is not valid JSON")
            raise trouble

    def _adapted(self, body: Reply) -> Reply:
        """The body as this server has shown to want it."""
        body = {key: value for key, value in body.items() if key not in self.refused_fields}
        if self._new_limit and "messages" in body and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return body

    def _adapt_to(self, complaint: str, sent: Reply) -> bool:
        """Whether a refusal names something of what was sent that can be said in another way, or left out."""
        if "max_tokens" in sent and "max_completion_tokens" in complaint:
            self._new_limit = True  # newer models of the provider want the new name
            return True
        named = {field for field in UNPENALISED if field in sent and field in complaint}
        self.refused_fields |= named
        return bool(named)

    def _trouble_of_status(self, error: openai.APIStatusError) -> Exception:
        status, wait = error.status_code, retry_after(error.response.headers)
        said = f"{self.base_url} answers {status}"
        if status in FATAL:
            # the server's own words are left out: providers repeat parts of the key in them
            hint = f"key from {self._key_env}" if status in (401, 403) else f"model '{self.model}'"
            return EndpointError(f"{said}: {FATAL[status]} ({hint})", status)
        if status < 400:
            return EndpointError(f"{said} (redirect): give the final address", status)
        if status not in RETRIED and status < 500:
            return RequestRefused(f"the server answers {status}: {self._shown(error.body)}", status)
        if status == 429 and error.code == "insufficient_quota":
            return EndpointError(f"{said}: the account has no quota left", status)
        if wait is not None and wait > LONGEST_RETRY_AFTER_S:
            return EndpointError(f"{said} and asks to wait {wait:.0f} s; {KEPT} then", status)
        if wait is not None:
            self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
        return _Transient(f"status {status}", wait, status)

    def _tell_wait(self, state: tenacity.RetryCallState) -> None:
        """Says once that the server keeps us waiting, and why."""
        if not self._wait_told:
            self._wait_told = True
            self._on_note(f"{self.base_url} is in trouble ({_trouble(state)}): trying again")

    def _shown(self, body: object) -> str:
        """What a server says, fit to be shown: one short printable line without the key."""
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body.get("error") or body
        text = " ".join("".join(c if c.isprintable() else " " for c in str(body)).split())
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= 200 else text[:200] + "..."


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: the server's own time, else doubling from one second, with jitter."""
    trouble = _trouble(state)
    if isinstance(trouble, _Transient) and trouble.wait is not None:
        return trouble.wait
    wait = min(FIRST_WAIT_S * 2 ** (state.attempt_number - 1), LONGEST_WAIT_S)
    return wait * random.uniform(0.75, 1.0)


def _trouble(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _checked(reply: object) -> Reply:
    """The reply as a JSON object with a choice in it; ValueError otherwise (tried again as broken JSON)."""
    if not isinstance(reply, dict):
        raise ValueError("no object")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("no choices")
    return reply


def reply_text(reply: Reply) -> str:
    """The text of a reply, chat or plain; empty if the server sent none, halves of characters replaced."""
    choice = reply["choices"][0]
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    # JSON can spell half of a surrogate pair, which no file takes
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(text, str) else ""
