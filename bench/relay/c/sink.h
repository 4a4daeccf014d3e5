/* The receiving end: stands where the transceivers are, and judges every packet. */
#ifndef BENCH_SINK_H
#define BENCH_SINK_H

#include "common.h"

struct sink_counts {
    uint64_t delivered;    /* right packets, each counted once */
    uint64_t duplicates;   /* seen before */
    uint64_t misdelivered; /* at another flow's transceiver, or under another flow's address */
    uint64_t reordered;    /* after a later one of its flow */
    uint64_t bad;          /* no packet of ours, or a frame that does not parse */
    uint64_t reads;        /* messages taken from the sockets: datagrams, or frames */
    uint64_t cpu_ns;       /* spent in reading and judging, without the polling in between */
    uint64_t per_sink[MAX_SINKS];
};

extern struct sink_counts sink;

/* `fds[s]`: socket of transceiver s. `framed`: voicerelay frames, else plain datagrams.
   `per_flow`: no flow sends more packets than that. `samples`: latencies kept at most. */
void sink_open(const int *fds, int count, int framed, const struct flows *flows,
               uint32_t per_flow, size_t samples);
/* Take what is there, never wait; returns how many packets were delivered. */
uint64_t sink_drain(void);
/* Keep latencies from now on (1) or no more (0). */
void sink_record(int on);
/* Sorted latencies in ns. */
const uint32_t *sink_latencies(size_t *count);

#endif
