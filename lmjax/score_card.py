"""A plan as a person reads it, and as a program does."""

import math
from collections import defaultdict
from typing import Any, NamedTuple

from lmjax.ahead import Compiled
from lmjax.collectives import seconds
from lmjax.console import aligned, human
from lmjax.plan import PRODUCTS, Plan, Prediction
from lmjax.state import parameter_count

STATIC = "static, not measured"
USEFUL = {"none": 0.97, "dots": 0.75, "full": 0.75}  # least share of useful FLOP, by remat
FILLED = (0.70, 0.92)  # of a chip's memory, at its peak
BESIDE = 0.9  # least share of collective bytes that are asynchronous
LINKS = 0.7  # most time of the links, over that of the products


class Row(NamedTuple):
    """One line of the score card."""

    what: str
    found: str
    wanted: str = ""
    good: bool | None = None  # None = there is nothing to judge

    @property
    def cells(self) -> list[str]:
        verdict = {True: "ok", False: "missed", None: ""}[self.good]
        return [self.what, self.found, self.wanted, verdict]


def to_text(p: Plan) -> str:
    """For a reader."""
    d = p.description
    shares = " x ".join(f"{name} {size}" for name, size in d.mesh.shape.items())
    blocks = [
        f"{d.experiment.name} on {p.topology}: {p.topology.chips:,} chips, {shares}",
        fits_line(p),
    ]
    if p.compiled is None:
        blocks.append(
            f"ANALYTIC ONLY: nothing was compiled for {p.topology.chip.kind}, so neither kernels, "
            "collectives nor a speed are known; lmjax compiles for v5e, v5p and v6e"
        )
    rows = [Row("", "found", "wanted"), *model_rows(p), *program_rows(p)]
    blocks += [aligned([row.cells for row in rows]), collective_table(p), budget(p)]
    return "\n\n".join(block for block in blocks if block)


def fits_line(p: Plan) -> str:
    """Whether it fits, and by what that is known."""
    memory = p.topology.chip.memory
    if p.compiled is not None and p.compiled.program is None:
        return (
            f"DOES NOT FIT: a chip has {human(memory)}, and the program needs "
            f"{human(p.compiled.needed)}; cut the state over more chips (--parallel.fsdp), compute "
            "more again (--task.model.remat), or lower batch_size or raise accumulation"
        )
    needed = peak(p)
    if not memory:
        return f"about {human(needed)} on each chip, whose memory is not known"
    verdict = "FITS" if needed <= memory else "DOES NOT FIT"
    by = "by the compiler" if p.compiled else "about, from shapes alone"
    return f"{verdict}: {human(needed)} of {human(memory)} on each chip ({by})"


def peak(p: Plan) -> int:
    """Bytes on each chip at once: as compiled, or the sum of what is known from shapes."""
    if p.compiled is not None:
        return p.compiled.needed
    return sum(pair.each for pair in p.description.memory.values())


def model_rows(p: Plan) -> list[Row]:
    """What follows from shapes."""
    d, unit = p.description, p.description.experiment.task.unit
    rows = [Row("parameters", f"{parameter_count(d.state.params):,}")]
    rows += [
        Row(f"FLOP of training on one of the {unit} ({name})", human(round(cost), ""))
        for name, cost in d.costs.items()
    ]
    rows.append(Row(f"{unit} in a step, on each chip", f"{p.units // p.topology.chips:,}"))
    rows.append(Row("model FLOP of a step, on each chip", human(round(p.useful), "")))
    if p.compiled is None:
        rows += [Row(f"{name}, bytes on each chip", human(b.each)) for name, b in d.memory.items()]
        if p.topology.chip.peak:
            rows.append(Row("time of that at the peak", _time(p.useful / p.topology.chip.peak)))
    return rows


def program_rows(p: Plan) -> list[Row]:
    """What the compiled program shows."""
    c, chip = p.compiled, p.topology.chip
    t = p.prediction
    if c is None or c.program is None or t is None:
        return []
    filled, aliased = c.needed / chip.memory, c.program.aliased
    wanted = f"{FILLED[0]:.0%} to {FILLED[1]:.0%}"
    rows = [
        Row("peak memory", f"{filled:.1%}", wanted, FILLED[0] <= filled <= FILLED[1]),
        Row(
            "bytes that are aliased, of the state's",
            f"{human(aliased)} of {human(c.state)}",
            "all",
            aliased == c.state,
        ),
    ]
    rows += [Row(topic, told) for topic, told in sorted(c.notes.items())]
    least = USEFUL[getattr(p.description.experiment.task.model, "remat", "none")]
    useful = p.useful / c.flops
    rows += [
        Row("model FLOP / compiled FLOP", f"{useful:.3f}", f">= {least}", useful >= least),
        Row("compute, at the peak", _time(t.compute)),
        Row(
            "HBM",
            f"{_time(t.memory)} ({human(c.program.traffic)})",
            "<= compute",
            t.memory <= t.compute,
        ),
        *_link_rows(p, c, t),
        *_kernel_rows(p, c),
        *_predicted_rows(p, t),
        Row("compiled in", f"{c.seconds:.0f} s"),
    ]
    return rows


def _link_rows(p: Plan, c: Compiled, t: Prediction) -> list[Row]:
    links, total = t.apart + t.waiting, sum(one.total for one in c.collectives)
    share = sum(one.total for one in c.collectives if one.apart) / total if total else 1.0
    largest = max((one.bytes for one in c.collectives if one.kind == "all-gather"), default=0)
    whole = 2 * parameter_count(p.description.state.params) / p.description.mesh.shape["tensor"]
    return [
        Row(
            "links",
            f"{_time(links)} ({human(total)})",
            f"<= {LINKS} compute",
            links <= LINKS * t.compute,
        ),
        Row("of which nothing runs beside", _time(t.waiting)),
        Row("asynchronous bytes", f"{share:.0%}", f">= {BESIDE:.0%}", share >= BESIDE),
        Row("largest gather", human(largest), "no whole model", largest < whole / 2),
    ]


def _kernel_rows(p: Plan, c: Compiled) -> list[Row]:
    assert c.program is not None
    found = c.program.kernels()
    short = {name: name.removesuffix("_residuals").removesuffix("_no") for name in found}
    told = ", ".join(f"{short[name]} {times}" for name, times in found.items()) or "none"
    phases = {phase for phase in ("fwd", "dkv", "dq") if any(phase in name for name in found)}
    attends = "full" in p.description.costs
    rows = [
        Row(
            "kernels",
            told,
            "forward and backward" if attends else "",
            len(phases) == 3 if attends else None,
        )
    ]
    if attends:
        held = ", ".join(p.logits)
        rows.append(Row("float32 logits of all tokens", held or "none", "none", not held))
        lanes, model = p.topology.chip.lanes, p.description.experiment.task.model
        odd = [f"{name} {size}" for name, size in _sizes(model).items() if size % lanes]
        rows.append(Row("widths", ", ".join(odd) or "all", f"multiples of {lanes}", not odd))
    return rows


def _sizes(model: Any) -> dict[str, int]:
    """Sides of the matrices of a transformer."""
    return {name: getattr(model, name) for name in ("width", "hidden", "table_rows")}


def _predicted_rows(p: Plan, t: Prediction) -> list[Row]:
    unit, chips = p.description.experiment.task.unit, p.topology.chips
    rows = [
        Row(f"predicted {unit}/s ({STATIC})", f"{t.units / t.seconds:,.0f}"),
        Row(f"on each chip ({STATIC})", f"{t.units / t.seconds / chips:,.0f}"),
    ]
    rows += [
        Row(f"predicted MFU, {name} ({STATIC})", f"{mfu:.1%}, {turn:.1%} if communication waits")
        for name, (mfu, turn) in utilization(p, t).items()
    ]
    return rows


def utilization(p: Plan, t: Prediction) -> dict[str, tuple[float, float]]:
    """Convention -> MFU that is predicted, and where communication that is not hidden waits."""
    most = p.topology.chip.peak * p.topology.chips
    return {
        name: (cost * t.units / t.seconds / most, cost * t.units / t.in_turn / most)
        for name, cost in p.description.costs.items()
    }


def by_kind(p: Plan) -> dict[str, dict[str, float]]:
    """Kind of collective -> how many, their bytes, seconds of links and asynchronous share."""
    assert p.compiled is not None
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for one in p.compiled.collectives:
        row = found[one.kind]
        row["number"] += one.times
        row["bytes"] += one.total
        row["seconds"] += seconds(one, p.topology, p.compiled.devices)
        row["asynchronous"] += one.total if one.apart else 0
    for row in found.values():
        row["asynchronous"] = row["asynchronous"] / row["bytes"] if row["bytes"] else 1.0
    return {kind: dict(row) for kind, row in sorted(found.items(), key=lambda x: -x[1]["bytes"])}


def collective_table(p: Plan) -> str:
    """A row for each kind of collective, on each chip."""
    t = p.prediction
    if t is None:
        return ""
    rows = [["collective", "number", "bytes", "time of links", "of the step", "asynchronous"]]
    for kind, row in by_kind(p).items():
        share, beside = row["seconds"] / t.seconds, row["asynchronous"]
        cells = [f"{row['number']:,.0f}", human(round(row["bytes"])), _time(row["seconds"])]
        rows.append([kind, *cells, f"{share:.1%}", f"{beside:.0%}"])
    return aligned(rows) if len(rows) > 1 else "no collectives"


def budget(p: Plan) -> str:
    """Days, chip-hours and cost of the tokens."""
    unit = p.description.experiment.task.unit
    told = f"{human(round(p.tokens), '')} {unit}"
    days = days_of(p)
    if days is None:
        return ""
    hours = 24 * days * p.topology.chips
    cost = "" if p.price is None else f", {p.price * hours:,.0f} at {p.price:g} a chip-hour"
    how = STATIC if p.prediction else "at 100 % of the peak, which no program reaches"
    return f"{told}: {days:,.1f} days, {hours:,.0f} chip-hours{cost} ({how})"


def days_of(p: Plan) -> float | None:
    """Days for the tokens; without a prediction, the least they can take; None = not known."""
    if p.prediction is not None:
        step = p.prediction.seconds
    elif p.topology.chip.peak:
        step = p.useful / p.topology.chip.peak
    else:
        return None
    return p.tokens / p.units * step / 86400


def to_json(p: Plan) -> dict[str, Any]:
    """For a program: bytes, FLOP and seconds of one chip and one step."""
    d, t, c = p.description, p.prediction, p.compiled
    days = days_of(p)
    hours = None if days is None else 24 * days * p.topology.chips
    return {
        "experiment": d.experiment.name,
        "topology": {"name": p.topology.name, "slices": p.topology.slices},
        "chips": p.topology.chips,
        "mesh": dict(d.mesh.shape),
        "analytic_only": c is None,
        "fits": fits_line(p).startswith("FITS") if p.topology.chip.memory else None,
        "parameters": parameter_count(d.state.params),
        "flops": {"unit": d.experiment.task.unit, "length": d.length, **d.costs},
        "memory": {
            "peak": peak(p),
            "chip": p.topology.chip.memory or None,
            **({} if c is None else {"state": c.state}),
        },
        "model_flops": p.useful,
        "program": None
        if t is None or c is None or c.program is None
        else {
            "flops": c.flops,
            "aliased_bytes": c.program.aliased,
            "hbm_bytes": c.program.traffic,
            "kernels": c.program.kernels(),
            "float32_logits": p.logits,
            "collectives": by_kind(p),
            "compile_seconds": c.seconds,
        },
        "predicted": None
        if t is None
        else {
            "note": STATIC,
            "products_reach": PRODUCTS,
            **{
                name: getattr(t, name)
                for name in ("compute", "memory", "apart", "waiting", "seconds", "in_turn")
            },
            "units_per_second": t.units / t.seconds,
            "mfu": {name: pair[0] for name, pair in utilization(p, t).items()},
            "mfu_in_turn": {name: pair[1] for name, pair in utilization(p, t).items()},
        },
        "budget": {
            "units": p.tokens,
            "days": days,
            "chip_hours": hours,
            "cost": None if p.price is None or hours is None else p.price * hours,
        },
        "score_card": [row._asdict() for row in (*model_rows(p), *program_rows(p))],
    }


def _time(seconds: float) -> str:
    """Milliseconds, in three digits."""
    if not seconds:
        return "0 ms"
    digits = max(0, 2 - math.floor(math.log10(1e3 * seconds)))
    return f"{1e3 * seconds:,.{digits}f} ms"
