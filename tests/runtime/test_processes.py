"""Child processes: they end when their parent does, however it ends, and say why when they do not start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from edgecut.errors import ServerError
from edgecut.runtime import processes
from edgecut.runtime.processes import child, cloud_server, first_line, last_words

PARENT = """
import sys, time
from pathlib import Path
from edgecut.runtime.processes import cloud_server
from edgecut.runtime.relay import LinkShape, relay_process
shape = LinkShape(uplink_bps=1e9, downlink_bps=1e9, rtt_s=0.0)
with cloud_server(Path(sys.argv[1]), 1) as address, relay_process([address], shape):
    print("ready", flush=True)
    time.sleep(300)
"""


def gone(process: psutil.Process, within_s: float = 15.0) -> bool:
    try:
        process.wait(within_s)
    except psutil.TimeoutExpired:
        return False
    except psutil.NoSuchProcess:
        return True
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_end_with_their_parent(number: signal.Signals, bundle_folder: Path) -> None:
    command = [sys.executable, "-P", "-c", PARENT, str(bundle_folder / "cloud" / "model_repository")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == 2 and all(one.is_running() for one in children)
        parent.send_signal(number)
        parent.wait(30)
    assert [one for one in children if not gone(one)] == []


def test_the_server_is_gone_after_the_block(bundle_folder: Path) -> None:
    before = {one.pid for one in psutil.Process().children()}
    with cloud_server(bundle_folder / "cloud" / "model_repository", 1) as (host, port):
        mine = [one for one in psutil.Process().children() if one.pid not in before]
        assert host == "127.0.0.1" and port > 0 and len(mine) == 1
        # A group of its own: a terminal's Ctrl-C reaches the parent alone.
        assert os.getpgid(mine[0].pid) == mine[0].pid
    assert gone(mine[0], 0.1)


def test_the_address_is_that_of_the_protocol_asked_for(bundle_folder: Path) -> None:
    root = bundle_folder / "cloud" / "model_repository"
    with cloud_server(root, 1, scheme="http") as (host, port), urlopen(f"http://{host}:{port}/v2/health/live") as said:
        assert json.load(said) == {"live": True}


def test_the_server_is_gone_after_an_error(bundle_folder: Path) -> None:
    before = {one.pid for one in psutil.Process().children()}
    with pytest.raises(KeyError), cloud_server(bundle_folder / "cloud" / "model_repository", 1):
        raise KeyError
    assert {one.pid for one in psutil.Process().children()} <= before


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match=r"the server did not start: model repository .* cannot be read") as raised,
        cloud_server(tmp_path / "nothing", 1),
    ):
        pass
    assert "\n" not in str(raised.value)
    (tmp_path / "net" / "1").mkdir(parents=True)
    (tmp_path / "net" / "config.pbtxt").write_text('name: "net"')
    (tmp_path / "net" / "1" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ServerError, match=r"did not start: .*model.onnx"), cloud_server(tmp_path, 1):
        pass


def test_a_child_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_S", 0.3)
    monkeypatch.setattr(processes, "END_S", 2.0)
    start = time.monotonic()
    with child(["timeit", "-n1", "-r1", "import time; time.sleep(60)"], "it") as process:
        with pytest.raises(ServerError, match=r"it did not start within 0.3 s; is this machine overloaded"):
            first_line(process, "it")
        assert process.poll() is None
    assert process.poll() is not None and time.monotonic() - start < 10


def test_a_child_that_ignores_the_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "END_S", 0.5)
    ignoring = "import signal,time;signal.signal(signal.SIGTERM,signal.SIG_IGN);print(1,flush=True);time.sleep(60)"
    with child(["timeit", "-n1", "-r1", ignoring], "it") as process:
        assert first_line(process, "it") == "1"
    assert process.returncode == -signal.SIGKILL


def test_last_words(tmp_path: Path) -> None:
    words = r"it did not start: .*No module named no_such_module_here"
    with child(["no_such_module_here"], "it") as process, pytest.raises(ServerError, match=words):
        first_line(process, "it")
    with child(["timeit", "-n1", "-r1", "import os; os._exit(7)"], "it") as process:
        process.wait(10)
        assert last_words(process) == "it ended with status 7"


def test_a_child_does_not_import_from_the_folder_it_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "this.py").write_text("print('from the folder')")
    monkeypatch.chdir(tmp_path)
    with child(["this"], "it") as process:
        assert "Zen" in first_line(process, "it")


def test_the_runtime_reports_nothing_to_its_maker(tmp_path: Path, bundle_folder: Path) -> None:
    code = (
        "import sys, time; from edgecut.models.session import open_session; open_session(sys.argv[1]); time.sleep(0.3)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["TMPDIR"] = str(tmp_path)
    model = str(bundle_folder / "edge" / "edge.onnx")
    subprocess.run([sys.executable, "-P", "-c", code, model], env=environment, check=True, timeout=60)
    # Its telemetry keeps a session id in the temporary folder; where there is none, it was not started.
    assert list(tmp_path.iterdir()) == []
