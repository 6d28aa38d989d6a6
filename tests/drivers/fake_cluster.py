"""A Ray cluster of several nodes on this machine, with GPUs that are none: `python fake_cluster.py 0 1 1`.

The arguments are the GPUs of its nodes, the head's first. Prints the head's address, then does what it is told on its
standard input, a line each, and answers each with a line: `add 1` (a node with one GPU; its number), `kill 1` (that
node, without a word). It ends with its input.
"""

import os
import sys
from pathlib import Path

from ray.cluster_utils import Cluster

Path(os.environ["RAY_TMPDIR"], "ray").mkdir(exist_ok=True)  # where `Cluster` notes its address
# As `placement` has a local one. Each node has one core.
few = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
cluster = Cluster()
nodes = [cluster.add_node(num_gpus=int(gpus), **few) for gpus in sys.argv[1:]]
print(cluster.address, flush=True)
for line in sys.stdin:
    what, number = line.split()
    if what == "add":
        nodes.append(cluster.add_node(num_gpus=int(number), **few))
        print(len(nodes) - 1, flush=True)
    elif what == "kill":
        cluster.remove_node(nodes[int(number)], allow_graceful=False)
        print(number, flush=True)
cluster.shutdown()
