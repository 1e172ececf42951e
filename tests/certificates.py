"""An authority, and a certificate of it for `localhost`, for servers that tests start."""

import subprocess
from pathlib import Path

from tests.process import system_tool


class Certificates:
    """Files in PEM form under `folder`: `authority`, `certificate` and its `key`."""

    def __init__(self, folder: Path) -> None:
        self.authority, self._authority_key = folder / "ca.pem", folder / "ca.key"
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        new += ["-nodes", "-days", "2"]
        files = ["-keyout", str(self._authority_key), "-out", str(self.authority)]
        _openssl(*new, *files, "-subj", "/CN=authority")
        issuer = ["-CA", str(self.authority), "-CAkey", str(self._authority_key)]
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        _openssl(*new, *issuer, *files, *name)

    def encrypted_key(self, file: Path) -> Path:
        """The key in another file, with a password."""
        _openssl("pkey", "-in", str(self.key), "-aes256", "-passout", "pass:x", "-out", str(file))
        return file

    def options(self, port: int, *, clients: str = "no") -> dict[str, str]:
        """Of a Redis that serves TLS at this port, beside its other one."""
        return {
            "tls-port": str(port),
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self.key),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": clients,
        }


def _openssl(*arguments: str) -> None:
    subprocess.run([system_tool("openssl"), *arguments], check=True, capture_output=True)
