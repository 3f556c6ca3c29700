"""A device reached by ssh: a real sshd on this machine, real failures, and nothing left behind on either side."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import psutil
import pytest

from edgecut.errors import DeviceError
from edgecut.profiler.agents import Address, parse_address
from edgecut.profiler.profile import Profile
from edgecut.profiler.run import profile, profile_path

SSHD = "/usr/sbin/sshd"
EARLIER = b"an earlier profile, however old\n"


@pytest.mark.parametrize(
    ("text", "target", "port"),
    [
        ("ssh://board", "board", None),
        ("ssh://root@board", "root@board", None),
        ("ssh://me@board.local:2222", "me@board.local", 2222),
        ("ssh://192.168.1.7/", "192.168.1.7", None),
        ("ssh://a_b@h-1:65535", "a_b@h-1", 65535),
        ("ssh://nvidia@[fe80::1]:22", "nvidia@fe80::1", 22),
        ("ssh://[::1]", "::1", None),
    ],
)
def test_addresses(text: str, target: str, port: int | None) -> None:
    assert parse_address(text) == Address(target, port, text)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "ssh://@board",
        "ssh://board:",
        "ssh://board:0",
        "ssh://board:65536",
        "ssh://board:port",
        "ssh://a b",
        "ssh://-oProxyCommand=touch",
        "ssh://board/folder",
        "ssh://me:secret@board",
        "ssh://board;reboot",
        "ssh://$(reboot)",
        "ssh://board\n",
        "ssh://[::1",
        "ssh://::1",
        "SSH://board",
        "ssh:board",
    ],
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(DeviceError, match=r"is no address of a device; write ssh://user@host or ssh://user@host:port"):
        parse_address(text)


def test_bad_devices_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    for device, backend, words in (
        ("ssh://board:0", None, "is no address of a device"),
        ("ssh://board", "torch-cpu", "unknown backend of the agent that runs on a device 'torch-cpu'"),
        ("ssh://board", "coreml", "known: onnxruntime-cpu, onnxruntime-cuda, tensorrt, tensorrt-rtx"),
    ):
        with pytest.raises(DeviceError, match=words):
            profile("lenet5", device=device, backend=backend, output=tmp_path / "p.json")
    assert list(tmp_path.iterdir()) == []


def test_names_of_profiles() -> None:
    assert str(profile_path("lenet5", "ssh://me@board:2222")) == "lenet5-me-board-2222.profile.json"


def test_ssh_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="ssh is not installed here; install OpenSSH's client"):
        profile("lenet5", device="ssh://board")


@dataclass
class Device:
    """An ssh server on this machine, and what its sessions made under /tmp."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def config(self) -> str:
        return str(self.folder / "config")

    def made(self) -> list[Path]:
        """The folders that were made under /tmp, in order."""
        return [Path(line) for line in (self.folder / "made").read_text().split()]

    def configured(self, name: str, **options: str) -> str:
        """A client's configuration that differs from the good one."""
        lines = (self.folder / "config").read_text()
        for key, value in options.items():
            lines = "".join(
                f"{key} {value}\n" if line.split()[0] == key else f"{line}\n" for line in lines.splitlines()
            )
        (self.folder / name).write_text(lines)
        return str(self.folder / name)

    def script(self, name: str, text: str) -> str:
        """A program of the device's."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def agents(self) -> list[psutil.Process]:
        """The agents at work in folders made here; not the shells that started them."""
        folders = [str(folder) for folder in self.made()]
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            line = process.info["cmdline"] or []
            if "profile" in line and "python" in process.info["name"] and any(f in " ".join(line) for f in folders):
                found.append(process)
        return found

    def clean(self) -> bool:
        """Whether at least one folder was made and none is left, and no agent is at work."""
        return bool(self.made()) and not [f for f in self.made() if f.exists()] and not self.agents()


def keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """sshd with keys of its own; its mkdir keeps a list of what it made under /tmp."""
    missing = [tool for tool in (SSHD, "ssh", "scp", "ssh-keygen") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user", "stranger"):
        keygen(folder / name)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    (folder / "bin").mkdir()
    (folder / "made").write_text("")
    record = f'case "$3" in /tmp/edgecut-????????) echo "$3" >> {folder}/made;; esac'
    (folder / "bin" / "mkdir").write_text(f'#!/bin/sh\n{shutil.which("mkdir")} "$@" || exit\n{record}\n')
    (folder / "bin" / "mkdir").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
        "SetEnv": f"PATH={folder}/bin:{os.environ['PATH']}",
    }
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in options.items()))
    (folder / "config").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        "StrictHostKeyChecking accept-new\nLogLevel ERROR\n"
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        end = time.monotonic() + 20
        while not listening(port):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        yield Device(folder, port, process)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def device(server: Device) -> Device:
    """With an empty list of folders."""
    (server.folder / "made").write_text("")
    return server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an earlier profile, that no failure may change; no temporary file of ours outlives a test."""
    scratch, folder = tmp_path / "t", tmp_path / "here"
    scratch.mkdir()
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    (folder / "p.json").write_bytes(EARLIER)
    yield folder
    assert list(scratch.iterdir()) == [], "temporary files were left behind here"


def untouched(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["p.json"]
    assert (folder / "p.json").read_bytes() == EARLIER


def measure(device: Device, here: Path, **options: object) -> Profile:
    arguments = {"device": device.address, "ssh_config": device.config, "python": sys.executable, "threads": 1}
    return profile("lenet5", output=here / "p.json", max_seconds=0.3, **{**arguments, **options})


def fails(device: Device, here: Path, words: str, **options: object) -> str:
    with pytest.raises(DeviceError) as caught:
        measure(device, here, **options)
    said = str(caught.value)
    assert words in said and "\n" not in said, said
    untouched(here)
    return said


@pytest.mark.deep
def test_a_device(device: Device, here: Path) -> None:
    told: list[str] = []
    made = measure(device, here, progress=lambda what, share: told.append(what))
    assert Profile.load(here / "p.json").cuts == made.cuts
    assert made.device == device.address and made.backend == "onnxruntime-cpu" and made.threads == 1
    assert [cut.name for cut in made.cuts] == ["conv1", "conv2", "conv3", "fc1"]
    assert made.whole.median_s > 0 and made.whole.provenance == "measured"
    assert not any("opset" in note for note in made.notes)
    assert {"onnxruntime", "numpy", "edgecut"} == set(made.environment.versions)
    assert "measuring, cuts in turns" in told and f"copying to {made.device[6:].split(':')[0]}" in told
    assert len(device.made()) == 1 and device.clean()


@pytest.mark.deep
def test_several_in_a_row_leave_nothing(device: Device, here: Path) -> None:
    for _ in range(2):
        measure(device, here, pause_s=0.0)
    assert len(device.made()) == 2 and device.clean()


class Command:
    """`edgecut profile` on the device, as a process of its own, in the middle of its rounds."""

    def __init__(self, device: Device, here: Path, begun: Callable[[], bool]) -> None:
        arguments = ["lenet5", "-o", "p.json", "--device", device.address, "--ssh-config", device.config]
        more = ["--python", sys.executable, "--max-seconds", "60", "--threads", "1", "--pause-ms", "50"]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgecut", "profile", *arguments, *more],
            cwd=here,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.wait_for(begun, 60)

    def wait_for(self, what: Callable[[], bool], within_s: float) -> None:
        end = time.monotonic() + within_s
        while not what():
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.1)

    def ended(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=40)
        assert "Traceback" not in errors, errors
        return self.process.returncode, errors


@pytest.fixture
def command(device: Device, here: Path) -> Iterator[Command]:
    made = Command(device, here, lambda: bool(device.agents()))
    time.sleep(1.5)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()


@pytest.mark.deep
@pytest.mark.parametrize("everyone", [False, True], ids=["to edgecut", "to its whole group, as a terminal does"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals, everyone: bool, command: Command, device: Device, here: Path) -> None:
    if everyone:
        os.killpg(command.process.pid, number)
    else:
        command.process.send_signal(number)
    code, errors = command.ended()
    assert (code, errors) == (130, "edgecut: interrupted; nothing half-written was left behind\n")
    untouched(here)
    command.wait_for(device.clean, 15)


@pytest.mark.deep
def test_the_agent_is_killed(command: Command, device: Device, here: Path) -> None:
    """As the kernel does when memory runs out."""
    for agent in device.agents():
        agent.kill()
    code, errors = command.ended()
    assert code == 2
    assert errors.startswith(f"edgecut: {device.address}: the agent was killed, most likely as memory ran out"), errors
    untouched(here)
    command.wait_for(device.clean, 15)


@pytest.mark.deep
def test_the_connection_is_lost(command: Command, device: Device, here: Path) -> None:
    """The agent ends itself; a new connection clears up."""
    for child in psutil.Process(device.process.pid).children():
        child.kill()  # the server's part of the connection, not the server
    code, errors = command.ended()
    assert code == 2 and device.address in errors and errors.count("\n") == 1, errors
    assert "cannot be reached" in errors, errors
    untouched(here)
    command.wait_for(device.clean, 15)


@pytest.mark.deep
def test_edgecut_itself_is_killed(command: Command, device: Device, here: Path) -> None:
    """Nobody can clear the folder then, but the agent does not go on."""
    os.killpg(command.process.pid, signal.SIGKILL)
    command.process.wait()
    command.wait_for(lambda: not device.agents(), 30)
    untouched(here)
    for folder in device.made():
        shutil.rmtree(folder)
    for left in Path(os.environ["TMPDIR"]).iterdir():
        shutil.rmtree(left)


@pytest.mark.deep
def test_nobody_listens(device: Device, here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nobody = replace(device, port=port)
    said = fails(nobody, here, f"{nobody.address} cannot be reached")
    assert "Connection refused" in said


@pytest.mark.deep
def test_a_stranger_and_a_strange_host(device: Device, here: Path) -> None:
    wrong_key = device.configured("config-stranger", IdentityFile=f"{device.folder}/stranger")
    assert "Permission denied" in fails(device, here, "cannot be reached", ssh_config=wrong_key)
    (device.folder / "nobody").write_text("")
    options = {"UserKnownHostsFile": f"{device.folder}/nobody", "StrictHostKeyChecking": "yes"}
    unknown = device.configured("config-unknown", **options)
    assert "Host key verification failed" in fails(device, here, "cannot be reached", ssh_config=unknown)
    other = (device.folder / "stranger.pub").read_text()
    (device.folder / "other").write_text(f"[127.0.0.1]:{device.port} {other}")
    changed = device.configured("config-changed", **{**options, "UserKnownHostsFile": f"{device.folder}/other"})
    fails(device, here, "cannot be reached", ssh_config=changed)
    fails(device, here, "cannot be reached", ssh_config=str(device.folder / "no-such-config"))
    assert device.made() == []


@pytest.mark.deep
def test_no_python_there(device: Device, here: Path) -> None:
    said = fails(device, here, "lacks a program", python="python9.9")
    assert "choose it with --python" in said
    assert device.clean()


@pytest.mark.deep
def test_no_numpy_there(device: Device, here: Path) -> None:
    bare = device.script("bare", f'exec {shlex.quote(sys.executable)} -S "$@"')
    said = fails(device, here, "numpy", python=bare)
    assert device.address in said
    assert device.clean()


@pytest.mark.deep
def test_no_runtime_there(device: Device, here: Path) -> None:
    """NumPy and nothing else."""
    packages = device.folder / "packages"
    packages.mkdir()
    source = Path(numpy.__file__).parent
    for found in (source, source.parent / "numpy.libs"):
        if found.exists():
            (packages / found.name).symlink_to(found)
    bare = device.script("no-runtime", f'PYTHONPATH={packages} exec {shlex.quote(sys.executable)} -S "$@"')
    fails(device, here, f"{device.address}: ONNX Runtime is not installed; install onnxruntime", python=bare)
    assert device.clean()


@pytest.mark.deep
def test_another_protocol_and_no_agent_at_all(device: Device, here: Path) -> None:
    other = device.script("other", """echo '{"protocol": 99, "backends": {}}'""")
    fails(device, here, "answers in another protocol", python=other)
    fails(device, here, "ended with exit code 0 (without a word)", python="true")
    chatty = device.script("chatty", "echo hello; echo '[1]'; echo 3; echo 'what happened' >&2; exit 7")
    fails(device, here, "ended with exit code 7 (what happened)", python=chatty)
    assert device.clean()


def rewriting(device: Device, name: str, expression: str) -> str:
    """An interpreter whose `check` says something else than is true."""
    real = shlex.quote(sys.executable)
    return device.script(
        name, f'case "$*" in *check*) {real} "$@" | sed -E {shlex.quote(expression)};; *) exec {real} "$@";; esac'
    )


@pytest.mark.deep
@pytest.mark.parametrize(("version", "old"), [("1.10.0", True), ("1.13.1", True), ("1.14.0", False), ("2.0.0", False)])
def test_an_old_runtime_gets_an_old_opset(version: str, old: bool, device: Device, here: Path) -> None:
    python = rewriting(device, f"v{version}", f's/("onnxruntime": )"[0-9.]+"/\\1"{version}"/')
    made = measure(device, here, python=python)
    assert ("measured as opset 13, which the device's runtime reads" in made.notes) == old
    assert device.clean()


@pytest.mark.deep
def test_a_backend_the_device_lacks(device: Device, here: Path) -> None:
    said = fails(device, here, device.address, backend="tensorrt")
    assert "ensor" in said
    assert device.clean()


@pytest.fixture
def mkdir(device: Device) -> Iterator[Path]:
    """The device's mkdir, to be replaced."""
    path = device.folder / "bin" / "mkdir"
    text = path.read_text()
    yield path
    path.write_text(text)


@pytest.mark.deep
def test_a_device_that_greets(mkdir: Path, device: Device, here: Path) -> None:
    """Some print a banner in every shell: before a folder is made, and before the agent speaks."""
    mkdir.write_text(mkdir.read_text().replace("#!/bin/sh\n", "#!/bin/sh\necho Welcome to the board\n"))
    greeting = device.script("greeting", f'printf "Welcome \\377\\n[1, 2]\\n"; exec {shlex.quote(sys.executable)} "$@"')
    assert measure(device, here, python=greeting).cuts
    assert device.clean()


@pytest.mark.deep
def test_a_disk_without_room(mkdir: Path, device: Device, here: Path) -> None:
    mkdir.write_text("#!/bin/sh\necho \"mkdir: cannot create directory '$3': No space left on device\" >&2; exit 1\n")
    fails(device, here, f"{device.address}: the disk is full")
    assert device.made() == []


@pytest.mark.deep
@pytest.mark.parametrize("everyone", [False, True], ids=["to edgecut", "to its whole group"])
def test_interrupted_before_the_device_answers(everyone: bool, mkdir: Path, device: Device, here: Path) -> None:
    """The folder is there already, and nobody was told of it."""
    mkdir.write_text(mkdir.read_text() + "sleep 3\n")
    made = Command(device, here, lambda: bool(device.made()))
    (os.killpg if everyone else os.kill)(made.process.pid, signal.SIGINT)
    assert made.ended() == (130, "edgecut: interrupted; nothing half-written was left behind\n")
    untouched(here)
    made.wait_for(device.clean, 15)
