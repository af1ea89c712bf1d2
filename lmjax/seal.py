"""The seal of a checkpoint: SHA-256 of each of its files, in a file that is committed with them.

SHA256SUMS has the form that `sha256sum --check` reads. Orbax writes a step into a folder with a
temporary name and renames it; between the two, every file is hashed and brought to the disk, and
after it the folder that holds the new name (Orbax itself syncs neither). Bits that change before a
file is hashed are caught by the fingerprints of the leaves, which are taken where the state lies
and stand in the step's record (lmjax/checkpoint.py).
"""

import asyncio
import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orbax.checkpoint.path import atomicity

from lmjax.errors import InputError

SEAL = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")
THREADS = 8  # that hash files, or wait for the disk
MOST_BYTES = 2**24  # of a seal; that of 100,000 files has 10 MB


class Damaged(InputError):
    """A checkpoint that is not what was saved; names the file."""


class SealedPath(atomicity.AtomicRenameTemporaryPath):
    """Orbax's temporary folder of a step, sealed before it takes its name."""

    async def finalize(self) -> None:
        final = self.get_final()
        if atomicity.TMP_DIR_SUFFIX in final.parent.name:
            await super().finalize()  # an item, which its step seals
            return
        # Orbax writes two files as it renames; so it renames to another temporary name.
        staged = final.with_name(f"{final.name}.sealing{atomicity.TMP_DIR_SUFFIX}")
        store = self._checkpoint_metadata_store
        await atomicity.AtomicRenameTemporaryPath(
            self.get(), staged, checkpoint_metadata_store=store
        ).finalize()
        await asyncio.to_thread(commit, Path(staged), Path(final))


def commit(staged: Path, final: Path) -> None:
    """Seal a folder and rename it; after this a power cut leaves it whole, before it, absent."""
    seal(staged)
    staged.rename(final)
    sync(final.parent)


def seal(folder: Path) -> None:
    """Hash all files, write the sums beside them, and bring everything to the disk.

    In threads, the largest file first: hashlib lets others run while it computes, and who waits for
    the disk computes nothing.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    largest = sorted(files, key=lambda file: file.stat().st_size, reverse=True)
    with ThreadPoolExecutor(THREADS, "seal") as pool:
        synced = [pool.submit(sync, file) for file in largest]
        hashed = {file: pool.submit(sha256, file) for file in largest}
        for each in synced:
            each.result()
        sums = [f"{hashed[file].result()}  {file.relative_to(folder)}\n" for file in files]
    (folder / SEAL).write_text("".join(sums))
    sync(folder / SEAL)
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync(inner)


def verify(folder: Path) -> None:
    """Raise Damaged where a file is missing, or is not as it was when the folder was sealed."""
    sums = read_seal(folder)
    with ThreadPoolExecutor(THREADS, "verify") as pool:
        hashed = {name: pool.submit(sha256, folder / name) for name in sums}
    for name, expected in sums.items():
        file = folder / name
        try:
            found = hashed[name].result()
        except FileNotFoundError:
            raise Damaged(f"{file}: damaged, it is missing") from None
        except OSError as error:
            raise Damaged(f"{file}: damaged, cannot be read ({error.strerror})") from None
        if found != expected:
            told = f"its SHA-256 is {found[:8]}..., not {expected[:8]}... as in {SEAL}"
            raise Damaged(f"{file}: damaged, {told}")


def read_seal(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file; raises Damaged."""
    file = folder / SEAL
    try:
        with file.open("rb") as opened:
            text = opened.read(MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        told = "missing or unreadable; without it, or where lmjax had no seals yet, nobody knows "
        told += "whether the others are whole"
        raise Damaged(f"{file}: damaged, {told}") from None
    lines = [LINE.fullmatch(line) for line in text.split("\n")[:-1]]
    sums = {line[2]: line[1] for line in lines if line}
    inside = all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in sums)
    if not sums or not inside or len(sums) != len(lines) or not text.endswith("\n"):
        raise Damaged(f"{file}: damaged, not a list of sums")
    unlisted = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - sums.keys()
    if unlisted - {SEAL}:
        raise Damaged(f"{folder / min(unlisted - {SEAL})}: damaged, it is not listed in {SEAL}")
    return sums


def sha256(file: Path) -> str:
    """Of its content, in hex, without holding it in memory; raises OSError."""
    with file.open("rb", buffering=0) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sync(path: Path) -> None:
    """What has been written to a file, or the names in a folder, are on the disk after this."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
