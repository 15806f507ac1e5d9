"""The page of a comparison, in a browser: it is safe, offline, and every control works for everybody."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from captum.attr import LayerAttribution
from matplotlib.image import imread

from captum_kd.comparison.compare import compare
from captum_kd.comparison.result import Comparison
from captum_kd.comparison.settings import Settings
from captum_kd.datasets.demo_pair import FASHION_MNIST_CLASSES, load_demo_images, load_demo_models
from captum_kd.datasets.planted_cue import normalise
from captum_kd.labels import LabelEmbeddings
from captum_kd.visualization import displayable
from tests.report.browser import chromium

HOSTILE = "</script><img src=x onerror=alert(1)>"
HOSTILE_FILE = "<img src=x onerror=alert(1)>.png"
LAYERS = ("layer2", "layer3", "layer4")
STUDENTS = ("distilled", HOSTILE)
SIGNED = "signed"


def signed_maps(model: Any, layer: Any, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Maps with negative values, as some Captum methods make them."""
    grid = torch.linspace(-1, 2, 12).reshape(1, 1, 3, 4)
    return grid * (1 + images.mean(dim=(1, 2, 3), keepdim=True).abs())


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    models, planted = load_demo_models(), load_demo_images()
    names = list(FASHION_MNIST_CLASSES)
    names[planted.labels[40]] = HOSTILE  # of the first image after the reference
    found = compare(
        dict(zip(STUDENTS, (models.student, models.teacher), strict=True)),
        models.base,
        LAYERS,
        [(normalise(planted.images[:160]), planted.labels[:160])],
        label_embeddings=LabelEmbeddings.one_hot(names),
        methods={"uniqueness": "UniCAM, uniqueness", HOSTILE: "Grad-CAM", SIGNED: signed_maps},
        shown=2,
        permutations=9,
        progress=False,
    )
    settings = replace(
        found.settings,
        command="captum-kd explain '<b>x</b>'",
        data=HOSTILE,
        image_names=(HOSTILE_FILE, "a_long_name_without_a_break_" * 9),
        skipped=({"file": HOSTILE_FILE, "reason": "<i>truncated</i>"},),
        notes=("</title><script>alert(2)</script>",),
        decisions={HOSTILE: "features of <i>layer4</i>"},
    )
    return replace(found, settings=settings)


@pytest.fixture(scope="module")
def file(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(comparison.to_html(), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


class Opened:
    """A page with everything that it said or asked for."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def pixels(self) -> list[np.ndarray]:
        """What each canvas shows, ``(h, w, 3)``."""
        urls = self.page.locator("canvas").evaluate_all("all => all.map((one) => one.toDataURL())")
        pictures = [imread(io.BytesIO(base64.b64decode(url.split(",")[1])), format="png") for url in urls]
        return [(picture[..., :3] * 255).round().astype(int) for picture in pictures]

    def labels(self) -> list[str]:
        frames = self.page.locator(".frame").all()
        return [str(frame.get_attribute("aria-label")) for frame in frames]


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    found = Opened(browser, file)
    yield found
    found.page.close()
    assert found.complaints == []


def test_it_loads_quietly_and_asks_for_nothing_else(opened: Opened, file: Path) -> None:
    assert opened.page.locator("#viewer").is_visible()
    assert not opened.page.get_by_text("Comparison.plot_maps(layer)").is_visible()
    assert [url for url in opened.requests if not url.startswith("data:")] == [file.as_uri()]


def test_no_name_becomes_markup_or_code(opened: Opened, file: Path) -> None:
    page = opened.page
    assert page.locator("script").count() == 2
    assert page.locator("[onerror]").count() == 0
    assert page.title().endswith(f"distilled, {HOSTILE} compared with the base model")
    assert page.locator(".images h3").first.inner_text() == HOSTILE
    assert page.locator(".about p").first.inner_text() == HOSTILE_FILE
    assert page.locator(".images figcaption", has_text=HOSTILE).count() == 2
    assert page.locator("#student option").all_inner_texts() == list(STUDENTS)
    assert page.locator(".command").inner_text() == "captum-kd explain '<b>x</b>'"
    decided = page.locator(".facts div", has_text="features of")
    assert decided.locator("dt").inner_text() == HOSTILE
    assert decided.locator("dd").inner_text() == "features of <i>layer4</i>"
    page.get_by_text("1 file was left out").click()
    assert page.get_by_text("<i>truncated</i>").is_visible()
    # And a name that did would not run: the page's policy names the one script that may.
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert re.search(r"default-src 'none'.*script-src 'sha256-[\w+/=]{44}'", policy)


def test_its_data_are_json(file: Path, comparison: Comparison) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text("utf-8"))
    assert found is not None
    data = json.loads(found[1])
    assert data["images"][0]["class"] == HOSTILE
    grid = data["students"][0]["layers"][1]["methods"][0]["pairs"][1][0]
    expected = comparison.maps["distilled"]["layer3"]["uniqueness"][0][1, 0]
    assert grid["peak"] == expected.max().item()
    levels = np.frombuffer(base64.b64decode(grid["values"]), np.uint8).reshape(grid["size"])
    assert torch.from_numpy(levels / 255 * grid["peak"]) == pytest.approx(expected, abs=grid["peak"] / 509)


@pytest.mark.parametrize("scale", ["image", "layer"])
def test_maps_are_drawn_as_captum_and_matplotlib_do(
    opened: Opened, comparison: Comparison, scale: str
) -> None:
    opened.page.select_option("#layer", label="layer4")
    opened.page.select_option("#scale", scale)
    drawn = iter(opened.pixels())
    for i in range(2):
        for method, pair in comparison.maps["distilled"]["layer4"].items():
            compared = [maps if scale == "layer" else maps[i] for maps in pair]
            limit = max(maps.abs().max().item() for maps in compared)
            for maps in pair:
                shown = next(drawn)
                large = LayerAttribution.interpolate(maps, shown.shape[:2], interpolate_mode="bilinear")
                shares = (large[i, 0].numpy() / limit).astype(float)
                if method == SIGNED:
                    expected = matplotlib.colormaps["PuOr_r"]((shares + 1) / 2, bytes=True)
                else:
                    expected = matplotlib.colormaps["inferno"](shares, bytes=True)
                # One level of 256, by quantisation, is at most a few steps of a colour channel.
                assert np.abs(shown - expected[..., :3].astype(int)).max() <= 6
    assert next(drawn, None) is None


def test_students_and_layers_are_picked(opened: Opened, comparison: Comparison) -> None:
    page = opened.page
    assert page.locator("#layer").input_value() == "1"  # the last but one
    assert page.locator("#status").inner_text().startswith("distilled at layer3: both maps")
    before = opened.labels()
    page.select_option("#layer", label="layer2")
    assert page.locator("#status").inner_text().startswith("distilled at layer2")
    page.select_option("#student", label=HOSTILE)
    assert page.locator("#status").inner_text().startswith(f"{HOSTILE} at layer2")  # the layer is kept
    peak = comparison.maps[HOSTILE]["layer2"]["uniqueness"][0][0].max().item()
    label = opened.labels()[0]
    assert label != before[0]
    assert label.startswith(f"Distilled map of {HOSTILE} by uniqueness at layer2: largest, ")
    assert float(re.findall(r"largest, ([\d.e+-]+),", label)[0]) == pytest.approx(peak, rel=0.05)


def test_one_side_or_both(opened: Opened) -> None:
    page = opened.page
    assert page.locator("canvas").count() == 2 * 3 * 2
    names = page.get_by_role("radio").evaluate_all("all => all.map((one) => one.labels[0].innerText)")
    assert names == ["Both", "Distilled / student", "Residual / base"]
    page.get_by_role("radio", name="Residual / base").check()
    assert page.locator("canvas").count() == 2 * 3
    assert {label.split()[0] for label in opened.labels()} == {"Residual", "Base"}
    assert "residual / base" in page.locator("#status").inner_text()


def test_the_opacity_of_maps(opened: Opened) -> None:
    page, slider = opened.page, opened.page.get_by_role("slider")
    for amount in (0, 35, 100):
        slider.fill(str(amount))
        assert slider.get_attribute("aria-valuetext") == f"{amount} %"
        assert page.locator("#opacity-text").inner_text() == f"{amount} %"
        shown = page.locator("canvas").first.evaluate("canvas => getComputedStyle(canvas).opacity")
        assert float(shown) == pytest.approx(amount / 100)


def test_the_screen_shows_the_image_under_the_map(opened: Opened, comparison: Comparison) -> None:
    frame = opened.page.locator(".frame").nth(1)
    image = displayable(comparison.images)[0].mean(dim=(1, 2)).numpy() * 255
    drawn = opened.pixels()[1].mean(axis=(0, 1))
    assert np.abs(image - drawn).max() > 20
    for amount in (0, 50, 100):
        opened.page.get_by_role("slider").fill(str(amount))
        seen = imread(io.BytesIO(frame.screenshot()), format="png")[..., :3].mean(axis=(0, 1)) * 255
        assert seen == pytest.approx(image + (drawn - image) * amount / 100, abs=4)


def test_the_keyboard_alone_works_every_control(opened: Opened) -> None:
    page = opened.page
    page.locator("#maps-title").evaluate("title => { title.tabIndex = -1; title.focus(); }")

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.value"))

    def status() -> str:
        return str(page.locator("#status").inner_text())

    visited = []
    for key, changed in (
        ("ArrowDown", lambda: status().startswith(f"{HOSTILE} at layer3")),
        ("ArrowUp", lambda: status().startswith(f"{HOSTILE} at layer2")),
        ("ArrowRight", lambda: "distilled / student" in status()),
        ("ArrowDown", lambda: "across all images" in status()),
        ("ArrowLeft", lambda: page.locator("#opacity-text").inner_text() == "65 %"),
    ):
        page.keyboard.press("Tab")
        visited.append(focused())
        style = page.evaluate(
            "(({outlineStyle, opacity}) => [outlineStyle, opacity])(getComputedStyle(document.activeElement))"
        )
        # A radio button is invisible over its word, which has the outline.
        if style[1] == "0":
            style = page.evaluate("[getComputedStyle(document.activeElement.nextSibling).outlineStyle]")
        assert style[0] == "solid"
        page.keyboard.press(key)
        assert changed()
    assert visited == ["student", "layer", "both", "scale", "opacity"]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_fits_and_is_accessible(browser: Any, file: Path, width: int, colours: str) -> None:
    opened = Opened(browser, file, width, color_scheme=colours, reduced_motion="reduce")
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert len(results.response["passes"]) > 20
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (colours == "light")
    boxes = [canvas.bounding_box() for canvas in page.locator("canvas").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] >= 100 for box in boxes)
    assert opened.complaints == []
    page.close()


def test_without_scripts_it_says_what_to_do(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, java_script_enabled=False)
    assert opened.page.get_by_text("Comparison.plot_maps(layer)").is_visible()
    assert not opened.page.locator("#viewer").is_visible()
    opened.page.close()


def test_without_a_browser_tests_are_skipped_but_not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"), chromium():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"), chromium():
        pass


@pytest.mark.parametrize("size", [(4, 7), (4, 40), (20, 7), (20, 40)])
def test_maps_that_differ_from_the_images_in_height_or_width_are_drawn_in_their_shape(
    browser: Any, comparison: Comparison, tmp_path: Path, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 2, 1, *size, generator=generator)
    changed = replace(
        comparison,
        images=torch.rand(2, 3, 20, 40, generator=generator),
        maps={"distilled": {"layer2": {"mine": (maps[0], maps[1])}}},
        sides={"mine": ("distilled", "residual")},
    )
    file = tmp_path / "report.html"
    file.write_text(changed.to_html(), "utf-8")
    opened = Opened(browser, file)
    drawn = iter(opened.pixels())
    for i in range(2):
        for side in (0, 1):
            shown = next(drawn)
            assert shown.shape == (96, 192, 3)
            large = LayerAttribution.interpolate(maps[side], (96, 192), interpolate_mode="bilinear")
            shares = (large[i, 0] / maps[:, i].max()).double().numpy()
            expected = matplotlib.colormaps["inferno"](shares, bytes=True)[..., :3].astype(int)
            assert np.abs(shown - expected).max() <= 6
    opened.page.close()
    assert opened.complaints == []


def test_one_student_and_few_settings(browser: Any, comparison: Comparison, tmp_path: Path) -> None:
    values = {name: getattr(comparison, name) for name in comparison.__dataclass_fields__}
    rows = [row for row in comparison.rows if row["student"] == "distilled"]
    maps = {"distilled": {"layer2": {"uniqueness": comparison.maps["distilled"]["layer2"]["uniqueness"]}}}
    ours, theirs = (side.clone() for side in maps["distilled"]["layer2"]["uniqueness"])
    ours[0], theirs[1, 0, 0, 0] = 0, torch.nan
    maps["distilled"]["layer2"]["uniqueness"] = (ours, theirs)
    settings = Settings(students=("distilled",), layers=LAYERS, samples=5)
    values.update(rows=rows, maps=maps, settings=settings, sides={"uniqueness": ("distilled", "residual")})
    file = tmp_path / "report.html"
    file.write_text(Comparison(**values).to_html(), "utf-8")
    opened = Opened(browser, file)
    assert opened.page.locator("#student").count() == 0
    assert opened.page.locator("#layer option").all_inner_texts() == ["layer2"]
    assert opened.labels()[0].endswith("zero everywhere")
    assert opened.labels()[3].endswith("not finite, so not drawn")
    assert not opened.pixels()[0].std(axis=(0, 1)).any()
    assert opened.page.get_by_text("With captum_kd.compare, from Python.").is_visible()
    assert opened.page.get_by_text("left out").count() == 0
    assert opened.complaints == []
    opened.page.close()
