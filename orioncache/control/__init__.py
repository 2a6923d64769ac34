"""The control socket: what a running cache tells, and who asks it.

A unix stream socket. The client sends one JSON object in one line, ``{"op": "status"}``; the server answers
with one JSON object in one line and closes. An answer to a request that it cannot serve has the single key
``error``.
"""

# How much of a request is read; more is no request.
REQUEST_BYTES = 4096
