"""The command of the cloud side: `edgecut serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import ServerError, unknown

app = typer.Typer()
ENGINES = ("edgecut", "ray")


@app.command()
def serve(
    folders: Annotated[list[Path], typer.Argument(help="Bundles, their cloud sides, or model repositories.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port of gRPC, 0 for any free one.")] = 8001,
    rest_port: Annotated[
        str | None,
        typer.Option(help="The port of REST and /metrics, or none; by default 8000, any free one beside --port 0."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Requests worked on at the same time.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; those beyond are refused.")] = 128,
    max_message: Annotated[float, typer.Option(help="The largest request or answer, in MiB.")] = 64.0,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections to the REST port.")] = 256,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Rows of several requests that are run together; 1: none are.")
    ] = 1,
    batch_wait_ms: Annotated[float, typer.Option(min=0, help="How long a request waits for others at most.")] = 2.0,
    provider: Annotated[str, typer.Option(help="cpu or cuda; refused where it cannot be had.")] = "cpu",
    allow_nonfinite: Annotated[bool, typer.Option(help="Take inputs with NaN or infinity.")] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="The certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM without a passphrase.")] = None,
    client_ca: Annotated[Path | None, typer.Option(help="Clients need a certificate of this authority.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Clients need one of these bearer tokens.")] = None,
    plaintext: Annotated[bool, typer.Option(help="Listen without TLS where others can reach it.")] = False,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
    log_level: Annotated[str, typer.Option(help="error, warning, info (a line for every request).")] = "warning",
    grace_s: Annotated[float, typer.Option(min=0, help="Seconds to finish requests in when stopped.")] = 10.0,
    expect_id: Annotated[str | None, typer.Option(help="The id the folder must have.")] = None,
    engine: Annotated[str, typer.Option(help="edgecut, or ray: replicas on the machines of a cluster.")] = "edgecut",
    replicas: Annotated[int, typer.Option(min=1, help="Copies that Ray keeps at least.")] = 1,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="And at most; by default as many.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Address of a running Ray cluster, or auto; by default one is started.")
    ] = None,
) -> None:
    """Serve cloud sides over the Open Inference Protocol, gRPC and REST, until Ctrl-C."""
    if engine not in ENGINES:
        raise ServerError(unknown("engine", engine, ENGINES))
    if engine == "ray":
        own = {
            "--rest-port": rest_port is not None,
            "--workers": workers != 8,
            "--max-connections": max_connections != 256,
            "--provider": provider != "cpu",
            "--tls-cert": tls_cert is not None,
            "--tls-key": tls_key is not None,
            "--client-ca": client_ca is not None,
            "--log-format": log_format != "text",
            "--log-level": log_level != "warning",
            "--grace-s": grace_s != 10.0,
        }
        _refuse(own, "--engine ray does not take {}, which the engine edgecut does; leave it out")
        if len(folders) != 1:
            raise ServerError(f"--engine ray serves one folder, {len(folders)} were given; start it for each")
        from .runtime.ray_engine import serve_on_ray

        serve_on_ray(
            folders[0],
            host,
            port,
            replicas=replicas,
            max_replicas=max_replicas,
            cluster=cluster,
            threads=threads,
            max_batch=max_batch,
            batch_wait_s=batch_wait_ms / 1000,
            queue_length=queue,
            max_message_bytes=int(max_message * 2**20),
            token_file=token_file,
            plaintext=plaintext,
            allow_nonfinite=allow_nonfinite,
            expect_id=expect_id,
        )
        return
    of_ray = {"--replicas": replicas != 1, "--max-replicas": max_replicas is not None, "--cluster": cluster is not None}
    _refuse(of_ray, "{} is of --engine ray; give that too, or leave it out")
    from .runtime.batching import Batching
    from .runtime.serve import rest_port_of
    from .runtime.serve import serve as run
    from .runtime.server import Protection

    certificate, key, authority, tokens = (
        None if path is None else str(path) for path in (tls_cert, tls_key, client_ca, token_file)
    )
    run(
        folders,
        host=host,
        port=port,
        rest_port=rest_port_of(rest_port, port),
        threads=threads,
        workers=workers,
        queue=queue,
        max_message_bytes=int(max_message * 2**20),
        max_connections=max_connections,
        provider=provider,
        allow_nonfinite=allow_nonfinite,
        batching=Batching(max_batch, batch_wait_ms / 1000),
        protection=Protection(certificate, key, authority, tokens, plaintext),
        log_format=log_format,
        log_level=log_level,
        grace_s=grace_s,
        expect_id=expect_id,
    )


def _refuse(given: dict[str, bool], sentence: str) -> None:
    """Raise ServerError for the first option that was given and has no meaning here."""
    for option, was_given in given.items():
        if was_given:
            raise ServerError(sentence.format(option))
