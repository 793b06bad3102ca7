"""What a visitor asked, where a proxy stands between: its word is taken only where the proxy is known.

Gradio believes X-Forwarded-Host and headers of its own from anybody. They are removed here, whoever sent them.
"""

from typing import Any

from labeling_ui.address import Proxies, is_among

NOT_PASSED_ON = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
                 b"x-forwarded-prefix", b"forwarded", b"x-real-ip", b"x-gradio-server", b"x-gradio-user")  # fmt: skip


def as_visited(scope: Any, proxies: Proxies) -> Any:
    """Return an ASGI scope with the visitor's own address, scheme and host, and without the headers that told them."""
    told = {
        name: [value.decode("latin-1") for known, value in scope["headers"] if known == name] for name in NOT_PASSED_ON
    }
    headers = [(name, value) for name, value in scope["headers"] if name not in NOT_PASSED_ON]
    peer = scope["client"][0] if scope.get("client") else ""
    if not is_among(peer, proxies):
        return {**scope, "headers": headers}
    host = _last(told[b"x-forwarded-host"])
    if host:
        headers = [(name, value) for name, value in headers if name != b"host"]
        headers.append((b"host", host.encode("latin-1")))
    # A proxy that says nothing was reached by whoever knows how, perhaps in the clear.
    scheme = "https" if _last(told[b"x-forwarded-proto"]) == "https" else "http"
    return {
        **scope,
        "headers": headers,
        "scheme": scheme,
        "client": (_visitor(told[b"x-forwarded-for"], peer, proxies), 0),
    }


def _visitor(told: list[str], peer: str, proxies: Proxies) -> str:
    """Return the last address that no known proxy has; what stands before it, the visitor may have made up."""
    for address in reversed([part.strip() for part in ",".join(told).split(",") if part.strip()]):
        if not is_among(address, proxies):
            return address
        peer = address
    return peer


def _last(told: list[str]) -> str:
    return ",".join(told).rpartition(",")[2].strip()
