"""Until when certificates in files are valid.

The standard library reads no certificate that it does not use, so their dates are found here, in
the DER form that RFC 5280 describes (4.1): a sequence whose first item is a sequence of an optional
version, the serial number, the algorithm, the issuer, and the validity with its two times.
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_END: Final = "-----END CERTIFICATE-----"
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
"""Of two digits for the year; the other type has four."""


def expiry_ms(path: str) -> int:
    """When the first certificate in a PEM file expires, in ms since 1970.

    That is the certificate itself: those of its issuers follow. Raises `OSError`, and `ValueError`
    for a file that has none.
    """
    text = Path(path).read_text(encoding="ascii", errors="replace")
    start, end = text.find(_BEGIN), text.find(_END)
    if start < 0 or end < start:
        raise ValueError(f"{path} has no certificate in PEM form")
    der = ssl.PEM_cert_to_DER_cert(text[start : end + len(_END)])
    try:
        return _expiry_ms(der)
    except IndexError:
        raise ValueError(f"{path} has a damaged certificate") from None


def _expiry_ms(der: bytes) -> int:
    _, certificate, _ = _item(der)
    _, signed, _ = _item(certificate)
    tag, _, rest = _item(signed)
    for _ in range(3 if tag == _VERSION else 2):  # to behind the issuer
        _, _, rest = _item(rest)
    _, validity, _ = _item(rest)
    _, _, rest = _item(validity)
    tag, until, _ = _item(rest)
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return int(datetime.strptime(until.decode(), form).replace(tzinfo=UTC).timestamp() * 1000)


def _item(der: bytes) -> tuple[int, bytes, bytes]:
    """The tag and the content of the first item, and what follows it."""
    tag, length, at = der[0], der[1], 2
    if length > 0x7F:  # it is the number of bytes of the length
        at += length & 0x7F
        length = int.from_bytes(der[2:at], "big")
    return tag, der[at : at + length], der[at + length :]
