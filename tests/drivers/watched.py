"""The command line, `python watched.py ARGS`; before Ray is stopped, what it was is written down where we stand.

ray/            a copy of Ray's temporary folder
watched.json    environments: for each process below us, whether a canary is in its environment
                listening, connected: addresses of the sockets of all of them
"""

import json
import shutil
from pathlib import Path

import psutil

from tutorloop.__main__ import main
from tutorloop.agents import placement

stop = placement.stop


def watched() -> None:
    below = psutil.Process().children(recursive=True)
    sockets = [s for process in (psutil.Process(), *below) for s in process.net_connections(kind="inet")]
    told = {
        "environments": {" ".join(process.cmdline()): "canary" in f"{process.environ()}" for process in below},
        "listening": sorted({s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}),
        "connected": sorted({s.raddr.ip for s in sockets if s.raddr}),
    }
    Path("watched.json").write_text(json.dumps(told))
    shutil.copytree(placement._claims[-1].folder, "ray", symlinks=True, ignore=shutil.ignore_patterns("sockets"))
    stop()


placement.stop = watched
main()
