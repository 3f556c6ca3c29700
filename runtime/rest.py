"""The Open Inference Protocol over HTTP: paths, methods, statuses; plus /metrics.

Every refusal is {"error": sentence}. Liveness and readiness are answered without a token, since whoever watches a
server has none; everything else, the metrics too, needs one where there are tokens.

Source: the KServe V2 protocol, https://github.com/kserve/open-inference-protocol (REST part)
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from . import rest_tensors
from .catalogue import EXTENSIONS
from .desk import Desk
from .http_connection import Head, Response
from .metrics import CONTENT_TYPE
from .repository import PLATFORM
from .served import Refusal, ServedModel
from .tensors import TensorSpec
from .tokens import Tokens

STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")
_JSON = (("Content-Type", "application/json"),)


class _Route(NamedTuple):
    method: str
    work: Callable[[Head, memoryview], Response]


class Rest:
    """Answers as `http_server.Application` wants."""

    def __init__(self, desk: Desk, tokens: Tokens | None, max_message_bytes: int, version: str) -> None:
        self._desk, self._tokens, self._max_message_bytes, self._version = desk, tokens, max_message_bytes, version
        self.connections: Callable[[], int] = int

    def admit(self, head: Head) -> Response | None:
        """A refusal that needs no body."""
        path = head.target.partition("?")[0]
        if path not in _OPEN and self._tokens is not None and not self._tokens.allow(head.headers.get("authorization")):
            self._desk.refuse("rest", head.peer, "UNAUTHENTICATED")
            return _error(
                401, "a bearer token that this server knows is needed", ("WWW-Authenticate", 'Bearer realm="edgecut"')
            )
        if head.length > self._max_message_bytes:
            self._desk.refuse("rest", head.peer, "RESOURCE_EXHAUSTED")
            return _error(
                413, f"a request of {head.length} bytes is larger than this server's {self._max_message_bytes}"
            )
        if head.headers.get("content-encoding", "identity").lower() != "identity":
            return _error(415, "compressed requests are not taken; send the body as it is")
        route = self._route(path)
        if isinstance(route, Response):
            return route
        if head.method != route.method and not (head.method == "HEAD" and route.method == "GET"):
            return _error(405, f"{path[:100]} is asked with {route.method}", ("Allow", route.method))
        if route.method == "POST" and "content-length" not in head.headers:
            return _error(411, "an inference request has a body, and its Content-Length is needed")
        return None

    def reserve(self, size_bytes: int) -> Response | None:
        """Count bytes of a body."""
        try:
            self._desk.admission.reserve(size_bytes)
        except Refusal as refusal:
            return _refused(refusal)
        return None

    def free(self, size_bytes: int) -> None:
        """Give back what was counted."""
        self._desk.admission.free(size_bytes)

    def answer(self, head: Head, body: memoryview) -> Response:
        """The answer to an admitted request."""
        route = self._route(head.target.partition("?")[0])
        return route if isinstance(route, Response) else route.work(head, body)

    def error(self, status: int, sentence: str, peer: str) -> Response:
        """What is said of bytes that are no request."""
        self._desk.refuse("rest", peer, "UNAVAILABLE" if status == 503 else "INVALID_ARGUMENT")
        return _error(status, sentence)

    def _route(self, path: str) -> _Route | Response:
        found = _PATHS.get(path.rstrip("/"))
        if found is not None:
            return _Route("GET", lambda _head, _body: found(self))
        parts = _MODEL.fullmatch(path)
        if parts is None:
            return _error(404, f"there is nothing at {path[:100]}; the paths start with /v2")
        name, version = (urllib.parse.unquote(part or "") for part in parts.group(1, 2))
        if parts[3] == "/infer":
            return _Route("POST", lambda head, body: self._infer(name, version, head, body))
        return _Route("GET", lambda _head, _body: self._about(name, version, parts[3] == "/ready"))

    def _live(self) -> Response:
        return _json(200, {"live": True})

    def _ready(self) -> Response:
        if not self._desk.ready:
            return _error(503, "this server is stopping")
        return _json(200, {"ready": True})

    def _server(self) -> Response:
        return _json(200, {"name": "edgecut", "version": self._version, "extensions": list(EXTENSIONS)})

    def _metrics(self) -> Response:
        text = self._desk.metrics_text(self.connections(), self._version)
        return Response(200, (text.encode(),), (("Content-Type", CONTENT_TYPE),))

    def _about(self, name: str, version: str, ready: bool) -> Response:
        try:
            model = self._desk.catalogue.find(name, version)
        except Refusal as refusal:
            return _refused(refusal)
        if ready:
            return _json(200, {"name": model.name, "ready": True}) if self._desk.ready else self._ready()
        about = {
            "name": model.name,
            "versions": list(self._desk.catalogue.models[model.name]),
            "platform": PLATFORM,
            "inputs": _specs(model.inputs),
            "outputs": _specs(model.outputs),
        }
        return _json(200, about)

    def _infer(self, name: str, version: str, head: Head, body: memoryview) -> Response:
        try:
            with self._desk.receive("rest", head.peer, len(body), reserved=len(body)) as call:
                asked = rest_tensors.read(name, version, head.headers.get(rest_tensors.LENGTH_HEADER), body)
                call.until(asked.timeout_s)
                model, outputs = self._desk.infer(call, asked.request)
                response = self._made(model, asked, outputs)
                call.sent = sum(len(part) for part in response.parts)
                return response
        except Refusal as refusal:
            return _refused(refusal)

    def _made(self, model: ServedModel, asked: rest_tensors.Asked, outputs: Any) -> Response:
        header, parts = rest_tensors.write(model.name, model.version, asked, outputs)
        size = len(header) + sum(len(part) for part in parts)
        if size > self._max_message_bytes:
            sentence = f"the answer has {size} bytes, more than this server's {self._max_message_bytes}"
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence)
        if not parts:
            return Response(200, (header,), _JSON)
        headers = (("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", str(len(header))))
        return Response(200, (header, *parts), headers)


_PATHS: dict[str, Callable[[Rest], Response]] = {
    "/v2": Rest._server,
    "/v2/health/live": Rest._live,
    "/v2/health/ready": Rest._ready,
    "/metrics": Rest._metrics,
}


def _specs(specs: dict[str, TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs.values()]


def _json(status: int, value: Any) -> Response:
    return Response(status, (json.dumps(value).encode(),), _JSON)


def _error(status: int, sentence: str, *headers: tuple[str, str]) -> Response:
    return Response(status, (json.dumps({"error": sentence}).encode(),), (*_JSON, *headers))


def _refused(refusal: Refusal) -> Response:
    status = STATUS.get(refusal.code, 500)
    return _error(status, str(refusal), *([("Retry-After", "1")] if status == 503 else []))
