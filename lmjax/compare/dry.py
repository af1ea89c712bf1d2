"""What a comparison would do, told before it does it."""

import jax
from etils import epath

from lmjax.compare.comparison import Loaded
from lmjax.compare.execution import Strategy
from lmjax.compare.plan import Plan


def tell(plan: Plan, loaded: Loaded, path: epath.Path, strategy: Strategy) -> str:
    return f"{plan.cells} cells {strategy} {path} {jax.devices()}"
