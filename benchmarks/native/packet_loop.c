/* Sends datagrams on a connected socket and says what one cost this thread: a veth's receive path runs in it
 * too. */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    BATCH = 64,
    LARGEST = 1500
};

static int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* Nanoseconds a packet of `count` (rounded up to batches), or -1. */
double packet_loop_send(int fd, int count, int size)
{
    static char payload[LARGEST];
    struct iovec vector = {.iov_base = payload, .iov_len = size};
    struct mmsghdr messages[BATCH];
    int64_t start;
    int sent = 0;

    memset(messages, 0, sizeof(messages));
    for (int index = 0; index < BATCH; index++) {
        messages[index].msg_hdr.msg_iov = &vector;
        messages[index].msg_hdr.msg_iovlen = 1;
    }
    start = now();
    while (sent < count) {
        int result = sendmmsg(fd, messages, BATCH, 0);

        if (result <= 0)
            return -1;
        sent += result;
    }
    return (double)(now() - start) / sent;
}
