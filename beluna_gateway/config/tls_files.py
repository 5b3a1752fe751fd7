"""Reads the files of a backend's `tls` section, or the system's authorities, into an SSL context."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

from .settings import Tls


def tls_context(tls: Tls, folder: Path) -> ssl.SSLContext:
    """What connections to the backend are made with.

    Raises:
        ValueError: A file is missing or of no use; the message names the setting and the file.
    """
    for name, file in (("ca_file", tls.ca_file), ("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        if file is not None and (folder / file).exists() and not (folder / file).is_file():
            raise ValueError(f"{name}: {file} is not a regular file")  # OpenSSL would wait for a FIFO's writer
    try:
        context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(folder / tls.ca_file))
    except (OSError, ValueError) as error:
        raise ValueError(f"ca_file: {tls.ca_file} {_why(error)}") from None
    if tls.cert_file is not None:
        key = None if tls.key_file is None else str(folder / tls.key_file)
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(str(folder / tls.cert_file), key, password="")
        except (OSError, ValueError) as error:
            files = tls.cert_file if tls.key_file is None else f"{tls.cert_file} with key_file {tls.key_file}"
            raise ValueError(f"cert_file: {files} {_why(error)}") from None
    return context


@cache
def system_context() -> ssl.SSLContext:
    """What connections to backends without a `tls` section are made with. One for all of them: to read the system's
    authorities takes 25 ms and 1 MB.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))  # as aiohttp's own
    return context


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"cannot be used: {error.reason or error}; expected PEM, the key without a passphrase"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
