/* What generator and sink agree on: the stamp in every packet, the flows, the clocks. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64          /* packets in one sendmmsg or recvmmsg */
#define MAX_PACKET 2048   /* bytes */
#define MAX_SINKS 16
#define UFRAG_BYTES 20
#define RTP_STAMP_AT 12   /* behind the RTP header */
#define STUN_STAMP_AT 56  /* header 20, USERNAME 4 + 28, head of the attribute that holds it 4 */
#define STAMP_MAGIC 0x56524c59u

/* In the packet as it lies in memory: both ends are this process. */
struct stamp {
    uint32_t magic, flow, sequence, reserved;
    uint64_t sent_ns; /* CLOCK_MONOTONIC */
};

/* Flow i is the client at `base + i`, all with one port; it belongs to transceiver i % sinks. */
struct flows {
    uint32_t base; /* host order */
    uint16_t port;
    uint32_t count;
};

static inline uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

#endif
