"""Certificates for servers with TLS, made with the ``openssl`` program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .processes import ServerMissing, private_directory


@dataclass(frozen=True)
class Certificates:
    """A certificate authority with one server (localhost, 127.0.0.1) and one client certificate; PEM files."""

    ca_cert: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    def query(self, *, client: bool = False) -> dict[str, str]:
        """What a URL needs to trust the server and, on demand, to show the client's certificate; redis-py's names."""
        query = {"ssl_ca_certs": str(self.ca_cert)}
        if client:
            query |= {"ssl_certfile": str(self.client_cert), "ssl_keyfile": str(self.client_key)}
        return query


_OPENSSL_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = asyncresult tests
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth # the nodes of a cluster are clients of each other
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def certificates() -> Certificates:
    """A fresh authority with its certificates, made with the ``openssl`` program. Two of them do not trust each other.

    Raises:
        ServerMissing: No openssl on this machine.
    """
    openssl = shutil.which("openssl")
    if not openssl:
        raise ServerMissing("no openssl on this machine to make certificates with")
    directory = private_directory()
    (directory / "openssl.conf").write_text(_OPENSSL_CONFIG)

    def run(*arguments: str) -> None:
        done = subprocess.run([openssl, *arguments], cwd=directory, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"openssl {' '.join(arguments)}\n{done.stderr}")

    def request(name: str, *more: str) -> list[str]:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
        return ["req", "-config", "openssl.conf", *key, "-subj", f"/CN=asyncresult tests {name}", *more]

    run(*request("ca", "-x509", "-days", "30", "-extensions", "ca", "-out", "ca.crt"))
    for name in ("server", "client"):
        run(*request(name, "-new", "-out", f"{name}.csr"))
        signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30"]
        extensions = ["-extfile", "openssl.conf", "-extensions", name]
        run("x509", "-req", "-in", f"{name}.csr", *signing, *extensions, "-out", f"{name}.crt")
    return Certificates(
        *(directory / name for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key"))
    )
