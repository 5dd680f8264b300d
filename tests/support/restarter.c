/* Units that come and go, as a service manager lays them out.
 *
 *   restarter again N DIRECTORY NAME PROGRAM ARGUMENT...   N times: make DIRECTORY/NAME, start PROGRAM in it
 * from its first instruction on, wait, remove it restarter enter N DIRECTORY NAME PROGRAM ARGUMENT...   the
 * same, but the program's process is moved into it restarter race N DIRECTORY NAME PROGRAM ARGUMENT...
 * another process makes and removes DIRECTORY/NAME all the time; this one starts PROGRAM in it N times,
 * whenever it is there restarter plain N DIRECTORY . PROGRAM ARGUMENT...      start PROGRAM in DIRECTORY N
 * times
 *
 * Prints how often the program ended with which status: {"0": 1000}. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long ended[256];
static int parent;
static const char *name;

static int start_in(int cgroup, char **arguments)
{
    struct clone_args how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup};
    pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof how);
    if (pid == 0) {
        execv(arguments[0], arguments);
        _exit(255);
    }
    return pid;
}

static int enter(char **arguments)
{
    char path[512];
    pid_t pid;
    int ready[2];

    if (pipe(ready))
        return -1;
    pid = fork();
    if (pid == 0) {
        char byte;
        close(ready[1]);
        (void)!read(ready[0], &byte, 1);
        execv(arguments[0], arguments);
        _exit(255);
    }
    snprintf(path, sizeof path, "%s/cgroup.procs", name);
    int procs = openat(parent, path, O_WRONLY);
    dprintf(procs, "%d", pid);
    close(procs);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void wait_for(pid_t pid)
{
    int status = 0;
    waitpid(pid, &status, 0);
    ended[WIFEXITED(status) ? WEXITSTATUS(status) : 254]++;
}

static void removed(void)
{
    while (unlinkat(parent, name, AT_REMOVEDIR) && errno == EBUSY)
        usleep(50);
}

static void spin(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        mkdirat(parent, name, 0755);
        unlinkat(parent, name, AT_REMOVEDIR);
    }
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return 2;
    long count = atol(argv[2]);
    parent = open(argv[3], O_RDONLY | O_DIRECTORY);
    name = argv[4];
    char **arguments = argv + 5;
    if (parent < 0)
        return 3;
    if (!strcmp(argv[1], "race")) {
        pid_t spinner = fork();
        if (spinner == 0)
            spin();
        for (long done = 0; done < count;) {
            int cgroup = openat(parent, name, O_RDONLY | O_DIRECTORY);
            if (cgroup < 0)
                continue;
            pid_t pid = start_in(cgroup, arguments);
            close(cgroup);
            if (pid < 0)
                continue;
            wait_for(pid);
            done++;
        }
        kill(spinner, SIGKILL);
        waitpid(spinner, NULL, 0);
        removed();
    } else {
        int again = strcmp(argv[1], "plain") != 0, moved = !strcmp(argv[1], "enter");
        for (long done = 0; done < count; done++) {
            if (again && mkdirat(parent, name, 0755))
                return 4;
            int cgroup = openat(parent, name, O_RDONLY | O_DIRECTORY);
            pid_t pid = moved ? enter(arguments) : start_in(cgroup, arguments);
            close(cgroup);
            if (pid < 0)
                return 5;
            wait_for(pid);
            if (again)
                removed();
        }
    }
    printf("{");
    for (int status = 0, first = 1; status < 256; status++)
        if (ended[status]) {
            printf("%s\"%d\": %ld", first ? "" : ", ", status, ended[status]);
            first = 0;
        }
    printf("}\n");
    return 0;
}
