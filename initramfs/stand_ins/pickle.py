"""In pickle's place on a node: pyfuse3 imports it for one error that it raises."""


class PickleError(Exception):
    """As in pickle."""


class PicklingError(PickleError):
    """As in pickle."""
