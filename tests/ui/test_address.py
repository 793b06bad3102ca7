"""Where the pages answer, what is refused before a port is opened, whose word about the visitor is taken."""

import socket
import subprocess
from pathlib import Path

import pytest

from labeling_ui.address import Network, check_network, plan_access, read_public_url
from labeling_ui.forwarded import as_visited
from labeling_ui.web import serve
from rlhf.errors import LabelError, ResourceError
from rlhf.labels.passwords import hash_password
from rlhf.labels.store import open_store
from rlhf.labels.users import create_user
from tests.ui.conftest import make_certificate

pytestmark = pytest.mark.ui

TEAM = "https://labels.example.org"
PROXY = Network(behind_proxy=True, public_url=TEAM)


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://labels.example.org", TEAM),
        ("HTTPS://Labels.Example.ORG:443/", TEAM),
        ("https://labels.example.org:8443", f"{TEAM}:8443"),
        ("http://localhost:80", "http://localhost"),
        ("https://[2001:db8::1]:7860/", "https://[2001:db8::1]:7860"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_address_is_read_as_browsers_write_it(given, origin):
    assert read_public_url(given) == origin


@pytest.mark.parametrize(
    "given",
    ["", "labels", "labels.example.org", "ftp://labels.example.org", "https://", "https://:8443", "https://a b", "https://a:b",
     "https://a:99999", "https://[::1", "https://me:secret@a", "//a", "https://a/labels", "https://a?x", "https://a#x",
     "https://..", "https://a,b", "https://*"],
)  # fmt: skip
def test_what_is_no_address_is_refused(given):
    with pytest.raises(
        LabelError, match=f"--public-url {given}".replace("*", r"\*").replace("?", r"\?").replace("[", r"\[")
    ):
        read_public_url(given)


@pytest.mark.parametrize(
    ("host", "network", "message"),
    [
        ("0.0.0.0", Network(), "open to the network.*--tls-cert and --tls-key, or --behind-proxy"),
        ("192.168.1.7", Network(), "open to the network"),
        ("example.org", Network(), "open to the network"),
        ("::", Network(), "open to the network"),
        ("127.0.0.1", Network(public_url=TEAM), "others cannot reach this server"),
        ("127.0.0.1", Network(behind_proxy=True), "--behind-proxy needs --public-url"),
        ("127.0.0.1", Network(behind_proxy=True, public_url="http://labels.example.org"), "passwords need HTTPS"),
        ("127.0.0.1", Network(behind_proxy=True, public_url="labels"), "give scheme and host"),
        ("127.0.0.1", Network(behind_proxy=True, public_url=TEAM, trusted_proxies=("me",)), "--trusted-proxy me"),
        ("127.0.0.1", Network(behind_proxy=True, public_url=TEAM, trusted_proxies=("10.0.0.1/8",)), "10.0.0.1/8"),
        ("127.0.0.1", Network(Path("c"), Path("k"), behind_proxy=True, public_url=TEAM), "exclude each other"),
        ("127.0.0.1", Network(tls_cert=Path("none.pem"), tls_key=Path("k")), "--tls-cert none.pem: cannot be read"),
        ("127.0.0.1", Network(tls_key=Path("k")), "--tls-cert is missing"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(host, network, message):
    with pytest.raises(LabelError, match=message) as caught:
        check_network(host, 7860, network)
    assert "\n" not in f"{caught.value}"


def test_certificates_are_looked_at(certificate, tmp_path):
    cert, key = certificate
    check_network("127.0.0.1", 7860, Network(cert, key))
    with pytest.raises(LabelError, match="--tls-key is missing"):
        check_network("127.0.0.1", 7860, Network(cert))
    with pytest.raises(LabelError, match=r"say with --public-url which one"):
        check_network("0.0.0.0", 7860, Network(cert, key))
    check_network("0.0.0.0", 7860, Network(cert, key, public_url=TEAM))
    with pytest.raises(LabelError, match="is not the key of"):
        check_network("127.0.0.1", 7860, Network(cert, make_certificate(tmp_path)[1]))
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for pair in ((text, key), (cert, text), (key, cert)):
        with pytest.raises(LabelError, match="not a certificate and its key in PEM"):
            check_network("127.0.0.1", 7860, Network(*pair))
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(LabelError, match="the key is encrypted"):
        check_network("127.0.0.1", 7860, Network(cert, locked))


@pytest.mark.parametrize("port", [-1, 65536, 10**20])
def test_a_port_that_does_not_exist_is_refused(tmp_path, port):
    with pytest.raises(LabelError, match=f"port is {port}; give a number from 1 to 65535"):
        serve(tmp_path / "labels.db", port=port)
    assert not (tmp_path / "labels.db").exists()


def test_a_taken_port_is_named(tmp_path):
    open_store(tmp_path / "labels.db", create=True).close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ResourceError, match="choose another with --port"):
            serve(tmp_path / "labels.db", port=taken.getsockname()[1])


def test_a_team_needs_an_admin_who_can_sign_in(tmp_path):
    with open_store(tmp_path / "labels.db", create=True) as store:
        create_user(store, "Ada", "manager", hash_password("correct horse"))
    with pytest.raises(LabelError, match=r"rlhf label user \S+labels.db add NAME --role admin"):
        serve(tmp_path / "labels.db", network=PROXY)
    with pytest.raises(LabelError, match="--name is for the page on this machine"):
        serve(tmp_path / "labels.db", annotator_name="Ada", network=PROXY)


def test_the_addresses_that_are_answered_to():
    local = plan_access("127.0.0.1", 7860, Network())
    assert local.origins == ("http://127.0.0.1:7860", "http://localhost:7860", "http://[::1]:7860")
    assert (local.local, local.secure, local.proxies) == (True, False, ())
    tunnel = plan_access("127.0.0.1", 7860, Network(public_url="http://localhost:8000"))
    assert tunnel.origins == (*local.origins, "http://localhost:8000")
    tls = Network(tls_cert=Path("c"), tls_key=Path("k"))
    assert plan_access("192.168.1.7", 443, tls).origins == ("https://192.168.1.7",)
    proxy = plan_access("10.0.0.2", 7860, PROXY)
    assert (proxy.origins, proxy.local, proxy.secure) == ((TEAM,), False, True)


TOLD = {"x-forwarded-host": "labels.example.org", "x-forwarded-proto": "https", "x-forwarded-for": "198.51.100.7"}


def visited(peer: str, told: dict[str, str], **network) -> tuple[str, str, str, set[str]]:
    """Return scheme, host and address of a request, and the headers that are passed on."""
    access = plan_access("127.0.0.1", 7860, Network(behind_proxy=True, public_url=TEAM, **network))
    headers = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:7860", **told}.items()]
    scope = as_visited({"client": (peer, 1), "scheme": "http", "headers": headers}, access.proxies)
    kept = dict(scope["headers"])
    return scope["scheme"], kept[b"host"].decode(), scope["client"][0], {name.decode() for name in kept}


def test_a_known_proxy_tells_who_asked():
    assert visited("127.0.0.1", TOLD) == ("https", "labels.example.org", "198.51.100.7", {"host"})


def test_a_stranger_tells_nothing():
    assert visited("203.0.113.9", TOLD) == ("http", "127.0.0.1:7860", "203.0.113.9", {"host"})
    assert visited("10.0.0.9", TOLD, trusted_proxies=("10.0.1.0/24",))[2] == "10.0.0.9"
    assert visited("10.0.1.9", TOLD, trusted_proxies=("10.0.1.0/24",))[2] == "198.51.100.7"


def test_a_proxy_that_does_not_say_https_was_not_reached_by_it():
    assert visited("127.0.0.1", {**TOLD, "x-forwarded-proto": "http"})[0] == "http"
    assert visited("127.0.0.1", {"x-forwarded-for": "198.51.100.7"})[0] == "http"
    assert visited("127.0.0.1", {**TOLD, "x-forwarded-proto": "https, http"})[0] == "http", "the nearest proxy counts"


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7", "198.51.100.7"),  # what the visitor sent himself comes first
        ("6.6.6.6, 198.51.100.7, 10.0.0.3", "198.51.100.7"),  # two proxies of ours
        ("10.0.0.4, 10.0.0.3", "10.0.0.4"),  # a visitor from inside
        ("", "10.0.0.2"),
        (" , ,", "10.0.0.2"),
        ("unknown", "unknown"),
    ],
)
def test_the_visitor_is_the_last_that_is_no_proxy_of_ours(told, address):
    assert visited("10.0.0.2", {"x-forwarded-for": told}, trusted_proxies=("10.0.0.0/24",))[2] == address


def test_headers_that_gradio_would_believe_are_taken_away():
    told = {**TOLD, "x-gradio-server": "http://evil.example", "forwarded": "for=1", "x-real-ip": "1", "accept": "x"}
    for peer in ("127.0.0.1", "203.0.113.9"):
        assert visited(peer, told)[3] == {"host", "accept"}
