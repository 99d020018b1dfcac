"""Blocks the network in every Python process that has this folder on PYTHONPATH; loopback and local sockets stay.

The test session puts the folder first on PYTHONPATH, so that kernels and subprocesses are covered from the start.
"""

import ipaddress
import socket


def _is_local(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        address = ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse_remote(address: object) -> None:
    if isinstance(address, tuple) and not _is_local(address[0]):
        raise OSError(f"network access is blocked in tests: {address[0]}")


def _guarded(original):
    def connect(self, address, *rest):
        _refuse_remote(address)
        return original(self, address, *rest)

    return connect


def _resolve(host, *arguments, _original=socket.getaddrinfo, **options):
    _refuse_remote((host,))
    return _original(host, *arguments, **options)


def block() -> None:
    """Replace the ways out of a Python process; calling it twice changes nothing."""
    if socket.getaddrinfo is not _resolve:
        socket.socket.connect = _guarded(socket.socket.connect)
        socket.socket.connect_ex = _guarded(socket.socket.connect_ex)
        socket.getaddrinfo = _resolve


block()
