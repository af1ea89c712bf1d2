"""Writes resnet.npz: weights, running statistics, images and logits of ResNets written elsewhere.

    pip install torch==2.13.0 transformers==5.23.0 numpy==2.4.6
    python make_resnet.py PATH/TO/resnet.py resnet.npz

on Python 3.11, on the CPU, in float32, in evaluation mode. `basic/` and `bottleneck/` are
transformers' ResNetForImageClassification; `bottleneck/v1_logits` are those of the same weights
with the stride on the first 1 x 1 convolution, to show that the comparison tells the two apart.
`padded/` is the net for CIFAR whose shortcuts have no parameters, of the file, not kept here, from
    github.com/akamaster/pytorch_resnet_cifar10 at d5489e8995e81e91ce6b1d69dcc98ad579b0b153
which is checked by its SHA-256.

Everything is drawn, biases and statistics included, so that a wrong or missing one shows; each is
stored under its name there, in float16, which holds it exactly. Images are stored as [batch, row,
column, channel]; their sides are even and odd, since padding differs.
"""

# pyright: reportMissingImports=false
import argparse
import hashlib
import types
from pathlib import Path

import numpy as np
import torch
from transformers import ResNetConfig, ResNetForImageClassification

SHA256 = "1a63f7c761a0bb0323119d33a5e32d7bddb15c217c4a5f22da7c89a5d9fe8036"
SIZES = {"basic": (8, [8, 16], [2, 1]), "bottleneck": (4, [16, 32], [1, 2])}
Arrays = dict[str, np.ndarray]


def theirs(kind: str, stride_first: bool) -> torch.nn.Module:
    embedding, hidden, depths = SIZES[kind]
    config = ResNetConfig(
        embedding_size=embedding,
        hidden_sizes=hidden,
        depths=depths,
        layer_type=kind,
        downsample_in_bottleneck=stride_first,
        num_labels=10,
    )
    return ResNetForImageClassification(config).eval()


def padded(path: Path) -> torch.nn.Module:
    """One block in each of the three stages."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{path.name} has SHA-256 {found}, not {SHA256}")
    module = types.ModuleType(path.stem)
    exec(compile(path.read_text(), path.name, "exec"), module.__dict__)
    return module.ResNet(module.BasicBlock, [1, 1, 1]).eval()


def drawn(rng: np.random.Generator, name: str, shape: torch.Size) -> np.ndarray:
    """Kernels that keep the size of activations; variances that differ."""
    if name.endswith("running_var"):
        x = rng.uniform(0.1, 2, size=tuple(shape))
    elif len(shape) > 1:
        x = rng.normal(size=tuple(shape)) / np.sqrt(np.prod(shape[1:]))
    else:
        x = rng.normal(1 if name.endswith("weight") else 0, 0.2, size=tuple(shape))
    return x.astype(np.float16)


def fill(module: torch.nn.Module, weights: Arrays) -> None:
    state = {name: torch.tensor(x.astype(np.float32)) for name, x in weights.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing


def logits(module: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    output = module(torch.tensor(images.astype(np.float32).transpose(0, 3, 1, 2)))
    return (output if isinstance(output, torch.Tensor) else output.logits).numpy()


def described(rng: np.random.Generator, module: torch.nn.Module, sides: tuple[int, int]) -> Arrays:
    weights = {
        name: drawn(rng, name, x.shape) for name, x in module.state_dict().items() if x.ndim > 0
    }
    fill(module, weights)
    images = rng.normal(size=(3, *sides, 3)).astype(np.float16)
    return {**weights, "images": images, "logits": logits(module, images)}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Write resnet.npz.")
    parser.add_argument("module", type=Path, help="resnet.py of pytorch_resnet_cifar10")
    parser.add_argument("output", type=Path, help="resnet.npz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    parts = {kind: described(rng, theirs(kind, False), (33, 40)) for kind in SIZES}
    parts["padded"] = described(rng, padded(arguments.module), (17, 17))
    first = theirs("bottleneck", True)
    held = parts["bottleneck"]
    fill(first, {name: x for name, x in held.items() if name not in ("images", "logits")})
    held["v1_logits"] = logits(first, held["images"])
    arrays = {f"{kind}/{name}": x for kind, part in parts.items() for name, x in part.items()}
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
