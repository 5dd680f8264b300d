"""A small /proc and /sys on disk, honest at first, for tests that spoil one file of it."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "proc/stat": (
        "cpu  300 10 200 4000 50 0 7 3 0 0\n"
        "cpu0 100 4 90 2000 20 0 5 1 0 0\n"
        "cpu1 200 6 110 2000 30 0 2 2 0 0\n"
        "intr 99 1 2 3\nctxt 12345\nbtime 1790000000\nprocesses 777\nprocs_running 3\nprocs_blocked 1\n"
    ),
    "proc/loadavg": "0.31 1.50 2.00 2/113 4711\n",
    "proc/meminfo": (
        "MemTotal:       1000000 kB\nMemFree:         400000 kB\nMemAvailable:    700000 kB\n"
        "Buffers:           1000 kB\nCached:          200000 kB\nShmem:             3000 kB\nSlab:              5000 kB\n"
        "Dirty:               64 kB\nSwapTotal:       500000 kB\nSwapFree:        499000 kB\nHugePages_Total:       0\n"
    ),
    "proc/vmstat": "nr_free_pages 100000\npswpin 11\npswpout 23\n",
    "proc/pressure/cpu": (
        "some avg10=0.50 avg60=0.40 avg300=0.30 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    ),
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/pressure/io": "some avg10=1.25 avg60=0.00 avg300=0.00 total=2000001\n",
    "proc/diskstats": (
        "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        " 254       0 vda 1000 10 8000 500 2000 20 16000 700 1 900 1200 0 0 0 0 0 0\n"
        " 254       1 vda1 900 10 7000 400 2000 20 16000 700 0 800 1100 0 0 0 0 0 0\n"
    ),
    "proc/self/mountinfo": (
        "22 27 0:21 / /proc rw - proc proc rw\n"
        "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    ),
    "proc/self/stat": "42 (agent) S 1 42 42 0 -1 4194560 1 0 0 0 120 30 0 0 20 0 5 0 1000 1 2000 0\n",
    "proc/self/smaps_rollup": "55aa-7fff ---p 00000000 00:00 0 [rollup]\nRss: 8000 kB\nPss:                6000 kB\n",
    "proc/net/sockstat": "sockets: used 16\nTCP: inuse 1 orphan 0 tw 2 alloc 1 mem 250\n",
    "proc/1/stat": "1 (init) S 0 1 1 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 5 1 2 0\n",
    "proc/1/status": "Name:\tinit\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n",
    "proc/1/cmdline": "/sbin/init\0splash\0",
    "proc/1/cgroup": "0::/init.scope\n",
    "proc/42/stat": "42 (agent) S 1 42 42 0 -1 4194560 1 0 0 0 120 30 0 0 20 0 5 0 1000 1 2000 0\n",
    "proc/42/status": "Name:\tagent\nUid:\t1000\t0\t0\t0\nGid:\t100\t0\t0\t0\n",
    "proc/42/cmdline": "agent\0--flag\0\0last\0",
    "proc/42/cgroup": "0::/system.slice/agent.service\n",
}


def make(root: Path) -> Path:
    """Write the tree below `root`; `root/proc`, `root/sys` and `root/cgroup` are what readers are pointed at."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for directory in ("sys/block/vda", "sys/block/loop0", "proc/self/fd", "cgroup/init.scope"):
        (root / directory).mkdir(parents=True)
    (root / "cgroup/system.slice/agent.service").mkdir(parents=True)
    for pid, exe in ((1, "/sbin/init"), (42, "/usr/bin/agent (deleted)")):
        (root / f"proc/{pid}/exe").symlink_to(exe)
        (root / f"proc/{pid}/cwd").symlink_to("/")
    for number in range(4):  # the last stands for the descriptor of the listing itself
        (root / f"proc/self/fd/{number}").symlink_to("/dev/null")
    return root
