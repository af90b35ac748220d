"""A Ray cluster of nodes of one CPU each, on this machine: every node's processes are held to a CPU of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ray

from benchmarks.process_tree import PROC, CpuLedger, read_stats

_START_SECONDS = 60
_STOP_SECONDS = 30
_OBJECT_STORE_BYTES = 80 << 20  # Ray's least is 75 MB
_NODE_PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")


@contextmanager
def cluster(cpus: Sequence[int], folder: Path) -> Iterator[None]:
    """Start a node on each of these CPUs, and join this process to them.

    Not `ray.cluster_utils`: that writes its address where every `ray.init(address="auto")` of the machine finds it.

    Args:
        cpus: A node for each.
        folder: For Ray's files; its path must be short.
    """
    port, *_ = _free_ports(1)
    address = f"127.0.0.1:{port}"
    head = ("--head", "--include-dashboard=false", f"--port={port}", f"--temp-dir={folder / 'ray'}")
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node(*head))]
        _join(address)
        stack.callback(ray.shutdown)
        nodes += [stack.enter_context(_node(f"--address={address}")) for _ in cpus[1:]]
        _wait_for(len(cpus))
        for node, cpu in zip(nodes, cpus, strict=True):
            _pin(node, cpu)
        yield


@contextmanager
def _node(*arguments: str) -> Iterator[int]:
    ports = [f"--{name}={port}" for name, port in zip(_NODE_PORTS, _free_ports(len(_NODE_PORTS)), strict=True)]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", *arguments, *ports]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={_OBJECT_STORE_BYTES}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    try:
        yield process.pid
    finally:
        process.terminate()  # then it ends what it started
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _pin(node: int, cpu: int) -> None:
    """Hold a node's processes to a CPU, every thread of them, and so those that they start.

    Not from its start on: on one busy CPU that takes longer than Ray waits for its agents.
    """
    tree = CpuLedger(node)
    tree.update(read_stats())
    for process in tree.alive:
        for thread in (PROC / str(process.id) / "task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {cpu})


def _join(address: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError):  # it does not listen yet, or has no node yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def _wait_for(nodes: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while sum(node["Alive"] for node in ray.nodes()) < nodes:  # type: ignore[no-untyped-call]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{nodes} Ray nodes were started, but {ray.nodes()} is there")  # type: ignore[no-untyped-call]
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]  # all at once: no two are the same
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports
