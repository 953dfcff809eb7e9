"""Tokens, renewals and revocations, on both stores."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from sqlalchemy import select

from fieldloop_contract.errors import (
    FixConfiguration,
    MalformedMessage,
    RejectedInput,
    RetryLater,
    Untrusted,
)
from fieldloop_identity.authority import Authority, new_key
from fieldloop_identity.enrolment import EnrolRequest, RenewRequest
from fieldloop_store.identities import list_incidents
from fieldloop_store.schema import enrolment_tokens
from support.certified import FLEET, ROOT, Site, request


def token_for(site: Site, device: str = "pump-7", hours: float = 24) -> str:
    return site.enrolment.provision(FLEET, device, actor="ann", hours=hours, now=site.now)


def refusal(site: Site, token: str, csr: str) -> str:
    with pytest.raises((Untrusted, MalformedMessage)) as caught:
        site.enrolment.enrol(EnrolRequest(token=token, csr=csr), site.now)
    return caught.value.code


def test_token_becomes_a_certificate_that_names_fleet_and_device(site: Site) -> None:
    csr, _ = request("i-say-i-am-somebody-else")
    grant = site.enrolment.enrol(EnrolRequest(token=token_for(site), csr=csr), site.now)
    certificate = x509.load_pem_x509_certificate(grant.certificate.encode())
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [n.value for n in names] == ["acme/pump-7"]
    certificate.verify_directly_issued_by(site.authority.certificate)
    assert grant.root == ROOT
    assert (grant.fleet, grant.device, grant.broker_port) == (FLEET, "pump-7", site.port)


def test_stolen_token_gives_nothing_to_a_second_key_and_is_alarmed(site: Site) -> None:
    token = token_for(site)
    site.enrolment.enrol(EnrolRequest(token=token, csr=request()[0]), site.now)
    thief, _ = request()
    assert refusal(site, token, thief) == "token.used"
    assert refusal(site, token, thief) == "token.used"
    found = list_incidents(site.store, FLEET)
    assert [(row.device, row.code) for row in found] == [("pump-7", "token.used")]  # once a minute
    site.advance(minutes=2)
    assert refusal(site, token, thief) == "token.used"
    assert len(list_incidents(site.store, FLEET)) == 2


def test_lost_answer_is_given_again_to_the_same_key(site: Site) -> None:
    token, (csr, _) = token_for(site), request()
    first = site.enrolment.enrol(EnrolRequest(token=token, csr=csr), site.now)
    again = site.enrolment.enrol(EnrolRequest(token=token, csr=csr), site.now)
    assert first.certificate != again.certificate
    assert list_incidents(site.store, FLEET) == []


def test_of_two_that_come_at_once_with_one_token_one_is_first(site: Site) -> None:
    token = token_for(site)
    outcomes: list[str] = []

    def come() -> None:
        try:
            asked = EnrolRequest(token=token, csr=request()[0])
            site.enrolment.enrol(asked, site.now)
            outcomes.append("granted")
        except Untrusted as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["granted", "token.used", "token.used", "token.used"]


def test_token_runs_out_and_a_newer_one_ends_the_older(site: Site) -> None:
    old = token_for(site)
    new = token_for(site, hours=1)
    assert refusal(site, old, request()[0]) == "token.expired"
    site.advance(hours=2)
    assert refusal(site, new, request()[0]) == "token.expired"


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", "token.malformed"),
        ("fl1.abc", "token.malformed"),
        ("fl2.abc.def", "token.malformed"),
        ("fl1.abc.", "token.malformed"),
        ("fl1." + "0" * 64 + ".never-given", "token.unknown"),
    ],
)
def test_what_is_no_token_says_so(site: Site, token: str, code: str) -> None:
    assert refusal(site, token, request()[0]) == code


def _weak() -> str:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("csr", ["", "no request", _weak(), request()[0].replace("MI", "MJ", 1)])
def test_what_is_no_signing_request_says_so_and_uses_up_no_token(site: Site, csr: str) -> None:
    token = token_for(site)
    assert refusal(site, token, csr) == "identity.csr"
    site.enrolment.enrol(EnrolRequest(token=token, csr=request()[0]), site.now)


def test_the_token_itself_stands_nowhere_in_the_store(site: Site) -> None:
    token = token_for(site)
    with site.store.read() as connection:
        row = connection.execute(select(enrolment_tokens)).one()
    assert token.split(".")[2] not in repr(row)


def test_renewal_asks_for_the_key_alone_until_the_grace_is_over(site: Site) -> None:
    csr, _ = request()
    site.enrolment.enrol(EnrolRequest(token=token_for(site), csr=csr), site.now)
    site.advance(days=90 + 179)  # the certificate ran out 179 days ago
    grant = site.enrolment.renew(RenewRequest(csr=csr), site.now)
    assert grant.device == "pump-7"
    site.advance(days=90 + 181)
    with pytest.raises(Untrusted) as caught:
        site.enrolment.renew(RenewRequest(csr=csr), site.now)
    assert caught.value.code == "identity.grace"


def test_a_key_that_was_never_certified_renews_nothing(site: Site) -> None:
    with pytest.raises(Untrusted) as caught:
        site.enrolment.renew(RenewRequest(csr=request()[0]), site.now)
    assert caught.value.code == "identity.unknown-key"


def test_revoked_device_neither_renews_nor_enrols_with_that_key_again(site: Site) -> None:
    csr, _ = request()
    site.enrolment.enrol(EnrolRequest(token=token_for(site), csr=csr), site.now)
    assert site.enrolment.revoke(FLEET, "pump-7", site.now) == 1
    with pytest.raises(Untrusted) as caught:
        site.enrolment.renew(RenewRequest(csr=csr), site.now)
    assert caught.value.code == "identity.revoked"
    assert refusal(site, token_for(site), csr) == "identity.revoked"
    listed, gone = site.enrolment.revoked(site.now)
    assert (len(listed), gone) == (1, ["acme/pump-7"])
    site.enrolment.enrol(EnrolRequest(token=token_for(site), csr=request()[0]), site.now)
    assert site.enrolment.revoked(site.now)[1] == []  # it has another certificate now


def test_without_the_fleets_root_nobody_is_enrolled_and_no_token_used_up(site: Site) -> None:
    token, (csr, _) = token_for(site), request()
    (site.folder / "root.json").unlink()
    with pytest.raises(RetryLater, match="root"):
        site.enrolment.enrol(EnrolRequest(token=token, csr=csr), site.now)
    (site.folder / "root.json").write_text(ROOT, encoding="utf-8")
    site.enrolment.enrol(EnrolRequest(token=token, csr=csr), site.now)


def test_name_too_long_for_a_certificate_is_said_when_provisioning(site: Site) -> None:
    with pytest.raises(RejectedInput, match="at most 64"):
        token_for(site, "p" * 60)
    with pytest.raises(FixConfiguration, match="720 hours"):
        token_for(site, hours=1000)


def test_profile_of_the_device_goes_before_the_default(site: Site) -> None:
    folder = site.folder / "profiles"
    folder.mkdir()
    (folder / "default.yaml").write_text("streams: [default]", encoding="utf-8")
    (folder / "pump-8.yaml").write_text("streams: [eight]", encoding="utf-8")
    grants = [
        site.enrolment.enrol(
            EnrolRequest(token=token_for(site, device), csr=request()[0]), site.now
        )
        for device in ("pump-7", "pump-8")
    ]
    assert [g.profile for g in grants] == ["streams: [default]", "streams: [eight]"]


def test_rotated_authority_keeps_what_the_old_one_issued(light_site: Site) -> None:
    site = light_site
    csr, _ = request()
    before = site.enrolment.enrol(EnrolRequest(token=token_for(site), csr=csr), site.now)
    old = site.authority
    new = old.rotate(site.now)
    assert new.fingerprint != old.fingerprint
    assert before.trust.strip() in new.trust.decode()
    after = site.enrolment.renew(RenewRequest(csr=csr), site.now)
    issued = x509.load_pem_x509_certificate(after.certificate.encode())
    issued.verify_directly_issued_by(new.certificate)
    site.keep()
    server = x509.load_pem_x509_certificate((site.folder / "broker" / "server.pem").read_bytes())
    server.verify_directly_issued_by(new.certificate)


def test_an_authority_of_your_own_is_taken_with_its_chain(tmp_path: Path, light_site: Site) -> None:
    company = Authority.create(tmp_path / "company", "company", light_site.now)
    certificate = (tmp_path / "company" / "ca.pem").read_bytes()
    key = (tmp_path / "company" / "ca-key.pem").read_bytes()
    taken = Authority.adopt(tmp_path / "own", certificate, key, light_site.authority.trust)
    assert taken.fingerprint == company.fingerprint
    assert light_site.authority.trust.strip() in taken.trust
    leaf = light_site.certify("acme/pump-1")
    _, other = new_key()
    bad = {
        "may not sign": (leaf.cert.read_bytes(), leaf.key.read_bytes(), b""),
        "do not belong together": (certificate, other, b""),
        "cannot be read": (b"nothing", key, b""),
        "the chain": (certificate, key, b"nothing"),
    }
    for index, (words, given) in enumerate(bad.items()):
        with pytest.raises(FixConfiguration, match=words):
            Authority.adopt(tmp_path / f"bad-{index}", *given)
        assert not (tmp_path / f"bad-{index}" / "ca.pem").exists()
    with pytest.raises(FixConfiguration, match="already"):
        Authority.create(tmp_path / "own", "another", light_site.now)
