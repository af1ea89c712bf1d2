"""PyTorch's side of cpu_peers.py: the same models, eager, from the same weights and batches.

Run by that benchmark under an interpreter with torch and NumPy; it answers each line of standard
input, a question in JSON, with a line of JSON:
    {"row", "file", "optimizer", "settings"}  builds; answers with the number of parameters
    {"losses": n}                             the losses of the first n steps
    {"steps": n, "warm": m}                   seconds of n steps, after m; again from the start;
        with "looks": [...], "batches": k     and of the loss of k batches after each of these steps
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

Weights = dict[str, Any]  # ours by path: kernels are [inputs, outputs], images [..., channels]


def put(module: Any, weight: Any, bias: Any) -> Any:
    """The module with these weights."""
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        module.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias)))
    return module


def linear(kernel: Any, bias: Any) -> Any:
    """A linear map from a kernel [inputs, outputs]."""
    return put(nn.Linear(*kernel.shape), kernel.T, bias)


def norm(scale: Any, bias: Any) -> Any:
    """A layer norm."""
    return put(nn.LayerNorm(len(scale), eps=1e-5), scale, bias)


def mlp(w: Weights) -> Any:
    """Linear maps with ReLU between, on flat inputs."""
    names = [*sorted({path.split("/")[0] for path in w} - {"head"}), "head"]
    maps = [linear(w[f"{name}/kernel"], w[f"{name}/bias"]) for name in names]
    between = [[each, nn.ReLU()] for each in maps[:-1]]
    return nn.Sequential(*itertools.chain(*between), maps[-1])


def simple_fcn(w: Weights) -> Any:
    """conv -> ReLU -> max-pool 2 -> linear -> ReLU -> linear, channels first as torch has them."""
    height, width, inputs, channels = w["conv/kernel"].shape
    conv = put(
        nn.Conv2d(inputs, channels, (height, width)),
        w["conv/kernel"].transpose(3, 2, 0, 1),
        w["conv/bias"],
    )
    features, hidden = w["hidden/kernel"].shape
    side = int((features // channels) ** 0.5)
    kernel = w["hidden/kernel"].reshape(side, side, channels, hidden).transpose(2, 0, 1, 3)
    return nn.Sequential(
        conv,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        linear(kernel.reshape(features, hidden), w["hidden/bias"]),
        nn.ReLU(),
        linear(w["head/kernel"], w["head/bias"]),
    )


class Block(nn.Module):
    """One layer of a GPT."""

    def __init__(self, w: Weights, layer: int):
        super().__init__()
        mine = {path: value[layer] for path, value in w.items() if path.startswith("layers/")}
        qkv = mine["layers/attention/qkv"]  # [D, H, 3, K]; here q, k and v come before the heads
        out = mine["layers/attention/out"]  # [H, K, D]
        self.heads, width = qkv.shape[1], len(qkv)
        self.norm_1 = norm(mine["layers/norm_1/scale"], mine["layers/norm_1/bias"])
        self.norm_2 = norm(mine["layers/norm_2/scale"], mine["layers/norm_2/bias"])
        self.qkv = linear(
            qkv.transpose(0, 2, 1, 3).reshape(width, -1),
            mine["layers/attention/qkv_bias"].transpose(1, 0, 2).reshape(-1),
        )
        self.out = linear(out.reshape(-1, width), mine["layers/attention/out_bias"])
        self.into = linear(mine["layers/mlp/in"], mine["layers/mlp/in_bias"])
        self.back = linear(mine["layers/mlp/out"], mine["layers/mlp/out_bias"])

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        q, k, v = (
            y.view(batch, length, self.heads, -1).transpose(1, 2)
            for y in self.qkv(self.norm_1(x)).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.back(F.gelu(self.into(self.norm_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Token ids to logits, by GPT-2's layout."""

    def __init__(self, w: Weights):
        super().__init__()
        self.embedding = nn.Parameter(torch.from_numpy(w["embedding"].copy()))
        self.position = nn.Parameter(torch.from_numpy(w["position"].copy()))
        self.layers = nn.ModuleList(Block(w, n) for n in range(len(w["layers/mlp/in"])))
        self.norm = norm(w["norm/scale"], w["norm/bias"])

    def forward(self, tokens: Any) -> Any:
        x = F.embedding(tokens, self.embedding) + self.position[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.embedding)


MODELS: dict[str, Callable[[Weights], Any]] = {"mlp": mlp, "simple_fcn": simple_fcn, "gpt": GPT}


class Training:
    """A model, its weights at the start, and its batches."""

    def __init__(self, row: str, file: str, optimizer: str, settings: dict[str, Any]):
        with np.load(file) as arrays:
            stored = {name: arrays[name] for name in arrays}
        weights = {n.removeprefix("params/"): x for n, x in stored.items() if "params/" in n}
        inputs, targets = stored["inputs"], stored["targets"].astype(np.int64)
        if row == "mlp":
            inputs = inputs.reshape(*inputs.shape[:2], -1)
        elif row == "simple_fcn":
            inputs = inputs.transpose(0, 1, 4, 2, 3)
        else:
            inputs = inputs.astype(np.int64)
        self.batches = [
            (torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y))
            for x, y in zip(inputs, targets, strict=True)
        ]
        self.build = lambda: MODELS[row](weights)
        self.optimizer, self.settings = getattr(torch.optim, optimizer), settings
        self.begin()

    def begin(self) -> None:
        """Back to the weights that were stored. Weight decay is for matrices alone, as with us."""
        self.model = self.build()
        decay = self.settings.get("weight_decay", 0.0)
        groups = [
            {"params": [p for p in self.model.parameters() if (p.ndim > 1) is matrix]}
            | {"weight_decay": decay * matrix}
            for matrix in (True, False)
        ]
        self.rule = self.optimizer(groups, **self.settings)
        self.feed = itertools.cycle(self.batches)

    def loss(self, inputs: Any, targets: Any) -> Any:
        logits = self.model(inputs)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    def step(self) -> Any:
        self.rule.zero_grad()
        loss = self.loss(*next(self.feed))
        loss.backward()
        self.rule.step()
        return loss

    def look(self, batches: int) -> float:
        """The mean loss of so many batches, which stand for held-out ones."""
        chosen = itertools.islice(itertools.cycle(self.batches), batches)
        with torch.no_grad():
            return sum(self.loss(*batch).item() for batch in chosen) / batches

    def losses(self, steps: int) -> list[float]:
        self.begin()
        return [self.step().item() for _ in range(steps)]

    def seconds(
        self, steps: int, warm: int, looks: tuple[int, ...] = (), batches: int = 0
    ) -> float:
        self.begin()
        for _ in range(warm):
            self.step()
        begun = time.perf_counter()
        for done in range(steps + 1):
            if done in looks:
                self.look(batches)
            if done < steps:
                self.step()
        return time.perf_counter() - begun


def main() -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    training: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        if "row" in question:
            training = Training(**question)
            count = sum(p.numel() for p in training.model.parameters())
            answer: Any = {"parameters": count, "torch": torch.__version__}
        elif "losses" in question:
            answer = training.losses(question["losses"])
        else:
            answer = training.seconds(**question)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
