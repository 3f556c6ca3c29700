"""The cloud side as an application of Ray Serve: the models and checks of our own server behind Ray's gRPC proxy.

    client ── gRPC ──▶ Ray's proxy, one on each node ── bytes of the call ──▶ one of the replicas ── ONNX Runtime

The proxy hands over a call's bytes as they came, so no message is pickled or parsed twice. It knows neither TLS nor
tokens: each replica checks the bearer token itself, and encryption is the task of a proxy in front. `application` is
what `serve deploy` and `ray_engine` build; it is imported by name on every node, which therefore needs edgecut and the
cloud side at the same paths.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from pydantic import Field, ValidationError

from ..agent import oip_wire
from ..artefacts import Record, first_fault
from ..errors import ServerError
from ..models.session import open_session
from . import oip
from .admission import Admission
from .batching import Batching
from .catalogue import Catalogue
from .desk import Desk
from .grpc_server import NO_TOKEN, OPEN, Servicer
from .metrics import Metrics
from .request_log import RequestLog
from .serve import repository_of
from .served import Refusal, ServedModel, unpack
from .server import own_version
from .tensors import Array
from .tokens import Tokens

DEPLOYMENT = "models"
_log = logging.getLogger(__name__)

Inputs = dict[str, Array]
Asked = tuple[Sequence[str], Inputs]
Run = Callable[[Sequence[str], Inputs], Awaitable["list[Array] | Refusal"]]


class Settings(Record):
    """What an application is built from; the `args` of its entry in a Ray Serve configuration.

    `folder` is a bundle, its cloud side or a model repository, `token_file` one token a line, both at that path on
    every node. Ray keeps the replicas between the two bounds so that each has about `target_requests` in work or
    waiting; `max_requests` of them wait for the replicas, and those beyond are refused. Requests of one model are
    stacked to at most `max_batch` rows (1: none are) for at most `batch_wait_s`.
    """

    folder: str
    expect_id: str | None = None
    token_file: str | None = None
    threads: int = Field(default=1, ge=1)
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    target_requests: float = Field(default=8.0, gt=0)
    max_requests: int = Field(default=256, ge=1)
    max_batch: int = Field(default=1, ge=1)
    batch_wait_s: float = Field(default=0.002, ge=0)
    allow_nonfinite: bool = False


def settings_of(arguments: dict[str, Any]) -> Settings:
    """The Settings of these arguments. Raises ServerError where they are none or contradict themselves."""
    try:
        settings = Settings.model_validate(arguments)
    except ValidationError as error:
        raise ServerError(f"the arguments of the Ray application cannot be used: {first_fault(error)}") from None
    if settings.max_replicas < settings.min_replicas:
        raise ServerError(
            f"{settings.max_replicas} replicas at most are fewer than the {settings.min_replicas} at least"
        )
    return settings


def load(settings: Settings) -> Catalogue:
    """All models, each with a session. Raises BundleError and ModelError."""
    catalogue = Catalogue()
    catalogue.load(
        [repository_of(Path(settings.folder), settings.expect_id)],
        lambda model: open_session(model, settings.threads),
        finite=not settings.allow_nonfinite,
    )
    return catalogue


def application(arguments: dict[str, Any]) -> Any:
    """The Ray Serve application of these Settings. Raises ServerError."""
    from ray import serve

    settings = settings_of(arguments)
    deployment = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": settings.threads},
        max_ongoing_requests=max(2, settings.max_batch * 2, round(settings.target_requests * 2)),
        max_queued_requests=settings.max_requests,
        graceful_shutdown_timeout_s=10.0,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_requests,
        },
    )
    return deployment.bind(settings.model_dump())


def add_to_proxy(servicer: Any, server: Any) -> None:
    """Name the protocol's calls to Ray's proxy, which routes each to the replica's method of that name."""
    # Without a deserializer the proxy gets the bytes; the serializers are those of the replica.
    handlers: dict[str, Any] = {method.name: grpc.unary_unary_rpc_method_handler(_routed) for method in oip.methods()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(oip.SERVICE, handlers),))


def _routed(data: bytes, context: Any) -> Any:
    raise NotImplementedError("Ray's proxy puts its own handler here")


class Replica:
    """One copy of all models. Ray calls the methods with a call's bytes and context, in one event loop."""

    def __init__(self, settings: dict[str, Any]) -> None:
        given = Settings.model_validate(settings)
        self._tokens = None if given.token_file is None else Tokens(given.token_file, _log.warning)
        self._catalogue = load(given)
        # Ray admits, counts and logs the requests; of the desk the other calls use what it knows of the models.
        desk = Desk(self._catalogue, Admission(1, 0, 0), Metrics(), RequestLog(), Batching())
        self._servicer = Servicer(desk, own_version())
        # One inference at a time: a second replica is what a second processor is for.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgecut-replica")
        self._runs = {id(model): self._run_of(model, given.max_batch, given.batch_wait_s) for model in self._catalogue}

    async def ServerLive(self, data: bytes, grpc_context: Any) -> Any:
        return self._answer("ServerLive", data, grpc_context)

    async def ServerReady(self, data: bytes, grpc_context: Any) -> Any:
        return self._answer("ServerReady", data, grpc_context)

    async def ModelReady(self, data: bytes, grpc_context: Any) -> Any:
        return self._answer("ModelReady", data, grpc_context)

    async def ServerMetadata(self, data: bytes, grpc_context: Any) -> Any:
        return self._answer("ServerMetadata", data, grpc_context)

    async def ModelMetadata(self, data: bytes, grpc_context: Any) -> Any:
        return self._answer("ModelMetadata", data, grpc_context)

    async def ModelInfer(self, data: bytes, grpc_context: Any) -> Any:
        try:
            self._check_token("ModelInfer", grpc_context)
            asked = oip_wire.decode_request(data) or unpack(_parsed("ModelInfer", data))
            model = self._catalogue.find(asked.model, asked.version)
            names = model.check(asked.inputs, asked.outputs)
            values = await self._runs[id(model)](names, asked.inputs)
            if isinstance(values, Refusal):
                raise values
        except Refusal as refusal:
            return _refused(refusal, grpc_context)
        outputs = list(zip(names, values, strict=True))
        return _Bytes(oip_wire.encode_response(model.name, model.version, asked.request_id, outputs))

    def _answer(self, name: str, data: bytes, context: Any) -> Any:
        """What one of the calls that need no inference is answered."""
        try:
            self._check_token(name, context)
            return getattr(self._servicer, name)(_parsed(name, data), _Context())
        except Refusal as refusal:
            return _refused(refusal, context)

    def _check_token(self, name: str, context: Any) -> None:
        if self._tokens is None or f"/{oip.SERVICE}/{name}" in OPEN:
            return
        given = [value for key, value in context.invocation_metadata() if key == "authorization"]
        if len(given) != 1 or not self._tokens.allow(given[0]):
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)

    def _run_of(self, model: ServedModel, max_batch: int, wait_s: float) -> Run:
        """How checked inputs of one model are run: each for itself, or stacked with those that come at the time."""

        async def alone(names: Sequence[str], inputs: Inputs) -> list[Array] | Refusal:
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(self._worker, model.run, names, inputs)
            except Refusal as refusal:
                return refusal

        most = min(max_batch, model.max_rows or max_batch)
        if most < 2 or not model.rows_are_free:
            return alone
        from ray import serve

        async def together(asked: list[Asked]) -> list[list[Array] | Refusal]:
            return await in_groups(alone, asked, most)

        batch: Any = serve.batch(max_batch_size=most, batch_wait_timeout_s=wait_s)(together)

        async def stacked(names: Sequence[str], inputs: Inputs) -> list[Array] | Refusal:
            answer: list[Array] | Refusal = await batch((names, inputs))
            return answer

        return stacked


async def in_groups(alone: Run, asked: Sequence[Asked], max_rows: int) -> list[list[Array] | Refusal]:
    """The outputs or the refusal of each request, where those that agree in all but the first size are one run.

    A run that fails, or gives back another number of rows, is done again one by one: only the guilty one is refused.
    """
    answers: list[list[Array] | Refusal] = [[]] * len(asked)
    for places in _groups(asked, max_rows):
        for place, answer in zip(places, await _together(alone, [asked[place] for place in places]), strict=True):
            answers[place] = answer
    return answers


async def _together(alone: Run, group: Sequence[Asked]) -> list[list[Array] | Refusal]:
    names, first = group[0]
    if len(group) > 1:
        rows = [_rows(inputs) for _, inputs in group]
        values = await alone(names, {name: np.concatenate([inputs[name] for _, inputs in group]) for name in first})
        if not isinstance(values, Refusal) and all(value.ndim and len(value) == sum(rows) for value in values):
            ends = [sum(rows[: place + 1]) for place in range(len(rows))]
            return [[value[end - count : end] for value in values] for count, end in zip(rows, ends, strict=True)]
    return [await alone(names, inputs) for names, inputs in group]


def _groups(asked: Sequence[Asked], max_rows: int) -> list[list[int]]:
    """The places of requests that may be one run: of equal outputs, inputs and row shapes, `max_rows` together."""
    groups: dict[object, list[list[int]]] = {}
    for place, (names, inputs) in enumerate(asked):
        rows = _rows(inputs)
        key = (tuple(names), tuple((name, inputs[name].dtype, inputs[name].shape[1:]) for name in sorted(inputs)))
        of_kind = groups.setdefault(key if rows else place, [])
        if not of_kind or not rows or sum(_rows(asked[other][1]) for other in of_kind[-1]) + rows > max_rows:
            of_kind.append([])
        of_kind[-1].append(place)
    return [group for of_kind in groups.values() for group in of_kind]


def _rows(inputs: Inputs) -> int:
    """The first size that all inputs share, 0 where they do not."""
    sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return int(sizes.pop()) if len(sizes) == 1 else 0


class _Context:
    """What a servicer needs of gRPC's context, where a status is not sent but raised."""

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Refusal(code, details)


class _Bytes:
    """An answer that is bytes already, where Ray asks a message for them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:
        return self._data


def _parsed(name: str, data: bytes) -> Any:
    method = next(method for method in oip.methods() if method.name == name)
    try:
        return method.request.FromString(data)
    except DecodeError:
        sentence = f"the {len(data)} bytes sent to {name} are no {method.request.DESCRIPTOR.full_name} message"
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, sentence) from None


def _refused(refusal: Refusal, context: Any) -> Any:
    """An empty answer beside the status that Ray's proxy sends; an exception would be logged with its traceback."""
    context.set_code(refusal.code)
    context.set_details(str(refusal))
    return _Bytes(b"")
