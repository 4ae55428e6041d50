"""A limit to the bytes of DGM's memory: how far the generator may grow so that all tasks to come still fit in."""

import math
from bisect import bisect_left
from collections.abc import Sequence

from dgm_jax.errors import ConfigError
from dgm_jax.memory.memory import Memory
from dgm_jax.training.task import Networks, grown_widths

KB = 1000  # bytes


def require_room(networks: Networks, memory: Memory | None, coming: Sequence[int]) -> None:
    """Refuses a limit that tasks to come would pass even if the generator did not grow.

    Args:
      networks: with the settings, of which `memory_limit_kb` counts.
      memory: of the tasks so far; None before the first one.
      coming: classes of each task to come.

    Raises:
      ConfigError: if the limit is too small; the message says the least that works.
    """
    limit, widths = networks.config.gates.memory_limit_kb, memory.widths if memory else networks.first_widths
    if limit is None:
        return
    least = bytes_in_the_end(networks, widths, coming, _kept_by_tasks(memory) if memory else 0)
    if least > KB * limit:
        raise ConfigError(
            f"memory_limit_kb={limit}: weights and masks take {least:,} bytes once {len(coming)} more tasks are "
            f"learnt, even if the generator does not grow; give at least {-(-least // KB)}, or a smaller "
            "generator_width in a new run"
        )


def allowed_growth(
    networks: Networks, memory: Memory, newly_reserved: Sequence[int], coming: Sequence[int]
) -> list[int]:
    """How many gates may be added to each mask after a task: as many as it newly reserved, if the limit allows it.

    Otherwise it is the largest share of them, the same of all masks, with which the memory is at most as large as the
    limit after every task to come, if the generator grows no more. So it may be nothing.
    """
    limit = networks.config.gates.memory_limit_kb
    if limit is None:
        return list(newly_reserved)
    most, kept = max(newly_reserved), _kept_by_tasks(memory)

    def share(n: int) -> list[int]:
        return [gates * n // max(most, 1) for gates in newly_reserved]

    def is_above(n: int) -> bool:
        widths = grown_widths(networks, memory.widths, share(n))
        return bytes_in_the_end(networks, widths, coming, kept) > KB * limit

    # With DGMw, more gates can need fewer weights in a later layer; what is found was tried, so it is never too much.
    return share(bisect_left(range(1, most + 1), True, key=is_above))


def said_of_growth(limit: int | None, task: int) -> str:
    """What a person should know if the limit makes the generator grow less after a task."""
    return f"memory_limit_kb={limit} stops the growth of the generator after task {task}"


def _kept_by_tasks(memory: Memory) -> int:
    sizes = memory.bytes()
    return sizes["task_parameters"] + sizes["masks"]


def bytes_in_the_end(networks: Networks, widths: Sequence[int], coming: Sequence[int], kept: int = 0) -> int:
    """Bytes of the memory, as `Memory.bytes` counts them, once the tasks to come are learnt at these widths."""
    wiring = networks.generator
    weights = sum(map(math.prod, wiring.kernel_shapes(widths, networks.config.networks.noise_dim)))
    masks = sum(-(-math.prod(shape) // 8) for shape in networks.mask_shapes(widths))
    of_tasks = sum(masks + 4 * wiring.task_parameters(widths, networks.channels, n) for n in coming)
    return kept + 4 * weights + of_tasks
