"""The authors' optimizers in PyTorch, by our labels, for torch_optim.py.

Each is made as its README says, with its defaults: what it does at every step, not its rate, is
what is timed. Files are read from clones (CHECKOUTS/NAME, as tests/references/make_optim.py has
them), none is kept here. Matrix methods get the hidden matrices alone, as ours do, with AdamW of
torch.optim, fused, for the rest, unless theirs brings its own. Not here: kron, whose reference is
in JAX, and whose sister in PyTorch (kron_torch@884427c) took more than 23 GB on these leaves.
"""

# pyright: reportMissingImports=false
import functools
import importlib
import sys
import tempfile
from pathlib import Path

import torch

EVERY = 10  # steps between two estimates of Sophia's curvature


class Both:
    """Two optimizers, one after the other."""

    def __init__(self, first, second):
        self._both = (first, second)

    def step(self):
        for one in self._both:
            one.step()


class Code:
    """Clones of the authors' repositories."""

    def __init__(self, checkouts):
        self._checkouts = Path(checkouts)
        self._folder = tempfile.TemporaryDirectory()  # of what is imported
        sys.path.insert(0, self._folder.name)

    def file(self, path, changed=(), begin="", end=""):
        """The module that is in a file; a part of it from `begin` to before `end`."""
        text = (self._checkouts / path).read_text()
        for old, new in changed:
            if old not in text:
                raise ValueError(f"{path} does not hold {old!r}")
            text = text.replace(old, new)
        if begin:
            text = "import math\nimport torch\n" + text[text.index(begin) : text.index(end)]
        (Path(self._folder.name) / Path(path).name).write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(Path(path).stem)

    def package(self, name, folder):
        """A module of a package, whose folder lies in a clone."""
        sys.path.insert(0, str(self._checkouts / folder))
        return importlib.import_module(name)


def adamw(params):
    return torch.optim.AdamW(params, fused=True)


def muon(kind, matrices, rest, **more):
    moved = {"params": matrices, "use_muon": True, **more}
    return kind([moved, {"params": rest, "use_muon": False}])


def scion(kind, matrices, rest):
    """With the norms of its example: the spectral one for matrices, and one for vectors."""
    groups = [{"params": matrices, "norm": "Spectral", "norm_kwargs": {}, "scale": 50}]
    return Both(kind(groups, lr=2**-12, momentum=0.1), adamw(rest))


def shampoo(code, matrices, rest):
    made = code.package("distributed_shampoo", "optimizers")
    kinds = code.package("distributed_shampoo.shampoo_types", "optimizers")
    adam = kinds.AdamPreconditionerConfig(beta2=0.999, epsilon=1e-8)
    distributed = kinds.SingleDeviceDistributedConfig(target_parameter_dimensionality=2)
    shampoo = made.DistributedShampoo(
        matrices, precondition_frequency=10, grafting_config=adam, distributed_config=distributed
    )
    return Both(shampoo, adamw(rest))


class SophiaG:
    """With its estimate every tenth step, from the gradients that are there."""

    def __init__(self, code, params):
        self._inner, self._steps = code.file("Sophia/sophia.py").SophiaG(params), 0

    def step(self):
        if self._steps % EVERY == 0:
            self._inner.update_hessian()
        self._inner.step(bs=4096)
        self._steps += 1


def training(optimizer):
    optimizer.train()
    return optimizer


def adam_mini(code, matrices, rest):
    named = [(f"mlp.{n}", p) for n, p in enumerate(matrices)]
    named += [(f"{'embed' if p.ndim > 1 else 'bias'}.{n}", p) for n, p in enumerate(rest)]
    kind = code.file("Adam-mini/adam_mini/adam_mini.py").Adam_mini
    return kind(named, lr=1e-3, dim=256, n_heads=4, verbose=False)


SIGNUM = (  # which calls add_ as torch did before 1.5
    ("add_((1 - momentum),d_p)", "add_(d_p, alpha=1 - momentum)"),
    ("p.data.add_(-group['lr'], d_p)", "p.data.add_(d_p, alpha=-group['lr'])"),
)
NORMUON = (("X = G.bfloat16()", "X = G"),)  # which its lerp refuses beside float32 on a CPU
MOONLIGHT = ("def zeropower_via_newtonschulz5", "def get_model_and")
CODE = {  # label -> what makes it of clones, matrices and other parameters
    "adam-mini": adam_mini,
    "adan": lambda c, m, r: c.file("Adan/adan.py").Adan(m + r),
    "ademamix": lambda c, m, r: c.file("ml-ademamix/pytorch/ademamix.py").AdEMAMix(m + r),
    "adopt": lambda c, m, r: c.file("adopt/src/adopt/adopt.py").ADOPT(m + r, decouple=True),
    "d-muon": lambda c, m, r: c.file("Moonlight/examples/toy_train.py", (), *MOONLIGHT).Muon(
        muon_params=m, adamw_params=r
    ),
    "dadapt-adamw": lambda c, m, r: c.file("dadaptation/dadaptation/dadapt_adam.py").DAdaptAdam(
        m + r, decouple=True
    ),
    "dion2": lambda c, m, r: Both(c.package("dion", "dion").Dion2(m), adamw(r)),
    "lamb": lambda c, m, r: c.file("pytorch-image-models/timm/optim/lamb.py").Lamb(m + r),
    "lars": lambda c, m, r: c.file("pytorch-image-models/timm/optim/lars.py").Lars(
        m + r, momentum=0.9
    ),
    "lion": lambda c, m, r: c.file("automl/lion/lion_pytorch.py").Lion(m + r),
    "mars": lambda c, m, r: c.file("MARS/MARS/optimizers/mars.py").MARS(m + r),
    "mars-lion": lambda c, m, r: c.file("MARS/MARS/optimizers/mars.py").MARS(
        m + r, mars_type="mars-lion"
    ),
    "muon": lambda c, m, r: muon(c.file("Muon/muon.py").SingleDeviceMuonWithAuxAdam, m, r),
    "normuon": lambda c, m, r: muon(
        c.file("NorMuon/normuon.py", NORMUON).SingleDeviceNorMuonWithAuxAdam, m, r, beta2=0.95
    ),
    "prodigy": lambda c, m, r: c.file("prodigy/prodigyopt/prodigy.py").Prodigy(m + r),
    "schedule-free-adamw": lambda c, m, r: training(
        c.file("schedule_free/schedulefree/adamw_schedulefree.py").AdamWScheduleFree(m + r)
    ),
    "schedule-free-sgd": lambda c, m, r: training(
        c.file("schedule_free/schedulefree/sgd_schedulefree.py").SGDScheduleFree(m + r, lr=0.1)
    ),
    "scion": lambda c, m, r: scion(c.file("scion/scion.py").Scion, m, r),
    "scion-light": lambda c, m, r: scion(c.file("scion/scion.py").ScionLight, m, r),
    "shampoo": shampoo,
    "signum": lambda c, m, r: c.file("Signum_pytorch/signum.py", SIGNUM).Signum(
        m + r, lr=1e-3, momentum=0.9
    ),
    "soap": lambda c, m, r: Both(c.file("SOAP/soap.py").SOAP(m), adamw(r)),
    "sophia-g": lambda c, m, r: SophiaG(c, m + r),
}
TORCH = {  # those that torch.optim has
    "adafactor": torch.optim.Adafactor,
    "adamw": adamw,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9, fused=True),
    "nadamw": functools.partial(torch.optim.NAdam, decoupled_weight_decay=True),
    "nesterov": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
    "radam": functools.partial(torch.optim.RAdam, decoupled_weight_decay=True),
    "rmsprop": torch.optim.RMSprop,
    "sgd": functools.partial(torch.optim.SGD, fused=True),
}


def make(label, matrices, rest, checkouts):
    """The optimizer of that label, or None where there is no such code."""
    if label in TORCH:
        return TORCH[label](matrices + rest)
    if label in CODE and checkouts:
        return CODE[label](Code(checkouts), matrices, rest)
    return None
