"""Slowing down those who guess passwords: so many failures by name and by address, then a wait.

An attempt is counted as a failure before the password is looked at, and forgiven when it was right. So attempts made at
the same time cannot outrun the count. Names and addresses are kept as salted digests, for a quarter of an hour.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from sqlalchemy import Connection, delete, insert, select

from rlhf.errors import LabelError
from rlhf.labels.schema import login_failures
from rlhf.labels.store import Store

WINDOW_S = 15 * 60
PER_NAME = 5
PER_ADDRESS = 20
_NETWORK_BITS = 64
_MINUTE_S = 60


class TooManyAttemptsError(LabelError):
    """Nobody with this name, or from this address, may try again yet.

    Attributes:
        wait_s: Seconds until the next attempt is looked at.
    """

    def __init__(self, wait_s: int) -> None:
        minutes = math.ceil(wait_s / _MINUTE_S)
        when = "a minute" if minutes == 1 else f"{minutes} minutes"
        super().__init__(f"too many failed attempts; wait {when}, then try again")
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Counted:
    """Whose failures are counted, and how many there may be within the window."""

    key: str
    most: int


def by_name(store: Store, name: str) -> Counted:
    """Count the failures of a name, in whatever case it is written."""
    return Counted(_digest(store, "name", name), PER_NAME)


def by_address(store: Store, address: str) -> Counted:
    """Count the failures from an address; the addresses of one IPv6 network count as one."""
    return Counted(_digest(store, "address", _network(address)), PER_ADDRESS)


def count_attempt(store: Store, counted: Sequence[Counted]) -> None:
    """Count a failure for each; `forgive` takes it back where the password turns out to be right.

    Raises:
        TooManyAttemptsError: One of them has had its share; nothing is counted then, so that waiting helps.
    """
    now = store.clock()
    with store.transaction() as connection:
        connection.execute(delete(login_failures).where(login_failures.c.at <= now - WINDOW_S))
        wait = max(_wait(connection, one, now) for one in counted)
        if wait > 0:
            raise TooManyAttemptsError(math.ceil(wait))
        connection.execute(insert(login_failures), [{"key": one.key, "at": now} for one in counted])


def forgive(connection: Connection, name: Counted, address: Counted | None = None) -> None:
    """Forget the failures of a name; of an address only the latest: others there may still be guessing."""
    connection.execute(delete(login_failures).where(login_failures.c.key == name.key))
    if address is not None:
        latest = select(login_failures.c.id).where(login_failures.c.key == address.key)
        latest = latest.order_by(login_failures.c.at.desc(), login_failures.c.id.desc()).limit(1)
        connection.execute(delete(login_failures).where(login_failures.c.id == latest.scalar_subquery()))


def _wait(connection: Connection, one: Counted, now: float) -> float:
    """Return the seconds until fewer than the most failures are left in the window; 0 where that is so now."""
    newest = select(login_failures.c.at).where(login_failures.c.key == one.key).order_by(login_failures.c.at.desc())
    times = connection.execute(newest.limit(one.most)).scalars().all()
    return times[-1] + WINDOW_S - now if len(times) >= one.most else 0.0


def _network(address: str) -> str:
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((int(found), _NETWORK_BITS), strict=False))
    return str(found)


def _digest(store: Store, kind: str, value: str) -> str:
    return hashlib.sha256(f"{store.salt()}:{kind}:{value}".encode("utf-8", "surrogatepass")).hexdigest()
