"""Seal files with a digest at their end: content that a disk or a copy has changed is refused, not read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from gensar_core.errors import UserError

#: Bytes of a seal: the sha256 of everything before it.
SEAL = hashlib.sha256().digest_size
_CHUNK = 1 << 20


def seal(path: Path) -> None:
    """Append the digest of a file's content to the file."""
    with path.open("r+b") as file:
        file.write(hashlib.file_digest(file, "sha256").digest())


def check_seal(path: Path) -> None:
    """Raise UserError unless a file ends in the digest of everything before it."""
    with path.open("rb") as file:
        size = path.stat().st_size - SEAL
        if size < 0 or _digest(file, size) != file.read():
            raise UserError(
                f"{path}: is damaged or cut off (its content and the digest at its end differ); delete it and run "
                "again, and what it kept is made anew"
            )


def _digest(file: BinaryIO, size: int) -> bytes:
    """Hash the next ``size`` bytes (sha256)."""
    content = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(_CHUNK, size))):
        content.update(chunk)
        size -= len(chunk)
    return content.digest()
