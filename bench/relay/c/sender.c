/* See sender.h. One socket bound to the wildcard; IP_PKTINFO gives each packet its flow's address. */
#define _GNU_SOURCE
#include "sender.h"

#include <errno.h>
#include <string.h>

#define CHANNEL 0x4000
#define SEND_BUFFER (8 << 20)

void sender_open(struct sender *sender)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(sender->flows.port)};
    int size = SEND_BUFFER;
    sender->sequence = calloc(sender->flows.count, sizeof *sender->sequence);
    sender->random = 0x2545f491;
    sender->fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (sender->fd < 0 || !sender->sequence)
        die("sender");
    if (setsockopt(sender->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
        setsockopt(sender->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (bind(sender->fd, (void *)&any, sizeof any))
        die("bind");
}

static uint32_t next_random(struct sender *sender)
{
    sender->random ^= sender->random << 13;
    sender->random ^= sender->random >> 17;
    sender->random ^= sender->random << 5;
    return sender->random;
}

static void attribute(uint8_t *at, uint16_t kind, uint16_t length)
{
    at[0] = kind >> 8;
    at[1] = kind & 255;
    at[2] = length >> 8;
    at[3] = length & 255;
}

/* A check as a browser sends it; the stamp travels in a SOFTWARE attribute. */
static int fill_stun(uint8_t *packet, const char *ufrag, const struct stamp *stamp)
{
    int size = STUN_STAMP_AT + (int)sizeof *stamp + 12 + 8 + 24 + 8;
    uint8_t *at;
    memset(packet, 0, (size_t)size);
    attribute(packet, 0x0001, (uint16_t)(size - 20)); /* Binding request */
    memcpy(packet + 4, "\x21\x12\xa4\x42", 4);
    memcpy(packet + 8, stamp, 12); /* transaction */
    attribute(packet + 20, 0x0006, UFRAG_BYTES + 5); /* USERNAME "ours:theirs" */
    memcpy(packet + 24, ufrag, UFRAG_BYTES);
    memcpy(packet + 24 + UFRAG_BYTES, ":abcd", 5);
    attribute(packet + STUN_STAMP_AT - 4, 0x8022, sizeof *stamp);
    memcpy(packet + STUN_STAMP_AT, stamp, sizeof *stamp);
    at = packet + STUN_STAMP_AT + sizeof *stamp;
    attribute(at, 0x802a, 8);       /* ICE-CONTROLLING */
    attribute(at + 12, 0x0024, 4);  /* PRIORITY */
    attribute(at + 20, 0x0008, 20); /* MESSAGE-INTEGRITY, which no relay checks */
    attribute(at + 44, 0x8028, 4);  /* FINGERPRINT, likewise */
    return size;
}

static int fill(struct sender *sender, uint8_t *packet, uint32_t flow, uint64_t now)
{
    struct stamp stamp = {STAMP_MAGIC, flow, sender->sequence[flow]++, 0, now};
    uint8_t *payload = packet + (sender->channel_data ? 4 : 0);
    int size = sender->packet_bytes;
    if (sender->stun_percent && (int)(next_random(sender) % 100) < sender->stun_percent) {
        size = fill_stun(payload, sender->ufrags[flow], &stamp);
    } else {
        payload[0] = 0x80;
        payload[1] = 111;
        memcpy(payload + RTP_STAMP_AT, &stamp, sizeof stamp);
    }
    if (!sender->channel_data)
        return size;
    attribute(packet, CHANNEL, (uint16_t)size);
    return size + 4;
}

int sender_send(struct sender *sender, int count)
{
    static uint8_t packets[BATCH][MAX_PACKET];
    static uint8_t control[BATCH][CMSG_SPACE(sizeof(struct in_pktinfo))];
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    uint64_t started = clock_ns(CLOCK_THREAD_CPUTIME_ID), now = clock_ns(CLOCK_MONOTONIC);
    int done = 0;
    for (int i = 0; i < count; i++) {
        uint32_t flow = sender->turn;
        struct in_pktinfo info = {.ipi_spec_dst.s_addr = htonl(sender->flows.base + flow)};
        struct msghdr *header = &messages[i].msg_hdr;
        sender->turn = flow + 1 < sender->flows.count ? flow + 1 : 0;
        parts[i] = (struct iovec){packets[i], (size_t)fill(sender, packets[i], flow, now)};
        *header = (struct msghdr){
            .msg_name = &sender->targets[flow % (uint32_t)sender->target_count],
            .msg_namelen = sizeof sender->targets[0],
            .msg_iov = &parts[i],
            .msg_iovlen = 1,
            .msg_control = control[i],
            .msg_controllen = sizeof control[i],
        };
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(header);
        cmsg->cmsg_level = IPPROTO_IP;
        cmsg->cmsg_type = IP_PKTINFO;
        cmsg->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(cmsg), &info, sizeof info);
    }
    /* Until all are out: a packet that is stamped but not sent would look like a lost one. */
    for (int tries = 0; done < count && tries < 1000; tries++) {
        int sent = sendmmsg(sender->fd, messages + done, (unsigned)(count - done), 0);
        if (sent > 0)
            done += sent;
        else if (errno != EAGAIN && errno != ENOBUFS && errno != ECONNREFUSED && errno != EINTR)
            die("sendmmsg");
    }
    sender->sent += (uint64_t)done;
    sender->failed += (uint64_t)(count - done);
    sender->cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - started;
    return done;
}
