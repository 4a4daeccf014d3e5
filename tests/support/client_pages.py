"""What a page does with each released client: the packages, and a script for one call."""

from pathlib import Path

PACKAGES = (
    "@eyevinn/whip-web-client@1.1.7",
    "@pipecat-ai/client-js@1.13.1",
    "@pipecat-ai/small-webrtc-transport@1.10.8",
    "whip-whep@1.2.0",
)
ENTRY = """
import {PipecatClient} from '@pipecat-ai/client-js';
import {SmallWebRTCTransport, WavMediaManager} from '@pipecat-ai/small-webrtc-transport';
import {WHEPClient} from 'whip-whep/whep.js';
import {WHIPClient} from 'whip-whep/whip.js';
import {WHIPClient as EyevinnWHIPClient} from '@eyevinn/whip-web-client';
Object.assign(window, {
  EyevinnWHIPClient, PipecatClient, SmallWebRTCTransport, WavMediaManager, WHEPClient, WHIPClient,
});
"""

WHIP_JS = """(async () => {
  const pc = new RTCPeerConnection({bundlePolicy: 'max-bundle'});
  window.voicerelay = {pc, remoteStream: null};
  pc.ontrack = event => { window.voicerelay.remoteStream = event.streams[0] ?? new MediaStream([event.track]); };
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  pc.addTransceiver(stream.getAudioTracks()[0], {direction: 'sendrecv', streams: [stream]});
  window.client = new WHIPClient();
  await client.publish(pc, SERVER + '/whip', TOKEN);
})()"""

EYEVINN_JS = """(async () => {
  const factory = config => {
    const pc = new RTCPeerConnection(config);
    window.voicerelay = {pc, remoteStream: null};
    pc.ontrack = event => { window.voicerelay.remoteStream = new MediaStream([event.track]); };
    return pc;
  };
  const stream = await navigator.mediaDevices.getUserMedia({audio: true, video: true});
  window.client = new EyevinnWHIPClient({
    endpoint: SERVER + '/whip', opts: {authkey: TOKEN}, peerConnectionFactory: factory,
  });
  await client.ingest(stream);
})()"""

PIPECAT_JS = """(async () => {
  window.seen = {ready: null, left: false, messages: [], states: []};
  window.voicerelay = {pc: null, remoteStream: null};
  const transport = window.transport = new SmallWebRTCTransport({mediaManager: new WavMediaManager()});
  window.client = new PipecatClient({
    transport, enableMic: true, enableCam: false,
    callbacks: {
      onTrackStarted: (track, who) => {
        if (!who?.local && track.kind === 'audio') window.voicerelay.remoteStream = new MediaStream([track]);
      },
      onBotReady: data => { seen.ready = data; },
      onBotDisconnected: () => { seen.left = true; },
      onServerMessage: data => { seen.messages.push(data); },
      onTransportStateChanged: state => { seen.states.push(state); },
    },
  });
  const headers = new Headers({Authorization: 'Bearer ' + TOKEN});
  await client.startBotAndConnect({endpoint: SERVER + '/start', headers, requestData: {body: {name: 'bo'}}});
  window.voicerelay.pc = transport.pc;
})()"""


# As with a headset: no suppression takes a steady tone for noise.
HEADSET_JS = """{
  const asked = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  const plain = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
  navigator.mediaDevices.getUserMedia = ({audio, video}) =>
    asked({video, audio: audio && {...(audio === true ? {} : audio), ...plain}});
}"""

MIC_JS = (
    "window.voicerelay.pc.getSenders().filter(s => s.track?.kind === 'audio')"
    ".forEach(s => { s.track.enabled = ENABLED; })"
)

# The client stops the microphone's track when it closes its old peer connection.
NEW_MICROPHONE_JS = """(async () => {
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const [audio] = transport.pc.getTransceivers();
  await audio.sender.replaceTrack(stream.getAudioTracks()[0]);
  window.voicerelay.remoteStream = new MediaStream([audio.receiver.track]);
})()"""

# As FastRTC's own pages have it.
FASTRTC_JS = """(async () => {
  window.said = [];
  const pc = new RTCPeerConnection(), webrtc_id = Math.random().toString(36).substring(7);
  window.voicerelay = {pc, remoteStream: null};
  const headers = {'Content-Type': 'application/json', Authorization: `Bearer ${TOKEN}`};
  const post = body => fetch(SERVER + '/webrtc/offer', {
    method: 'POST', headers, body: JSON.stringify({...body, webrtc_id}),
  }).then(response => response.json());
  window.trickled = [];
  pc.onicecandidate = ({candidate}) => candidate && post({
    candidate: candidate.toJSON(), type: 'ice-candidate',
  }).then(answer => trickled.push(answer));
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  stream.getTracks().forEach(track => pc.addTrack(track, stream));
  pc.addEventListener('track', event => { window.voicerelay.remoteStream = event.streams[0]; });
  window.channel = pc.createDataChannel('text');
  channel.onopen = () => channel.send('handshake');
  channel.onmessage = event => said.push(JSON.parse(event.data));
  const offer = await pc.createOffer();
  await pc.setLocalDescription(offer);
  const answer = await post({sdp: offer.sdp, type: offer.type});
  if (answer.status === 'failed') throw new Error(answer.meta.error);
  await pc.setRemoteDescription(answer);
})()"""

# ---- what docs/clients.md shows ------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
MAX_LINES = 10  # of a client's example


def shown(client: str) -> str:
    """The example of the section whose title begins so; its pc and its sound become `voicerelay`'s."""
    section = PAGE.partition(f"\n## {client}")[2]
    example = section.partition("```js\n")[2].partition("```")[0]
    assert 0 < example.count("\n") <= MAX_LINES, client
    return f"""(async () => {{
      const audio = Object.assign(document.createElement('audio'), {{autoplay: true}});
      window.voicerelay = {{pc: null, get remoteStream() {{ return audio.srcObject; }}}};
      {example}
      window.voicerelay.pc = typeof pc === 'undefined' ? transport.pc : pc;
    }})()"""
