"""Voice in C under the compiler's sanitizers: random calls, datagrams and turns touch no memory but their own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from voicerelay.transceiver.voice import engine

FLAGS = ("-g", "-O1", "-Wall", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
HARNESS = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/socket.h>
#define sendmmsg fake_sendmmsg
int fake_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
#include "voice.c"

enum { CALLS = 48, PATHS = 64, MOUTHS = 80, STEPS = 100000, FRAMES = 4 };

static uint64_t state = 0x9E3779B97F4A7C15;
static volatile unsigned touched;
static int decoded;

static uint32_t chance(uint32_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

static void touch(const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        touched += ((const unsigned char *)data)[i];
}

static int decode(void *decoder, const unsigned char *data, int32_t bytes, int16_t *pcm, int samples, int fec)
{
    touch(data, (size_t)bytes);
    memset(pcm, 1, (size_t)samples * 2);
    touch(decoder, 1);
    decoded++;
    return chance(20) ? samples : -4;
}

static int32_t encode(void *encoder, const int16_t *pcm, int samples, unsigned char *data, int32_t max_bytes)
{
    touch(pcm, (size_t)samples * 2);
    touch(encoder, 1);
    memset(data, 1, (size_t)max_bytes);
    return chance(200) ? (int32_t)chance((uint32_t)max_bytes + 1) : -3;
}

static int samples(const unsigned char *data, int32_t bytes, int32_t rate)
{
    touch(data, (size_t)bytes);
    return chance(8) ? rate / 50 : (int)chance(5761) - 4;
}

static int unprotect(void *session, void *data, int *bytes)
{
    touch(session, 1);
    touch(data, (size_t)*bytes);
    *bytes -= *bytes >= 22 ? 10 : 0;
    return !chance(10);
}

static int protect(void *session, void *data, int *bytes)
{
    touch(session, 1);
    memset((char *)data + *bytes, 1, VOICE_TRAILER_BYTES);
    *bytes += VOICE_TRAILER_BYTES;
    return !chance(50);
}

int fake_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    for (unsigned i = 0; i < count; i++) {
        touch(messages[i].msg_hdr.msg_name, messages[i].msg_hdr.msg_namelen);
        touch(messages[i].msg_hdr.msg_iov->iov_base, messages[i].msg_hdr.msg_iov->iov_len);
    }
    errno = chance(2) ? EINTR : EAGAIN;
    return chance(5) ? (int)chance(count + 1) : -1;
}

// What Python owns of a call; freed with it, so that whoever still looks at it is caught.
static struct call {
    struct voice_line *line;
    struct voice_mouth *mouth;
    void *keys, *codec;
} calls[CALLS];

static uint8_t paths[PATHS][VOICE_PATH_BYTES];
static struct voice *voice;

static void begin(struct call *call)
{
    int part = chance(2) ? 320 : 960;
    struct voice_line *line = call->line = calloc(1, sizeof *line);
    struct voice_mouth *mouth = call->mouth = calloc(1, sizeof *mouth);
    call->keys = calloc(1, 1), call->codec = calloc(1, 1);
    line->owner = chance(100), line->payload_type = 111;
    line->rx = call->keys, line->tx = chance(9) ? call->keys : NULL;
    line->ear = calloc(1, sizeof *line->ear), line->stream = calloc(1, sizeof *line->stream);
    line->ear->decoder = call->codec, line->ear->begun = 1;
    line->ear->samples = part, line->ear->ticks = 960 / part;
    mouth->line = line, mouth->encoder = call->codec;
    mouth->samples = part, mouth->capacity = FRAMES * part, mouth->wake_room = part;
    mouth->ring = calloc((size_t)mouth->capacity, 2);
}

static void end(struct call *call)
{
    if (call->line == NULL)
        return;
    voice_forget(voice, call->line);
    free(call->line->ear), free(call->line->stream), free(call->line);
    free(call->mouth->ring), free(call->mouth), free(call->keys), free(call->codec);
    *call = (struct call){NULL};
}

// Noise, or often what one of the calls waits for; in memory of just its length.
static uint8_t *datagram(int *bytes, const uint8_t **path)
{
    *path = paths[chance(PATHS)];
    *bytes = (int)chance(chance(50) ? 200 : 2049);
    uint8_t *data = malloc((size_t)*bytes);
    for (int i = 0; i < *bytes; i++)
        data[i] = (uint8_t)chance(256);
    const struct call *call = &calls[chance(CALLS)];
    if (call->line != NULL && *bytes >= RTP_HEADER_BYTES && chance(8)) {
        *path = call->line->path;
        data[0] = 0x80, data[1] = 111;
        write16(data + 2, call->line->ear->sequence);
        write32(data + 4, call->line->ear->timestamp);
        write32(data + 8, 0);
    }
    return data;
}

static void take_one(void)
{
    int bytes;
    const uint8_t *path;
    uint8_t *data = datagram(&bytes, &path);
    voice_take(voice, data, bytes, path);
    free(data);
}

static void sort_some(void)
{
    struct mmsghdr messages[VOICE_QUEUE] = {0};
    struct iovec vectors[VOICE_QUEUE];
    int count = (int)chance(VOICE_QUEUE + 1);
    for (int i = 0; i < count; i++) {
        int bytes;
        const uint8_t *path;
        vectors[i].iov_base = datagram(&bytes, &path);
        messages[i].msg_len = (unsigned)bytes;
        messages[i].msg_hdr.msg_iov = &vectors[i];
        struct sockaddr_in6 name;
        messages[i].msg_hdr.msg_namelen = address_of(voice, path, &name);
        messages[i].msg_hdr.msg_name = malloc(messages[i].msg_hdr.msg_namelen);
        memcpy(messages[i].msg_hdr.msg_name, &name, messages[i].msg_hdr.msg_namelen);
    }
    int left = voice_sort(voice, messages, count, (int)chance(2));
    touch(voice->left, (size_t)left * sizeof(int32_t));
    for (int i = 0; i < count; i++)
        free(vectors[i].iov_base), free(messages[i].msg_hdr.msg_name);
}

static void turn_some(int step)
{
    struct voice_mouth *mouths[MOUTHS];
    int count = 0;
    for (uint32_t most = chance(MOUTHS); count < (int)most;) {
        struct voice_mouth *mouth = calls[chance(CALLS)].mouth;
        if (mouth == NULL)
            break;
        mouth->level = (int32_t)chance((uint32_t)mouth->capacity + 1);
        mouth->stale = !chance(20), mouth->refused = (uint8_t)chance(2), mouth->least = (int32_t)chance(3);
        mouths[count++] = mouth;
    }
    int32_t *left = malloc((size_t)count * sizeof *left);
    voice_turn(voice, mouths, count, (int64_t)step, step / 50.0, chance(9) == 0, left);
    touch(left, (size_t)voice->left_out * sizeof *left);
    free(left);
}

int main(void)
{
    voice = calloc(1, sizeof *voice);
    voice->libraries = (struct voice_libraries){decode, encode, samples, unprotect, protect};
    voice->v6[1] = 1, voice->fds[2] = -1;
    for (int i = 0; i < PATHS; i++)
        for (int j = 0; j < VOICE_PATH_BYTES; j++)
            paths[i][j] = (uint8_t)(j == 0 ? i % 3 : j == 1 ? 0 : chance(256));
    for (int step = 0; step < STEPS; step++) {
        struct call *call = &calls[chance(CALLS)];
        uint32_t what = chance(100);
        if (what < 4) {
            if (call->line == NULL)
                begin(call);
            voice_connect(voice, call->line, paths[chance(PATHS)]);
        } else if (what < 6)
            end(call);
        else if (what < 80)
            take_one();
        else if (what < 82)
            sort_some();
        else if (what < 90)
            voice_decode(voice);
        else if (what < 96)
            turn_some(step);
        else
            voice_speak(voice);
    }
    for (int i = 0; i < CALLS; i++)
        end(&calls[i]);
    for (int i = 0; i < VOICE_SLOTS; i++)
        if (voice->slots[i].line != NULL)
            return 2;
    int lines = voice->lines;
    int worked = voice->sent > 1000 && voice->not_sent > 1000 && voice->refused > 1000 && decoded > 1000;
    free(voice);
    return lines != 0 || !worked;
}
"""


def compile_harness(folder: Path, code: str) -> Path:
    """Skips where the compiler has no sanitizers."""
    source, program = folder / "harness.c", folder / "harness"
    source.write_text(code)
    rooms = "-I", Path(engine.__file__).parent
    done = subprocess.run(
        ["cc", *FLAGS, *rooms, source, "-o", program, "-lm"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode and code != HARNESS:
        pytest.skip(f"no sanitizers: {done.stderr.strip().splitlines()[-1]}")
    assert not done.returncode, done.stderr
    return program


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_random_calls_touch_no_memory_that_is_not_theirs(tmp_path: Path) -> None:
    empty = compile_harness(tmp_path, "int main(void) { return 0; }")
    if subprocess.run([empty], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("the sanitizers do not run here")

    program = compile_harness(tmp_path, HARNESS)
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)

    assert not done.returncode, done.stderr
