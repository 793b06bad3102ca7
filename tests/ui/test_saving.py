"""Nothing typed is lost: reloads, a killed server, two tabs, double submits; and nothing is left in the browser."""

import pytest

from labeling_ui.app import COOKIE
from rlhf.labels.events import verify
from rlhf.labels.store import open_store
from tests.ui.person import answers_of, count, open_task, prompt, rank_all, submit, summary, wait_saved

pytestmark = pytest.mark.ui


def second_tab(first, server):
    page = first.context.new_page()
    page.goto(f"{server.origin}/label/")
    page.wait_for_selector(".rk-card")
    return page


def test_every_change_is_saved_at_once(server, visit):
    page = visit(server, "Saves once").page
    with page.expect_request("**/component_server**", timeout=400):
        page.keyboard.press("1")
    page.keyboard.press("w")
    with page.expect_request("**/component_server**", timeout=400):
        page.keyboard.type("x")
    wait_saved(page)
    expected, before = summary(page), prompt(page)
    page.reload()
    page.wait_for_selector(".rk-card")
    assert (summary(page), prompt(page), page.input_value(".rk-comment")) == (expected, before, "x")
    assert page.inner_text(".rk-saved") == "Your draft is back"


def test_what_is_typed_while_the_server_is_gone_survives_its_restart(own_server, visit):
    seen = visit(own_server, "Draft server")
    page = seen.page
    open_task(page, "mountain")
    rank_all(page)
    wait_saved(page)
    saved_order = summary(page)
    own_server.kill()
    page.locator(".rk-card").nth(3).focus()
    page.keyboard.press("1")
    page.keyboard.press("h")
    page.fill(".rk-comment", "typed while it was gone")
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    page.keyboard.type("Better: ")
    page.wait_for_function("document.querySelector('.rk-saved').innerText.includes('trying again')")
    expected, edited = summary(page), page.input_value(".rk-edit")
    assert expected != saved_order
    own_server.start()
    # Gradio reloads the page by itself when the server is back; whether it has done so or not, all is there.
    page.wait_for_timeout(3000)
    page.goto(f"{own_server.origin}/label/")
    page.wait_for_selector(".rk-card")
    assert summary(page) == expected
    assert page.input_value(".rk-comment") == "typed while it was gone"
    assert page.input_value(".rk-edit") == edited
    assert page.locator(".rk-flag[aria-pressed=true]").count() == 1
    page.wait_for_function("!Object.keys(localStorage).some((key) => key.startsWith('rlhf.draft.'))")
    submit(page)
    assert answers_of(own_server.database, "Draft server", "version, edit_of IS NULL")[-1] == (1, 0)
    with open_store(own_server.database) as store:
        assert verify(store).ok


def test_a_submit_to_a_dead_server_is_not_lost(own_server, visit):
    page = visit(own_server, "Submit dead").page
    rank_all(page)
    wait_saved(page)
    before = prompt(page)
    own_server.kill()
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('.rk-notice').innerText.includes('cannot be reached')")
    assert prompt(page) == before
    assert count(page) == page.locator(".rk-card[data-ranked]").count()
    own_server.start()
    page.goto(f"{own_server.origin}/label/")
    page.wait_for_selector(".rk-card")
    assert prompt(page) == before
    submit(page)
    assert answers_of(own_server.database, "Submit dead", "version") == [(1,)]


def test_an_older_tab_does_not_overwrite(server, visit):
    first = visit(server, "Two tabs").page
    second = second_tab(first, server)
    second.keyboard.press("1")
    second.fill(".rk-comment", "from the second")
    wait_saved(second)
    first.fill(".rk-comment", "from the first")
    first.wait_for_function("document.querySelector('.rk-notice').innerText.includes('another tab')")
    first.click("text=Keep what is here")
    wait_saved(first)
    second.fill(".rk-comment", "again the second")
    second.wait_for_function("document.querySelector('.rk-notice').innerText.includes('another tab')")
    second.click("text=Take the other tab's")
    second.wait_for_function("document.querySelector('.rk-comment').value === 'from the first'")
    wait = "document.querySelector('.rk-notice').hidden"
    second.wait_for_function(wait)
    second.fill(".rk-comment", "now current")
    wait_saved(second)


def test_two_tabs_store_one_answer(server, visit):
    first = visit(server, "Two answer").page
    second = second_tab(first, server)
    rank_all(first)
    wait_saved(first)
    submit(first)
    rank_all(second)
    second.wait_for_function("document.querySelector('.rk-notice').innerText.includes('answered already')")
    second.click("text=Go on")
    second.wait_for_function("prompt => document.querySelector('.rk-prompt').innerText === prompt", arg=prompt(first))
    assert answers_of(server.database, "Two answer", "version") == [(1,)]


def test_a_double_submit_stores_one_answer(server, visit):
    page = visit(server, "Double submit").page
    rank_all(page)
    wait_saved(page)
    page.evaluate("document.querySelector('.rk-submit').click(); document.querySelector('.rk-submit').click()")
    page.wait_for_function("document.querySelector('.rk-toast').innerText.includes('Stored')")
    page.wait_for_timeout(200)
    assert answers_of(server.database, "Double submit", "version") == [(1,)]


def test_nothing_is_kept_in_the_browser(server, visit):
    page = visit(server, "Nothing browser").page
    rank_all(page)
    page.fill(".rk-comment", "private words")
    wait_saved(page)
    submit(page)
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    for words in ("mountain", "Pancakes", "private"):
        assert words not in kept
    (cookie,) = [one for one in page.context.cookies() if one["name"] == COOKIE]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert COOKIE not in page.evaluate("document.cookie"), "no script can read the session"


def test_signing_out_clears_what_did_not_reach_the_server(server, visit):
    page = visit(server, "Leaves now").page
    page.evaluate("localStorage.setItem('rlhf.draft.x', JSON.stringify({who: 'me', draft: {}, at: Date.now()}))")
    page.route("**/component_server**", lambda route: route.abort())
    page.keyboard.press("1")
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('rlhf.draft.')).length") == 2
    page.click("[data-act=signout]")
    page.wait_for_url(lambda url: "/label" not in url)
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('rlhf.draft.')).length") == 0
    page.goto(f"{server.origin}/label/")
    assert "/label" not in page.url, "the session has ended"
