"""Print the figures of a running cache as Prometheus' text.

The same as the cache answers on the port that --metrics-port gives it. docs/control.md lists the names.

Examples:
  orioncache metrics
  orioncache metrics /mnt/cached > /var/lib/prometheus/node-exporter/orioncache.prom
  orioncache mount --metrics-port 9469 /srv/root /mnt/cached; curl http://127.0.0.1:9469/metrics
"""

import argparse
import sys

from orioncache.control import client


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of ``orioncache metrics``."""
    parser.add_argument(
        "where", nargs="?", metavar="MOUNTPOINT|SOCKET", help="which cache (default: the only one)"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    path, _ = client.locate(args.where)
    sys.stdout.write(client.metrics(path))
    return 0
