"""The servers that a tree is read from, and which of them is asked."""

from orioncache.upstream.health import ServerState
from orioncache.upstream.judging import NoServerError
from orioncache.upstream.opened import Listing, Opened, ReplacedError, ReplicaDiffersError
from orioncache.upstream.place import Place
from orioncache.upstream.policy import Policy
from orioncache.upstream.server import ProcPaths, Server
from orioncache.upstream.servers import UpstreamSet

__all__ = [
    "Listing",
    "NoServerError",
    "Opened",
    "Place",
    "Policy",
    "ProcPaths",
    "ReplacedError",
    "ReplicaDiffersError",
    "Server",
    "ServerState",
    "UpstreamSet",
]
