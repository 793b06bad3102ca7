"""Passwords: what is accepted, and how they are kept (scrypt, Percival 2009; RFC 7914).

The cost is stored beside each hash, so that it can be raised later without making the earlier ones useless. A check
for somebody who does not exist costs as much as one for somebody who does: the time of an answer tells nothing.
"""

import base64
import hashlib
import hmac
import secrets
import unicodedata
from dataclasses import dataclass

from rlhf.errors import LabelError

MIN_PASSWORD = 10
MAX_PASSWORD = 1000
_SALT_BYTES, _KEY_BYTES = 16, 32
_SPARE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """What one guess costs: about 128 * n * r bytes of memory, p times over."""

    n: int
    r: int
    p: int


# 32 MiB and a few tenths of a second; one of the settings that the OWASP password storage cheat sheet names.
COST = Cost(n=2**15, r=8, p=3)


@dataclass(frozen=True, slots=True)
class Hashed:
    """A password that was hashed already, as the store keeps it."""

    text: str


def hash_password(password: str | Hashed) -> Hashed:
    """Return what is stored of a password; one that was hashed already stays as it is.

    Raises:
        LabelError: It is too short or too long.
    """
    if isinstance(password, Hashed):
        return password
    check_password(password)
    salt = secrets.token_bytes(_SALT_BYTES)
    return _pack(COST, salt, _derive(password, COST, salt))


def check_password(password: str) -> None:
    """Refuse a password that is no good.

    Raises:
        LabelError: It is too short or too long.
    """
    length = len(unicodedata.normalize("NFC", password))
    if length < MIN_PASSWORD:
        raise LabelError(f"the password has {length} characters; use at least {MIN_PASSWORD}, any characters you like")
    if length > MAX_PASSWORD:
        raise LabelError(f"the password has {length} characters; use at most {MAX_PASSWORD}")


def password_fits(password: str, stored: str | None) -> bool:
    """Return whether this is the password; where nothing is stored, False after the time that a check takes."""
    cost, salt, key = _unpack(stored if stored is not None else _NOBODYS)
    # Computed in both cases.
    same = hmac.compare_digest(_derive(password, cost, salt), key)
    return same and stored is not None


def _derive(password: str, cost: Cost, salt: bytes) -> bytes:
    # The same letters typed on different keyboards may come as different code points.
    secret = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    memory = 128 * cost.n * cost.r + _SPARE_BYTES
    return hashlib.scrypt(secret, salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=memory, dklen=_KEY_BYTES)


def _pack(cost: Cost, salt: bytes, key: bytes) -> Hashed:
    encoded = (base64.b64encode(part).decode("ascii") for part in (salt, key))
    return Hashed("$".join(("scrypt", f"{cost.n}", f"{cost.r}", f"{cost.p}", *encoded)))


def _unpack(stored: str) -> tuple[Cost, bytes, bytes]:
    _, n, r, p, salt, key = stored.split("$")
    return Cost(int(n), int(r), int(p)), base64.b64decode(salt), base64.b64decode(key)


_NOBODYS = _pack(COST, bytes(_SALT_BYTES), bytes(_KEY_BYTES)).text
