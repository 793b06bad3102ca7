"""Where the pages answer: on this machine only, or to others by TLS or behind a proxy that does TLS.

A page that answers to any Host header can be reached through a name that a stranger controls (DNS rebinding), and one
that believes any X-Forwarded-For lets everybody choose an address. So the addresses are fixed when the server starts.
"""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from rlhf.errors import LabelError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")
LAST_PORT = 65535
PORTS = {"http": 80, "https": 443}
GUIDE = "docs/network.md shows how"

Proxies = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """How people elsewhere reach the pages; as it stands: not at all.

    Attributes:
        tls_cert: PEM file with the certificate, and those that lead to a known authority.
        tls_key: PEM file with its key.
        behind_proxy: A proxy on the way does TLS.
        trusted_proxies: Addresses or networks of the proxy, whose X-Forwarded headers are believed.
        public_url: What people type, such as https://labels.example.org.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    public_url: str | None = None

    @property
    def open(self) -> bool:
        """Whether people come from elsewhere."""
        return self.behind_proxy or self.tls_cert is not None or self.tls_key is not None


@dataclass(frozen=True, slots=True)
class Access:
    """Where the pages answer.

    Attributes:
        origins: Scheme, host and port of every address that is answered to; the first is the one to tell people.
        local: Links may open a session without a password.
        secure: Visitors come by HTTPS.
        proxies: Whose X-Forwarded headers are believed.
    """

    origins: tuple[str, ...]
    local: bool = True
    secure: bool = False
    proxies: Proxies = ()


def check_network(host: str, port: int, network: Network) -> None:
    """Refuse what cannot be served, before a port is opened.

    Raises:
        LabelError: It says which option is wrong and what to do.
    """
    if not 0 <= port <= LAST_PORT:
        raise LabelError(f"port is {port}; give a number from 1 to {LAST_PORT}, or 0 for any that is free")
    if network.behind_proxy and (network.tls_cert or network.tls_key):
        raise LabelError("--behind-proxy and --tls-cert exclude each other: say who does TLS, the proxy or this server")
    if network.behind_proxy:
        if network.public_url is None:
            raise LabelError("--behind-proxy needs --public-url, what people type, such as https://labels.example.org")
        read_proxies(network.trusted_proxies)
    elif network.open:
        check_tls(network.tls_cert, network.tls_key)
        if host in EVERY_ADDRESS and network.public_url is None:
            raise LabelError(f"--host {host} is every address; say with --public-url which one people type")
    elif host not in LOOPBACK:
        raise LabelError(
            f"--host {host} is open to the network, where passwords and answers need TLS: give --tls-cert and --tls-key, or "
            f"--behind-proxy ({GUIDE}); without --host, the pages are for people at this machine"
        )
    if network.public_url is not None:
        origin = read_public_url(network.public_url)
        if network.open and origin.startswith("http:"):
            raise LabelError(f"--public-url {network.public_url}: passwords need HTTPS; give an address with https://")
        if not network.open and urlsplit(origin).hostname not in LOOPBACK:
            raise LabelError(
                f"--public-url {network.public_url}: others cannot reach this server; give --tls-cert and --tls-key, or "
                f"--behind-proxy ({GUIDE})"
            )


def plan_access(host: str, port: int, network: Network) -> Access:
    """Return where the pages answer, once the port is known."""
    public = (read_public_url(network.public_url),) if network.public_url else ()
    if network.behind_proxy:
        return Access(public, local=False, secure=True, proxies=read_proxies(network.trusted_proxies))
    names = (host, *(name for name in LOOPBACK if name != host)) if host in LOOPBACK else (host,)
    if network.open:
        return Access(public or tuple(make_origin("https", name, port) for name in names), local=False, secure=True)
    return Access((*(make_origin("http", name, port) for name in names), *public))


def read_public_url(text: str) -> str:
    """Return scheme, host and port of an address as a browser writes them.

    Raises:
        LabelError: It is none, or has a path.
    """
    problem = f"--public-url {text}: give scheme and host, such as https://labels.example.org or https://host:8443"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host = host if ":" in host else host.encode("idna").decode("ascii")
    except ValueError as error:  # bad brackets, a port that is no number, a name that is none
        raise LabelError(problem) from error
    plain = all(letter.isalnum() or letter in "-.:" for letter in host)
    if parts.scheme not in PORTS or not host or not plain or parts.username is not None:
        raise LabelError(problem)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise LabelError(f"{problem}; the pages need a host of their own, not a folder of one")
    return make_origin(parts.scheme, host, port or PORTS[parts.scheme])


def make_origin(scheme: str, host: str, port: int) -> str:
    """Return an origin as a browser writes it."""
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if port == PORTS[scheme] else f"{scheme}://{shown}:{port}"


def read_proxies(texts: Iterable[str]) -> Proxies:
    """Return the networks of the proxies that are believed.

    Raises:
        LabelError: One is neither an address nor a network.
    """
    found: list[IPv4Network | IPv6Network] = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise LabelError(f"--trusted-proxy {text}: give an address or a network, such as 10.0.0.0/24") from error
    return tuple(found)


def is_among(address: str, proxies: Proxies) -> bool:
    """Return whether an address belongs to one of the networks."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in proxies)


def check_tls(cert: Path | None, key: Path | None) -> None:
    """Refuse a certificate and key that a server cannot use.

    Raises:
        LabelError: One is missing or unreadable, they do not belong together, or the key is encrypted.
    """
    files = {"--tls-cert": cert, "--tls-key": key}
    for option, path in files.items():
        if path is None:
            raise LabelError(f"{option} is missing; a certificate and its key come in two PEM files")
        try:
            path.read_bytes()
        except OSError as error:
            raise LabelError(f"{option} {path}: cannot be read ({error.strerror})") from error
    assert cert is not None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_refuse_encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise LabelError(f"--tls-key {key}: is not the key of {cert}") from error
        raise LabelError(f"--tls-cert {cert}, --tls-key {key}: not a certificate and its key in PEM") from error


def _refuse_encrypted() -> str:
    raise LabelError("--tls-key: the key is encrypted; give one without a passphrase, readable by this user only")
