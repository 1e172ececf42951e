"""Until when a certificate in a file is valid."""

import ssl
import subprocess
from pathlib import Path

import pytest

from eventstore.connection.certificates import expiry_ms
from gateway.backend.certificates import Certificates
from gateway.options import GatewayOptions
from tests.process import system_tool

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]


def certificate(folder: Path, days: int, *more: str) -> Path:
    """A file with a new certificate, and how openssl writes its end before it."""
    path = folder / f"{days}.pem"
    files = [*KEY, str(folder / "key.pem"), "-out", str(path), "-subj", "/CN=localhost"]
    command = [system_tool("openssl"), "req", "-x509", "-days", str(days), *files, *more]
    subprocess.run(command, check=True, capture_output=True)
    return path


def end_ms(path: Path) -> int:
    """As openssl reads it."""
    command = [system_tool("openssl"), "x509", "-noout", "-enddate", "-in", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(ssl.cert_time_to_seconds(text.partition("=")[2].strip()) * 1000)


@pytest.mark.parametrize("days", [3, 40_000])  # times in two forms: before and after 2050
def test_the_end_is_that_which_openssl_reads(tmp_path: Path, days: int) -> None:
    path = certificate(tmp_path, days)
    assert expiry_ms(str(path)) == end_ms(path)


def test_of_several_it_is_the_first(tmp_path: Path) -> None:
    """Those of its issuers follow; a key may be before it."""
    own, issuer = certificate(tmp_path, 3), certificate(tmp_path, 9)
    chain = tmp_path / "chain.pem"
    chain.write_text((tmp_path / "key.pem").read_text() + own.read_text() + issuer.read_text())
    assert expiry_ms(str(chain)) == end_ms(own)


def test_a_file_without_one_is_refused_in_words(tmp_path: Path) -> None:
    path = certificate(tmp_path, 3)
    damaged = path.read_text().splitlines()
    for number, text in enumerate(("", "no PEM", "\n".join([*damaged[:2], damaged[-1]]))):
        other = tmp_path / f"{number}"
        other.write_text(text)
        with pytest.raises(ValueError, match=f"{other} has"):
            expiry_ms(str(other))


def test_a_gateway_knows_those_that_it_uses(tmp_path: Path) -> None:
    path = certificate(tmp_path, 3)
    options = GatewayOptions(
        redis_url=f"rediss://localhost?ssl_certfile={path}",
        database_url=f"postgresql://localhost/x?sslcert={path}&sslkey=k",
        roles=(),
        tls_cert=str(path),
    )
    known = Certificates(options)
    assert [one.path for one in known.facts()] == [str(path)] * 3
    assert {one.expires_ms for one in known.facts()} == {end_ms(path)}
    assert len({one.use for one in known.facts()}) == 3
    path.unlink()
    assert len(known.facts()) == 3  # they are read again later
    assert not Certificates(options).facts()
