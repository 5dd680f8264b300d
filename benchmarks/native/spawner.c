/* SPDX-License-Identifier: Apache-2.0 */
/* spawner COUNT RATE PROGRAM: runs PROGRAM COUNT times, RATE a second, each to its end. */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

int main(int count, char **arguments)
{
    char *nothing[] = {NULL};
    char *program[] = {"spawned", "one", "", "three", NULL};
    struct timespec due;
    long runs, pause;
    pid_t pid;

    if (count != 4)
        return 2;
    runs = atol(arguments[1]);
    pause = 1000000000 / atol(arguments[2]);
    clock_gettime(CLOCK_MONOTONIC, &due);
    while (runs--) {
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        if (posix_spawn(&pid, arguments[3], NULL, NULL, program, nothing) || waitpid(pid, NULL, 0) != pid)
            return 1;
        due.tv_nsec += pause;
        due.tv_sec += due.tv_nsec / 1000000000;
        due.tv_nsec %= 1000000000;
    }
    return 0;
}
