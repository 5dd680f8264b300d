/* Sends datagrams on a connected socket and says what one cost this thread: a veth's receive path runs in it
 * too. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
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

struct datagram {
    struct iphdr ip;
    struct udphdr udp;
    char payload[LARGEST];
};

static struct datagram between(uint32_t from, int from_port, uint32_t to, int to_port, int size)
{
    struct datagram made = {
        .ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .saddr = from, .daddr = to},
        .udp = {.source = htons(from_port), .dest = htons(to_port)},
    };

    made.udp.len = htons(sizeof(made.udp) + size);
    made.ip.tot_len = htons(sizeof(made.ip) + sizeof(made.udp) + size);
    return made;
}

/* The same through a raw socket that takes the header (so that no hook of sendmsg runs), from one address to
 * one after the other, all in network order. */
double packet_loop_rotate(int fd, uint32_t from, int from_port, const uint32_t *to, int to_port, int count,
                          int size)
{
    static struct datagram datagrams[BATCH];
    struct iovec vectors[BATCH];
    struct sockaddr_in peers[BATCH];
    struct mmsghdr messages[BATCH];
    int64_t start;
    int sent = 0;

    memset(peers, 0, sizeof(peers));
    memset(messages, 0, sizeof(messages));
    for (int index = 0; index < BATCH; index++) {
        datagrams[index] = between(from, from_port, 0, to_port, size);
        vectors[index].iov_base = &datagrams[index];
        vectors[index].iov_len = ntohs(datagrams[index].ip.tot_len);
        peers[index].sin_family = AF_INET;
        messages[index].msg_hdr.msg_iov = &vectors[index];
        messages[index].msg_hdr.msg_iovlen = 1;
        messages[index].msg_hdr.msg_name = &peers[index];
        messages[index].msg_hdr.msg_namelen = sizeof(peers[index]);
    }
    start = now();
    while (sent < count) {
        int batch = count - sent < BATCH ? count - sent : BATCH;

        for (int index = 0; index < batch; index++)
            peers[index].sin_addr.s_addr = datagrams[index].ip.daddr = to[sent + index];
        if (sendmmsg(fd, messages, batch, 0) != batch)
            return -1;
        sent += batch;
    }
    return (double)(now() - start) / sent;
}

/* An empty answer of each of `count` addresses, the same way; how many left. */
int packet_loop_answer(int fd, const uint32_t *from, int from_port, int count, uint32_t to, int to_port)
{
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_addr.s_addr = to};
    struct datagram answer = between(0, from_port, to, to_port, 0);
    int size = ntohs(answer.ip.tot_len);

    for (int index = 0; index < count; index++) {
        answer.ip.saddr = from[index];
        if (sendto(fd, &answer, size, 0, (struct sockaddr *)&peer, sizeof(peer)) != size)
            return index;
    }
    return count;
}
