/* The clients: builds stamped RTP-like packets and Binding requests and sends them. */
#ifndef BENCH_SENDER_H
#define BENCH_SENDER_H

#include "common.h"

struct sender {
    struct flows flows;
    struct sockaddr_in targets[MAX_SINKS]; /* flow i sends to targets[i % target_count] */
    int target_count;
    int packet_bytes;
    int stun_percent;
    int channel_data;             /* wrap in TURN ChannelData (RFC 8656 §12.4) */
    char (*ufrags)[UFRAG_BYTES];  /* one for each flow */
    int fd;
    uint32_t turn, random, *sequence;
    uint64_t sent, failed, cpu_ns;
};

/* Bind the one socket that has every client's address. */
void sender_open(struct sender *sender);
/* Send the next `count` (at most BATCH) packets, flows in turn; returns how many went out. */
int sender_send(struct sender *sender, int count);

#endif
