"""``libtofe`` by ctypes: the functions of ``tofe.h`` that :mod:`tofe` uses."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_size_t, c_uint8, c_uint32, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

_API_VERSION = 3
_SELF_TEST_FAILED = 6
_LIBRARY = Path(__file__).parent / "lib" / "libtofe.so"


class Error(Exception):
    """What libtofe says went wrong, in one line."""


class SelfTestError(Error):
    """The model computes something else on this machine than it should."""


class CPrediction(ctypes.Structure):
    """``tofe_prediction``."""

    _fields_ = (("index", c_uint32), ("probability", c_float))


_IMAGE = (POINTER(c_uint8), c_uint32, c_uint32, c_size_t)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "tofe_open": (c_int, (c_char_p, c_char_p, c_char_p, c_uint32, POINTER(c_void_p))),
    "tofe_open_within": (c_int, (c_char_p, c_char_p, c_double, c_uint32, POINTER(c_void_p))),
    "tofe_method": (c_char_p, (c_void_p,)),
    "tofe_meets_deadline": (c_int, (c_void_p,)),
    "tofe_close": (None, (c_void_p,)),
    "tofe_classify_rgb": (c_int, (c_void_p, *_IMAGE, POINTER(CPrediction), POINTER(c_uint32))),
    "tofe_output": (c_char_p, (c_void_p,)),
    "tofe_value_count": (c_size_t, (c_void_p,)),
    "tofe_vector_size": (c_size_t, (c_void_p,)),
    "tofe_values_rgb": (c_int, (c_void_p, *_IMAGE, POINTER(c_float), c_size_t)),
    "tofe_self_test": (c_int, (c_void_p, c_char_p)),
    "tofe_class_count": (c_uint32, (c_void_p,)),
    "tofe_label": (c_char_p, (c_void_p, c_uint32)),
    "tofe_class_id": (c_char_p, (c_void_p, c_uint32)),
    "tofe_last_error": (c_char_p, ()),
}


@lru_cache(maxsize=1)
def library() -> Any:
    """The loaded library. Raises :class:`Error` if this system cannot load it."""
    try:
        loaded = ctypes.CDLL(str(_LIBRARY))
    except OSError as error:
        raise Error(f"libtofe cannot be loaded ({error}); install the wheel for this machine") from error
    if loaded.tofe_api_version() < _API_VERSION:
        raise Error(f"{_LIBRARY}: is older than this package; install the wheel again")
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def call(function: Any, *arguments: Any) -> None:
    """Call a function that gives a status. Raises :class:`Error` unless it is 0."""
    status = function(*arguments)
    if status:
        kind = SelfTestError if status == _SELF_TEST_FAILED else Error
        raise kind(library().tofe_last_error().decode("utf-8", "replace"))
