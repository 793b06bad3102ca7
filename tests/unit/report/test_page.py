"""The page: complete, self-contained, the same for the same inputs, and safe with hostile texts."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from rlhf.report.curves import PPO_KL, draw_curves, smooth
from rlhf.report.inputs import ReportInputs
from rlhf.report.outcome import draw_win_rates, rank_correlation
from rlhf.report.page import build_report, choose_samples, sections
from rlhf.report.picture import Missing, Picture
from tests.unit.report.synthetic import full_inputs

PICTURES = 18


class Elements(HTMLParser):
    """Collects tags, attributes and ids of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return full_inputs(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(inputs, tmp_path_factory):
    return build_report(inputs, tmp_path_factory.mktemp("page") / "report.html").read_text()


@pytest.fixture(scope="module")
def elements(page):
    parser = Elements()
    parser.feed(page)
    return parser


def test_every_picture_is_there_and_says_its_n(inputs):
    found = sections(inputs)
    pictures = [picture for section in found for picture in section.pictures]
    assert [missing.title for section in found for missing in section.missing] == []
    assert len(pictures) == PICTURES
    assert all(re.search(r"n = \d", picture.caption) for picture in pictures)


def test_model_texts_cannot_become_elements(elements, page):
    assert "script" not in elements.tags
    assert "img" not in elements.tags
    assert not [name for _, name, _ in elements.attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(" in page


def test_nothing_is_loaded_from_anywhere(elements, page):
    loading = [
        (tag, name, value) for tag, name, value in elements.attributes if name in ("src", "href", "xlink:href", "data")
    ]
    assert all(value.startswith("#") for _, _, value in loading), loading
    assert "url(http" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_ids_are_unique_and_references_resolve(elements, page):
    ids = [value for _, name, value in elements.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r"url\(#([^)]+)\)", page)) | {
        value[1:] for _, name, value in elements.attributes if name in ("href", "xlink:href")
    }
    assert references <= set(ids)


def test_pictures_take_their_colours_from_the_page(page):
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []
    used = set(re.findall(r"var\(--([a-z-]+)\)", drawings))
    assert used <= set(re.findall(r"--([a-z-]+):", page))


def test_the_same_inputs_give_the_same_bytes(inputs, page, tmp_path):
    assert build_report(inputs, tmp_path / "again.html").read_text() == page


def test_it_says_that_annotators_were_scripted(inputs, page, tmp_path):
    assert "written by a program, not by people" in page
    bare = replace(inputs, annotators="human", evaluation=None, samples=None, metrics={}, calibration=None)
    human = build_report(bare, tmp_path / "human.html").read_text()
    assert "written by a program" not in human


def test_paths_of_this_machine_stay_out(page):
    assert "/home/ann" not in page
    assert "adapter" in page


def test_an_empty_run_gives_a_page_with_reasons_and_no_pictures(tmp_path):
    page = build_report(ReportInputs(name="empty"), tmp_path / "empty.html").read_text()
    assert "<svg" not in page
    assert "has not been evaluated" in page
    assert page.count("Not shown:") >= 4


def test_samples_are_the_best_the_middle_and_the_worst(inputs):
    groups = choose_samples(inputs)
    assert [len(samples) for _, samples in groups] == [3, 3, 3]
    best, middle, worst = ([sample.gain for sample in samples] for _, samples in groups)
    assert min(best) >= max(middle) >= min(middle) >= max(worst)
    assert worst == sorted(worst)


def test_a_run_without_gold_is_told_apart(tmp_path):
    inputs = full_inputs(tmp_path, gold=False)
    found = sections(inputs)[0]
    assert "no gold scorer" in " ".join(missing.reason for missing in found.missing)
    picture = draw_win_rates(inputs)
    assert isinstance(picture, Picture)
    assert "the very score that PPO raised" in picture.caption


def test_a_curve_of_one_point_is_not_drawn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "ppo/kl_nats": 0.0}\n')
    assert isinstance(draw_curves(ReportInputs(name="x", metrics={"ppo": path}), PPO_KL), Missing)


def test_smoothing_keeps_a_constant_and_the_length():
    assert smooth([2.0] * 9, 1.5) == pytest.approx([2.0] * 9)
    assert smooth([1.0, 2.0], 3.0) == pytest.approx(smooth([2.0, 1.0], 3.0)[::-1])


def test_rank_correlation():
    assert rank_correlation([1, 2, 3], [10, 20, 40]) == pytest.approx(1.0)
    # Ranks 1, 2.5, 2.5, 4 and 4, 2.5, 2.5, 1: exactly reversed.
    assert rank_correlation([1, 2, 2, 3], [9, 5, 5, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 1], [1, 2]) is None
