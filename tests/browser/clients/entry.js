// The released packages as they are; tests/browser/test_released_clients.py speaks with them by name.
import { PipecatClient } from '@pipecat-ai/client-js';
import { SmallWebRTCTransport, WavMediaManager } from '@pipecat-ai/small-webrtc-transport';
import { WHEPClient } from 'whip-whep/whep.js';
import { WHIPClient } from 'whip-whep/whip.js';
import { WHIPClient as EyevinnWHIPClient } from '@eyevinn/whip-web-client';

Object.assign(window, {
  EyevinnWHIPClient, PipecatClient, SmallWebRTCTransport, WavMediaManager, WHEPClient, WHIPClient,
});
