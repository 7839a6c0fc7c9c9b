"""The page of a report in a real browser, wide and as on a phone, light and dark."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fit_example import fit_record
from headstart.reports.html import fit_page, write_report
from report_examples import EXAMPLES

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser on PATH: looked for {', '.join(NAMES)}")

DARK = "--blink-settings=preferredColorScheme=0"
WIDTHS = (1400, 390)
HEIGHT = 1000
LEAST_CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3."""
LEAST_LETTERS = 12.0
"""CSS pixels of the smallest text."""

MEASURE = """<script>
const seen = element => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.height > 1;
};
const rgb = text => {
  const all = text.match(/[\\d.]+/g).map(Number);
  return all.length < 4 ? [...all, 1] : all;
};
const light = colour => {
  const linear = c => c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
  return 0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2]);
};
const behind = element => {
  for (; element; element = element.parentElement) {
    const found = rgb(getComputedStyle(element).backgroundColor);
    if (found[3] > 0.99) return found;
  }
  return [255, 255, 255, 1];
};
document.querySelectorAll("details").forEach(element => { element.open = true; });
const told = { width: innerWidth, page: document.documentElement.scrollWidth, weights: 0 };
["outside", "faint", "small", "hidden"].forEach(name => { told[name] = []; });
for (const element of document.body.querySelectorAll("*")) {
  if (!seen(element) || element.closest("script")) continue;
  const box = element.getBoundingClientRect(), style = getComputedStyle(element);
  const name = element.outerHTML.slice(0, 90);
  if ((box.right > innerWidth + 1 || box.left < -1) && !element.closest(".scroll")) told.outside.push(name);
  if (element.scrollWidth > element.clientWidth + 1 && style.overflowX === "hidden") told.outside.push(name);
  if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
  if (parseFloat(style.fontSize) < LEAST_LETTERS) told.small.push(name);
  const ink = light(rgb(element.closest("svg") ? style.fill : style.color)), paper = light(behind(element));
  const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  if (contrast < LEAST_CONTRAST) told.faint.push([contrast.toFixed(2), name]);
}
for (const cell of document.querySelectorAll("td.weight")) {
  told.weights += 1;
  if (cell.getBoundingClientRect().right > innerWidth) told.hidden.push(cell.textContent);
}
parent.document.getElementById("measured").textContent = JSON.stringify(told);
</script>
"""


def chromium(*words: str) -> str:
    """What headless chromium prints."""
    assert BROWSER
    fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
    done = subprocess.run([BROWSER, *fixed, *words], capture_output=True, text=True, timeout=180, check=True)
    return done.stdout


FITS = {"fit that uses a start": 0.3, "fit that abstains": 0.0}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of every example."""
    folder = tmp_path_factory.mktemp("pages")
    for name, make in EXAMPLES.items():
        write_report(make(), folder / name)
    for name, gain in FITS.items():
        (folder / name).mkdir()
        (folder / name / "report.html").write_text(fit_page(fit_record(gain)), encoding="utf-8")
    return folder


def framed(text: str, place: Path, *, width: int) -> str:
    """The address of a document that shows `text` in a frame of that width: windows cannot be as narrow as a phone."""
    place.write_text(
        f'<meta charset="utf-8"><meta name="color-scheme" content="light dark"><body style="margin: 0">'
        f'<iframe style="display: block; border: 0; width: {width}px; height: {HEIGHT}px" srcdoc="{escape(text)}">'
        f'</iframe><pre id="measured"></pre>', encoding="utf-8"
    )  # fmt: skip
    return place.as_uri()


def measured(page: Path, copy: Path, *, width: int, dark: bool) -> dict[str, Any]:
    """What a script finds on the page, of which it needs a copy without the rule that forbids scripts."""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    script = MEASURE.replace("LEAST_LETTERS", str(LEAST_LETTERS)).replace("LEAST_CONTRAST", str(LEAST_CONTRAST))
    address = framed(text.replace("</body>", f"{script}</body>"), copy, width=width)
    dom = chromium("--window-size=1600,1100", *([DARK] if dark else []), "--dump-dom", address)
    found = re.search(r'<pre id="measured">(.+?)</pre>', dom, re.DOTALL)
    assert found, "the script did not run"
    return json.loads(unescape(found[1]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("name", "dark"),
    [
        *((name, False) for name in EXAMPLES),
        ("full", True),
        ("missing_scores", True),
        *((name, False) for name in FITS),
        *((name, True) for name in FITS),
    ],
)
def test_nothing_is_cropped_small_or_faint(pages: Path, tmp_path: Path, name: str, dark: bool, width: int) -> None:
    found = measured(pages / name / "report.html", tmp_path / "page.html", width=width, dark=dark)
    assert found["width"] == width
    assert found["page"] <= width, "the page scrolls sideways"
    assert found["outside"] == []
    assert found["small"] == []
    assert found["faint"] == []
    assert found["weights"] > 0
    assert found["hidden"] == [], "a weight can only be seen by scrolling"


def test_the_check_sees_what_is_wrong(tmp_path: Path) -> None:
    bad = (
        '<table class="scroll"><td class="weight">0.5</table><p style="width: 900px; color: #bbb; font-size: 8px">x</p>'
    )
    page = tmp_path / "bad.html"
    page.write_text(
        f'<meta name="viewport" content="width=device-width"><body style="background: #fff"><div '
        f'style="margin-left: 420px">{bad}</div></body>', encoding="utf-8"
    )  # fmt: skip
    found = measured(page, tmp_path / "copy.html", width=390, dark=False)
    assert found["page"] > 390
    assert all(found[name] for name in ("outside", "small", "faint", "hidden"))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_screenshot_is_light_or_dark_as_the_reader_wants_it(pages: Path, tmp_path: Path, width: int) -> None:
    brightness = {}
    for dark in (False, True):
        shot = tmp_path / f"{dark}.png"
        text = (pages / "full" / "report.html").read_text(encoding="utf-8")
        address = framed(text, tmp_path / "frame.html", width=width)
        chromium(f"--window-size=1600,{HEIGHT + 100}", *([DARK] if dark else []), f"--screenshot={shot}", address)
        with Image.open(shot) as image:
            assert image.size == (1600, HEIGHT + 100)
            grey = image.crop((0, 0, width, HEIGHT)).convert("L")
            assert len(set(grey.resize((64, 64)).tobytes())) > 8, "the page is blank"
            brightness[dark] = sum(grey.resize((1, 1)).tobytes())
    assert brightness[False] > 200
    assert brightness[True] < 80


PRINTED_OPEN = "details::details-content"
"""The selector of the rule by which folded sections are printed."""


def sheets(text: str, place: Path) -> int:
    """How many sheets of paper the page is printed on."""
    place.write_text(text, encoding="utf-8")
    chromium("--no-pdf-header-footer", f"--print-to-pdf={place.with_suffix('.pdf')}", place.as_uri())
    return len(re.findall(rb"/Type */Page\b", place.with_suffix(".pdf").read_bytes()))


@pytest.mark.parametrize("name", ["many_modules", next(iter(FITS))])
def test_folded_sections_are_printed(pages: Path, tmp_path: Path, name: str) -> None:
    text = (pages / name / "report.html").read_text(encoding="utf-8")
    assert "<details>" in text
    text = text.replace("</details>", f"{'<p>and more</p>' * 60}</details>")  # sheets are a coarse measure
    printed = sheets(text, tmp_path / "as-it-is.html")
    assert printed == sheets(text.replace("<details>", "<details open>"), tmp_path / "unfolded.html")
    assert text.count(PRINTED_OPEN) == 1
    folded = sheets(text.replace(PRINTED_OPEN, "details::none"), tmp_path / "folded.html")
    assert 1 <= folded < printed, "the rule makes no difference, so this would not see it broken"
