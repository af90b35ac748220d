"""The Prefect UI in a browser: the run form as the flow's parameters make it, and the artifacts that a run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from playwright.sync_api import expect

from docs.prefect_ui import PrefectUI
from flows.pets import pets
from imageshards.sample import SampleArchives
from tests.e2e.browser import chromium_page
from tests.e2e.stack import Stack

DEPLOYMENT = "manual"
FILL = (31, 41, 59)  # no other test's, so that there is something to build


def test_a_run_is_started_from_the_form_and_its_artifacts_are_read(
    stack: Stack, drawn_sample: SampleArchives, tmp_path: Path
) -> None:
    with chromium_page(tmp_path) as page:
        ui = PrefectUI(page, stack.ui_url)
        ui.log_in(stack.auth_string)
        ui.open_form(DEPLOYMENT)
        assert ui.titles() == titles(pets.parameters.model_dump())
        ui.fill_archives(str(drawn_sample.images), str(drawn_sample.annotations))
        ui.choose_resolutions(299, 224)
        ui.fill_recipe(fit="letterbox", fill=FILL)
        name = ui.submit()
        run = stack.read(UUID(ui.run_id()))
        assert ui.wait_for_end() == "Completed", "\n".join(stack.logs(run)[-40:])
        found = set(ui.open_artifacts())
        assert {"summary", "changes", "contact-sheet", "rows-by-class", "checks-224", "checks-299"} <= found

        ui.open_artifact("summary", name)
        expect(page.get_by_role("heading", name="oxford-iiit-pet: built")).to_be_visible()
        page.go_back()
        page.go_back()
        ui.open_artifacts()
        ui.open_artifact("contact-sheet", name)
        picture = page.get_by_role("img", name="224 px")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.naturalWidth") > 500
        page.go_back()
        page.go_back()
        ui.open_artifacts()
        ui.open_artifact("rows-by-class", name)
        expect(page.get_by_role("row", name="Abyssinian")).to_be_visible()

    assert run.name == name
    assert run.parameters["images"] == str(drawn_sample.images)
    assert sorted(run.parameters["resolutions"]) == [224, 299]
    assert run.parameters["store"] == "block:pets"
    assert (run.parameters["recipe"]["fit"], run.parameters["recipe"]["fill"]) == ("letterbox", list(FILL))


def test_the_form_starts_no_run_with_a_value_out_of_its_range(stack: Stack, tmp_path: Path) -> None:
    before = len(stack.runs_of(DEPLOYMENT))
    with chromium_page(tmp_path) as page:
        ui = PrefectUI(page, stack.ui_url)
        ui.log_in(stack.auth_string)
        ui.open_form(DEPLOYMENT)

        share = ui.field("Highest share of rejects")
        share.fill("1.5")
        ui.press_submit()
        assert share.evaluate("field => field.validationMessage") != ""
        share.fill("0.5")

        ui.choose_resolutions()
        ui.field("Gaussian Sigma").fill("0")
        ui.press_submit()
        expect(page.get_by_text("[] should be non-empty", exact=True)).to_be_visible()
        expect(page.get_by_text("0 is less than or equal to the minimum of 0", exact=True)).to_be_visible()
        assert page.url.partition("?")[0].endswith("/run")
    assert len(stack.runs_of(DEPLOYMENT)) == before


def titles(schema: dict[str, Any]) -> list[str]:
    """The titles of a schema's fields in the order that the code states; those of a model come after its own."""
    found = []
    for field in schema["properties"].values():
        model = schema["definitions"].get(field.get("$ref", "").rpartition("/")[2], {})
        found.append(field.get("title") or model["title"])
        found += titles({"properties": model.get("properties", {}), "definitions": schema["definitions"]})
    return found
