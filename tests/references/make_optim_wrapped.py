"""Writes optim_wrapped.npz: as make_optim.py does, of the optimizers that optax has.

    pip install torch==2.13.0 numpy==2.4.6
    python make_optim_wrapped.py CHECKOUTS optim.npz optim_wrapped.npz

on Python 3.11. CHECKOUTS is as for make_optim.py; where they start and their gradients are those of
optim.npz. Every cast to a narrower type is lifted, so that all runs in float64:
    toy_train.py  the lines of Muon and of its Newton-Schulz alone are run, since the file wants a
                  data set; `X = G.bfloat16()` becomes `X = G`
    lamb.py       has a bound of the norm made of the default dtype, which is set to float64
The other files cast nothing. `signum.py` calls add_ as torch did before 1.5, and is given what it
calls it now. Settings that depend on more than a rate and a decay:
    RAdam         eps=1e-15: torch adds it to another root than optax. `radam_eps` is at 1e-8
    Adan          no_prox=True, foreach=False
    Signum        without decay, which is coupled there
    LAMB          max_grad_norm=inf, which is no clip
    LARS          eps=0, which the paper has not; always_adapt=True
    ADOPT         decouple=True; starts from matrices that have been decayed once, as ours are by
                  the first call, which in theirs does nothing
    Prodigy       d0=.05, so that steps are large enough to compare; d0=.01, d_coef=4,
                  use_bias_correction=True and a rate that falls in `prodigy_corrected`
    D-Adapt       d0=.05, decouple=True; the same again with use_bias_correction=True
    schedule-free a warm-up of 5 steps; `_x` is where it is evaluated
    Moonlight     matrices alone: its AdamW has the rate and the decay of the rest
"""

# pyright: reportMissingImports=false
import argparse
import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_optim import (
    ALL,
    MATRICES,
    STEPS,
    Parameters,
    Source,
    Tree,
    averages,
    checked,
    decayed,
    flat,
    load,
    stacked,
    trajectory,
)

TIMM = ("huggingface/pytorch-image-models", "6e6f3686a7e06bcba37bbd3b7c755f04a516a1e7")
SOURCES = {
    "adan": Source(
        "adan.py",
        "sail-sg/Adan",
        "2c65beaf400775753b155da4082c3819fea689b9",
        "6b71fdfe0278809dd37297b67456155baba098716fbcd38f7285416966eb27e2",
    ),
    "signum": Source(
        "signum.py",
        "jiaweizzhao/Signum_pytorch",
        "f7ceb6a8293e87b8816a9f622a1145086ec8661f",
        "f9589999521a407736dfd85f04bd0be0aff6dd98500be96b8ce967871bfbfae1",
        {
            "add_((1 - momentum),d_p)": ("add_(d_p, alpha=1 - momentum)", 1),
            "p.data.add_(-group['lr'], d_p)": ("p.data.add_(d_p, alpha=-group['lr'])", 1),
        },
    ),
    "lamb": Source(
        "timm/optim/lamb.py",
        *TIMM,
        "208f734e97315b336a824e0af9bb395462a540f69b5289520261e47128eca925",
    ),
    "lars": Source(
        "timm/optim/lars.py",
        *TIMM,
        "3dcee56936e4ea20ede2246d2fe6595ed074746182ba1a3a01e052bf1bc86266",
    ),
    "adopt": Source(
        "src/adopt/adopt.py",
        "iShohei220/adopt",
        "6468572b4b3688a2f056b796b071da540568520e",
        "b951aa5d12a6ff55cf64b86fc50ada4e6ea3469415cde78b79887a41795935ed",
    ),
    "prodigy": Source(
        "prodigyopt/prodigy_reference.py",
        "konstmish/prodigy",
        "3efb213ee8af5a6bf76f28726398433a847b38e9",
        "a52879a895849a2e3000f4412dfcf2d2b4441e0082b2ceb703db81da248573e2",
    ),
    "dadapt": Source(
        "dadaptation/dadapt_adam.py",
        "facebookresearch/dadaptation",
        "c984980213a989ff7cac1e3d68c19a2257bcd571",
        "a427bb764a4ab614d4d76d1c5a795cbff35c3ed488d471de4d3603d573c6ce33",
    ),
    "schedule_free": Source(
        "schedulefree/sgd_schedulefree_reference.py",
        "facebookresearch/schedule_free",
        "70785b53e778d0e872c0bbb75ff4ee54ee10c291",
        "d765e79384b6c642e11cedead2ee131a9515ef20e65574a8efbfa4dbd7f39524",
    ),
}
MOONLIGHT = Source(
    "examples/toy_train.py",
    "MoonshotAI/Moonlight",
    "c2ad5b20c605086526a179d36901bfc41b52b44b",
    "8df3ec6e2f2cd5af8aee59ffb48b2219f394da6f049d95d881c66a6d13d00874",
    {"X = G.bfloat16()": ("X = G", 1)},
)
TAGS = {TIMM[1]: "v0.9.16"}  # by which ours name the commit


def moonlight(checkouts: Path) -> types.SimpleNamespace:
    """Muon of toy_train.py, from its Newton-Schulz to the line before its data."""
    text = checked(checkouts, MOONLIGHT)
    begin, end = text.index("def zeropower_via_newtonschulz5"), text.index("def get_model_and")
    held: dict[str, Any] = {"torch": torch, "math": math}
    exec(compile(text[begin:end], "toy_train.py", "exec"), held)
    return types.SimpleNamespace(**held)


def plain(modules: dict[str, Any]) -> dict[str, Callable[[Parameters], Any]]:
    """Those that need nothing but gradients, by label."""
    optim, adan = torch.optim, modules["adan"].Adan
    lamb, lars = modules["lamb"].Lamb, modules["lars"].Lars
    prodigy, dadapt = modules["prodigy"].ProdigyReference, modules["dadapt"].DAdaptAdam
    corrected = {"d0": 0.05, "use_bias_correction": True}

    def rms(p: Parameters, **changed: Any) -> Any:
        return optim.RMSprop(flat(p, *p), lr=0.01, alpha=0.9, **changed)

    return {
        "radam": lambda p: optim.RAdam(
            decayed(p, 0.1), lr=0.01, eps=1e-15, decoupled_weight_decay=True
        ),
        "radam_eps": lambda p: optim.RAdam(
            decayed(p, 0.1), lr=0.01, eps=1e-8, decoupled_weight_decay=True
        ),
        "rmsprop": rms,
        "rmsprop_momentum": lambda p: rms(p, momentum=0.9),
        "adan": lambda p: adan(decayed(p, 0.1), lr=0.01, no_prox=True, foreach=False),
        "signum": lambda p: modules["signum"].Signum(flat(p, *p), lr=0.01, momentum=0.9),
        "lamb": lambda p: lamb(decayed(p, 0.1), lr=0.01, max_grad_norm=math.inf),
        "lars": lambda p: lars(
            decayed(p, 0.1), lr=0.05, momentum=0.9, trust_coeff=1.0, eps=0.0, always_adapt=True
        ),
        "prodigy": lambda p: prodigy(decayed(p, 0.1), d0=0.05),
        "dadapt": lambda p: dadapt(decayed(p, 0.1), d0=0.05, decouple=True),
        "dadapt_corrected": lambda p: dadapt(decayed(p, 0.1), decouple=True, **corrected),
    }


def falling(optimizer: torch.optim.Optimizer, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 1 - step / STEPS


def schedule_free_paths(module: Any, start: Tree, gradients: Tree) -> dict[str, Tree]:
    """y, which is what the parameters are, and x."""
    path: list[Tree] = []
    held: Parameters = {}

    def make(params: Parameters) -> torch.optim.Optimizer:
        held.update(params)
        return module.SGDScheduleFreeReference(decayed(params, 0.1), lr=0.05, warmup_steps=5)

    def before(optimizer: torch.optim.Optimizer, step: int) -> None:
        if step:
            path.append(averages(optimizer, held))

    y = trajectory(make, start, gradients, before)
    return {"schedule_free_sgd": y, "schedule_free_sgd_x": stacked(path)}


def paths(modules: dict[str, Any], start: Tree, gradients: Tree) -> dict[str, Tree]:
    found = {label: trajectory(make, start, gradients) for label, make in plain(modules).items()}
    undecayed = {n: x * (1 - 0.01 * 0.1) if n != "vector" else x for n, x in start.items()}
    found["adopt"] = trajectory(
        lambda p: modules["adopt"].ADOPT(decayed(p, 0.1), lr=0.01, decouple=True),
        undecayed,
        gradients,
    )
    found["prodigy_corrected"] = trajectory(
        lambda p: modules["prodigy"].ProdigyReference(
            decayed(p, 0.1), d0=0.01, d_coef=4.0, use_bias_correction=True
        ),
        start,
        gradients,
        falling,
    )
    found["d_muon"] = trajectory(
        lambda p: modules["moonlight"].Muon(lr=0.02, wd=0.1, muon_params=flat(p, *p)),
        {name: start[name] for name in MATRICES},
        gradients,
    )
    return found | schedule_free_paths(modules["schedule_free"], start, gradients)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write optim_wrapped.npz.")
    parser.add_argument("checkouts", type=Path, help="the folder with the clones")
    parser.add_argument("input", type=Path, help="optim.npz")
    parser.add_argument("output", type=Path, help="optim_wrapped.npz")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    modules: dict[str, Any] = {
        name: load(arguments.checkouts, source) for name, source in SOURCES.items()
    }
    modules["moonlight"] = moonlight(arguments.checkouts)
    with np.load(arguments.input) as file:
        start = {name: file[f"start/{name}"] for name in ALL}
        gradients = {name: file[f"gradients/{name}"] for name in ALL}
    arrays = {
        f"{label}/{name}": x
        for label, path in paths(modules, start, gradients).items()
        for name, x in path.items()
    }
    arrays["sources"] = np.array(
        [
            f"{source.repository}@{TAGS.get(source.commit, source.commit)}"
            for source in [*SOURCES.values(), MOONLIGHT]
        ]
    )
    np.savez_compressed(arguments.output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
