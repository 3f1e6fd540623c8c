"""The cache of compiled kernels: where it is, and bundles of its entries to ship to other machines."""

import ctypes

from convjit import _library
from convjit.generator import info


def directory():
    """The cache directory, or None if kernels are kept in memory only. $CONVJIT_CACHE_DIR chooses it."""
    return info()["cache"]["dir"]


def _transfer(function, file):
    entries = ctypes.c_size_t()
    _library.check(function(_library.context(), _library.encoded(file), ctypes.byref(entries)))
    return entries.value


def export_bundle(file):
    """Writes every valid entry of the cache directory into one file, and returns how many those are."""
    return _transfer(_library.load().convjit_cache_export, file)


def import_bundle(file):
    """Adds a bundle's entries to the cache directory, and returns how many those are. A damaged bundle adds nothing."""
    return _transfer(_library.load().convjit_cache_import, file)
