"""TLS by the system's libssl, for what Python's ``ssl`` cannot do: KeyUpdates of our own."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import socket
import struct

from sluice.codes import ALPN

from .peer import Failed, Skipped, Target

_VERIFY_PEER = 1
_REQUEST_ANOTHER = 1  # SSL_KEY_UPDATE_REQUESTED


@functools.cache
def _library() -> ctypes.CDLL:
    """Once: to find it runs programs, which a flood's neighbours would feel."""
    name = ctypes.util.find_library("ssl")
    if name is None:
        raise Skipped("needs libssl to send KeyUpdates")
    library = ctypes.CDLL(name)
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for function, result, *arguments in (
            ("TLS_client_method", pointer),
            ("SSL_CTX_new", pointer, pointer), ("SSL_CTX_free", None, pointer),
            ("SSL_CTX_set_verify", None, pointer, number, pointer),
            ("SSL_CTX_load_verify_locations", number, pointer, text, text),
            ("SSL_CTX_set_alpn_protos", number, pointer, text, ctypes.c_uint),
            ("SSL_new", pointer, pointer), ("SSL_free", None, pointer),
            ("SSL_set_fd", number, pointer, number), ("SSL_connect", number, pointer),
            ("SSL_do_handshake", number, pointer), ("SSL_key_update", number, pointer, number),
            ("SSL_write", number, pointer, text, number),
            ("SSL_read", number, pointer, pointer, number)):
        found = getattr(library, function)
        found.restype, found.argtypes = result, arguments
    return library


class KeyUpdater:
    """A TLS 1.3 connection that can send KeyUpdates. Reads and writes end after 5 s."""

    def __init__(self, target: Target) -> None:
        self._library = _library()
        self._socket = socket.create_connection((target.host, target.port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(True)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", 5, 0))
        self._context = self._library.SSL_CTX_new(self._library.TLS_client_method())
        self._library.SSL_CTX_set_verify(self._context, _VERIFY_PEER, None)
        self._library.SSL_CTX_load_verify_locations(self._context, target.ca_file.encode(), None)
        alpn = bytes([len(ALPN)]) + ALPN.encode()
        self._library.SSL_CTX_set_alpn_protos(self._context, alpn, len(alpn))
        self._tls = self._library.SSL_new(self._context)
        self._library.SSL_set_fd(self._tls, self._socket.fileno())
        if self._library.SSL_connect(self._tls) != 1:
            self.close()
            raise Failed("no TLS connection through libssl")

    def key_update(self) -> bool:
        """Sends a KeyUpdate that asks for one, in a record of its own; false once closed."""
        return bool(self._library.SSL_key_update(self._tls, _REQUEST_ANOTHER) == 1
                    and self._library.SSL_do_handshake(self._tls) == 1)

    def write(self, data: bytes) -> bool:
        """Writes everything; false once closed."""
        return bool(self._library.SSL_write(self._tls, data, len(data)) == len(data))

    def read(self) -> bytes:
        """Some bytes; none at the end of the connection, or when none came in 5 s."""
        room = ctypes.create_string_buffer(16_384)
        size = self._library.SSL_read(self._tls, room, len(room))
        return room.raw[:max(0, size)]

    def close(self) -> None:
        """Drops the connection."""
        self._library.SSL_free(self._tls)
        self._library.SSL_CTX_free(self._context)
        with contextlib.suppress(OSError):
            self._socket.close()
