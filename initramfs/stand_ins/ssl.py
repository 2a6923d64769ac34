"""In ssl's place on a node: trio imports it for names that it uses only when somebody opens a TLS stream."""


def __getattr__(name: str) -> object:
    raise AttributeError(f"ssl.{name}: a node's Python has no TLS")
