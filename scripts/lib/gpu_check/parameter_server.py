#!/usr/bin/env python3
"""The other sender: checkpoint-engine's own ParameterServer, alone in its world, into the same engine; prints JSON.

Not run on a GPU yet.

  parameter_server.py --port PORT_OF_THE_ENGINE --device UUID --rounds N FILE...

Its pinned memory is a copy of the files (in-place pinning would delete those in /dev/shm). Its first update makes a process
group, as in a life of its own; what is counted is the best of all rounds.
"""

import argparse
import http.client
import json
import os
import socket
import sys
import time


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def give_it_an_address(ps):
    """On a machine without a network whose name nobody resolves it could not tell the other nodes, of which there are none,
    where it is. Nothing that is measured depends on that."""
    try:
        ps.get_ip()
        return False
    except OSError:
        ps.get_ip = lambda: "127.0.0.1"
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints

    from gpu_rank import index_of

    # It looks at the GPU with its own rank's number: ours has to be the only one.
    os.environ["CUDA_VISIBLE_DEVICES"] = arguments.device
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port() - 1))
    index_of(arguments.device)
    from checkpoint_engine import ps

    address_made_up = give_it_an_address(ps)
    failures = []

    def ask_engine(handles):
        connection = http.client.HTTPConnection("127.0.0.1", arguments.port, timeout=300)
        connection.request("POST", "/update_weights_from_ipc", json.dumps({"zmq_handles": dict(handles)}),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        if response.status != 200:
            failures.append(f"{response.status} {text}")

    server = ps.ParameterServer(auto_pg=True)
    started = time.monotonic()
    server.register_checkpoint("m", files=arguments.files, use_inplace_pin_memory=False)
    registered = time.monotonic() - started
    server.gather_metas("m")
    seconds = []
    for _ in range(arguments.rounds):
        started = time.monotonic()
        server.update("m", ask_engine)
        seconds.append(time.monotonic() - started)
    if failures:
        sys.exit(f"the engine refused: {failures[0]}")
    json.dump({"register_seconds": registered, "update_seconds": seconds, "address_made_up": address_made_up}, answers)
    answers.flush()


if __name__ == "__main__":
    main()
