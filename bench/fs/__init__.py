"""``orioncache bench fs``: the file system measured on this machine, without a boot."""
