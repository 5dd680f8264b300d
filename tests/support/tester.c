/* One thing N times, counted exactly. Static and without threads, so that a process of it lives well under a
 * millisecond.
 *
 *   tester exec N PATH [ARG...]           start PATH N times, waiting for each
 *   tester marked NAME N                  start itself N times as `nothing NAME-0`, `nothing NAME-1`, ...
 *   tester nothing [ARG...]               end at once
 *   tester connect N ADDRESS PORT         TCP connect and close N times
 *   tester udp N SIZE ADDRESS PORT        N datagrams of SIZE bytes from one socket
 *   tester udp-each N SIZE ADDRESS PORT   N datagrams, each from a process of its own
 *   AEGIS_PER_SECOND=R                    at a steady rate of R a second
 *
 * Prints one JSON object: done, errors {errno: count}, pids (at most 64), ports (at most 64), packets_sent,
 * bytes_sent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    ERRNOS = 256,
    KEPT = 64
};

static long done, packets, bytes, errors[ERRNOS];
static long pids[KEPT], ports[KEPT];
static int pid_count, port_count;
static double per_second;
static struct timespec started;

static void keep(long *list, int *count, long value)
{
    if (*count < KEPT)
        list[(*count)++] = value;
}

static void pace(long number)
{
    if (per_second <= 0)
        return;
    double due = (double)number / per_second;
    struct timespec at = started;
    at.tv_sec += (time_t)due;
    at.tv_nsec += (long)((due - (double)(time_t)due) * 1e9);
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {
    }
}

static void failed(int number)
{
    errors[number >= 0 && number < ERRNOS ? number : 0]++;
}

static socklen_t address_of(const char *text, const char *port, struct sockaddr_storage *storage)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)storage;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)storage;
    memset(storage, 0, sizeof *storage);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((unsigned short)atoi(port));
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((unsigned short)atoi(port));
        return sizeof *v6;
    }
    fprintf(stderr, "tester: no address: %s\n", text);
    exit(2);
}

static void keep_port(int socket_fd)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    if (getsockname(socket_fd, (struct sockaddr *)&own, &length) == 0)
        keep(ports, &port_count, ntohs(((struct sockaddr_in *)&own)->sin_port));
}

static void run_exec(long count, char **arguments)
{
    extern char **environ;
    for (long i = 0; i < count; i++) {
        pid_t pid;
        pace(i);
        int result = posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ);
        if (result) {
            failed(result);
            continue;
        }
        if (waitpid(pid, NULL, 0) == pid)
            done++;
        keep(pids, &pid_count, pid);
    }
}

static void run_marked(long count, char *self, const char *name)
{
    extern char **environ;
    char mark[256];
    char *arguments[] = {self, "nothing", mark, NULL};
    for (long i = 0; i < count; i++) {
        pid_t pid;
        pace(i);
        snprintf(mark, sizeof mark, "%s-%ld", name, i);
        int result = posix_spawn(&pid, self, NULL, NULL, arguments, environ);
        if (result)
            failed(result);
        else if (waitpid(pid, NULL, 0) == pid)
            done++;
    }
}

static void run_connect(long count, const char *address, const char *port)
{
    struct sockaddr_storage target;
    socklen_t length = address_of(address, port, &target);
    keep(pids, &pid_count, getpid());
    for (long i = 0; i < count; i++) {
        pace(i);
        int client = socket(target.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (client < 0 || connect(client, (struct sockaddr *)&target, length) < 0) {
            failed(errno);
        } else {
            done++;
            keep_port(client);
        }
        if (client >= 0)
            close(client);
    }
}

static int send_once(int sender, size_t size, struct sockaddr_storage *target, socklen_t length)
{
    static char payload[65536];
    return sendto(sender, payload, size, 0, (struct sockaddr *)target, length) == (ssize_t)size ? 0 : errno;
}

static void sent(int result, size_t size)
{
    if (result) {
        failed(result);
        return;
    }
    done++;
    packets++;
    bytes += (long)size;
}

static void run_udp(long count, size_t size, const char *address, const char *port, int each)
{
    struct sockaddr_storage target;
    socklen_t length = address_of(address, port, &target);
    int sender = each ? -1 : socket(target.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (!each)
        keep(pids, &pid_count, getpid());
    for (long i = 0; i < count; i++) {
        pace(i);
        if (!each) {
            sent(send_once(sender, size, &target, length), size);
            continue;
        }
        pid_t child = fork();
        if (child == 0) {
            int own = socket(target.ss_family, SOCK_DGRAM, 0);
            _exit(own < 0 ? errno : send_once(own, size, &target, length));
        }
        int status = 0;
        if (child < 0) {
            failed(errno);
        } else {
            waitpid(child, &status, 0);
            keep(pids, &pid_count, child);
            sent(WEXITSTATUS(status), size);
        }
    }
    if (sender >= 0) {
        keep_port(sender);
        close(sender);
    }
}

static void print_list(const char *name, const long *list, int count)
{
    printf(", \"%s\": [", name);
    for (int i = 0; i < count; i++)
        printf("%s%ld", i ? ", " : "", list[i]);
    printf("]");
}

static void report(void)
{
    int first = 1;
    printf("{\"done\": %ld, \"errors\": {", done);
    for (int i = 0; i < ERRNOS; i++) {
        if (errors[i]) {
            printf("%s\"%d\": %ld", first ? "" : ", ", i, errors[i]);
            first = 0;
        }
    }
    printf("}, \"packets_sent\": %ld, \"bytes_sent\": %ld", packets, bytes);
    print_list("pids", pids, pid_count);
    print_list("ports", ports, port_count);
    printf("}\n");
}

int main(int argc, char **argv)
{
    if (argc >= 2 && !strcmp(argv[1], "nothing"))
        return 0;
    const char *rate = getenv("AEGIS_PER_SECOND");
    per_second = rate ? atof(rate) : 0;
    clock_gettime(CLOCK_MONOTONIC, &started);
    if (argc >= 4 && !strcmp(argv[1], "exec")) {
        run_exec(atol(argv[2]), argv + 3);
    } else if (argc == 4 && !strcmp(argv[1], "marked")) {
        run_marked(atol(argv[3]), argv[0], argv[2]);
    } else if (argc == 5 && !strcmp(argv[1], "connect")) {
        run_connect(atol(argv[2]), argv[3], argv[4]);
    } else if (argc == 6 && (!strcmp(argv[1], "udp") || !strcmp(argv[1], "udp-each"))) {
        run_udp(atol(argv[2]), (size_t)atol(argv[3]), argv[4], argv[5], !strcmp(argv[1], "udp-each"));
    } else {
        fprintf(stderr, "usage: tester exec|marked|connect|udp|udp-each N ...\n");
        return 2;
    }
    report();
    return 0;
}
