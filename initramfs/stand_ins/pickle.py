"""In pickle's place on a node: pyfuse3 imports it for the error that it raises when its objects are pickled."""


class PickleError(Exception):
    """As in pickle."""


class PicklingError(PickleError):
    """As in pickle."""
