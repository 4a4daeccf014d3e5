"""What calls hear when the set of hosts behind one address changes: ECMP, simulated. Pure, seeded.

Each call has an owner, the host whose transceiver has it, and an ingress, the host its packets are routed to.
A packet whose ingress is not its owner takes a hop inside the cluster: a Binding request finds the owner by
its ufrag, anything else by the ingress's flow table, which a moved call is not in. So a call that moves is
silent until its client's next check, or until the flow cache answers, where there is one.
"""

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

MODULO, RESILIENT, OWN_ADDRESS = "modulo", "resilient", "own address"
INGRESS = (MODULO, RESILIENT, OWN_ADDRESS)
BUCKETS_PER_HOST = 128  # of a resilient group; a switch has a few thousand for a group
MAX_BUCKETS = 1 << 16


@dataclass(frozen=True)
class Timing:
    """Seconds. check: between two checks of a client (Chromium 2.5, RFC 7675 §5.1 at most 6)."""

    check_s: float = 2.5
    cache_s: float = 0.002  # a look-up in a Redis of the same rack
    notice_s: float = 1.0  # until routers no longer send to a host that is gone


@dataclass(frozen=True)
class Seen:
    """Shares of all calls; silences of those that moved, in ms."""

    lost: float
    moved: float
    hop_before: float
    hop_after: float
    silence_p50_ms: float
    silence_p99_ms: float


class Group:
    """Which host a flow's hash leads to."""

    def __init__(self, kind: str, hosts: Sequence[int]) -> None:
        self._kind, self._hosts = kind, list(hosts)
        count = min(len(hosts) * BUCKETS_PER_HOST, MAX_BUCKETS)
        self._buckets = [hosts[i % len(hosts)] for i in range(count)]

    def host(self, flow_hash: int, owner: int) -> int:
        if self._kind == OWN_ADDRESS:
            return owner
        if self._kind == MODULO:
            return self._hosts[flow_hash % len(self._hosts)]
        return self._buckets[flow_hash % len(self._buckets)]

    def leave(self, host: int) -> None:
        """Only a resilient group's other buckets stay where they are."""
        self._hosts.remove(host)
        if self._hosts:
            mine = [i for i, h in enumerate(self._buckets) if h == host]
            for n, i in enumerate(mine):
                self._buckets[i] = self._hosts[n % len(self._hosts)]

    def join(self, host: int) -> None:
        """A fair share of the buckets moves to the new host."""
        self._hosts.append(host)
        for i in range(0, len(self._buckets), len(self._hosts)):
            self._buckets[i] = host


def change(
    kind: str,
    hosts: int,
    calls: int,
    event: str,
    cached: bool,
    timing: Timing = Timing(),
    seed: int = 1,
) -> Seen:
    """`event`: "loss" (a host dies), "drain" (a host without calls leaves) or "join"."""
    chance = random.Random(f"{seed} {kind} {hosts} {event} {cached}")
    there = list(range(hosts))
    gone = chance.choice(there)
    owners = [h for h in there if not (event == "drain" and h == gone)]
    table = [(chance.getrandbits(32), chance.choice(owners)) for _ in range(calls)]
    group = Group(kind, there)
    before = [group.host(*call) for call in table]
    if event == "join":
        group.join(hosts)
    else:
        group.leave(gone)
    lost = moved = hops = 0
    silences: list[float] = []
    for (flow_hash, owner), ingress in zip(table, before, strict=True):
        if event == "loss" and owner == gone:
            lost += 1
            continue
        now = group.host(flow_hash, owner)
        hops += now != owner
        if now != ingress:
            moved += 1
            healed = timing.cache_s if cached else chance.random() * timing.check_s
            # the caller is already heard where its owner is: that host has the flow
            silence = 0.0 if now == owner else healed
            silences.append(
                silence + (timing.notice_s if event == "loss" and ingress == gone else 0.0)
            )
    kept = max(calls - lost, 1)
    return Seen(
        lost / calls,
        moved / kept,
        sum(i != o for (_, o), i in zip(table, before, strict=True)) / calls,
        hops / kept,
        _percentile(silences, 50) * 1000,
        _percentile(silences, 99) * 1000,
    )


@dataclass(frozen=True)
class Upgrade:
    """A rolling upgrade of all hosts, `batch` at a time."""

    minutes: float
    capacity_left: float  # least share while it runs
    ended: float  # share of the calls that met the deadline


def rolling_upgrade(
    hosts: int, batch: int, deadline_s: float, mean_call_s: float, restart_s: float, seed: int = 1
) -> Upgrade:
    """Calls of exponential length; a batch drains until its last call or the deadline, then restarts."""
    chance = random.Random(f"{seed} {hosts} {batch} {deadline_s} {mean_call_s}")
    calls_per_host, waves, took_s, ended = 200, -(-hosts // batch), 0.0, 0
    for wave in range(waves):
        size = min(batch, hosts - wave * batch)
        left = sorted(chance.expovariate(1 / mean_call_s) for _ in range(size * calls_per_host))
        late = len(left) - bisect.bisect_right(left, deadline_s)
        ended += late
        took_s += (deadline_s if late else left[-1]) + restart_s
    return Upgrade(took_s / 60, 1 - min(batch, hosts) / hosts, ended / (hosts * calls_per_host))


def _percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return quantiles(values, n=100)[percent - 1]
