"""Cheap checks of files: what they refuse, in one line, and what they let through."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tracer.errors import InputError, RefusedError
from tracer.preflight import check_regular_file, sniff, zip_check


def refusal(function: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        function(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    return message


def test_missing_file_names_the_near_ones(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_text("x")
    (tmp_path / "modl\x1b[2J.h5").write_text("x")
    message = refusal(check_regular_file, tmp_path / "modle.h5")
    assert "no such file" in message
    assert "did you mean model.h5" in message
    assert "did you mean" not in refusal(check_regular_file, tmp_path / "weights.pt")
    assert "no such file" in refusal(check_regular_file, tmp_path / "none" / "model.h5")
    assert "no such file" in refusal(check_regular_file, tmp_path / "model.h5" / "x")
    assert "cannot read" in refusal(check_regular_file, tmp_path / ("x" * 300))
    assert "cannot read" in refusal(check_regular_file, Path("nul\0"))


def test_dangling_link_and_loop(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert "symbolic link" in refusal(check_regular_file, tmp_path / "link")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot read" in refusal(check_regular_file, tmp_path / "loop")


def test_only_regular_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        assert "is a socket" in refusal(check_regular_file, Path("sock"))
    assert "is a named pipe" in refusal(check_regular_file, Path("pipe"))
    assert "is a directory" in refusal(check_regular_file, tmp_path)
    assert "is a device" in refusal(check_regular_file, Path("/dev/zero"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"\xef\xbb\xbf<HTML lang=en>", "web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
    ],
)
def test_not_what_it_should_be(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a\x1b]0;b.pt"
    path.write_bytes(content)
    assert said in refusal(check_regular_file, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    path.write_text("x")
    path.chmod(0)
    assert "Permission denied" in refusal(check_regular_file, path)


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


HDF5 = b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a", zipped(("x", b"y")), "zip"),
        ("a", zipped(), "zip"),
        ("a", HDF5 + b"\0" * 8, "hdf5"),
        ("a.h5", b"\0" * 1024 + HDF5, "hdf5"),
        ("a.bin", b"\0" * 1024 + HDF5, "unknown"),
        ("a", b"\x80\x02}q\x00.", "pickle"),
        ("a", b"\x80\x09x", "unknown"),
        ("a", b' \n{"a": 1}', "json"),
        ("a", npy(), "npy"),
        ("a", struct.pack("<Q", 2) + b"{}", "safetensors"),
        ("a", struct.pack("<Q", 2**40) + b"{}", "unknown"),
        ("a", struct.pack("<Q", 0x480) + b"{" + b" " * 0x47F, "safetensors"),
        ("a", b"\x7fELF\x02", "elf"),
        ("a", b"\x1f\x8b\x08", "gzip"),
        ("a", b"x" * 257 + b"ustar", "tar"),
        ("a", b"\x1c\0\0\0TFL3", "tflite"),
        ("a", b"<html>", "html"),
        ("a", b"x", "unknown"),
    ],
)
def test_sniff(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert sniff(tmp_path / name) == kind


def test_sniff_of_nothing(tmp_path: Path) -> None:
    assert "cannot read" in refusal(sniff, tmp_path / "none")


def archive(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    return path


def test_good_zips(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(3 << 20)
    zip_check(archive(tmp_path, zipped(("a/b", noise), ("c", b""))))
    zip_check(archive(tmp_path, zipped(("a", noise), compression=zipfile.ZIP_DEFLATED)))
    zip_check(archive(tmp_path, zipped(("config.json", b" " * 1_000_000), compression=zipfile.ZIP_DEFLATED)))
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(10))
    zip_check(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "..\\x", "C:\\x", "a\0.py", "\\x"])
def test_members_outside(tmp_path: Path, name: str) -> None:
    placeholder = "N" * len(name)
    content = zipped((placeholder, b"x")).replace(placeholder.encode(), name.encode())
    with pytest.raises(RefusedError, match="outside the archive"):
        zip_check(archive(tmp_path, content))


def test_link_member(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(link, "/etc/passwd")
    with pytest.raises(RefusedError, match="symbolic link"):
        zip_check(path)


def test_twice_the_same_name(tmp_path: Path) -> None:
    content = zipped(("data1", b"x"), ("data2", b"y")).replace(b"data2", b"data1")
    with pytest.raises(RefusedError, match="occurs twice"):
        zip_check(archive(tmp_path, content))


def test_bombs(tmp_path: Path) -> None:
    path = archive(tmp_path, zipped(("x", b"\0" * (4 << 20)), compression=zipfile.ZIP_DEFLATED))
    assert "zip bomb" in refusal(zip_check, path)
    assert "would unpack to" in refusal(lambda it: zip_check(it, 1e9, 1 << 20), path)
    many = [(f"m{number}", b"\0" * 900_000) for number in range(40)]
    path = archive(tmp_path, zipped(*many, compression=zipfile.ZIP_DEFLATED))
    assert "zip bomb" in refusal(zip_check, path)


def test_two_directories(tmp_path: Path) -> None:
    """zipfile reads what lies before the end record, miniz (torch's) what that record or zip64's points to."""
    plain = zipped(("data", b"x" * 100))
    end = plain.rindex(b"PK\5\6")
    count, length, start = struct.unpack_from("<HLL", plain, end + 10)

    def with_zip64(where: int, first: int) -> bytes:
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, first)
        return plain[:end] + record + struct.pack("<4sLQL", b"PK\6\7", 0, where, 1) + plain[end:]

    zip_check(archive(tmp_path, with_zip64(end, start)))
    zip_check(archive(tmp_path, plain[:-2] + b"\2\0hi"))
    for hidden in (b"junk" + plain, plain[:start] + plain, with_zip64(end - 8, start), with_zip64(end, start - 8)):
        assert "would not agree" in refusal(zip_check, archive(tmp_path, hidden))


def test_overlapping_members(tmp_path: Path) -> None:
    plain = zipped(("data1", b"x" * 1000), ("data2", b"y" * 10))
    entry = struct.pack("<II", 10, 10)  # compressed and full size of the second, in the directory
    at = plain.rindex(entry)
    content = plain[:at] + struct.pack("<II", 5000, 5000) + plain[at + 8 :]
    assert "overlap" in refusal(zip_check, archive(tmp_path, content))


def test_stored_member_of_two_sizes(tmp_path: Path) -> None:
    plain = zipped(("data", b"x" * 10))
    at = plain.rindex(struct.pack("<II", 10, 10))
    content = plain[:at] + struct.pack("<II", 10, 1 << 31) + plain[at + 8 :]
    assert "two sizes" in refusal(zip_check, archive(tmp_path, content))


def test_password(tmp_path: Path) -> None:
    content = bytearray(zipped(("data", b"x" * 10)))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    assert "password" in refusal(zip_check, archive(tmp_path, bytes(content)))


def test_damaged_zips_give_one_line(tmp_path: Path) -> None:
    plain = zipped(*((f"member{number}", bytes([number]) * 50) for number in range(8)))
    assert refusal(zip_check, archive(tmp_path, plain[:-30])).endswith("truncated or damaged zip")
    assert refusal(zip_check, archive(tmp_path, b"PK\x03\x04")).endswith("truncated or damaged zip")
    source = random.Random(1)
    for _ in range(500):
        damaged = bytearray(plain)
        for _ in range(source.randint(1, 6)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        path = archive(tmp_path, bytes(damaged[: source.randint(1, len(damaged))]))
        try:
            zip_check(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
