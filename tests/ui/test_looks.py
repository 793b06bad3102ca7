"""How the page looks: on both screens, light and dark, by keyboard, for assistive technology; and the guide's pictures."""

import pytest

from tests.ui.person import is_light, learn, open_task, rank_all, settle, shoot, submit, violations, wait_saved

pytestmark = pytest.mark.ui

SIZES = {"desk": (1280, 860), "phone": (390, 844)}


class Looker:
    """Looks at the page as it stands: does it fit, what does axe say, a picture for the guide."""

    def __init__(self, page, scheme: str, size: str) -> None:
        self.page = page
        self.width, height = SIZES[size]
        self.name = f"labeling-{{}}{'' if size == 'desk' else '-phone'}{'' if scheme == 'light' else '-dark'}"
        self.found: list[str] = []
        page.set_viewport_size({"width": self.width, "height": height})

    def __call__(self, what: str) -> None:
        settle(self.page)
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.width, what
        shoot(self.page, self.name.format(what))
        self.found += [f"{what}: {one}" for one in violations(self.page)]


def look_at_training(page, look: Looker) -> None:
    look("training")
    rank_all(page)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".rk[data-view=feedback]")
    look("feedback")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".rk[data-view=task]")
    learn(page)


def look_at_ranking(page, look: Looker) -> None:
    open_task(page, "bake bread")
    look("begin")
    rank_all(page)
    for key in ("Alt+ArrowUp", "s", "s", "f", "c", "c"):
        page.keyboard.press(key)
    wait_saved(page)
    look("ranking")
    for key, what, leave in (("v", "reading", "Escape"), ("g", "guidelines", "g"), ("?", "keys", "Escape")):
        page.keyboard.press(key)
        look(what)
        page.keyboard.press(leave)
    page.keyboard.press("i")
    look("better")
    page.keyboard.press("Escape")
    submit(page)


def look_at_the_rest(page, look: Looker) -> None:
    open_task(page, "Australia")
    page.keyboard.press("ArrowLeft")
    look("pair")
    page.keyboard.press("d")
    page.wait_for_selector(".rk-diff ins")
    look("compare")
    page.keyboard.press("Escape")
    submit(page)
    open_task(page, "Solve")
    look("formulas")
    page.keyboard.press("n")
    page.wait_for_selector(".rk[data-view=done]")
    look("done")
    page.click("[data-go=work]")
    page.wait_for_selector(".rk-figure")
    look("work")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_fits_and_can_be_used_by_everybody(school, visit, scheme, size):
    page = visit(school, f"Look {scheme} {size}", color_scheme=scheme).page
    look = Looker(page, scheme, size)
    look_at_training(page, look)
    look_at_ranking(page, look)
    look_at_the_rest(page, look)
    # The page follows the system's theme: dark text on light, or the other way round.
    assert is_light(page, ".rk") == (scheme == "light")
    assert look.found == []


def test_tab_goes_through_everything_and_out_again(school, visit):
    """No trap: Tab visits every control once, in the order of the page, each with a visible mark."""
    page = visit(school, "Tabber").page
    learn(page)
    open_task(page, "Australia")
    page.evaluate("const top = document.querySelector('.rk'); top.tabIndex = -1; top.focus(); window.scrollTo(0, 0)")
    visited = []
    for _ in range(120):
        page.keyboard.press("Tab")
        where = page.evaluate(
            "(() => { const a = document.activeElement; if (!a.closest('.rk')) return null; const s = getComputedStyle(a);"
            " const all = [...document.querySelectorAll('.rk *')];"
            " return [all.indexOf(a), s.outlineStyle !== 'none' || s.boxShadow !== 'none', a.className]; })()"
        )
        if where is None and visited:
            break
        if where:
            visited.append(where)
    else:
        raise AssertionError("Tab never leaves the page")
    places = [place for place, _, _ in visited]
    assert places == sorted(set(places)), "in order, none twice"
    assert all(mark for _, mark, _ in visited), [name for _, mark, name in visited if not mark]
    assert len(visited) > 25
