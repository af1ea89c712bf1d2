"""Run directories in an object store (gs://, s3://): what stands in there for what a disk has.

lock     Nothing does. Two processes in one directory would overwrite each other's files; the run
         says so when it begins, and nobody else can.
append   An object cannot grow. A log is kept in memory and written anew, whole, when it is flushed,
         which is before each checkpoint that claims its steps: what a kill loses, a resumed run
         writes again.
fsync    An object is durable, and there whole, when the store has answered that it is written.
rename   Orbax writes a step under its own name, and an object that says so once it is whole; a step
         without that one does not count (lmjax/runfiles.py).
seal     No SHA256SUMS: to hash its files, a process would have to read back what it has written.
         The fingerprint of every leaf is verified whenever a step is read, as elsewhere, and the
         store has its own checksum of each object.
events   None for TensorBoard, whose writer has its own ways to stores; metrics.jsonl has all.
"""

from etils import epath

from lmjax.errors import InputError


def is_remote(path: epath.Path) -> bool:
    """Whether a path is in an object store, by its scheme."""
    return "://" in str(path)


def check_reachable(path: epath.Path) -> None:
    """Refuse a store that does not answer, or whose driver is not installed; looks at no disk."""
    if not is_remote(path):
        return
    try:
        path.exists()
    except Exception as error:  # of every driver its own
        first_line = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{path}: not to be reached ({type(error).__name__}: {first_line})"
        ) from None


def told(path: epath.Path) -> list[str]:
    """What does not hold for a run directory there, in lines to say when the run begins."""
    return [
        f"{path} is in an object store, which has no locks: let no second process write there",
        "there are no events for TensorBoard, and checkpoints have no SHA256SUMS; the fingerprints "
        "of their leaves are verified",
    ]


class Rewritten:
    """A text file that grows in memory and is written whole when it is flushed."""

    def __init__(self, path: epath.Path, text: str):
        self._path, self._pieces, self._written = path, [text], 1

    def write(self, text: str) -> None:
        self._pieces.append(text)

    def flush(self) -> None:
        if len(self._pieces) > self._written:
            self._path.write_text("".join(self._pieces))
            self._written = len(self._pieces)

    def close(self) -> None:
        self.flush()
