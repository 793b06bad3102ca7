"""Guessing is slowed down, by name and by address, also where the guesses come at the same time."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from rlhf.labels.attempts import (
    PER_ADDRESS,
    PER_NAME,
    WINDOW_S,
    TooManyAttemptsError,
    by_address,
    by_name,
    count_attempt,
    forgive,
)


def fail(store, name="ada", address="192.0.2.1"):
    count_attempt(store, (by_name(store, name), by_address(store, address)))


def test_a_name_has_five_failures_in_a_quarter_of_an_hour(store, clock):
    for number in range(PER_NAME):
        fail(store, address=f"192.0.2.{number}")
        clock.now += 60
    with pytest.raises(TooManyAttemptsError, match="wait 10 minutes, then try again") as caught:
        fail(store, address="192.0.2.99")
    # The first of five was 5 minutes ago; it counts for 15.
    assert caught.value.wait_s == WINDOW_S - PER_NAME * 60
    fail(store, name="ben")


def test_waiting_helps_and_asking_meanwhile_does_not_hurt(store, clock):
    for _ in range(PER_NAME):
        fail(store)
    clock.now += WINDOW_S - 1
    for _ in range(3):
        with pytest.raises(TooManyAttemptsError, match="wait a minute"):
            fail(store)
    clock.now += 1
    fail(store)


def test_an_address_has_twenty_failures_over_all_names(store):
    for number in range(PER_ADDRESS):
        fail(store, name=f"name {number}")
    with pytest.raises(TooManyAttemptsError):
        fail(store, name="another")
    fail(store, name="another", address="192.0.2.2")


def test_the_addresses_of_one_ipv6_network_are_one(store):
    for number in range(PER_ADDRESS):
        fail(store, name=f"name {number}", address=f"2001:db8:0:1::{number:x}")
    with pytest.raises(TooManyAttemptsError):
        fail(store, name="another", address="2001:db8:0:1:ffff::1")
    fail(store, name="another", address="2001:db8:0:2::1")


def test_an_ipv4_address_written_as_ipv6_is_the_same(store):
    assert by_address(store, "::ffff:192.0.2.1") == by_address(store, "192.0.2.1")


def test_success_forgives_the_name_and_the_attempt(store):
    for _ in range(PER_NAME - 1):
        fail(store)
    fail(store)
    with store.transaction() as connection:
        forgive(connection, by_name(store, "ada"), by_address(store, "192.0.2.1"))
        rows = connection.execute(text("SELECT key FROM login_failures")).scalars().all()
    assert rows == [by_address(store, "192.0.2.1").key] * (PER_NAME - 1)


def test_guesses_at_the_same_time_are_all_counted(store):
    def guess(number):
        try:
            fail(store, address=f"192.0.2.{number}")
        except TooManyAttemptsError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(guess, range(16))) == PER_NAME


def test_what_is_kept_names_nobody(store):
    fail(store, name="ada", address="192.0.2.1")
    with store.reading() as connection:
        kept = str(connection.execute(text("SELECT * FROM login_failures")).all())
    assert "ada" not in kept
    assert "192.0.2.1" not in kept
