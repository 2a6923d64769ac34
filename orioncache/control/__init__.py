"""The control socket: what a running cache tells, and who asks it.

A unix stream socket. The client sends one JSON object in one line, ``{"op": "status"}``; the server answers
with one JSON object in one line and closes. The answer to ``{"op": "trace"}`` has the key ``bytes``, and as
many bytes follow it: a trace file (docs/trace.md). An answer to a request that it cannot serve has the single
key ``error``.
"""

# How much of a request is read; more is no request.
REQUEST_BYTES = 4096
