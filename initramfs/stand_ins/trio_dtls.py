"""In trio._dtls's place on a node, where it costs 18 ms: trio re-exports its names; a node speaks no DTLS."""


class DTLSEndpoint:
    """Cannot be made: the real one needs pyOpenSSL anyway."""

    def __init__(self, *arguments: object, **options: object) -> None:
        raise NotImplementedError("a node's Python has no DTLS")


class DTLSChannel(DTLSEndpoint):
    """As DTLSEndpoint."""


class DTLSChannelStatistics(DTLSEndpoint):
    """As DTLSEndpoint."""
