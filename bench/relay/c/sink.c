/* See sink.h. Every packet is checked: right transceiver, right client address, once, in order. */
#define _GNU_SOURCE
#include "sink.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#define FRAME_BYTES 65536
#define FRAMES 16              /* frames in one recvmmsg */
#define ENTRY_HEADER 24        /* shm/frame.py: length u16 LE, relay u8, 0, path (20) */
#define PATH_PORT_AT 6         /* shm/path.py: local u8, 0, port u16 BE, address (16) */
#define PATH_ADDRESS_AT 20     /* the last four bytes of ::ffff:a.b.c.d */

struct sink_counts sink;

static int socket_of[MAX_SINKS], sinks, is_framed, epoll_fd, recording;
static struct flows flows;
static uint32_t flow_limit, *next_sequence;
static uint64_t *seen; /* a bit for every packet of every flow */
static size_t words_per_flow;
static uint32_t *latencies;
static size_t latency_count, latency_room;
static uint8_t *buffers;

void sink_open(const int *fds, int count, int framed, const struct flows *given,
               uint32_t per_flow, size_t samples)
{
    sinks = count;
    is_framed = framed;
    flows = *given;
    flow_limit = per_flow;
    words_per_flow = per_flow / 64 + 1;
    next_sequence = calloc(flows.count, sizeof *next_sequence);
    seen = calloc(flows.count * words_per_flow, sizeof *seen);
    latencies = calloc(samples + 1, sizeof *latencies);
    latency_room = samples;
    buffers = malloc((size_t)FRAMES * FRAME_BYTES);
    epoll_fd = epoll_create1(0);
    if (!next_sequence || !seen || !latencies || !buffers || epoll_fd < 0)
        die("sink");
    for (int s = 0; s < count; s++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)s};
        socket_of[s] = fds[s];
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[s], &event))
            die("epoll_ctl");
    }
}

static const struct stamp *stamp_of(const uint8_t *packet, size_t size)
{
    size_t at = packet[0] < 4 ? STUN_STAMP_AT : RTP_STAMP_AT;
    return size >= at + sizeof(struct stamp) ? (const void *)(packet + at) : NULL;
}

/* `path`: what the relay says about the client, or NULL when it says nothing. */
static void judge(const uint8_t *packet, size_t size, int at_sink, const uint8_t *path)
{
    const struct stamp *found = size ? stamp_of(packet, size) : NULL;
    struct stamp stamp;
    if (found)
        memcpy(&stamp, found, sizeof stamp); /* it may lie unaligned */
    if (!found || stamp.magic != STAMP_MAGIC || stamp.flow >= flows.count ||
        stamp.sequence >= flow_limit) {
        sink.bad++;
        return;
    }
    uint32_t flow = stamp.flow;
    if ((int)(flow % (uint32_t)sinks) != at_sink) {
        sink.misdelivered++;
        return;
    }
    if (path) {
        uint16_t port;
        uint32_t address;
        memcpy(&port, path + PATH_PORT_AT, 2);
        memcpy(&address, path + PATH_ADDRESS_AT, 4);
        if (ntohs(port) != flows.port || ntohl(address) != flows.base + flow) {
            sink.misdelivered++;
            return;
        }
    }
    uint64_t *word = &seen[flow * words_per_flow + stamp.sequence / 64];
    uint64_t bit = 1ull << (stamp.sequence % 64);
    if (*word & bit) {
        sink.duplicates++;
        return;
    }
    *word |= bit;
    if (stamp.sequence < next_sequence[flow])
        sink.reordered++;
    else
        next_sequence[flow] = stamp.sequence + 1;
    sink.delivered++;
    sink.per_sink[at_sink]++;
    if (recording && latency_count < latency_room)
        latencies[latency_count++] = (uint32_t)(clock_ns(CLOCK_MONOTONIC) - stamp.sent_ns);
}

static void judge_frame(const uint8_t *frame, size_t size, int at_sink)
{
    size_t at = 0;
    while (at + ENTRY_HEADER <= size) {
        size_t length = frame[at] | (size_t)frame[at + 1] << 8;
        if (!length || at + ENTRY_HEADER + length > size)
            break;
        /* offsets of the path constants count from the entry's start */
        judge(frame + at + ENTRY_HEADER, length, at_sink, frame + at);
        at += ENTRY_HEADER + length;
    }
    if (at != size)
        sink.bad++;
}

static void read_sink(int s)
{
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    int room = is_framed ? FRAMES : BATCH;
    size_t bytes = is_framed ? FRAME_BYTES : MAX_PACKET;
    for (int i = 0; i < room; i++) {
        parts[i] = (struct iovec){buffers + (size_t)i * bytes, bytes};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(socket_of[s], messages, (unsigned)room, MSG_DONTWAIT, NULL);
    if (count < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNREFUSED)
        die("recvmmsg");
    for (int i = 0; i < count; i++) {
        if (is_framed && !messages[i].msg_len) {
            fprintf(stderr, "sink: the relay closed its link\n");
            exit(1);
        }
        sink.reads++;
        if (is_framed)
            judge_frame(parts[i].iov_base, messages[i].msg_len, s);
        else
            judge(parts[i].iov_base, messages[i].msg_len, s, NULL);
    }
}

uint64_t sink_drain(void)
{
    struct epoll_event ready[MAX_SINKS];
    int count = epoll_wait(epoll_fd, ready, MAX_SINKS, 0);
    if (count <= 0)
        return 0;
    uint64_t before = sink.delivered, started = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < count; i++)
        read_sink((int)ready[i].data.u32);
    sink.cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - started;
    return sink.delivered - before;
}

void sink_record(int on)
{
    recording = on;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

const uint32_t *sink_latencies(size_t *count)
{
    qsort(latencies, latency_count, sizeof *latencies, compare);
    *count = latency_count;
    return latencies;
}
