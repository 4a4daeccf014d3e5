"""Rules that keep the port out are found in what nft and iptables print; anything else is no rule."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.doctor.firewall import iptables_objections, nft_objections

PLACE = {"family": "inet", "table": "filter"}


def ruleset(policy: str, *rules: list[dict[str, Any]]) -> str:
    chain = PLACE | {"name": "input", "hook": "input", "policy": policy}
    items: list[dict[str, Any]] = [{"metainfo": {}}, {"chain": chain}]
    items += [{"rule": PLACE | {"chain": "allowed", "expr": expr}} for expr in rules]
    return json.dumps({"nftables": items})


def rule(right: Any, verdict: str, protocol: str = "udp") -> list[dict[str, Any]]:
    left = {"payload": {"protocol": protocol, "field": "dport"}}
    return [{"match": {"op": "==", "left": left, "right": right}}, {verdict: None}]


@pytest.mark.parametrize(
    "right",
    [3478, {"set": [80, 3478]}, {"set": [{"range": [3000, 4000]}]}, {"range": [3478, 3479]}],
    ids=["port", "set", "range in a set", "range"],
)
def test_a_policy_of_drop_with_an_accept_lets_the_port_in(right: Any) -> None:
    assert nft_objections(ruleset("drop", rule(right, "accept")), 3478) == []


@pytest.mark.parametrize(
    "rules",
    [(), (rule(22, "accept", "tcp"),), (rule(3478, "accept", "tcp"),), (rule(80, "accept"),)],
    ids=["none", "ssh", "tcp", "another"],
)
def test_a_policy_of_drop_without_one_keeps_it_out(rules: tuple[list[dict[str, Any]], ...]) -> None:
    (found,) = nft_objections(ruleset("drop", *rules), 3478)

    assert "policy drop" in found


@pytest.mark.parametrize("verdict", ["drop", "reject"])
def test_a_rule_that_drops_the_port_is_found(verdict: str) -> None:
    assert "drops UDP port 3478" in nft_objections(ruleset("accept", rule(3478, verdict)), 3478)[0]


def test_a_policy_of_accept_lets_it_in() -> None:
    assert nft_objections(ruleset("accept", rule(80, "drop")), 3478) == []


def test_a_match_that_excludes_the_port_is_not_about_it() -> None:
    excluded = rule(3478, "drop")
    excluded[0]["match"]["op"] = "!="

    assert nft_objections(ruleset("accept", excluded), 3478) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["nftables", "chain", "rule", "expr", "match", "left", "right", "hook"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values.map(json.dumps) | st.text(max_size=20))
def test_anything_else_is_a_value_error(text: str) -> None:
    try:
        found = nft_objections(text, 3478)
    except ValueError:
        return
    assert isinstance(found, list)


@pytest.mark.parametrize(
    ("lines", "objections"),
    [
        (":INPUT ACCEPT [0:0]", 0),
        (":INPUT DROP [0:0]", 1),
        (":INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport 3478 -j ACCEPT", 0),
        (":INPUT DROP [0:0]\n-A INPUT -p udp -m multiport --dports 80,3000:4000 -j ACCEPT", 0),
        (":INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 3478 -j ACCEPT", 1),
        (":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 3478 -j DROP", 1),
        (":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 3478 -j REJECT --reject-with x", 1),
        (":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp ! --dport 3478 -j DROP", 0),
        (":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 3479 -j DROP", 0),
        ("", 0),
    ],
    ids=["open", "closed", "accept", "multiport", "tcp", "drop", "reject", "not", "other", "none"],
)
def test_rules_of_iptables(lines: str, objections: int) -> None:
    assert len(iptables_objections(lines, 3478)) == objections


@given(st.text(max_size=80))
def test_any_text_of_iptables_is_read(text: str) -> None:
    iptables_objections(f"-A INPUT -p udp --dport {text}\n{text}", 3478)
