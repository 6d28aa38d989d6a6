"""One experiment that may use the network, watched: `python online.py EXPERIMENT.json RUN_DIR` prints one line of JSON.

    tried      other machines that were looked up, connected or written to
    would      what TRL's trainers have asked huggingface_hub to report
    unquiet    machines that are tried when the same is asked with reports allowed: what `tried` would hold then

None is reached: the watcher refuses. It sees what Python's own sockets do in this process, threads included; neither
libraries that bring sockets of their own nor other processes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import tutorloop

tried = list[str]()
LOCAL = ("127.", "::1", "::ffff:127.", "localhost")


def watch(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else ""  # the path of a Unix socket is nobody else's machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and not host.startswith(LOCAL):
        tried.append(host)
        raise ConnectionRefusedError(f"{event}: {host} is another machine")


def main(experiment: str, run: str) -> None:
    from huggingface_hub import constants  # now that it is watched, and the package has said what it may report
    from huggingface_hub.utils import _telemetry
    from trl.trainer import base_trainer

    trl: Any = base_trainer
    would, report = list[str](), trl.send_telemetry

    def reporting(topic: str, **told: Any) -> None:
        would.append(topic)
        report(topic, **told)

    trl.send_telemetry = reporting
    tutorloop.launch(json.loads(Path(experiment).read_bytes()), run)
    _telemetry._TELEMETRY_QUEUE.join()  # a thread of its own sends
    told = {"tried": sorted({*tried}), "would": would}
    tried.clear()
    constants.HF_HUB_DISABLE_TELEMETRY = False
    for topic in would:
        report(topic)
    _telemetry._TELEMETRY_QUEUE.join()
    print(json.dumps({**told, "unquiet": sorted({*tried})}))


if __name__ == "__main__":
    sys.addaudithook(watch)
    main(*sys.argv[1:])
