"""The files behind a connection: taken when they change, named when they are wrong, and never quoted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edgecut.agent.credentials import Credentials
from edgecut.agent.transport import Security, TransportError, open_transport

TOKEN = "s3cret-Token/with+signs=="


def write(path: Path, data: bytes) -> Path:
    """Another content, as a renewal makes it: a new file put in the old one's place."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    os.replace(fresh, path)
    return path


@pytest.mark.parametrize("content", [TOKEN, f"{TOKEN}\n", f"  {TOKEN}\r\nsecond line\n"])
def test_the_token_is_the_first_line(content: str, tmp_path: Path) -> None:
    path = write(tmp_path / "token", content.encode())
    assert Credentials(Security(token_file=str(path)), False, "h2").authorization() == f"Bearer {TOKEN}"
    assert Credentials(Security(), False, "h2").authorization() is None


def test_a_changed_token_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "token", b"first")
    made = Credentials(Security(token_file=str(path)), False, "h2")
    for token in ("other", "third", "fourth-one"):  # the second one is as long as the first
        write(path, token.encode())
        assert made.authorization() == f"Bearer {token}"
    path.write_text("in-place")
    assert made.authorization() == "Bearer in-place"
    path.write_text("\n")
    with pytest.raises(TransportError) as raised:
        made.authorization()
    assert raised.value.retry, "it may be just being written"
    path.write_text("again")
    assert made.authorization() == "Bearer again"


BAD: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "blank": b" \n\n",
    "first line blank": b"\n" + TOKEN.encode(),
    "two words": TOKEN.encode() + b" x",
    "a header": TOKEN.encode() + b"\rX-Evil: 1",
    "not ASCII": TOKEN.encode() + "ä".encode(),
    "a null": TOKEN.encode() + b"\0",
    "too large": b"x" * (2 << 20),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_holds_no_token(what: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if (content := BAD[what]) is not None:
        path.write_bytes(content)
    for server in ("localhost:1", "http://localhost:1"):
        with pytest.raises(TransportError) as raised:
            open_transport(server, Security(token_file=str(path)))
        assert str(path) in str(raised.value) and TOKEN not in str(raised.value)
        assert raised.value.kind == "unauthenticated" and not raised.value.retry


def test_a_folder_and_a_file_of_somebody_else(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match=f"{tmp_path} cannot be read"):
        open_transport("localhost:1", Security(token_file=str(tmp_path)))
    if os.geteuid():
        (tmp_path / "mine").write_text(TOKEN)
        (tmp_path / "mine").chmod(0)
        with pytest.raises(TransportError, match=r"mine cannot be read \(Permission denied\)"):
            open_transport("localhost:1", Security(token_file=str(tmp_path / "mine")))


@pytest.mark.parametrize("server", ["grpcs://cloud:1", "https://cloud:1"])
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"ca": None}, "ca cannot be read"),
        ({"ca": b""}, "ca is empty"),
        ({"ca": b"SECRET, no certificate"}, "ca holds no certificate in PEM"),
        ({"ca": b"-----BEGIN CERTIFICATE-----\nSECRET\n-----END CERTIFICATE-----\n"}, "ca holds no certificate"),
        ({"ca": "ü".encode()}, "ca holds no certificate"),
        ({"certificate": b"SECRET"}, "a certificate needs its key"),
        ({"key": b"SECRET"}, "a certificate needs its key"),
        ({"certificate": b"SECRET", "key": None}, "key cannot be read"),
        ({"certificate": b"SECRET", "key": b"SECRET"}, "are not a certificate and its own key"),
    ],
)
def test_files_that_are_no_certificates(server: str, files: Any, words: str, tmp_path: Path) -> None:
    paths = {name: str(tmp_path / name) for name in files}
    for name, content in files.items():
        if content is not None:
            Path(paths[name]).write_bytes(content)
    with pytest.raises(TransportError, match=words) as raised:
        open_transport(server, Security(**paths))
    assert "SECRET" not in str(raised.value) and raised.value.kind == "insecure" and not raised.value.retry


def test_what_a_server_says_is_one_printable_line_without_the_token(tmp_path: Path) -> None:
    path = write(tmp_path / "token", TOKEN.encode())
    made = Credentials(Security(token_file=str(path)), False, "h2")
    said = made.hide(f"no\n\x1b[31m {TOKEN}\u202e!" + "x" * 1000)
    assert said.startswith("no ?[31m [token]?!xxx") and len(said) == 300
    long = made.hide("y" * 295 + TOKEN)  # cut after it was hidden, so that no part of it is left
    assert not any(TOKEN[:n] in long for n in range(3, 9))
