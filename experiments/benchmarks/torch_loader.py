"""PyTorch's side of input.py: DataLoader in the process itself, on the same data.

Run by that benchmark under an interpreter with torch and NumPy; it answers each line of standard
input, a question in JSON, with a line of JSON:
    {"kind", "folder", "batch_size", "length"}  opens; answers with torch's version
    {"batches": n}                              makes the next n batches; answers with n
The kinds: images (a TensorDataset), images_by_batch (the same, gathered a batch at a time), tokens
(windows of length + 1 from a memory map).
"""

import itertools
import json
import sys
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.utils.data import (  # pyright: ignore[reportMissingImports]
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    TensorDataset,
)


class Windows(Dataset):
    """(inputs, targets) of non-overlapping windows."""

    def __init__(self, file: str, length: int):
        self.tokens, self.length = np.memmap(file, np.uint16, mode="r"), length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        first = number * self.length
        window = torch.from_numpy(self.tokens[first : first + self.length + 1].astype(np.int64))
        return window[:-1], window[1:]


def loader(kind: str, folder: str, batch_size: int, length: int) -> Any:
    """The DataLoader of a kind, shuffled."""
    if kind == "tokens":
        return DataLoader(Windows(f"{folder}/train.bin", length), batch_size, shuffle=True)
    with np.load(f"{folder}/images.npz") as arrays:
        data = TensorDataset(*(torch.from_numpy(arrays[name]) for name in ("inputs", "targets")))
    if kind == "images":
        return DataLoader(data, batch_size, shuffle=True)
    sampler = BatchSampler(RandomSampler(data), batch_size, drop_last=True)
    return DataLoader(data, sampler=sampler, batch_size=None)


def main() -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(1)
    feed: Any = iter(())
    for line in sys.stdin:
        question = json.loads(line)
        if "kind" in question:
            opened = loader(**question)
            feed = itertools.chain.from_iterable(itertools.repeat(opened))
            answer: Any = torch.__version__
        else:
            answer = sum(1 for _ in itertools.islice(feed, question["batches"]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
