"""A set-up, phase by phase."""

from voicerelay.transceiver.milestones import PHASES, Milestone, Milestones


def test_each_phase_is_told_once_when_it_has_ended() -> None:
    # given a call that was offered at 10 s and answered
    call = Milestones(10.0)
    call.reach(Milestone.ANSWERED, 10.5)

    assert call.news() == {"answer": 0.5}
    assert call.news() == {}

    # when the rest follows
    call.reach(Milestone.CHECKED, 11.0)
    call.reach(Milestone.CONNECTED, 12.0)
    call.reach(Milestone.HEARD, 12.25)

    # then only that is new
    assert call.news() == {"ice": 0.5, "dtls": 1.0, "media": 0.25, "total": 2.0}
    assert call.news() == {}
    assert set(call.phases()) == set(PHASES)


def test_what_comes_again_changes_nothing() -> None:
    call = Milestones(10.0)
    call.reach(Milestone.ANSWERED, 10.5)
    call.reach(Milestone.ANSWERED, 99.0)

    assert call.phases() == {"answer": 0.5}
    assert call.age_s(12.0) == 2.0


def test_a_phase_that_ended_before_it_began_took_no_time() -> None:
    call = Milestones(10.0)
    call.reach(Milestone.CONNECTED, 11.0)
    call.reach(Milestone.HEARD, 10.9)

    assert call.phases()["media"] == 0.0
