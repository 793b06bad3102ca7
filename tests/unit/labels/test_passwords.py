"""Passwords: what is accepted, what is stored, and that a check tells nothing but yes or no."""

import hashlib
import time

import pytest

from rlhf.errors import LabelError
from rlhf.labels import passwords
from rlhf.labels.passwords import COST, hash_password, password_fits


def test_a_password_fits_itself_only():
    stored = hash_password("correct horse").text
    assert password_fits("correct horse", stored)
    for other in ("", "correct horsE", "correct horse "):
        assert not password_fits(other, stored)


def test_two_hashes_of_one_password_differ_and_hold_the_cost():
    one, two = (hash_password("correct horse").text for _ in range(2))
    assert one != two
    assert one.startswith(f"scrypt${COST.n}${COST.r}${COST.p}$")
    assert "correct" not in one


def test_the_stored_cost_is_the_one_that_counts():
    """A hash of a cheaper day is checked at its own cost: N 2, r 1, p 1 and a salt of zeros, by hashlib itself."""
    key = hashlib.scrypt(b"correct horse", salt=bytes(16), n=2, r=1, p=1, dklen=32)
    stored = passwords._pack(passwords.Cost(2, 1, 1), bytes(16), key).text
    assert password_fits("correct horse", stored)
    assert not password_fits("correct horses", stored)


def test_one_letter_written_two_ways_is_one_letter():
    composed, decomposed = "caf\u00e9 au lait", "cafe\u0301 au lait"
    assert composed != decomposed
    assert password_fits(decomposed, hash_password(composed).text)


def test_what_is_hashed_stays_as_it_is():
    hashed = hash_password("correct horse")
    assert hash_password(hashed) is hashed


@pytest.mark.parametrize(
    ("password", "message"),
    [("123456789", "has 9 characters; use at least 10"), ("", "has 0 characters"), ("x" * 1001, "use at most 1000")],
)
def test_useless_passwords(password, message):
    with pytest.raises(LabelError, match=message):
        hash_password(password)


def test_ten_characters_are_enough_whatever_they_are():
    assert password_fits("пароль п \ud800", hash_password("пароль п \ud800").text)


def test_nobody_has_no_password_and_takes_as_long():
    stored = hash_password("correct horse").text
    spent = []
    for known in (stored, None):
        start = time.perf_counter()
        assert not password_fits("another one", known)
        spent.append(time.perf_counter() - start)
    assert min(spent) > 0.25 * max(spent), f"known {spent[0]:.3f} s, unknown {spent[1]:.3f} s"
    assert not password_fits("", None)
