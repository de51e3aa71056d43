"""Runs a program on a kernel that seems to lack a feature: a seccomp filter answers as such a kernel would.

    without.py FEATURE PROGRAM ARGUMENT...

Python's standard library only; x86-64 and aarch64.
"""

import ctypes
import os
import platform
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
ENOSYS, EINVAL = 38, 22
F_ADD_SEALS, F_SEAL_FUTURE_WRITE = 1033, 0x10
# Where seccomp_data holds the number of the call, and the lower halves of its second and third argument.
CALL, SECOND, THIRD = 0, 24, 32

NUMBERS = {
    "x86_64": {"memfd_create": 319, "fcntl": 72, "pidfd_open": 434},
    "aarch64": {"memfd_create": 279, "fcntl": 25, "pidfd_open": 434},
}[platform.machine()]


def absent(call):
    """A kernel that does not know this call."""
    return [(LOAD, 0, 0, CALL), (JUMP_IF_EQUAL, 0, 1, NUMBERS[call]), (RETURN, 0, 0, ERRNO | ENOSYS)]


FEATURES = {
    "memfd_create": absent("memfd_create"),
    "pidfd_open": absent("pidfd_open"),
    # Linux before 5.1: the call is known, this seal is not.
    "F_SEAL_FUTURE_WRITE": [
        (LOAD, 0, 0, CALL),
        (JUMP_IF_EQUAL, 0, 5, NUMBERS["fcntl"]),
        (LOAD, 0, 0, SECOND),
        (JUMP_IF_EQUAL, 0, 3, F_ADD_SEALS),
        (LOAD, 0, 0, THIRD),
        (JUMP_IF_ANY_BIT, 0, 1, F_SEAL_FUTURE_WRITE),
        (RETURN, 0, 0, ERRNO | EINVAL),
    ],
}


class Program(ctypes.Structure):
    """sock_fprog of linux/filter.h."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def main():
    instructions = FEATURES[sys.argv[1]] + [(RETURN, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(instructions), ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), zero, zero) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
    os.execv(sys.argv[2], sys.argv[2:])


main()
