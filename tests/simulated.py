"""Simulated devices, for tests in processes of their own."""


def flags(count: int) -> str:
    """XLA_FLAGS for so many.

    They share two cores with other tests, and XLA aborts where one is 40 s late for a collective.
    """
    return (
        f"--xla_force_host_platform_device_count={count} "
        "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    )
