"""The servers that a tree is read from, and which of them is asked."""

from orioncache.upstream.place import Place
from orioncache.upstream.server import Listing, Opened, ProcPaths, ReplacedError, Server, ServerState
from orioncache.upstream.servers import ReplicaDiffersError, UpstreamSet, rank

__all__ = [
    "Listing",
    "Opened",
    "Place",
    "ProcPaths",
    "ReplacedError",
    "ReplicaDiffersError",
    "Server",
    "ServerState",
    "UpstreamSet",
    "rank",
]
