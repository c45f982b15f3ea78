import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from copgen_edge.runtime.errors import CopgenError
from copgen_edge.runtime.scene.chart import draw_map
from copgen_edge.runtime.scene.grid import SceneGrid
from copgen_edge.runtime.scene.page import write_page
from rasterio.crs import CRS

from .disk import disk_of, names
from .product import GRID, KEYS, RESULT, product

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Checks that elements nest, and collects text, links and sources."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag == "img":
            self.images.append(str(found["src"]))
            assert found["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, files = product(tmp_path_factory.getbasetemp())
    write_page(folder, GRID, files, RESULT)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Reader:
    return Reader((folder / "index.html").read_text(encoding="utf-8"))


def test_every_link_leads_to_a_file_beside_it(folder: Path, page: Reader) -> None:
    later = {"item.json", "result.json"}
    for href in {*page.links, *page.images} - later:
        assert (folder / unquote(href)).is_file(), href
    assert {f"pictures/{name}" for name in names(folder / "pictures")} == set(page.images)
    assert {name for name in names(folder) if name.endswith(".tif")} | later <= set(page.links)


def test_it_needs_nothing_from_elsewhere(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<link|@import|url\((?!#)", text)


def test_random_weights_are_said_aloud(folder: Path, page: Reader) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert '<p class="warning">The weights of this bundle are random: its pictures mean nothing.</p>' in text
    assert "COP-GEN tiny<1> (random weights): a scene" in page.text


def test_weights_of_the_authors_need_no_warning(tmp_path: Path) -> None:
    write_page(tmp_path, GRID, [], {**RESULT, "model": {"variant": "base", "weights": "published"}})
    assert 'class="warning"' not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_words_of_others_are_escaped(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "<b>bold</b>" not in text
    assert "elevation: a &lt;b&gt;bold&lt;/b&gt; &amp; quiet note" in text
    assert "tiny<1>" not in text


def test_it_tells_how_it_was_made(page: Reader) -> None:
    for words in (
        "dpm-solver-3, 20 steps",
        "7, 3 samples",
        "ab" * 32,
        "cd" * 32,
        "DEM=/somewhere/dem.tif",
        "onnxruntime",
        "2021-07-14",
        "3120 x 2160 m of EPSG:32632",
    ):
        assert words in page.text


def test_modalities_seams_and_gaps_are_told(page: Reader) -> None:
    for key in KEYS:
        assert f"{key}:" in page.text
    for words in ("1.012", "2.5", "90.00 %", "6.00 %", "4.00 %", "B01 B09, DN", "most frequent class"):
        assert words in page.text


def test_a_result_without_extras_has_a_page_too(tmp_path: Path) -> None:
    optional = ("samples", "condition_date", "grid", "seams", "missing")
    bare = {name: value for name, value in RESULT.items() if name not in optional}
    write_page(tmp_path, GRID, [], bare)
    text = Reader((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert "Borders of windows" not in text
    assert "What is known" not in text


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CopgenError, match=r"cannot write .*index\.html"), disk_of(10):
        write_page(tmp_path, GRID, [], RESULT)
    assert not names(tmp_path)


def numbers(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found
    return [float(number) for number in found.groups()]


def test_the_map_is_true_to_scale() -> None:
    drawn = draw_map(GRID, 25)
    width, height = numbers(r'width="([\d.]+)" height="([\d.]+)" fill="none" stroke="#ce3a28"', drawn)
    assert width / height == pytest.approx(3120 / 2160, rel=1e-2)
    (bar,) = numbers(r"v4h([\d.]+)v-4", drawn)
    assert ">1 km<" in drawn
    assert bar / width == pytest.approx(1000 / 3120, rel=1e-2)


def test_the_map_shows_borders_of_windows_and_the_graticule() -> None:
    drawn = draw_map(GRID, 25)
    # Windows of 1920 m begin at 0 and, of the last, at 1440 m: cells 0 and 3 across, 0 and 1 down.
    (path,) = re.findall(r'<path d="([ML\d. ]+)" stroke="#ce3a28"', drawn)
    assert path.count("M") == 4
    assert "fill-opacity" in draw_map(GRID, None)
    assert 'stroke-width="0.5"' not in draw_map(GRID, None)
    assert re.search(r">47\.5[89]\d*°N<", drawn)
    assert re.search(r">11\.3\d*°E<", drawn)
    assert "47.5864° N, 11.3645° E" in drawn or re.search(r"47\.58\d\d° N, 11\.36\d\d° E", drawn)


def test_a_large_scene_has_a_small_map() -> None:
    grid = SceneGrid(CRS.from_epsg(32701), 300_000.0, 8_200_000.0, 109_800, 109_800)
    drawn = draw_map(grid, 25)
    assert len(drawn) < 60_000
    assert "°S<" in drawn
