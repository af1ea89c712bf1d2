"""PyTorch's side of gpt_gpu.py: the same GPT as one writes it for speed, in a process of its own.

torch.compile of the model with its loss, scaled_dot_product_attention, bfloat16 autocast over
float32 parameters, fused AdamW, TF32 where float32 is multiplied, gradients set to None. As in
nanoGPT, the softmax runs over the padded rows of the table too, which spares a pass over the logits
(at most 0.001 nats at the start). Between turns its memory can be given back to the device.

It answers lines of JSON (gpt_sweep.py, `serve`), each with a field `do`:
    describe                              versions, the device and its memory
    load    files, tokens, settings, compiled   a model with initial weights, and batches
    try     point, losses, seconds        rate and first losses, or why the point cannot run
    prepare point                         compiles a point, for what follows
    block   seconds, release              seconds of a token, from the start weights on
    release                               bytes that are still held
"""

import gc
import itertools
import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.gpt_sweep import serve

BATCHES = 20  # different ones, in turn
WARM = 5  # steps of a block that are not counted
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"

Weights = dict[str, Any]  # ours by path: kernels are [inputs, outputs]; memory-mapped


def linear(kernel: Any, bias: Any) -> Any:
    """A linear map from a kernel [inputs, outputs], without an initialization of its own."""
    module = nn.utils.skip_init(nn.Linear, *kernel.shape)
    return put(module, np.ascontiguousarray(kernel.T), bias)


def norm(scale: Any, bias: Any) -> Any:
    """A layer norm."""
    return put(nn.LayerNorm(len(scale), eps=1e-5), scale, bias)


def put(module: Any, weight: Any, bias: Any) -> Any:
    """The module with these weights."""
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.array(weight)))
        module.bias.copy_(torch.from_numpy(np.array(bias)))
    return module


class Block(nn.Module):
    """One layer."""

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
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return x + self.back(F.gelu(self.into(self.norm_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Token ids and targets to their mean loss, by GPT-2's layout."""

    def __init__(self, w: Weights):
        super().__init__()
        self.embedding = nn.Parameter(torch.from_numpy(np.array(w["embedding"])))
        self.position = nn.Parameter(torch.from_numpy(np.array(w["position"])))
        self.layers = nn.ModuleList(Block(w, n) for n in range(len(w["layers/mlp/in"])))
        self.norm = norm(w["norm/scale"], w["norm/bias"])

    def forward(self, tokens: Any, targets: Any) -> Any:
        x = F.embedding(tokens, self.embedding) + self.position[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.norm(x), self.embedding)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def choose_attention(name: str) -> None:
    """Let torch choose its kernel ("auto"), or leave it cuDNN's alone."""
    alone = name == "cudnn"
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.backends.cuda.enable_flash_sdp(not alone)
    torch.backends.cuda.enable_mem_efficient_sdp(not alone)
    torch.backends.cuda.enable_math_sdp(not alone)


class Training:
    """A model, its weights at the start (on the host), its optimizer and its batches."""

    def __init__(self, files: dict[str, str], tokens: str, settings: dict[str, Any]):
        weights = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
        self.model = GPT(weights)
        self.start = {name: p.data for name, p in self.model.named_parameters()}
        self.tokens = torch.from_numpy(np.load(tokens).astype(np.int64))
        self.settings, self.attention = settings, "auto"
        self.call: Any = self.model
        self.batch = 0
        self.rule: Any = None
        self.feed: Any = None

    def compile(self) -> None:
        self.call = torch.compile(self.model, dynamic=False)

    def point(self, batch: int, attention: str) -> None:
        """From now on in batches of so many rows: row p of batch t is row t B + p of the tokens."""
        if attention != self.attention:
            choose_attention(attention)
            torch.compiler.reset()  # which kernel is called stands in the compiled code
            self.attention = attention
        if batch != self.batch:
            rows = torch.arange(BATCHES * batch) % len(self.tokens)
            cut = self.tokens[rows].view(BATCHES, batch, -1).to(DEVICE)
            inputs, targets = cut[..., :-1].contiguous(), cut[..., 1:].contiguous()
            self.batches = list(zip(inputs, targets, strict=True))
            self.batch = batch

    def begin(self) -> None:
        """To the weights that were stored. Weight decay is for matrices alone, as with us."""
        self.release()
        for name, p in self.model.named_parameters():
            p.data = self.start[name].to(DEVICE, copy=True)
        decay = self.settings["weight_decay"]
        groups = [
            {"params": [p for p in self.model.parameters() if (p.ndim > 1) is matrix]}
            | {"weight_decay": decay * matrix}
            for matrix in (True, False)
        ]
        self.rule = torch.optim.AdamW(groups, **self.settings, fused=True)
        self.feed = itertools.cycle(self.batches)

    def release(self) -> int:
        """Give the device's memory back, but for the batches; bytes that are still held."""
        self.rule = None
        for name, p in self.model.named_parameters():
            p.grad = None
            p.data = self.start[name]
        gc.collect()
        if not CUDA:
            return 0
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    def step(self) -> Any:
        tokens, targets = next(self.feed)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = self.call(tokens, targets)
        loss.backward()
        self.rule.step()
        self.rule.zero_grad(set_to_none=True)
        return loss.detach()

    def timed(self, seconds: float) -> tuple[float, int]:
        """(seconds of a step, steps that were timed), of as many as take about so long."""
        taken = self.run(WARM)[0]
        steps = max(WARM, round(seconds * WARM / taken))
        return self.run(steps)[0] / steps, steps

    def run(self, steps: int) -> tuple[float, list[float]]:
        """Seconds of the steps, and their losses, which are read after the last."""
        wait()
        begun = time.perf_counter()
        losses = [self.step() for _ in range(steps)]
        wait()
        return time.perf_counter() - begun, torch.stack(losses).tolist()

    @property
    def each(self) -> int:
        """Tokens of a step."""
        return self.batch * (self.tokens.shape[1] - 1)


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def peak_bytes() -> dict[str, int]:
    """Since it was last reset: what tensors took, and what the allocator held."""
    if not CUDA:
        return {}
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }


class Peer:
    """What was loaded, from question to question."""

    def __init__(self) -> None:
        self.training: Any = None

    def load(
        self, files: dict[str, str], tokens: str, settings: dict[str, Any], compiled: bool
    ) -> dict[str, Any]:
        if self.training is not None:
            self.training.release()
            torch.compiler.reset()
        self.training = Training(files, tokens, settings)
        if compiled:
            self.training.compile()
        return {"parameters": sum(p.numel() for p in self.training.start.values())}

    def attempt(self, point: dict[str, Any], losses: int, seconds: float) -> dict[str, Any]:
        """The rate of a point, or why it cannot run."""
        try:
            return self.measure(point, losses, seconds)
        except torch.OutOfMemoryError as error:
            return {"refused": f"out of memory: {str(error).splitlines()[0]}"}
        finally:
            self.training.release()

    def measure(self, point: dict[str, Any], losses: int, seconds: float) -> dict[str, Any]:
        begun = time.perf_counter()
        self.prepare(point)
        took = time.perf_counter() - begun
        self.training.begin()
        found = self.training.run(losses)[1]
        taken, steps = self.training.timed(seconds)
        return {
            "tokens_per_second": self.training.each / taken,
            "step_ms": 1e3 * taken,
            "steps": steps,
            "compile_s": took,
            "losses": found,
            "peak_bytes": peak_bytes(),
        }

    def prepare(self, point: dict[str, Any]) -> dict[str, Any]:
        """A step of the point is compiled by making one."""
        self.training.point(**point)
        self.training.begin()
        self.training.run(1)
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        return {}

    def block(self, seconds: float, release: bool) -> dict[str, Any]:
        self.training.begin()
        taken, steps = self.training.timed(seconds)
        peak = peak_bytes()
        if release:
            self.training.release()
        return {"seconds_per_token": taken / self.training.each, "steps": steps, "peak_bytes": peak}

    def release(self) -> dict[str, int]:
        return {"held_bytes": self.training.release()}


def describe() -> dict[str, Any]:
    """Versions, the device and its memory."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if CUDA else None,
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "memory_bytes": torch.cuda.mem_get_info()[1] if CUDA else None,
    }


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")  # TF32
    if not CUDA:
        torch.set_num_threads(1)  # only toys run here, whose threads would wait for each other
    peer = Peer()
    serve(
        {
            "describe": describe,
            "load": peer.load,
            "try": peer.attempt,
            "prepare": peer.prepare,
            "block": peer.block,
            "release": peer.release,
        }
    )
