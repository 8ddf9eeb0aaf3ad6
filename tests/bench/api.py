"""A thin client of the HTTP API over one kept connection, cheap enough not to be the figure."""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self

from bench import waiting
from bench.programs import TOKEN


class Answering(Protocol):
    """Whatever answers the API on loopback."""

    @property
    def http_port(self) -> int:
        """Where."""


class Api:
    """One kept connection; not to be shared between threads."""

    def __init__(self, server: Answering, token: str = TOKEN) -> None:
        self._server = server
        self._connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"}

    def as_bearer(self, token: str) -> Self:
        """The same API for the holder of another token, over a connection of its own."""
        return type(self)(self._server, token)

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> bytes:
        """The answer's body; raises when the status is not 2xx."""
        headers = dict(self._headers)
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            self._connection.request(method, path, payload, headers)
            response = self._connection.getresponse()
        except http.client.RemoteDisconnected:  # the server may end what was idle for long
            self._connection.request(method, path, payload, headers)
            response = self._connection.getresponse()
        answer = response.read()
        if not 200 <= response.status < 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answer[:300]!r}")
        return answer

    def get(self, path: str) -> Any:
        """The answer's JSON."""
        return json.loads(self.call("GET", path))

    def count(self) -> int:
        """How many messages the API shows."""
        return int(self.get("/messages/count")["count"])

    def wait_for(self, count: int, within: float = 600.0) -> None:
        """Returns when the API shows that many messages."""
        waiting.wait_for(self.count, count, within)

    def events(self) -> Iterator[tuple[float, bytes]]:
        """When each event from now on arrived, and its `data:`; takes the connection over."""
        newest = self.get("/messages?limit=1")["items"]
        after = {"Last-Event-ID": str(newest[0]["sequence"])} if newest else {}
        self._connection.request("GET", "/events", headers=self._headers | after)
        response = self._connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"GET /events: {response.status} {response.read(300)!r}")
        lines = iter(response.readline, b"")
        return ((time.monotonic(), line[5:]) for line in lines if line.startswith(b"data:"))
