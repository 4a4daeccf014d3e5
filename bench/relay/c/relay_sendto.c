/* The plain C relay everybody writes first: recvfrom, look where it goes, sendto.
   relay_sendto PORT SINK_PORT...   The look-up is the cheapest there is: client address modulo sinks. */
#include "relay_common.h"

int main(int argc, char **argv)
{
    int fd = relay_open(argc, argv);
    uint8_t packet[2048];
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t size = recvfrom(fd, packet, sizeof packet, 0, (void *)&from, &length);
        if (size > 0)
            sendto(fd, packet, (size_t)size, 0, (const void *)relay_target(&from),
                   sizeof(struct sockaddr_in));
    }
}
