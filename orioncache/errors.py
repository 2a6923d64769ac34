"""Errors that are the user's to mend, as against bugs."""


class UserError(Exception):
    """Something the user can mend: printed as one line plus the mend, without a traceback.

    Attributes:
        message: what is wrong, in one line.
        mend: what to do about it, in one line; empty if there is nothing to advise.
        code: the process's exit code (1 unless a command documents another).
    """

    def __init__(self, message: str, mend: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        self.code = code

    def lines(self) -> str:
        """The text for standard error."""
        first = f"orioncache: error: {self.message}"
        return f"{first}\n  mend: {self.mend}" if self.mend else first
