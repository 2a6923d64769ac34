"""The control socket: what a running cache tells, who asks it, and changes of its servers (docs/control.md).

A unix stream socket. The client sends one JSON object in one line, ``{"op": "status"}``; the server answers
with one JSON object in one line and closes. If the answer has the key ``bytes``, as many bytes follow it: a
trace file, or metrics as text. Behind the answer to ``{"op": "events", "follow": true}`` the connection stays
open, and each event is one more line. An answer to a request that it cannot serve has the key ``error``, and
``mend`` if there is something to do about it.
"""

# How much of a request is read; more is no request. A path has up to 4096 bytes, JSON up to six for each.
REQUEST_BYTES = 32768
