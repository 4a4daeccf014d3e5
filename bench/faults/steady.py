"""Hours of work in short: churn and faults while memory and packets are counted; bench/soak takes longer."""

import asyncio
import random

from bench.faults.verdict import Check
from bench.soak import report
from bench.soak.books import balance
from bench.soak.plan import KINDS, plan_faults
from bench.soak.run import Terms, close, soak
from bench.soak.watch import keys
from tests.support.server import Server

DURATION_S = 120.0
FAULT_EVERY_S = 30.0
RELAYS = 2


async def churn(running: Server, count: int, chance: random.Random) -> list[Check]:
    """Callers come and go; relays and control are killed or stopped meanwhile."""
    seed = chance.randrange(1 << 30)
    terms = Terms(count, DURATION_S, DURATION_S / 2, rate=10.0, talk=0.5, seed=seed)
    seen = await soak(running, terms, plan_faults(seed, DURATION_S, FAULT_EVERY_S, KINDS, RELAYS))
    last = await asyncio.to_thread(close, seen)
    whole = balance(seen.sent, seen.watch.books, last)
    return report.checks(seen, whole, {key.pid for key in keys(last)})
