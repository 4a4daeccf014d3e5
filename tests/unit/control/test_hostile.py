"""A transceiver that has turned hostile: it writes its own records, and the others' stay what they were."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.control.test_state_tables import World, make_world, path, ufrag
from tests.unit.shm.test_protocol import ANY_MESSAGE, U32
from voicerelay.control.peer import Close, Send
from voicerelay.shm import protocol
from voicerelay.shm.region import remove_segments

VICTIM, HOSTILE = 0, 1
CALLS = 3
UFRAGS, PATHS = (st.integers(0, CALLS + 1).map(make) for make in (ufrag, path))
# What it would say to get at another's calls, and then anything at all.
AIMED = st.one_of(
    st.builds(protocol.RegisterRoute, U32, UFRAGS, U32),
    st.builds(protocol.UnregisterRoute, UFRAGS),
    st.builds(protocol.CommitFlow, U32, PATHS, U32),
    st.builds(protocol.ReleaseFlow, PATHS, st.integers(0, 2)),
    st.builds(
        protocol.Replay,
        st.lists(st.tuples(UFRAGS, U32).map(list), max_size=4),
        st.lists(st.tuples(PATHS, U32).map(list), max_size=4),
    ),
    st.builds(protocol.Adopt, U32),
    st.builds(protocol.FlowLost, PATHS, U32),
)


def calls(world: World) -> None:
    """The victim's."""
    for number in range(CALLS):
        assert world.register(VICTIM, number) == ""
        assert world.commit(VICTIM, number) == ""


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(AIMED | ANY_MESSAGE, max_size=30))
def test_whatever_it_says_routes_of_others_stay_and_a_path_moves_only_to_its_own_slot(
    said: list[protocol.Message],
) -> None:
    # given another's calls
    world = make_world()
    try:
        world.join(VICTIM)
        world.join(HOSTILE)
        calls(world)
        routes, flows = world.routes(), world.flows()
        committed: set[bytes] = set()

        # when it says what it likes, until control hangs up
        told: list[protocol.Message] = []
        for message in said:
            if isinstance(message, protocol.CommitFlow):
                committed.add(message.path)
            actions = world.say(HOSTILE, message)
            told += [a.message for a in actions if isinstance(a, Send) and a.peer == 200 + VICTIM]
            if any(isinstance(action, Close) for action in actions):
                assert all(a.peer == 200 + HOSTILE for a in actions if isinstance(a, Close))
                break

        # then every route leads where it led
        now = world.routes()
        assert {key: now.get(key) for key in routes} == routes
        # and an address that it claimed is its own, which the other is told and mends by its next check
        for key, entry in world.flows().items():
            if entry.slot == VICTIM:
                assert flows[key] == entry
            else:
                assert entry.owner == (HOSTILE, world.generations[HOSTILE])
        lost = {key for key in flows if world.flows().get(key) != flows[key]}
        assert lost <= committed
        assert lost <= {m.path for m in told if isinstance(m, protocol.FlowLost)}
        for number in range(CALLS):
            assert world.commit(VICTIM, number) == ""
        assert {key: e for key, e in world.flows().items() if e.slot == VICTIM} == flows
    finally:
        world.region.close()
        remove_segments(world.region.name)
