"""The Open Inference Protocol over HTTP/1.1, with the standard library alone.

Tensors travel as the binary tensor data extension has them: a JSON header, then the raw bytes one after the other.
Answers may come the same way or, from servers without the extension, as numbers in JSON. Connections are kept open, as
many as requests ran at the same time. One that had been idle and ends before a byte of its answer has come is taken
to have been closed by the server meanwhile, and the identical request goes over a new one, once.

Source: https://github.com/kserve/open-inference-protocol (REST part), and Triton's extension_binary_data.md.
"""

import json
import socket
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import quote

import numpy as np

from .credentials import Credentials, tls_reason
from .http1 import ENDINGS, Answer, Connection, DamagedAnswer, NoHttp, is_tls_failure
from .oip_wire import DTYPES, MAX_ELEMENTS, MAX_RANK
from .reach import connect, left_s, why_not, words
from .transport import MAX_MESSAGE_BYTES, Address, Metadata, Security, Tensors, Transport, TransportError, failure

HEADER_LENGTH = "inference-header-content-length"
# Numbers in JSON take a hundred times their room while they are read.
MAX_JSON_BYTES = 8 * 1024 * 1024
_IDLE = 8
_KEPT_BYTES = 4096
_WHY_S = 0.5
_NAMES = {dtype.str: name for name, dtype in DTYPES.items()}
_KINDS = {
    401: "unauthenticated",
    403: "unauthenticated",
    408: "unavailable",
    429: "full",
    502: "unavailable",
    503: "full",
    504: "unavailable",
}


class _Asked(NamedTuple):
    """What requests of one kind share: the head's first lines, the JSON, and what each tensor's bytes are."""

    head: bytes
    header: bytes
    dtypes: List[Any]
    size_bytes: int


class _Tensor(NamedTuple):
    """A tensor of an answer as its header tells it; `size` is None where its values are `data` in JSON."""

    name: str
    datatype: str
    shape: Tuple[int, ...]
    elements: int
    size: Optional[int]
    data: Any


class HttpTransport(Transport):
    """See `transport.open_transport`."""

    def __init__(self, server: str, address: Address, security: Security) -> None:
        self.server, self.address = server, address
        self._credentials = Credentials(security, address.tls, "http/1.1")
        self._lock = threading.Lock()
        self._idle = []  # type: List[Tuple[Connection, Any]]
        self._busy = set()  # type: Any
        self._closed = self._met = False
        # What the last request and the last answer looked like. The next ones mostly look the same, and after a pause
        # every line of code that is not run saves many times what it costs in a tight loop.
        self._last_asked = None  # type: Optional[Tuple[Any, _Asked]]
        self._last_told = {}  # type: Dict[bytes, List[_Tensor]]

    def infer(self, model: str, tensors: Tensors, timeout_s: float) -> Dict[str, Any]:
        arrays = [(name, np.asarray(array)) for name, array in tensors]
        kind = model, [(name, array.dtype, array.shape) for name, array in arrays]
        last = self._last_asked
        if last is None or last[0] != kind:
            self._last_asked = last = kind, self._described(model, arrays)
        asked = last[1]
        raws = [np.ascontiguousarray(array, dtype) for (_, array), dtype in zip(arrays, asked.dtypes)]
        answer = self._ask(asked.head, [asked.header, *raws], asked.size_bytes, timeout_s)
        try:
            return decode(answer, self._last_told)
        except DamagedAnswer as error:
            raise self._failure("damaged", str(error)) from None

    def metadata(self, model: str, timeout_s: float) -> Metadata:
        answer = self._ask(self._head("GET", _path(model), ""), [], 0, timeout_s)
        try:
            told = _json(answer.body)
            return {side: [_told(one) for one in _list(told, side)] for side in ("inputs", "outputs")}
        except DamagedAnswer as error:
            raise self._failure("damaged", str(error)) from None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for connection in self._busy:
                connection.stop()
        self._close_idle()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _described(self, model: str, arrays: Sequence[Tuple[str, Any]]) -> "_Asked":
        """What every request for this model with tensors of these names, types and shapes begins with."""
        inputs, dtypes = [], []
        for name, array in arrays:
            datatype = _NAMES.get(array.dtype.newbyteorder("<").str)
            if datatype is None:
                raise TransportError(
                    "refused",
                    "nothing was sent to {}: dtype {} is none of the protocol's {}".format(
                        self.server, array.dtype, ", ".join(DTYPES)
                    ),
                )
            size = {"binary_data_size": array.nbytes}
            inputs.append({"name": name, "shape": array.shape, "datatype": datatype, "parameters": size})
            dtypes.append(DTYPES[datatype])
        told = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        header = json.dumps(told, separators=(",", ":")).encode("ascii")
        size_bytes = len(header) + sum(array.nbytes for _, array in arrays)
        lengths = "Inference-Header-Content-Length: {}\r\nContent-Length: {}\r\n".format(len(header), size_bytes)
        head = self._head("POST", _path(model) + "/infer", "Content-Type: application/octet-stream\r\n" + lengths)
        return _Asked(head, header, dtypes, size_bytes)

    def _head(self, method: str, path: str, extra: str) -> bytes:
        """A request's head but for its last lines."""
        return "{} {} HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\n{}".format(
            method, path, self.address.target, extra
        ).encode("ascii")

    def _ask(self, head: bytes, parts: List[Any], size_bytes: int, timeout_s: float) -> Answer:
        """Send a request and return an answer with status 200. Raises TransportError."""
        deadline = time.monotonic() + timeout_s
        token = self._credentials.authorization()
        if size_bytes > MAX_MESSAGE_BYTES:
            raise self._failure("refused", "{} bytes are larger than {}".format(size_bytes, MAX_MESSAGE_BYTES))
        end = b"\r\n" if token is None else "Authorization: {}\r\n\r\n".format(token).encode("ascii")
        try:
            answer = self._exchange(b"".join([head, end, *parts]), deadline)
        except (OSError, ValueError, NoHttp, DamagedAnswer) as error:
            raise self._lost(error, deadline, timeout_s) from None
        if answer.status != 200:
            raise self._refusal(answer)
        self._met = True
        return answer

    def _exchange(self, request: bytes, deadline: float) -> Answer:
        context = self._credentials.context()
        while True:
            with self._lock:
                idle = self._idle.pop() if self._idle else None
            if idle is None:
                return self._on(self._connect(context, deadline), context, request, deadline)
            connection = idle[0]
            if idle[1] is not context or not connection.quiet():
                connection.close()
                continue
            try:
                return self._on(connection, context, request, deadline)
            except socket.timeout:
                raise
            except OSError:
                if connection.begun or self._closed:
                    raise
                self._close_idle()  # the others are as old

    def _connect(self, context: Any, deadline: float) -> Connection:
        plain = connect(self.address, deadline)
        if context is None:
            return Connection(plain)
        try:
            plain.settimeout(left_s(deadline))
            return Connection(context.wrap_socket(plain, server_hostname=self.address.host))
        except BaseException:
            plain.close()
            raise

    def _on(self, connection: Connection, context: Any, request: bytes, deadline: float) -> Answer:
        """Use a connection, and keep it or close it."""
        with self._lock:
            self._busy.add(connection)
            if self._closed:
                connection.stop()
        kept = False
        try:
            answer = connection.exchange(request, MAX_MESSAGE_BYTES, deadline)
            with self._lock:
                kept = connection.reusable and not self._closed and len(self._idle) < _IDLE
                if kept:
                    self._idle.append((connection, context))
            return answer
        finally:
            with self._lock:
                self._busy.discard(connection)
            if not kept:
                connection.close()

    def _lost(self, error: Exception, deadline: float, timeout_s: float) -> TransportError:
        """What a failed exchange means."""
        if self._closed:
            sentence = "the connection to {} was closed on this side".format(self.server)
            return TransportError("cancelled", sentence, False)
        if isinstance(error, socket.timeout):
            return self._failure("deadline", waited_s=timeout_s)
        if isinstance(error, DamagedAnswer):
            return self._failure("damaged", str(error))
        if is_tls_failure(error):
            return self._failure("insecure", tls_reason(error))
        if isinstance(error, NoHttp) and error.tls:
            return self._failure("insecure", "TLS is spoken there; give https://{}".format(self.address.target))
        left = deadline - time.monotonic()
        if isinstance(error, ENDINGS) and not getattr(error, "begun", False) and not self._met and left > 0:
            kind, why = why_not(self.address, self._credentials.context(), min(left, _WHY_S))
            if why:
                return self._failure(kind, why)
        if isinstance(error, NoHttp):
            return self._failure("protocol", "no HTTP is spoken there")
        return self._failure("unavailable", words(error) if isinstance(error, OSError) else "no host has such a name")

    def _refusal(self, answer: Answer) -> TransportError:
        """What a status other than 200 means."""
        said = ""
        try:
            told = _json(answer.body)
            said = told["error"] if isinstance(told.get("error"), str) else ""
        except DamagedAnswer:
            pass
        status = answer.status
        kind = _KINDS.get(status, "refused")
        if kind == "refused" and not said and (status < 400 or status in (404, 405, 426, 501)):
            kind = "protocol"
        self._met = self._met or kind not in ("unavailable", "protocol")
        return self._failure(kind, said or "HTTP status {}".format(status), code=str(status))

    def _failure(self, kind: str, detail: str = "", waited_s: float = 0.0, code: str = "") -> TransportError:
        return failure(kind, self.server, self._credentials.hide(detail), waited_s, self._met, code)


def decode(answer: Answer, seen: "Optional[Dict[bytes, List[_Tensor]]]" = None) -> Dict[str, Any]:
    """The arrays of an answer by name, read-only, each claim of it checked. Raises DamagedAnswer.

    `seen` keeps what the last answer's header said, so that the same header is not read again.
    """
    body = answer.body
    length = answer.fields.get(HEADER_LENGTH)
    at = len(body)
    if length is not None:
        if not (length.isdigit() and len(length) < 10 and int(length) <= len(body)):
            raise DamagedAnswer("its header's length is wrong")
        at = int(length)
    raws = body[at:]
    arrays = {}  # type: Dict[str, Any]
    used = 0
    for name, datatype, shape, count, size, data in _tensors(body[:at], {} if seen is None else seen):
        dtype = DTYPES[datatype]
        if size is None:
            flat = _numbers(name, datatype, dtype, count, data)
        else:
            if type(size) is not int or size != count * dtype.itemsize or size > len(raws) - used:
                raise DamagedAnswer(
                    "the tensor {!r} of {} {} needs {} bytes, got {!r} of {}".format(
                        name, datatype, list(shape), count * dtype.itemsize, size, len(raws) - used
                    )
                )
            flat = _raw(name, dtype, raws[used : used + size])
            used += size
        flat.flags.writeable = False
        arrays[name] = flat.reshape(shape)
    if used != len(raws):
        raise DamagedAnswer("{} bytes of it belong to no tensor".format(len(raws) - used))
    return arrays


def _tensors(header: memoryview, seen: Dict[bytes, List[_Tensor]]) -> List[_Tensor]:
    """What an answer's header says of its tensors; their sizes are checked where their bytes are."""
    key = bytes(header) if len(header) <= _KEPT_BYTES else b""
    known = seen.get(key)
    if known is not None:
        return known
    found, names = [], set()
    for one in _list(_json(header), "outputs"):
        name, datatype, shape = _told(one)
        if datatype not in DTYPES or name in names or any(size < 0 for size in shape):
            raise DamagedAnswer("its output {!r} of {!r} is impossible or comes twice".format(name, datatype))
        names.add(name)
        parameters = one.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        found.append(_Tensor(name, datatype, shape, _count(shape), size, one.get("data")))
    seen.clear()
    if key:
        seen[key] = found
    return found


def _raw(name: str, dtype: Any, raw: memoryview) -> Any:
    flat = np.frombuffer(raw, dtype) if len(raw) else np.empty(0, dtype)
    if dtype.kind == "b" and len(raw) and flat.view(np.uint8).max() > 1:
        raise DamagedAnswer("the tensor {!r} is BOOL but has bytes other than 0 and 1".format(name))
    return flat if flat.flags.aligned else flat.copy()


def _numbers(name: str, datatype: str, dtype: Any, count: int, data: Any) -> Any:
    """A tensor out of JSON's numbers, which may be nested as the shape is, or flat."""
    flat = []  # type: List[Any]
    waiting = [data if isinstance(data, list) else [None]]  # type: List[Any]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(reversed(one))
        else:
            flat.append(one)
    wanted = (bool,) if datatype == "BOOL" else (int, float) if dtype.kind == "f" else (int,)  # type: Tuple[type, ...]
    if len(flat) != count or any(type(value) not in wanted for value in flat):
        raise DamagedAnswer("the tensor {!r} needs {} values of {}, got others".format(name, count, datatype))
    try:
        made = np.array(flat, dtype)
        if dtype.kind in "iu" and flat and made.tolist() != flat:
            raise OverflowError
    except OverflowError:
        raise DamagedAnswer("the tensor {!r} has values that do not fit {}".format(name, datatype)) from None
    return made


def _json(data: memoryview) -> Dict[str, Any]:
    if len(data) > MAX_JSON_BYTES:
        raise DamagedAnswer("{} bytes of JSON are more than {}".format(len(data), MAX_JSON_BYTES))
    try:
        told = json.loads(bytes(data).decode("utf-8"))
    except (ValueError, RecursionError):
        raise DamagedAnswer("it is no JSON") from None
    if not isinstance(told, dict):
        raise DamagedAnswer("it is no object of JSON")
    return told


def _list(told: Dict[str, Any], key: str) -> List[Dict[str, Any]]:
    found = told.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DamagedAnswer("it has no list of {}".format(key))
    return found


def _told(one: Dict[str, Any]) -> Tuple[str, str, Tuple[int, ...]]:
    """A tensor's name, datatype and shape."""
    name, datatype, shape = one.get("name"), one.get("datatype"), one.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
        raise DamagedAnswer("a tensor has no name, datatype or shape")
    if len(shape) > MAX_RANK or any(type(size) is not int for size in shape):
        raise DamagedAnswer("the tensor {!r} has an impossible shape".format(name))
    return name, datatype, tuple(shape)


def _count(shape: Tuple[int, ...]) -> int:
    """Elements of a shape; a size of 0 must not hide an absurd one beside it."""
    count = bound = 1
    for size in shape:
        count, bound = count * size, bound * max(size, 1)
        if bound > MAX_ELEMENTS:
            raise DamagedAnswer("a tensor has more than {} elements".format(MAX_ELEMENTS))
    return count


def _path(model: str) -> str:
    return "/v2/models/" + quote(model, safe="")
