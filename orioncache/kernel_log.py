"""Log records for the kernel's log, which needs no daemon of the root that a node's cache serves."""

import logging
import os


class KernelLog(logging.Handler):
    """Log records for the kernel's log, which needs no daemon of the root that we serve."""

    def __init__(self, fd: int) -> None:
        """Takes a descriptor of ``/dev/kmsg``."""
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record, with syslog's number for its severity."""
        severity = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        text = f"<{severity}>orioncache: {self.format(record)}".replace("\n", " | ")
        try:
            # Without a newline at its end the kernel would keep it back until the next message.
            os.write(self._fd, text.encode(errors="backslashreplace")[:900] + b"\n")
        except OSError:
            self.handleError(record)


def log_to_kernel(fd: int | None) -> None:
    """Sends all records to a descriptor of ``/dev/kmsg`` from now on; without one, to standard error."""
    logger = logging.getLogger()
    logger.setLevel(logging.INFO)
    if fd is not None:
        logger.handlers[:] = [KernelLog(fd)]
