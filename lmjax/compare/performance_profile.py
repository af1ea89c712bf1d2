"""AlgoPerf's performance profiles and score, over several workloads.

Dahl et al., "Benchmarking Neural Network Training Algorithms", arXiv 2306.07179, after Dolan and
More, arXiv cs/0102001:
    r_sw = t_sw / min_s t_sw,   rho_s(tau) = share of workloads with r_sw <= tau,
    score B_s = 1 / (R - 1) * integral of rho_s from 1 to R,   R = 4.
"""

import numpy as np
from jaxtyping import Float

LARGEST_RATIO = 4.0  # R: beyond it a workload earns nothing


def performance_ratios(
    times: Float[np.ndarray, "variants workloads"],
) -> Float[np.ndarray, "variants workloads"]:
    """How many times longer than the fastest on each workload; 1 for that one.

    Args:
      times: to the workload's target, > 0, in steps or in seconds; inf = never reached. A workload
        that nobody finished has the ratio inf for all.

    Raises ValueError for times that are not > 0, and where there are none.
    """
    if times.ndim != 2 or not times.size or not (times > 0).all():
        raise ValueError(f"times must be > 0, of shape [variants, workloads]: {times}")
    fastest = np.broadcast_to(times.min(axis=0), times.shape)
    ratios = np.full(times.shape, np.inf)
    return np.divide(times, fastest, out=ratios, where=np.isfinite(times))


def performance_profile(
    times: Float[np.ndarray, "variants workloads"], ratios: Float[np.ndarray, "ratios"]
) -> Float[np.ndarray, "variants ratios"]:
    """The share of workloads finished within each ratio of the fastest's time, tau above.

    Args:
      times: as for `performance_ratios`.
      ratios: at which to tell it, >= 1.
    """
    within = performance_ratios(times)[:, :, None] <= ratios[None, None, :]
    return within.mean(axis=1)


def algoperf_score(
    times: Float[np.ndarray, "variants workloads"], largest_ratio: float = LARGEST_RATIO
) -> Float[np.ndarray, "variants"]:
    """The area under the profile from 1 to `largest_ratio`, over its width: in [0, 1], exactly.

    A workload with ratio r adds max(R - r, 0) / (R - 1) to the mean.

    Args:
      times: as for `performance_ratios`.
      largest_ratio: > 1; ValueError for another.
    """
    if not 1 < largest_ratio < np.inf:
        raise ValueError(f"{largest_ratio = }: must be > 1 and finite")
    earned = np.maximum(largest_ratio - performance_ratios(times), 0) / (largest_ratio - 1)
    return earned.mean(axis=1)
