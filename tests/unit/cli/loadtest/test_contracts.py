"""Each contract's way to ask, to read the answer and to end; no key leaves for another host."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.cli.loadtest.contracts import PATHS, Ask, Declined, ask, endpoint, opened

URL = "http://127.0.0.1:8080"


@pytest.mark.parametrize("contract", PATHS)
def test_a_bare_url_gets_the_contracts_path_and_others_stay(contract: str) -> None:
    assert endpoint(contract, URL) == endpoint(contract, URL + "/") == URL + PATHS[contract]
    assert endpoint(contract, URL + "/my/ingest?x=1") == URL + "/my/ingest?x=1"


@pytest.mark.parametrize("contract", ["whip", "realtime"])
def test_sdp_is_posted_as_it_is(contract: str) -> None:
    found = ask(contract, URL, "v=0", "name")

    assert found == Ask("POST", URL, "v=0", {"Content-Type": "application/sdp"})


def test_json_contracts_say_that_it_is_an_offer() -> None:
    pipecat, fastrtc = (json.loads(ask(c, URL, "v=0", "n1").body) for c in ("pipecat", "fastrtc"))

    assert pipecat == {"sdp": "v=0", "type": "offer"}
    assert fastrtc == {"sdp": "v=0", "type": "offer", "webrtc_id": "n1"}


@pytest.mark.parametrize(
    ("contract", "location", "goodbye"),
    [
        ("whip", "/whip/abc", Ask("DELETE", URL + "/whip/abc")),
        ("whip", "abc", Ask("DELETE", URL + "/abc")),
        (
            "realtime",
            "/v1/realtime/calls/rtc_1",
            Ask("POST", URL + "/v1/realtime/calls/rtc_1/hangup"),
        ),
    ],
)
def test_a_location_is_how_a_call_ends(contract: str, location: str, goodbye: Ask) -> None:
    found = opened(contract, URL + "/whip", 201, location, "v=0")

    assert (found.sdp, found.goodbye) == ("v=0", goodbye)


def test_a_location_elsewhere_is_refused() -> None:
    for location in (
        "http://other.example/whip/1",
        "//other.example/1",
        "https://127.0.0.1:8080/1",
    ):
        with pytest.raises(Declined, match="another host"):
            opened("whip", URL + "/whip", 201, location, "v=0")


@pytest.mark.parametrize("contract", ["pipecat", "fastrtc"])
def test_json_answers_hold_the_sdp(contract: str) -> None:
    found = opened(contract, URL, 200, "", json.dumps({"sdp": "v=0", "type": "answer"}))

    assert (found.sdp, found.goodbye) == ("v=0", None)


@pytest.mark.parametrize(
    ("contract", "status", "body", "reason"),
    [
        ("whip", 503, '{"error": {"code": "server_full"}}', "HTTP 503 server_full"),
        ("whip", 404, "<html>", "HTTP 404"),
        ("whip", 201, "v=0", "the answer has no Location"),
        ("pipecat", 200, "[]", "the answer has no SDP"),
        ("fastrtc", 200, '{"status": "failed", "meta": {"error": "concurrency_limit_reached"}}',
         "refused: concurrency_limit_reached"),
    ],
)  # fmt: skip
def test_a_refusal_has_a_short_reason(contract: str, status: int, body: str, reason: str) -> None:
    with pytest.raises(Declined) as caught:
        opened(contract, URL, status, "", body)

    assert caught.value.reason == reason


@given(st.sampled_from(tuple(PATHS)), st.sampled_from((200, 201, 500)), st.text(), st.text())
def test_any_answer_is_read_or_declined(
    contract: str, status: int, location: str, body: str
) -> None:
    with contextlib.suppress(Declined):
        opened(contract, URL, status, location, body)
