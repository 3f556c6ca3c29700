"""`edgecut serve --engine ray`: the cloud side on a Ray cluster, one started here or one that runs already.

Ray's gRPC proxy listens on every address of its node, without TLS; tokens are checked by the replicas. So plaintext has
to be allowed in words, and a proxy with TLS belongs in front of it. The cluster's own ports are guarded by Ray's
token authentication, which is never left off here: a cluster started here gets a token of its own, one that is joined
must have one (RAY_AUTH_TOKEN_PATH, the same file on every node).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import queue
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from ..errors import ServerError
from . import oip
from .processes import await_ending
from .server import MAX_MESSAGE_BYTES
from .tokens import Tokens

if TYPE_CHECKING:
    from .ray_replica import Settings

NAME = "edgecut"
EVERYWHERE = ("0.0.0.0", "::")
START_S = 120.0
ANSWER_S = 30.0
REASON = 300
OBJECT_STORE_BYTES = 256 * 1024 * 1024
# Ray reads these in each process of the cluster. Left as it is, the first would keep every call on the node it came to.
LOCAL_ROUTING = "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING"
MESSAGE_BYTES = "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"
AUTH_MODE, AUTH_TOKEN, AUTH_TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_log = logging.getLogger(__name__)


def serve_on_ray(
    folder: str | os.PathLike[str],
    host: str = "0.0.0.0",
    port: int = 8001,
    *,
    replicas: int = 1,
    max_replicas: int | None = None,
    target_requests: float = 8.0,
    cluster: str | None = None,
    name: str = NAME,
    threads: int = 1,
    max_batch: int = 1,
    batch_wait_s: float = 0.002,
    queue_length: int = 256,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    token_file: str | os.PathLike[str] | None = None,
    plaintext: bool = False,
    allow_nonfinite: bool = False,
    expect_id: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then let the requests at hand finish; main thread only.

    Prints one line once it answers. `cluster` None starts a cluster on this machine that ends with the serving;
    otherwise it is the address of a running one ("auto" finds it), run this on one of its nodes that takes calls.
    Ray keeps `replicas` to `max_replicas` copies, about `target_requests` of them for each.

    Raises:
        ServerError: Ray is not installed or does not start, the address cannot be used, plaintext is not allowed, the
            token file cannot be used, or the cluster serves something else.
        BundleError: the folder is damaged, an edge side, or no model repository.
        ModelError: a model cannot be used.
    """
    from .ray_replica import load, settings_of

    _check_address(host, port, plaintext)
    settings = settings_of(
        {
            "folder": os.path.abspath(folder),
            "expect_id": expect_id,
            "token_file": None if token_file is None else os.path.abspath(token_file),
            "threads": threads,
            "min_replicas": replicas,
            "max_replicas": max_replicas or replicas,
            "target_requests": target_requests,
            "max_requests": queue_length,
            "max_batch": max_batch,
            "batch_wait_s": batch_wait_s,
            "allow_nonfinite": allow_nonfinite,
        }
    )
    if token_file is not None:
        Tokens(token_file, _log.warning)
    # Whatever is wrong with a model is said here in a sentence, and not by every replica in a traceback.
    served = list(load(settings).models)
    with _cluster(cluster, settings, max_message_bytes), _deployed(settings, port or _free_port(), name) as at:
        stopping: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stopping.put(number))
        shown = f"[{host}]" if ":" in host else host
        print(f"serving {', '.join(served)} on grpc://{shown}:{at}", flush=True)
        await_ending(stopping)


def _load() -> Any:
    """The module. Raises ServerError where something else that is installed keeps it from loading."""
    try:
        import ray
    except Exception as error:
        remedy = "install edgecut[ray] in an environment of its own"
        if importlib.util.find_spec("amdsmi") is not None:
            # Ray looks for AMD's GPUs with it, and without such a GPU's library it raises what Ray does not expect.
            remedy = "where there is no AMD GPU, pip uninstall amdsmi, which zeus brings and can do without"
        raise ServerError(f"Ray cannot be loaded ({_reason(error)}); {remedy}") from None
    return ray


@contextlib.contextmanager
def _cluster(address: str | None, settings: Settings, max_message_bytes: int) -> Iterator[None]:
    """A connection to a cluster, which ends with the block where it was started here. Raises ServerError."""
    if importlib.util.find_spec("ray") is None:
        raise ServerError("Ray is not installed; install edgecut[ray], or serve without --engine ray")
    inherited = {LOCAL_ROUTING: "0", MESSAGE_BYTES: str(max_message_bytes)}
    with _authentication(own=address is None):
        os.environ.update(inherited)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = _load()
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address is None:
                processors = max(os.cpu_count() or 1, settings.threads * settings.max_replicas)
                ray.init(
                    num_cpus=processors,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    **quiet,
                )
            else:
                ray.init(address, runtime_env={"env_vars": inherited}, **quiet)
        except Exception as error:  # Ray raises a dozen classes here
            where = "start" if address is None else f"be joined at {address}"
            raise ServerError(f"the Ray cluster cannot {where} ({_reason(error)})") from None
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _deployed(settings: Settings, port: int, name: str) -> Iterator[int]:
    """The application, running and answering at `port`, which is yielded. Raises ServerError."""
    from ray import serve

    from .ray_replica import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    own = not serve.status().proxies
    try:
        serve.start(
            proxy_location="EveryNode",
            # Ray has an HTTP proxy in any case; at any port of loopback, and the application has nothing for it.
            http_options={"host": "127.0.0.1", "port": 0},
            grpc_options={
                "port": port,
                "grpc_servicer_functions": [f"{__package__}.ray_replica.add_to_proxy"],
                "enable_reflection": False,
            },
        )
        target = serve.RunTarget(application(settings.model_dump()), name=name, route_prefix=f"/{name}")
        serve.run_many([target], wait_for_applications_running=False)
        _await_running(name)
        _await_answer(port)
        yield port
    except ServerError:
        raise
    except (RuntimeError, TimeoutError, ValueError) as error:
        raise ServerError(f"Ray Serve cannot run the application ({_reason(error)})") from None
    finally:
        # Whatever went wrong before, the cluster itself perhaps, is what is reported.
        with contextlib.suppress(Exception):
            serve.delete(name)
            if own and not serve.status().applications:
                serve.shutdown()


@contextlib.contextmanager
def _authentication(*, own: bool) -> Iterator[None]:
    """Ray's token authentication in this process and those it starts; an own cluster has a token until the block ends.

    Raises ServerError where it was turned off.
    """
    if os.environ.setdefault(AUTH_MODE, "token").lower() != "token":
        raise ServerError(
            f"{AUTH_MODE} turns authentication off, and whoever reaches Ray's ports could run code; unset it"
        )
    if not own or AUTH_TOKEN in os.environ or AUTH_TOKEN_PATH in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="edgecut-ray-") as folder:
        path = Path(folder) / "token"
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
        os.environ[AUTH_TOKEN_PATH] = str(path)
        try:
            yield
        finally:
            del os.environ[AUTH_TOKEN_PATH]


def _check_address(host: str, port: int, plaintext: bool) -> None:
    if host not in EVERYWHERE:
        raise ServerError(f"Ray's proxy listens on every address, not on {host} alone; give --host {EVERYWHERE[0]}")
    if not plaintext:
        raise ServerError(
            "Ray's proxy can be reached from other machines and has no TLS; put a proxy with TLS in front and give "
            "--plaintext, or serve without --engine ray"
        )
    if not 0 <= port <= 65535:
        raise ServerError(f"cannot listen on port {port}; choose one from 0, any free one, to 65535")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise ServerError(f"cannot listen on {host}:{port} ({error.strerror}); choose another port") from None


def _free_port() -> int:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        return int(taken.getsockname()[1])


def _await_running(name: str) -> None:
    """Wait for the replicas. Raises ServerError with what Ray says of them."""
    from ray import serve

    end = time.monotonic() + START_S
    while True:
        found = serve.status().applications[name]
        if found.status == "RUNNING":
            return
        if found.status == "DEPLOY_FAILED" or time.monotonic() > end:
            said = " ".join(filter(None, (found.message, *(one.message for one in found.deployments.values()))))
            reason = " ".join(said.split())[-REASON:] or f"{found.status} after {START_S:g} s"
            raise ServerError(f"the replicas do not start ({reason}); each needs a free processor and the folder")
        time.sleep(0.1)


def _await_answer(port: int) -> None:
    """Wait until the proxy of this node answers for the application. Raises ServerError."""
    end = time.monotonic() + ANSWER_S
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        ready = oip.Stub(channel).ServerReady
        while True:
            try:
                ready(oip.message("ServerReadyRequest")(), timeout=1.0)
                return
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED or time.monotonic() > end:
                    raise ServerError(
                        f"port {port} of this node does not answer for the application ({error.code().name}); if Ray "
                        "Serve ran on the cluster before, give its gRPC port, or end it with `serve shutdown`"
                    ) from None
            time.sleep(0.1)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:REASON] or type(error).__name__
