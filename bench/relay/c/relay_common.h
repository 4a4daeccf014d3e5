/* What the two C relays share: the public socket and where a client's packets go. */
#ifndef BENCH_RELAY_COMMON_H
#define BENCH_RELAY_COMMON_H

#include "common.h"

static struct sockaddr_in relay_targets[MAX_SINKS];
static uint32_t relay_target_count;

static const struct sockaddr_in *relay_target(const struct sockaddr_in *from)
{
    return &relay_targets[ntohl(from->sin_addr.s_addr) % relay_target_count];
}

static int relay_open(int argc, char **argv)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), size = 8 << 20;
    if (argc < 3 || argc - 2 > MAX_SINKS)
        exit(2);
    for (int i = 2; i < argc; i++) {
        relay_targets[relay_target_count] = here;
        relay_targets[relay_target_count++].sin_port = htons((uint16_t)atoi(argv[i]));
    }
    here.sin_port = htons((uint16_t)atoi(argv[1]));
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (bind(fd, (void *)&here, sizeof here))
        die("bind");
    return fd;
}

#endif
