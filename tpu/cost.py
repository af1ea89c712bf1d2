"""What a resource has cost, at most, at the price that its user gave."""

from tpu import cloud
from tpu.accelerators import chips
from tpu.records import Resource


def hourly(resource: Resource) -> float:
    """Dollars for an hour of being ACTIVE."""
    return chips(resource.accelerator) * resource.price


def so_far(resource: Resource) -> float:
    """Dollars until it was last looked at, counted upwards where that is not known."""
    return hourly(resource) * resource.billed / 3600


def rate(resource: Resource) -> str:
    """`16 chips at $0.50 = $8.00 an hour while ACTIVE`."""
    count = chips(resource.accelerator)
    plural = "" if count == 1 else "s"
    return (
        f"{count} chip{plural} at ${resource.price:.2f} = ${hourly(resource):.2f} "
        "an hour while ACTIVE"
    )


def account(resource: Resource, state: str, now: float) -> None:
    """Note what was seen at `now`, in seconds since 1970, and what it may have cost since before.

    The time between two looks counts if it was ACTIVE at either end, and so does any in which
    nobody could tell: more may be counted than is billed, but not less. The caller writes it.
    """
    active = state == cloud.ACTIVE or state in cloud.LEAVING
    if state == cloud.UNKNOWN:
        active = resource.active
    if active or resource.active:
        resource.billed += max(0.0, now - resource.looked)
    resource.active, resource.looked = active, now
