"""A model of a step on many ranks: how long it takes, and what memory it needs.

The time is the larger of what a node's memory and what its network must move, or their sum where
the cores copy the messages themselves; to that come the messages one by one, and their latency.
Nothing is fitted: every number in `Machine` is measured by itself, or cited.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

#: Bytes of a float32, and of what a step moves for one parameter: it reads 4 arrays, writes 3.
ITEM = 4
STEP = 7 * ITEM
#: Bytes that a rank tells the others where a norm is asked for, and those in all from which on
#: MPICH gathers in a ring instead of log2(N) rounds: MPIR_CVAR_ALLGATHER_SHORT_MSG_SIZE, and where
#: N is a power of two MPIR_CVAR_ALLGATHER_LONG_MSG_SIZE.
WORDS, SHORT, LONG = 40, 81_920, 524_288


@dataclass(frozen=True)
class Machine:
    """Many equal nodes.

    Attributes
    ----------
    cores : int
        Ranks of a node that run at the same time; more ranks wait for each other.
    memory : float
        Bytes a second that all ranks of a node together read and write.
    rank_memory : float
        The same for one rank alone.
    network : float
        Bytes a second that a node sends while it receives as many, into a buffer in the cache.
    stored : float
        The same, into an array in memory.
    latency : float
        Seconds from one rank to another.
    call : float
        Seconds of a step of a few numbers.
    message : float
        Seconds of work of a rank for one message sent and one received.
    capacity : float
        Bytes of a node's memory.
    overlap : bool
        Whether messages travel while the cores step: a network card moves them. Within a node the
        cores copy them.
    """

    cores: int
    memory: float
    rank_memory: float
    network: float
    stored: float
    latency: float
    call: float
    message: float
    capacity: float
    overlap: bool


@dataclass(frozen=True)
class Layout:
    """Parameters, ranks, ranks on each node, and elements of a message of `Sharded`.

    A bucket is cut among the other ranks: `bucket_bytes` is 4 `message` times their number.
    """

    parameters: float
    ranks: int
    each: int
    message: float = 2**16

    @property
    def nodes(self) -> float:
        """Nodes; a part of one where there are fewer ranks than a node has."""
        return max(1.0, self.ranks / self.each)


#: Seconds of a step on a machine in a layout.
Time = Callable[[Machine, Layout], float]


def _moved(machine: Machine, layout: Layout, a_node: float) -> float:
    """Seconds in which the ranks of a node read and write so many bytes."""
    ranks = min(layout.ranks, layout.each)
    share = min(ranks, machine.cores) * machine.rank_memory
    return machine.call + a_node / min(machine.memory, share)


def _crowd(machine: Machine, layout: Layout) -> float:
    """Ranks that share a core."""
    return max(1.0, min(layout.ranks, layout.each) / machine.cores)


def gather(machine: Machine, layout: Layout, ring: bool = True) -> float:
    """Seconds of one Allgather of the norm's words, as MPICH does it, or never in a ring."""
    n, each = layout.ranks, min(layout.ranks, layout.each)
    if n == 1:
        return 0.0
    most = SHORT if n & (n - 1) else LONG
    rounds = n - 1 if ring and n * WORDS >= most else math.ceil(math.log2(n))
    received = each * max(0.0, n - each) * WORDS / machine.network
    return rounds * machine.latency + received


def distributed(machine: Machine, layout: Layout) -> float:
    """Mode 1: each rank steps its part. No traffic."""
    return _moved(machine, layout, STEP * layout.parameters / layout.nodes)


def clipped(machine: Machine, layout: Layout) -> float:
    """Mode 1 with a norm: the gradient is read once more, the ranks exchange a few words."""
    norm = _moved(machine, layout, ITEM * layout.parameters / layout.nodes)
    return distributed(machine, layout) + norm + gather(machine, layout)


def shared(machine: Machine, layout: Layout) -> float:
    """Mode 2: a step on one node that reads the gradient of every rank; two meetings."""
    each = min(layout.ranks, layout.each)
    bytes_ = STEP + ITEM * (each - 1)
    return _moved(machine, layout, bytes_ * layout.parameters) + 2 * machine.latency


def _traffic(machine: Machine, sent: float) -> float:
    """Seconds in which a node sends and receives so many bytes of gradients, then of parameters."""
    return sent / machine.network + sent / machine.stored


def _messages(machine: Machine, layout: Layout, piece: float, partners: int) -> float:
    """Seconds of work on the messages one by one: gradients out, parameters out."""
    return 2 * partners * max(1.0, math.ceil(piece / layout.message)) * machine.message


def _together(
    machine: Machine, layout: Layout, memory: float, network: float, work: float
) -> float:
    """A step whose traffic overlaps, or not; `work` is that of the messages one by one."""
    if machine.overlap:
        return max(memory + work, network) + 2 * machine.latency
    return memory + _crowd(machine, layout) * (network + work) + 2 * machine.latency


def sharded(machine: Machine, layout: Layout) -> float:
    """Mode 3: every rank has all parameters and a share of the state."""
    n, each, p = layout.ranks, min(layout.ranks, layout.each), layout.parameters
    step, work = STEP * p / n, _messages(machine, layout, p / n, n - 1)
    if not machine.overlap:  # the speed of messages is that within the node, measured
        sent = ITEM * p * (n - 1) / n
        memory = _moved(machine, layout, each * step)
        return _together(machine, layout, memory, _traffic(machine, sent), work)
    # the card reads gradients, writes those that come in and the parameters; within a node
    # gradients and parameters are copied twice, through memory that is shared
    out, within = ITEM * p * (n - each) / n, ITEM * p * (each - 1) / n
    memory = _moved(machine, layout, each * (step + 3 * out + 2 * 4 * within))
    return _together(machine, layout, memory, _traffic(machine, each * out), work)


def combined(machine: Machine, layout: Layout) -> float:
    """Modes 3 and 2: parameters once a node, the state cut over all nodes."""
    each, nodes, p = min(layout.ranks, layout.each), round(layout.nodes), layout.parameters
    if nodes == 1:
        return shared(machine, layout)
    sent = ITEM * p * (nodes - 1) / nodes
    summed = ITEM * p * (each + 1 if each > 1 else 0)  # read from each rank, write the sum
    memory = _moved(machine, layout, summed + STEP * p / nodes + 3 * sent)
    work = _messages(machine, layout, p / layout.ranks, nodes - 1)
    return _together(machine, layout, memory, _traffic(machine, sent), work)


def replicated(machine: Machine, layout: Layout) -> float:
    """Plain data parallel: an Allreduce at the lower limit of its traffic, then every rank steps.

    Nothing overlaps: the step comes after the Allreduce. On a cluster the ranks of a node add up
    among themselves first.
    """
    each, n, p = min(layout.ranks, layout.each), layout.ranks, layout.parameters
    partners = layout.nodes if machine.overlap else n
    sent = ITEM * p * (partners - 1) / partners
    summed = 2 * ITEM * p * each if machine.overlap and each > 1 else 0.0
    step = _moved(machine, layout, each * STEP * p + summed)
    crowd = 1.0 if machine.overlap else _crowd(machine, layout)
    return step + crowd * _traffic(machine, sent) + 2 * math.ceil(math.log2(n)) * machine.latency


#: The modes by name, in the order of the page.
TIMES: dict[str, Time] = {
    "mode 1": distributed,
    "mode 1, clip_norm": clipped,
    "mode 2": shared,
    "mode 3": sharded,
    "modes 3 + 2": combined,
    "replicated": replicated,
}


def bytes_of_node(mode: str, layout: Layout) -> float:
    """Bytes of parameters, gradients and state on a node; buckets come to that."""
    each, nodes, n = min(layout.ranks, layout.each), layout.nodes, layout.ranks
    per_parameter = {
        "mode 1": 16 / nodes,
        "mode 1, clip_norm": 16 / nodes,
        "mode 2": 12 + 4 * each,
        "mode 3": each * (8 + 8 / n),
        "modes 3 + 2": 4 + 4 * each + 8 / nodes,
        "replicated": 16 * each,
    }
    return per_parameter[mode] * layout.parameters


def runs(mode: str, machine: Machine, layout: Layout) -> bool:
    """Whether a mode can run: it fits into the memory, and mode 2 is on one node."""
    if mode == "mode 2" and layout.ranks > layout.each:
        return False
    if mode in ("mode 2", "modes 3 + 2") and layout.each == 1:
        return False
    return bytes_of_node(mode, layout) <= machine.capacity
