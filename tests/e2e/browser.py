"""Chromium for the tests of the UI, which leaves a picture of what it saw when a step fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, expect

from docs.prefect_ui import STEP_SECONDS, find_chromium, open_page

REQUIRED = os.environ.get("IMAGESHARDS_TEST_REQUIRE", "").replace(",", " ").split()
"""What must be there; read before the fixture that hides this machine's settings from the tests."""


@contextmanager
def chromium_page(folder: Path) -> Iterator[Page]:
    """An empty page; skips where there is no Chromium, unless IMAGESHARDS_TEST_REQUIRE names `chromium`.

    Args:
        folder: Where the picture goes.
    """
    chromium = find_chromium()
    if chromium is None:
        why = "there is no Chromium on the PATH: install the system's package"
        if "chromium" in REQUIRED:
            pytest.fail(f"{why}; IMAGESHARDS_TEST_REQUIRE asks for it")
        pytest.skip(why)
    expect.set_options(timeout=STEP_SECONDS * 1000)
    with open_page(chromium) as page:
        try:
            yield page
        except BaseException as error:
            picture = folder / "failed.png"
            with suppress(Error):  # a page that is gone cannot be photographed, and the first error counts
                page.screenshot(path=picture, full_page=True)
                alerts = [text for text in page.get_by_role("listitem").all_inner_texts() if "rror" in text]
                error.add_note(f"the page was {page.url}, its picture is {picture}; it said {alerts}")
            raise
