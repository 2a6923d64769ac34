"""Only what pyproject.toml cannot say: the cffi module."""

from setuptools import setup

setup(cffi_modules=["orioncache/native/build.py:ffi"])
