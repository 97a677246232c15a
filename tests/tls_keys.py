"""Certificates for tests, made by the openssl command."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path

    def move_to(self, cert: Path, key: Path) -> None:
        """Take the place of other files, each at once."""
        for source, target in ((self.key, key), (self.cert, cert)):
            beside = target.with_name(f"{target.name}.new")
            shutil.copy(source, beside)
            beside.replace(target)


class Authority:
    """Signs certificates; its own is in the file `cert`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self.cert, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        self._openssl(
            ["req", "-x509", "-days", "2", "-subj", f"/CN={name}", "-out", str(self.cert)],
            self._key,
        )

    def issue(self, name: str, alternative_names: str = "") -> Pair:
        """Return a new certificate, for example for `DNS:pad.test`."""
        pair = Pair(*(self._folder / f"{self._name}-{name}.{kind}" for kind in ("crt", "key")))
        extension = ["-addext", f"subjectAltName={alternative_names}"] if alternative_names else []
        signed = ["-CA", str(self.cert), "-CAkey", str(self._key), "-days", "2"]
        self._openssl(
            ["req", "-x509", *signed, "-subj", f"/CN={name}", *extension, "-out", str(pair.cert)],
            pair.key,
        )
        return pair

    def _openssl(self, arguments: list[str], key: Path) -> None:
        binary = shutil.which("openssl")
        if binary is None:
            pytest.skip("needs the openssl command")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
        command = [binary, *arguments, *new_key, "-keyout", str(key)]
        subprocess.run(command, check=True, capture_output=True)
