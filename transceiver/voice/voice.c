// The path of a voice frame in C: the plain case of it, many at a time. In: decrypt, and decode the packet that
// is next. Out: encode, pack, encrypt, send. All else is left to Python, which decides as always.
//
// An interpreter has a cold cache to fill for each step of each frame; here the steps of all calls that are due
// together follow each other (docs/decisions.md). Nothing is allocated, nothing blocks, one thread calls.
//
// Law: what comes from the network is believed only when SRTP has authenticated it with the keys of the call
// whose selected path it came by. Python has put that path into the table, after an authenticated check.

#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "voice.h"

#define RTP_HEADER_BYTES 12
#define CLOCK_RATE_HZ 48000.0 // RFC 7587 §4.1
#define FRAME_TICKS 960
#define FRAME_S (FRAME_TICKS / CLOCK_RATE_HZ)
#define PAUSE_FRAMES 1.55      // path.py
#define MAX_SEQUENCE_JUMP 3000 // path.py
#define MAX_PAYLOAD_BYTES 1000 // opus.py

int voice_version(void)
{
    return VOICE_VERSION;
}

int voice_size(void)
{
    return sizeof(struct voice);
}

static uint16_t read16(const uint8_t *data)
{
    return (uint16_t)(data[0] << 8 | data[1]);
}

static uint32_t read32(const uint8_t *data)
{
    return (uint32_t)read16(data) << 16 | read16(data + 2);
}

static void write16(uint8_t *data, uint16_t value)
{
    data[0] = (uint8_t)(value >> 8);
    data[1] = (uint8_t)value;
}

static void write32(uint8_t *data, uint32_t value)
{
    write16(data, (uint16_t)(value >> 16));
    write16(data + 2, (uint16_t)value);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

// ---- paths: open addressing, and no holes after a removal ------------------------------------------------

static uint32_t place_of(const uint8_t *path)
{
    uint64_t hash = 0xCBF29CE484222325; // FNV-1a; who is in the table has proved its path
    for (int i = 0; i < VOICE_PATH_BYTES; i++)
        hash = (hash ^ path[i]) * 0x100000001B3;
    return (uint32_t)(hash ^ hash >> 32) & (VOICE_SLOTS - 1);
}

static uint32_t find(const struct voice *voice, const uint8_t *path)
{
    uint32_t place = place_of(path);
    while (voice->slots[place].line != NULL && memcmp(voice->slots[place].path, path, VOICE_PATH_BYTES) != 0)
        place = (place + 1) & (VOICE_SLOTS - 1);
    return place;
}

static void disconnect(struct voice *voice, struct voice_line *line)
{
    if (!line->connected)
        return;
    line->connected = 0;
    uint32_t hole = find(voice, line->path);
    voice->slots[hole].line = NULL;
    voice->lines--;
    for (uint32_t next = (hole + 1) & (VOICE_SLOTS - 1); voice->slots[next].line != NULL;
         next = (next + 1) & (VOICE_SLOTS - 1)) {
        uint32_t home = place_of(voice->slots[next].path);
        if (((next - home) & (VOICE_SLOTS - 1)) < ((next - hole) & (VOICE_SLOTS - 1)))
            continue; // it would lie before its home
        voice->slots[hole] = voice->slots[next];
        voice->slots[next].line = NULL;
        hole = next;
    }
}

// The line takes its media from this path and sends it there; 0 when there is no room for it.
int voice_connect(struct voice *voice, struct voice_line *line, const uint8_t *path)
{
    disconnect(voice, line);
    struct voice_slot *slot = &voice->slots[find(voice, path)];
    if (slot->line != NULL) // whoever had this path has lost it
        slot->line->connected = 0;
    else if (voice->lines >= VOICE_LINES)
        return 0;
    else
        voice->lines++;
    slot->line = line;
    memcpy(slot->path, path, VOICE_PATH_BYTES);
    memcpy(line->path, path, VOICE_PATH_BYTES);
    line->media_at = 0;
    line->connected = 1;
    return 1;
}

// The line is not connected any more, and its memory may go: nothing that is queued knows it.
void voice_forget(struct voice *voice, struct voice_line *line)
{
    disconnect(voice, line);
    for (int i = 0; i < VOICE_QUEUE; i++) {
        if (voice->packet[i].line == line)
            voice->packet[i].line = NULL;
        if (voice->frame[i].line == line)
            voice->frame[i].line = NULL;
    }
}

// ---- in ----------------------------------------------------------------------------------------------------

// A datagram that came by this path. 1: taken. 0: left to Python. -1: the queue is full.
int voice_take(struct voice *voice, const uint8_t *data, int bytes, const uint8_t *path)
{
    // RFC 7983 §7, RFC 5761 §4: RTP.
    if (bytes < RTP_HEADER_BYTES || bytes > VOICE_PACKET_BYTES || data[0] < 128 || data[0] > 191 ||
        (data[1] >= 192 && data[1] <= 223))
        return 0;
    struct voice_line *line = voice->slots[find(voice, path)].line;
    if (line == NULL || line->rx == NULL)
        return 0;
    if (voice->packets >= VOICE_QUEUE)
        return -1;
    struct voice_packet *packet = &voice->packet[voice->packets];
    uint8_t *plain = voice->plain[voice->packets];
    memcpy(plain, data, (size_t)bytes);
    int length = bytes;
    if (voice->libraries.unprotect(line->rx, plain, &length) != 0) {
        voice->refused++;
        return 1;
    }
    line->media_at = now();
    *packet = (struct voice_packet){.line = line, .at = line->media_at, .bytes = length};
    voice->owner[voice->packets++] = line->owner;
    return 1;
}

// Takes what recvmmsg(2) has put into `messages` from the socket of a listen address; how many are `left`.
int voice_sort(struct voice *voice, void *messages, int count, int local)
{
    const struct mmsghdr *message = messages;
    int left = 0;
    for (int i = 0; i < count && i < VOICE_QUEUE; i++) {
        uint8_t path[VOICE_PATH_BYTES] = {(uint8_t)local};
        const struct sockaddr_in *v4 = message[i].msg_hdr.msg_name;
        if (v4->sin_family == AF_INET) {
            memcpy(path + 2, &v4->sin_port, 2);
            memset(path + 14, 0xFF, 2); // IPv4 as ::ffff:a.b.c.d
            memcpy(path + 16, &v4->sin_addr, 4);
        } else {
            const struct sockaddr_in6 *v6 = message[i].msg_hdr.msg_name;
            memcpy(path + 2, &v6->sin6_port, 2);
            memcpy(path + 4, &v6->sin6_addr, 16);
        }
        const struct iovec *data = message[i].msg_hdr.msg_iov;
        if (voice_take(voice, data->iov_base, (int)message[i].msg_len, path) <= 0)
            voice->left[left++] = i;
    }
    return left;
}

// As path.py's InboundStream.add.
static void count_in(struct voice_stream *stream, uint16_t sequence, uint32_t timestamp, double at)
{
    uint32_t ahead = (uint32_t)(sequence - stream->highest) & 0xFFFF;
    if (ahead < 0x8000) // and not a jump: it is the packet that is next
        stream->highest += ahead;
    stream->received++;
    double transit = at * CLOCK_RATE_HZ - timestamp;
    if (stream->timed) {
        double difference = fabs(transit - stream->last_transit);
        if (difference < CLOCK_RATE_HZ)
            stream->jitter += (difference - stream->jitter) / 16;
    }
    stream->last_transit = transit;
    stream->timed = 1;
}

// Bytes of payload and where it begins, without CSRCs, header extension and padding (RFC 3550 §5.1), as rtp.py
// has them; 0 also for what is no RTP packet.
static int payload_of(const uint8_t *data, int bytes, int *start)
{
    int end = bytes;
    *start = RTP_HEADER_BYTES;
    if (data[0] != 0x80) {
        if (data[0] >> 6 != 2)
            return 0;
        *start += 4 * (data[0] & 0x0F);
        if (data[0] & 0x10) {
            if (bytes < *start + 4)
                return 0;
            *start += 4 + 4 * read16(data + *start + 2);
        }
        if (data[0] & 0x20) {
            if (data[bytes - 1] == 0)
                return 0;
            end -= data[bytes - 1];
        }
    }
    return end > *start ? end - *start : 0;
}

// Decodes a packet if it is the one that is next, and plain; samples of PCM.
static int play(struct voice *voice, const struct voice_packet *packet, const uint8_t *data, int16_t *pcm)
{
    struct voice_line *line = packet->line;
    if (line == NULL) // forgotten since it was taken
        return 0;
    struct voice_ear *ear = line->ear;
    struct voice_stream *stream = line->stream;
    if (ear == NULL || stream == NULL || ear->decoder == NULL || !ear->begun || ear->busy ||
        packet->bytes < RTP_HEADER_BYTES || (data[1] & 0x7F) != line->payload_type)
        return 0;
    int start, bytes = payload_of(data, packet->bytes, &start);
    if (bytes == 0)
        return 0;
    uint16_t sequence = read16(data + 2);
    uint32_t timestamp = read32(data + 4), ssrc = read32(data + 8);
    if (ssrc != ear->ssrc || ssrc != stream->ssrc || sequence != ear->sequence || timestamp != ear->timestamp)
        return 0;
    uint32_t ahead = (uint32_t)(sequence - stream->highest) & 0xFFFF;
    if (ahead > MAX_SEQUENCE_JUMP && ahead < 0x8000)
        return 0;
    const uint8_t *payload = data + start;
    int rate = (int)CLOCK_RATE_HZ / ear->ticks;
    if (voice->libraries.samples(payload, bytes, rate) != ear->samples)
        return 0;
    int samples = voice->libraries.decode(ear->decoder, payload, bytes, pcm, ear->samples, 0);
    if (samples != ear->samples)
        return 0; // Python will find what is wrong with it
    count_in(stream, sequence, timestamp, packet->at);
    line->octets_in += (uint64_t)bytes;
    ear->sequence = (uint16_t)(sequence + 1);
    ear->timestamp = timestamp + (uint32_t)(samples * ear->ticks);
    ear->torn = 0;
    return samples;
}

// Decodes what is queued; how many packets there were. What comes behind one that is left to Python is left to it too,
// for Python has not judged the first yet, and `busy` says so until it has.
int voice_decode(struct voice *voice)
{
    int count = voice->packets;
    voice->packets = 0;
    for (int i = 0; i < count; i++) {
        const struct voice_line *line = voice->packet[i].line;
        voice->samples[i] = play(voice, &voice->packet[i], voice->plain[i], voice->pcm[i]);
        if (voice->samples[i] == 0 && line != NULL && line->ear != NULL)
            line->ear->busy = 1;
    }
    return count;
}

// ---- out ---------------------------------------------------------------------------------------------------

// The header of the 20 ms that are due, as path.py's VoicePath.frame (RFC 3550 §5.1, RFC 7587 §4.1).
static void pack(struct voice_line *line, double due, uint8_t *data)
{
    bool marker = !line->started;
    if (line->started) {
        double passed = (due - line->sent_at) / FRAME_S + line->rest;
        marker = passed >= PAUSE_FRAMES;
        double frames = marker ? nearbyint(passed) : 1;
        line->rest = passed - frames;
        line->sequence++;
        line->timestamp += (uint32_t)(int64_t)frames * FRAME_TICKS;
    }
    line->started = 1;
    line->given = 0;
    line->sent_at = due;
    data[0] = 0x80;
    data[1] = (uint8_t)(line->payload_type | (marker ? 0x80 : 0));
    write16(data + 2, line->sequence);
    write32(data + 4, line->timestamp);
    write32(data + 8, line->ssrc);
}

// Encodes, packs and encrypts one; bytes to send.
static int make(struct voice *voice, const struct voice_frame *frame, uint8_t *data)
{
    struct voice_line *line = frame->line;
    if (line == NULL || !line->connected || line->tx == NULL)
        return 0;
    int size = voice->libraries.encode(frame->encoder, frame->pcm, frame->samples, data + RTP_HEADER_BYTES,
                                       MAX_PAYLOAD_BYTES);
    if (size < 0)
        line->failed = 1;
    if (size <= frame->least)
        return 0;
    pack(line, frame->due, data);
    line->sent++;
    line->sent_octets += (uint64_t)size;
    int length = RTP_HEADER_BYTES + size;
    return voice->libraries.protect(line->tx, data, &length) == 0 ? length : 0;
}

static socklen_t address_of(const struct voice *voice, const uint8_t *path, struct sockaddr_in6 *name)
{
    memset(name, 0, sizeof *name);
    if (voice->v6[path[0]]) {
        name->sin6_family = AF_INET6;
        memcpy(&name->sin6_port, path + 2, 2);
        memcpy(&name->sin6_addr, path + 4, 16);
        return sizeof *name;
    }
    struct sockaddr_in *v4 = (struct sockaddr_in *)name;
    v4->sin_family = AF_INET;
    memcpy(&v4->sin_port, path + 2, 2);
    memcpy(&v4->sin_addr, path + 16, 4);
    return sizeof *v4;
}

// A full or failing socket counts as loss, as UDP has it.
static void send_all(struct voice *voice, int fd, struct mmsghdr *messages, int count)
{
    while (count > 0) {
        int sent = fd < 0 ? -1 : sendmmsg(fd, messages, (unsigned)count, MSG_DONTWAIT);
        if (sent < 0 && fd >= 0 && errno == EINTR)
            continue;
        if (sent <= 0) {
            voice->not_sent++;
            sent = 1;
        } else {
            voice->sent += (uint32_t)sent;
        }
        messages += sent;
        count -= sent;
    }
}

// Says what is queued.
void voice_speak(struct voice *voice)
{
    static struct mmsghdr messages[VOICE_QUEUE];
    static struct iovec vectors[VOICE_QUEUE];
    static struct sockaddr_in6 names[VOICE_QUEUE];
    int count = 0, fd = -1;
    int frames = voice->frames;
    voice->frames = 0;
    for (int i = 0; i < frames; i++) {
        int length = make(voice, &voice->frame[i], voice->secret[i]);
        if (length == 0)
            continue;
        const uint8_t *path = voice->frame[i].line->path;
        if (count > 0 && voice->fds[path[0]] != fd) {
            send_all(voice, fd, messages, count);
            count = 0;
        }
        fd = voice->fds[path[0]];
        vectors[count] = (struct iovec){.iov_base = voice->secret[i], .iov_len = (size_t)length};
        messages[count].msg_hdr = (struct msghdr){.msg_name = &names[count],
                                                  .msg_namelen = address_of(voice, path, &names[count]),
                                                  .msg_iov = &vectors[count],
                                                  .msg_iovlen = 1};
        count++;
    }
    send_all(voice, fd, messages, count);
}

// Takes the 20 ms that are due from each mouth that has them, for voice_speak; they stay where they are until then.
// How many have been taken. Who is `left` to Python: 2 * index, and 1 more where only a writer is to be woken.
int voice_turn(struct voice *voice, struct voice_mouth **mouths, int count, int64_t slot, double due, int load,
               int32_t *left)
{
    int lefts = 0, taken = 0;
    for (int i = 0; i < count; i++) {
        struct voice_mouth *mouth = mouths[i];
        struct voice_line *line = mouth->line;
        if (slot < mouth->first)
            continue;
        if (line == NULL || !line->connected || line->tx == NULL || line->failed || mouth->encoder == NULL ||
            mouth->stale || mouth->load != load || mouth->level < mouth->samples) {
            left[lefts++] = 2 * i;
            continue;
        }
        if (voice->frames >= VOICE_QUEUE)
            voice_speak(voice);
        voice->frame[voice->frames++] = (struct voice_frame){.line = line,
                                                             .encoder = mouth->encoder,
                                                             .pcm = mouth->ring + mouth->read,
                                                             .due = due,
                                                             .samples = mouth->samples,
                                                             .least = mouth->least};
        taken++;
        mouth->level -= mouth->samples;
        mouth->read = mouth->level > 0 ? (mouth->read + mouth->samples) % mouth->capacity : 0;
        if (mouth->level == 0) // begin anew: the first frames' memory is still warm
            mouth->write = 0;
        mouth->fed = 0;
        mouth->played += mouth->samples;
        mouth->frames++;
        if (mouth->refused && mouth->capacity - mouth->level - mouth->held >= mouth->wake_room)
            left[lefts++] = 2 * i + 1;
    }
    voice->left_out = lefts;
    return taken;
}
