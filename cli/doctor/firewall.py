"""Reads firewall rules for what keeps one UDP port out: a look at the plain cases, no full evaluation."""

import json
import re
from collections.abc import Iterator
from typing import Any

_DPORT = re.compile(r"(?<!\S)(!\s+)?--dports?\s+(\S+)")
_DROPS = frozenset(("drop", "reject"))


def nft_objections(text: str, port: int) -> list[str]:
    """Of `nft -j list ruleset`. Raises ValueError for what is not that."""
    try:
        found = json.loads(text)["nftables"]
        chains = [item["chain"] for item in found if "chain" in item]
        rules = [item["rule"] for item in found if "rule" in item]
        return list(_nft_objections(chains, rules, port))
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("not a ruleset") from exc


def _nft_objections(
    chains: list[dict[str, Any]], rules: list[dict[str, Any]], port: int
) -> Iterator[str]:
    for chain in chains:
        if chain.get("hook") != "input" or chain["name"] == "INPUT":
            continue  # the latter are iptables' own, whose rules nft tells without their ports
        where = f"nft {chain['family']} {chain['table']}"
        # An accept may stand in any chain that this one jumps to.
        near = [r["expr"] for r in rules if (r["family"], r["table"]) == _place(chain)]
        ours = [expr for expr in near if _matches_port(expr, port)]
        if any(_verdicts(expr) & _DROPS for expr in ours):
            yield f"{where}: a rule drops UDP port {port}"
        elif chain.get("policy") == "drop" and not any("accept" in _verdicts(e) for e in ours):
            yield f"{where}: policy drop, and no rule accepts UDP port {port}"


def _place(chain: dict[str, Any]) -> tuple[str, str]:
    return chain["family"], chain["table"]


def _verdicts(expr: list[dict[str, Any]]) -> set[str]:
    return {key for statement in expr for key in statement}


def _matches_port(expr: list[dict[str, Any]], port: int) -> bool:
    """Whether a rule names the port itself, as `udp dport`, alone, in a set or in a range."""
    return any(
        statement["match"].get("op", "==") in ("==", "in")
        and _is_dport(statement["match"]["left"])
        and _holds(statement["match"]["right"], port)
        for statement in expr
        if "match" in statement
    )


def _is_dport(left: Any) -> bool:
    payload = left.get("payload", {}) if isinstance(left, dict) else {}
    return payload.get("field") == "dport" and payload.get("protocol") in ("udp", "th")


def _holds(right: Any, port: int) -> bool:
    if isinstance(right, dict):
        if "range" in right:
            low, high = right["range"]
            return isinstance(low, int) and isinstance(high, int) and low <= port <= high
        return any(_holds(one, port) for one in right.get("set", ()))
    return bool(right == port)


def iptables_objections(text: str, port: int) -> list[str]:
    """Of `iptables-save` (or ip6tables-save)."""
    lines = text.splitlines()
    ours = [line for line in lines if line.startswith("-A ") and _names_port(line, port)]
    if any(line.endswith(("-j DROP", "-j REJECT")) or "-j REJECT " in line for line in ours):
        return [f"iptables: a rule drops UDP port {port}"]
    policy_drops = any(line.startswith(":INPUT DROP") for line in lines)
    if policy_drops and not any("-j ACCEPT" in line for line in ours):
        return [f"iptables: policy DROP, and no rule accepts UDP port {port}"]
    return []


def _names_port(line: str, port: int) -> bool:
    match = _DPORT.search(line)
    if match is None or match[1] or "-p udp" not in line:
        return False
    for part in match[2].split(","):
        low, _, high = part.partition(":")
        if low.isdecimal() and int(low) <= port <= int(high if high.isdecimal() else low):
            return True
    return False
