from __future__ import annotations

import os
import socket

from aegis.agent.control.peers import Peer, peer_of


def test_the_kernel_says_who_it_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == Peer(pid=os.getpid(), uid=os.geteuid(), gid=os.getegid())


def test_root_and_the_agents_own_user_may_change() -> None:
    assert Peer(pid=1, uid=0, gid=0).may_change
    assert Peer(pid=1, uid=os.geteuid(), gid=0).may_change
    assert not Peer(pid=1, uid=os.geteuid() + 1, gid=0).may_change
