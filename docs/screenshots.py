"""Makes docs/images, on a running stack: `make stack`, the two exports that it prints, `python -m docs.screenshots`.

Starts a run of drawn pictures from the form, as a person would; no photograph of the dataset gets into the repository.

    PREFECT_API_URL           of the server; its UI is beside it
    PREFECT_API_AUTH_STRING   user:password, where the server asks for it
"""

from __future__ import annotations

import io
import os
import secrets
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops
from playwright.sync_api import FloatRect, Locator, Page

from docs.prefect_ui import HEIGHT_PX, WIDTH_PX, PrefectUI, find_chromium, open_page
from imageshards.sample import SampleSpec, write_sample

FOLDER = Path(__file__).resolve().parent / "images"
SAMPLE = SampleSpec(per_class=4, median_long_side_px=400)
REJECT_LIMIT = "0.05"  # some of the drawn images are damaged
DEPLOYMENT = "manual"
RESOLUTIONS = (224, 384)

SIDEBAR_PX = 256
COLUMN_PX = 640
"""Two of them side by side are 1280 px wide."""

COLUMN_HEIGHT_PX = 1100
MARGIN_PX = 16
COLORS = 256
SETTLE_MILLISECONDS = 1500
"""Pictures and fonts are drawn a moment after their elements are there."""


def main() -> int:
    """Write run-form.png and run-artifacts.png; exit status 0 done, 1 failed, 2 called wrongly."""
    chromium, api_url = find_chromium(), os.environ.get("PREFECT_API_URL")
    if chromium is None or api_url is None:
        sys.stderr.write("error: this needs Chromium on the PATH, and PREFECT_API_URL of a running stack\n")
        return 2
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open_page(chromium) as page:
        ui = PrefectUI(page, api_url.removesuffix("/api"))
        if auth_string := os.environ.get("PREFECT_API_AUTH_STRING"):
            ui.log_in(auth_string)
        _picture_form(ui)
        name = _start(ui, Path(folder))
        if (state := ui.wait_for_end()) != "Completed":
            sys.stderr.write(f"error: the run {name} ended as {state}, its log is at {page.url}\n")
            return 1
        _picture_artifacts(ui, name)
    return 0


def _picture_form(ui: PrefectUI) -> None:
    """Its beginning, and the beginning of the recipe."""
    ui.open_form(DEPLOYMENT)
    ui.choose_resolutions(*RESOLUTIONS)
    ui.field("Highest share of rejects").fill(REJECT_LIMIT)
    # a color of which there is no version yet, so that the run has something to build
    ui.fill_recipe(fit="letterbox", fill=(114, 114, 100 + secrets.randbelow(28)))
    columns = [_column(ui.page, from_=ui.label(title)) for title in ("Images archive", "Recipe")]
    _save(columns, FOLDER / "run-form.png")


def _start(ui: PrefectUI, folder: Path) -> str:
    sample = write_sample(folder, SAMPLE)
    ui.fill_archives(str(sample.images), str(sample.annotations))
    return ui.submit()


def _picture_artifacts(ui: PrefectUI, name: str) -> None:
    """The summary, and the contact sheet."""
    columns = []
    for key in ("summary", "contact-sheet"):
        ui.open_artifacts()
        ui.open_artifact(key, name)
        columns.append(_column(ui.page))
        ui.page.go_back()
        ui.page.go_back()
    _save(columns, FOLDER / "run-artifacts.png")


def _column(page: Page, from_: Locator | None = None) -> Image.Image:
    """What a narrow window shows beside the navigation, from an element on or from the top."""
    page.set_viewport_size({"width": SIDEBAR_PX + COLUMN_PX, "height": COLUMN_HEIGHT_PX})
    page.mouse.move(0, 0)
    if from_ is not None:
        from_.evaluate(f"it => {{ it.style.scrollMarginTop = '{MARGIN_PX}px'; it.scrollIntoView() }}")
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    clip = FloatRect(x=SIDEBAR_PX, y=0, width=COLUMN_PX, height=COLUMN_HEIGHT_PX)
    png = page.screenshot(clip=clip)
    page.set_viewport_size({"width": WIDTH_PX, "height": HEIGHT_PX})  # the narrow window hides some of the links
    return Image.open(io.BytesIO(png)).convert("RGB")


def _save(columns: list[Image.Image], path: Path) -> None:
    """Side by side, without what is empty below; with a palette, which takes a third of the bytes."""
    picture = Image.new("RGB", (COLUMN_PX * len(columns), COLUMN_HEIGHT_PX))
    for index, column in enumerate(columns):
        picture.paste(column, (index * COLUMN_PX, 0))
    empty = Image.new("RGB", picture.size, picture.getpixel((0, COLUMN_HEIGHT_PX - 1)))
    drawn = ImageChops.difference(picture, empty).getbbox()
    if drawn is not None:
        picture = picture.crop((0, 0, picture.width, min(drawn[3] + MARGIN_PX, picture.height)))
    picture.quantize(COLORS).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
