"""What gpt_gpu.py prints of its numbers, for a reader."""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.turns import doubt

Result = dict[str, Any]


def lines(results: Result) -> Iterator[str]:
    """The whole report. What was not measured is left out, and told under `cut` or `failed`."""
    if "device" in results:
        told = results["device"]
        yield f"{told['device']}, jax {told['jax']}, flax {told['flax']}, optax {told['optax']}"
    parts = results["parts"]
    if "ceilings" in parts:
        yield from ceilings(parts["ceilings"])
    for flags, found in parts["embedding"].items() if "embedding" in parts else ():
        yield from embedding(flags, found)
    if "attention" in parts:
        yield from attention(parts["attention"])
    if "bits" in parts:
        yield from bits(parts["bits"])
    for name, row in results["rows"].items():
        yield f"== {name} =="
        yield from of_row(row)
    yield from (f"cut: {what}" for what in results["cut"])
    yield from (f"FAILED: {name}: {why}" for name, why in results["failed"].items())
    yield from (f"WRONG: {what}" for what in results["wrong"])
    yield f"took {results['took_s']:.0f} of {results['seconds']:.0f} s"


def ceilings(told: Result) -> Iterator[str]:
    yield (
        f"ceilings: {told['square_flops_per_second'] / 1e12:.1f} TFLOP/s (bfloat16 product of "
        f"{told['square']} squared), {told['copy_bytes_per_second'] / 1e9:.0f} GB/s (copy)"
    )


def embedding(flags: str, told: Result) -> Iterator[str]:
    ways = {name: one for name, one in told.items() if isinstance(one, dict)}
    yield f"gradient of a look-up, {told['ids']} ids, {told['different_ids']} different ({flags}):"
    for name, one in ways.items():
        yield f"  {name:18s}{one['ms']:9.3f} ms   error {one['error']:.1e}"


def attention(told: Result) -> Iterator[str]:
    for length, found in told.items():
        for kernel in ("cudnn", "xla"):
            one = found[kernel]
            if "refused" in one:
                yield f"attention T={length} {kernel}: {one['refused']}"
                continue
            apart = max(one[name]["relative"] for name in ("out", "dq", "dk", "dv"))
            yield (
                f"attention T={length} batch {found['batch']} {kernel}: {one['ms']:.3f} ms forward "
                f"and backward, at most {apart:.1e} from float32"
            )


def bits(told: Result) -> Iterator[str]:
    for name, one in told.items():
        if "refused" in one:
            yield f"bits, {name}: {one['refused']}"
            continue
        yield (
            f"bits of the state after {one['steps']} steps, {name}: "
            f"{'equal' if one['same_process'] else 'DIFFERENT'} in one process, "
            f"{'equal' if one['fresh_process'] else 'DIFFERENT'} in two; "
            f"{one['step_ms']:.2f} ms a step, {one['cost']:.2f} times the default"
        )


def of_row(row: Result) -> Iterator[str]:
    """Both sides of one comparison."""
    for side in ("ours", "peer"):
        for one in row[side]["tried"] if side in row else ():
            yield f"  {side}: {tried(one)}"
    if "losses" in row:
        told = row["losses"]
        yield (
            f"losses of the first {told['steps']} steps, batch {told['batch']}: ours "
            f"{told['ours'][0]:.4f} to {told['ours'][1]:.4f}, the peer's {told['peer'][0]:.4f} to "
            f"{told['peer'][1]:.4f}; at most {told['difference']:.4f} apart "
            f"(allowed {told['tolerance']})"
        )
    if "turns" in row:
        yield from turns(row["turns"])
    if "roofline" in row:
        yield from roofline(row["roofline"])
    yield from (f"  {line}" for line in row["profile"][:12]) if "profile" in row else ()


def tried(one: Result) -> str:
    point = " ".join(f"{name}={value}" for name, value in one["point"].items())
    if "refused" in one:
        return f"{point}: {one['refused'].strip().splitlines()[-1][:120]}"
    return (
        f"{point}: {one['tokens_per_second']:,.0f} tokens/s, {one['step_ms']:.2f} ms a step "
        f"(compiled in {one['compile_s']:.0f} s)"
    )


def turns(told: Result) -> Iterator[str]:
    for side in ("ours", "peer"):
        if side not in told:
            continue
        one = told[side]
        rate, used = one["tokens_per_second"], one["peak_bytes"]
        shares = ", ".join(f"{share:.1%} {name}" for name, share in one["mfu"].items())
        yield (
            f"{side}: {rate['median']:,.0f} tokens/s ({rate['low']:,.0f} to {rate['high']:,.0f}), "
            f"MFU {shares or 'unknown'}, {'?' if used is None else f'{used / 1e9:.1f}'} GB at most"
        )
    if "ratio" in told:
        ratio, noise = told["ratio"], told["noise"]
        yield (
            f"ratio {ratio['median']:.3f} (quartiles {ratio['low']:.3f} to {ratio['high']:.3f}, "
            f"{told['pairs']} pairs; expected {told['expected']}; peer beside peer "
            f"{noise['median']:.3f}){doubt(noise)}"
        )


def roofline(told: Result) -> Iterator[str]:
    yield (
        f"roofline: {told['sum_ms']:.2f} ms of {told['measured_ms']:.2f} ms; products "
        f"{told['products_ms']:.2f} ms at their own shapes, {told['products_at_square_ms']:.2f} ms "
        f"at the large square's rate; memory {told['memory_ms']:.2f} ms; "
        f"{told['unexplained_ms']:.2f} ms unexplained"
    )
    for name, ms in told["parts_ms"].items():
        yield f"  {ms:9.3f} ms  {name}"
