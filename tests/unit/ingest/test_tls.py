"""The certificate of the first start."""

import datetime as dt
import ssl
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from mailtape_ingest.tls import ensure_self_signed, server_context

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def test_makes_a_certificate_for_our_name_once_with_a_key_for_nobody_else(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    certificate, key = ensure_self_signed(folder, "mail.example.com", NOW)
    first = certificate.read_bytes(), key.read_bytes()

    ensure_self_signed(folder, "mail.example.com", NOW)

    assert (certificate.read_bytes(), key.read_bytes()) == first
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    read = x509.load_pem_x509_certificate(first[0])
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mail.example.com", "localhost"]
    assert read.not_valid_before_utc < NOW < read.not_valid_after_utc
    names = ["smtp-cert.pem", "smtp-key.lock", "smtp-key.pem"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_starts_over_when_the_first_start_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / "smtp-cert.pem").write_bytes(b"half")
    (tmp_path / "smtp-key.part").write_bytes(b"half")
    server_context(*ensure_self_signed(tmp_path, "localhost", NOW))


def test_all_that_start_at_once_end_with_one_pair_that_matches_at_every_moment(
    tmp_path: Path,
) -> None:
    starts = 4
    for number in range(25):
        folder = tmp_path / str(number)
        together = threading.Barrier(starts)

        def start(folder: Path = folder, together: threading.Barrier = together) -> bytes:
            together.wait()
            certificate, key = ensure_self_signed(folder, "localhost", NOW)
            server_context(certificate, key)
            return certificate.read_bytes()

        with ThreadPoolExecutor(starts) as pool:
            ran = [pool.submit(start) for _ in range(starts)]
        assert len({each.result() for each in ran}) == 1
        server_context(*ensure_self_signed(folder, "localhost", NOW))


def test_speaks_no_tls_older_than_1_2(tmp_path: Path) -> None:
    context = server_context(*ensure_self_signed(tmp_path, "localhost", NOW))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_says_so_when_the_files_are_no_certificate(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        server_context(bad, bad)
