"""What a person does in the Prefect UI to start a run and to read what came of it, done in headless Chromium.

`docs.screenshots` takes pictures on the way; tests/e2e/test_ui.py looks whether it works. Written for Prefect's second
UI (/v2), the default of Prefect 3.8. Everything is found by the words that a person goes by, never by a style's name.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as StepTimeoutError

WIDTH_PX, HEIGHT_PX = 1280, 900
STEP_SECONDS = 20.0
RUN_SECONDS = 120.0

_PICK_SECONDS = 3.0
_PICK_TRIES = 4

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
"""The sandbox asks for privileges that few containers have; no page but those of one's own server is opened."""

_OPTIONAL = " (Optional)"
"""What the form adds to the title of a field that has a default."""

_FINAL = re.compile("^(Completed|Failed|Crashed|Cancelled|TimedOut)$")


def find_chromium() -> str | None:
    """Path of the system's Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


@contextmanager
def open_page(chromium: str) -> Iterator[Page]:
    """An empty page of a browser of its own. Each step waits at most STEP_SECONDS for what it needs."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_ARGUMENTS))
        try:
            page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}, color_scheme="light")
            page.set_default_timeout(STEP_SECONDS * 1000)
            yield page
        finally:
            browser.close()


class PrefectUI:
    """The steps, on one page and one server. Each raises playwright's Error when what it needs does not appear."""

    def __init__(self, page: Page, ui_url: str) -> None:
        self.page = page
        self._url = f"{ui_url.rstrip('/')}/v2"

    def log_in(self, auth_string: str) -> None:
        """Give the `user:password` that a server with PREFECT_SERVER_API_AUTH_STRING asks for."""
        self.page.goto(f"{self._url}/login")
        self.page.get_by_placeholder("admin:pass").fill(auth_string)
        self._press("Login")
        self.page.wait_for_url("**/dashboard*")

    def open_form(self, deployment: str) -> None:
        """Go to a deployment and ask for a custom run."""
        self.page.goto(f"{self._url}/deployments")
        self.page.get_by_role("link", name=deployment, exact=True).first.click()
        self._press("Run")
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.field("Images archive").wait_for()

    def field(self, title: str) -> Locator:
        """A text or number field that has a default."""
        return self.page.get_by_label(title + _OPTIONAL, exact=True)

    def label(self, title: str) -> Locator:
        """The title above a field, of several the first."""
        return self.page.get_by_text(title + _OPTIONAL, exact=True).first

    def titles(self) -> list[str]:
        """The titles of all fields that have a default, from top to bottom."""
        labels = self.page.locator("label").filter(has_text=_OPTIONAL).all_inner_texts()
        return [label.removesuffix(_OPTIONAL) for label in labels]

    def fill_archives(self, images: str, annotations: str) -> None:
        """Fill in the URLs or paths of the two archives."""
        self.field("Images archive").fill(images)
        self.field("Annotations archive").fill(annotations)

    def fill_recipe(self, *, fit: str, fill: tuple[int, int, int]) -> None:
        """Choose the recipe's way to a square, and its color (R, G, B) beside the image."""
        self._pick("Select Fit", fit)
        for index, value in enumerate(fill, start=1):  # the numbers of a list have no names
            self.label("Fill").locator(f"xpath=following::input[@type='number'][{index}]").fill(str(value))

    def choose_resolutions(self, *wanted: int) -> None:
        """Take away the resolutions that are not wanted, each a tag with a button, and choose those missing."""
        tags = self.page.get_by_role("button", name=re.compile(r"^Remove \d+ tag$")).all()
        chosen = {int((tag.get_attribute("aria-label") or "").split()[1]) for tag in tags}
        for resolution in chosen - set(wanted):
            self._press(f"Remove {resolution} tag")
        for resolution in sorted(set(wanted) - chosen):
            self._pick("Select Resolutions", str(resolution))
            self.page.keyboard.press("Escape")

    def press_submit(self) -> None:
        """Ask for the run; the form stays where a value is out of its range."""
        self._press("Submit")

    def submit(self) -> str:
        """Start the run, and go to its page; returns its name."""
        name = self.page.get_by_label("Run Name").input_value()
        self.press_submit()
        self.page.get_by_role("link", name=name, exact=True).first.click()
        self.page.get_by_role("tab", name="Job Variables").wait_for()  # of a run; the page before has no such tab
        return name

    def run_id(self) -> str:
        """Of the run whose page is open."""
        return self.page.url.partition("/flow-run/")[2].partition("?")[0]

    def wait_for_end(self, seconds: float = RUN_SECONDS) -> str:
        """Stay on the run's page until it shows a final state; returns that state."""
        state = self.page.locator("main").get_by_text(_FINAL).first
        return state.inner_text(timeout=seconds * 1000).strip()

    def open_artifacts(self) -> list[str]:
        """Open the tab of the run's artifacts; returns their keys."""
        self.page.get_by_role("tab", name="Artifacts").click()
        headings = self.page.get_by_role("tabpanel", name="Artifacts").get_by_role("heading")
        headings.first.wait_for()
        return headings.all_inner_texts()

    def open_artifact(self, key: str, run_name: str) -> None:
        """Open one of the artifacts that the tab shows: first the history of its key, then what this run left."""
        heading = self.page.get_by_role("heading", name=key, exact=True)
        self.page.get_by_role("link").filter(has=heading).first.click()
        run = self.page.get_by_role("link", name=run_name, exact=True).first
        run.locator("xpath=preceding::a[1]").click()
        self.page.get_by_role("tab", name="Raw").wait_for()

    def _press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def _pick(self, button: str, option: str) -> None:
        """Open a list and choose from it; again where the form drew itself anew meanwhile, which closes the list."""
        choice = self.page.get_by_role("option", name=option, exact=True)
        for _ in range(_PICK_TRIES - 1):
            self._press(button)
            try:
                choice.click(timeout=_PICK_SECONDS * 1000)
            except StepTimeoutError:
                self.page.keyboard.press("Escape")
            else:
                return
        self._press(button)
        choice.click()
