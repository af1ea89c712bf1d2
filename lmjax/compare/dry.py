"""What a comparison would do, told before it does it; writes nothing."""

from collections.abc import Mapping

from etils import epath

from lmjax.compare import fairness
from lmjax.compare.execution import Strategy
from lmjax.compare.plan import Plan
from lmjax.compare.spaces import named
from lmjax.console import aligned, clock, human
from lmjax.data import Batch
from lmjax.describe import fitting_state, memory
from lmjax.mesh import shapes_only_mesh


def tell(
    plan: Plan,
    batches: Mapping[str, Batch],
    path: epath.Path,
    strategy: Strategy,
    seconds: float | None,
) -> str:
    """The cells, and estimates of time and memory.

    `seconds` are what all updates would take; None where the directory holds this comparison.
    """
    rows = [("variant", "first rates", "trials", "report seeds", "updates", "memory of a step")]
    most = 0
    for label, _, experiment in plan.variants:
        mesh = shapes_only_mesh(experiment.parallel)
        _, state = fitting_state(experiment, batches[label], mesh)
        used = sum(x.whole for x in memory(experiment, state, batches[label], mesh).values())
        most = max(most, used)
        rates = " ".join(map(named, plan.windows[label]))
        mark = " (baseline)" if label == plan.baseline else ""
        rows.append(
            (
                f"{label}{mark}",
                rates,
                str(plan.trials),
                str(len(plan.report_seeds)),
                f"{experiment.steps:,}",
                human(used),
            )
        )
    tuned = len(plan.tune_seeds)
    held = most * strategy.workers * strategy.lanes
    seeds = ", ".join(map(str, plan.tune_seeds))
    lines = [
        aligned(rows),
        f"{plan.cells} cells: {len(plan.variants)} variants x ({plan.trials} trials on "
        f"{tuned} tuning seed{'s' * (tuned > 1)} + {len(plan.report_seeds)} report seeds)",
        f"tuned on seed {seeds}; reported on {', '.join(map(str, plan.report_seeds))}",
        f"settings beside the rate: {fairness.settings(plan)['proof']}",
        f"compared by held-out {plan.metric.name}, the {plan.metric.better} the better",
        f"computed by: {strategy.name}, up to {strategy.updates} updates a call, "
        f"{strategy.workers} at once; about {human(held)} of memory",
    ]
    if seconds is not None:
        lines.append(
            f"time: about {clock(seconds)} of updates, by the pace of {plan.baseline}; compiling "
            f"{len(plan.variants)} programs and evaluating come on top"
        )
    lines.append(f"directory: {path}; nothing has been written")
    return "\n".join(lines)
