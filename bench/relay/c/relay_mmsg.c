/* The same relay with up to 64 packets in each system call: recvmmsg, sendmmsg.
   relay_mmsg PORT SINK_PORT... */
#define _GNU_SOURCE
#include "relay_common.h"

int main(int argc, char **argv)
{
    static uint8_t packets[BATCH][2048];
    static struct sockaddr_in from[BATCH];
    static struct iovec parts[BATCH];
    static struct mmsghdr messages[BATCH];
    int fd = relay_open(argc, argv);
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){packets[i], sizeof packets[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
                                                  .msg_namelen = sizeof from[i],
                                                  .msg_iov = &parts[i],
                                                  .msg_iovlen = 1};
        }
        int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < count; i++) {
            parts[i].iov_len = messages[i].msg_len;
            messages[i].msg_hdr.msg_name = (void *)relay_target(&from[i]);
        }
        for (int done = 0; done < count;) {
            int sent = sendmmsg(fd, messages + done, (unsigned)(count - done), 0);
            done += sent > 0 ? sent : 1; /* skip the one that failed */
        }
    }
}
