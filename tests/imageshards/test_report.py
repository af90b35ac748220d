"""The report: one page that needs nothing else, readable by anyone, whatever names the archive holds."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imageshards.contact_sheet import choose_rows
from imageshards.manifest import ArchiveSource, CheckEntry, Manifest
from imageshards.recipe import parse_recipe
from imageshards.report import Galleries, ReportFiles, data_uri, render_report, write_report
from imageshards.shard_file import Reject
from imageshards.store import Store
from imageshards.survey import Survey, survey_version
from tests.imageshards.built_version import (
    BuiltVersion,
    build_version,
    copy_version,
    plain_manifest,
    put_rejects,
    uploaded_archives,
    uploaded_sample,
)

MAX_PAGE_BYTES = 3_000_000
VOID = {"meta", "img", "br", "wbr"}
TEXT = {"h1", "h2", "h3", "p", "b", "i", "a", "ul", "li", "span", "code", "details", "summary"}
PARTS = {"html", "head", "title", "style", "body", "header", "nav", "main", "section", "article", "div"}
ALLOWED = VOID | TEXT | PARTS | {"figure", "figcaption", "table", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """Everything of a page that a test looks at; checks that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltVersion:
    return build_version(*uploaded_sample(tmp_path_factory.mktemp("report")))


def write(built: BuiltVersion) -> tuple[ReportFiles, dict[str, bytes]]:
    files = write_report(built.manifest, raw_store=built.store, store=built.store)
    return files, {name: built.store.get(key) for name, key in asdict(files).items()}


def page_of(built: BuiltVersion) -> Page:
    return Page(write(built)[1]["report"].decode())


def test_three_files_lie_beside_the_manifest(built: BuiltVersion) -> None:
    files, contents = write(built)

    assert asdict(files) == {
        "contact_sheet": built.prefix + "contact-sheet.jpg",
        "report": built.prefix + "report.html",
        "data_card": built.prefix + "dataset.md",
    }
    with Image.open(io.BytesIO(contents["contact_sheet"])) as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > sheet.height / 2


def test_the_same_version_gives_the_same_bytes(built: BuiltVersion) -> None:
    assert write(built) == write(built)


def test_s3_gives_the_same_bytes_as_a_folder(built: BuiltVersion, s3_store: Store) -> None:
    files, contents = write(built)
    copy_version(built, s3_store)

    write_report(built.manifest, raw_store=s3_store, store=s3_store)

    assert {name: s3_store.get(key) for name, key in asdict(files).items()} == contents


def test_the_page_needs_nothing_else(built: BuiltVersion) -> None:
    text = write(built)[1]["report"].decode()
    page = Page(text)

    assert {tag for tag, _ in page.elements} <= ALLOWED
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in page.all("img"))
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_the_page_is_small(built: BuiltVersion) -> None:
    assert len(write(built)[1]["report"]) < MAX_PAGE_BYTES


def test_noise_at_a_high_resolution_keeps_the_page_small(tmp_path: Path) -> None:
    """Black-and-white noise is what compresses worst."""
    recipe = parse_recipe({"color": "gray", "threshold": "adaptive", "adaptive_block_size": 3, "adaptive_offset": 0})
    built = build_version(*uploaded_sample(tmp_path), recipe=recipe, resolution=299)

    assert len(write(built)[1]["report"]) < MAX_PAGE_BYTES


def test_a_picture_that_stays_large_is_made_coarser() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))

    uri = data_uri(noise)

    assert len(base64.b64decode(uri.partition(",")[2])) < 40_000


def test_every_picture_has_a_text_and_a_size(built: BuiltVersion) -> None:
    images = page_of(built).all("img")

    assert len(images) > 50
    assert all(image["alt"] and image["width"] and image["height"] for image in images)


def test_tables_have_headers_and_every_link_leads_somewhere(built: BuiltVersion) -> None:
    page = page_of(built)

    assert all(header["scope"] in ("row", "col") for header in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link["href"]).removeprefix("#") for link in page.all("a")} == set(ids)
    assert page.all("html")[0]["lang"] == "en"


def test_the_page_says_what_the_manifest_says(built: BuiltVersion) -> None:
    manifest, words = built.manifest, page_of(built).words

    for count, name in ((manifest.images, "images"), (manifest.samples, "samples")):
        assert f"{count} {name}" in words
    for name, value in {**manifest.repairs, **manifest.rejects, **manifest.left_out, **manifest.members}.items():
        assert f"{name} {value} " in words
    for check in manifest.checks:
        assert check.name in words
        assert check.found in words
    for source in manifest.sources.values():
        assert source.url in words
        assert source.sha256 in words
    for shard in manifest.shards:
        assert f"{shard.path.rpartition('/')[2]} {shard.split} {shard.rows} " in words
    for package, version in manifest.software.items():
        assert f"{package} {version}" in words
    assert "Egyptian_Mau_901, Egyptian_Mau_902, staffordshire_bull_terrier_902" in words


def test_failed_checks_stand_in_the_headline(built: BuiltVersion) -> None:
    failed = CheckEntry(name="copies", passed=False, expected="none", found="some")
    manifest = built.manifest.model_copy(update={"checks": (failed,)})

    text = render_report(manifest, Survey(), Galleries([], [], [], []), left_out_names={})

    assert "✗ 1 of 1 checks failed." in text


def test_images_in_no_split_that_were_kept_are_not_called_left_out(tmp_path: Path) -> None:
    built = build_version(*uploaded_sample(tmp_path), keep_unlisted=True)

    words = page_of(built).words

    assert "Left out None." in words
    assert f"{built.manifest.splits['unlisted']} unlisted" in words


def test_text_can_be_read_on_its_ground_by_day_and_by_night(built: BuiltVersion) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5."""
    style = re.search(r"<style>(.*)</style>", write(built)[1]["report"].decode(), re.DOTALL)
    assert style
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style[1].split("prefers-color-scheme: dark")
    )

    for colors in (light, dark):
        for text in ("text", "quiet", "link", "good", "bad"):
            for ground in ("ground", "card"):
                assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


EVIL = "<script>alert('x')&quot;\"{{7*7}}"
EVIL_DETAIL = "</td></table><img src=x onerror=alert(1)>"


def test_evil_names_in_the_archive_stay_text(tmp_path: Path) -> None:
    info, archives, store = uploaded_archives(tmp_path, *evil_archives(tmp_path))
    built = build_version(info, archives, store)
    assert EVIL in built.manifest.class_names
    evil = evil_manifest(built.manifest)
    reject = Reject(f"{EVIL}_9", f"raw/{EVIL}.jpg", "0" * 64, "test", EVIL, "undecodable", EVIL_DETAIL)
    store.put(reject.source_key, b"<svg onload=alert(1)>")
    put_rejects(store, built.prefix, [asdict(reject)])

    files = write_report(evil, raw_store=store, store=store)

    page = Page(store.get(files.report).decode())
    assert {tag for tag, _ in page.elements} <= ALLOWED
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not [link for link in page.all("a") if not str(link["href"]).startswith("#")]
    for text in (EVIL, EVIL_DETAIL, "javascript:alert(1)"):
        assert text in page.words
    assert any(EVIL in str(image["alt"]) for image in page.all("img"))
    assert "<script" not in store.get(files.data_card).decode().split("\n---\n", 1)[1]


def evil_manifest(manifest: Manifest) -> Manifest:
    source = ArchiveSource(url="javascript:alert(1)", sha256="0" * 64, size_bytes=1)
    check = CheckEntry(name=EVIL, passed=False, expected=EVIL, found=EVIL, examples=(EVIL_DETAIL,))
    return manifest.model_copy(
        update={
            "sources": {EVIL: source},
            "checks": (check,),
            "rejects": {"undecodable": 1, EVIL: 1},
            "repairs": {EVIL: 1},
            "left_out": {EVIL: 1},
            "members": {EVIL: 1},
            "software": {EVIL: EVIL},
            "raw_store": EVIL,
        }
    )


def evil_archives(folder: Path) -> tuple[Path, Path]:
    names = {f"{class_name}_{number}": label for label, class_name in ((1, EVIL), (2, "pug")) for number in (1, 2)}
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (200, 100, 50)).save(buffer, "PNG")
    lines = {name: f"{name} {label} 2 1\n" for name, label in names.items()}
    texts = {
        "list.txt": "".join(lines.values()),
        "trainval.txt": "".join(line for name, line in lines.items() if name.endswith("1")),
        "test.txt": "".join(line for name, line in lines.items() if name.endswith("2")),
    }
    images = write_tar(folder / "i.tar.gz", {f"images/{name}.jpg": buffer.getvalue() for name in names})
    return images, write_tar(folder / "a.tar.gz", {f"annotations/{n}": text.encode() for n, text in texts.items()})


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_version_without_a_row_has_a_report(built: BuiltVersion) -> None:
    nothing = {"samples": 0, "rows": 0, "splits": {}, "classes": {}, "repairs": {}, "rejects": {}, "left_out": {}}
    manifest = plain_manifest(**nothing)

    files = write_report(manifest, raw_store=built.store, store=built.store)

    assert "There is no row." in Page(built.store.get(files.report).decode()).words


def test_the_contact_sheet_shows_the_rows_that_were_chosen(built: BuiltVersion) -> None:
    rows = choose_rows(row for rows in survey_version(built.manifest, built.store).first.values() for row in rows)

    words = page_of(built).words.replace("_ ", "_")

    assert all(row.image_id in words for row in rows)


def test_writing_a_report_imports_neither_torch_nor_pandas_nor_ray(tmp_path: Path) -> None:
    """Copies come out of the shards: the process that publishes pays nothing for them."""
    recipe = parse_recipe({"augment": {"copies": 1, "horizontal_flip": 1.0}})
    built = build_version(*uploaded_sample(tmp_path), recipe=recipe)
    (tmp_path / "manifest.json").write_bytes(built.manifest.to_json())
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from imageshards.manifest import Manifest\n"
        "from imageshards.report import write_report\n"
        "from imageshards.store import open_store\n"
        "manifest = Manifest.from_json(Path(sys.argv[1]).read_bytes(), uri='m')\n"
        "store = open_store(sys.argv[2])\n"
        "write_report(manifest, raw_store=store, store=store)\n"
        "print(json.dumps(sorted({'torch', 'pandas', 'ray', 'prefect', 'cv2'} & set(sys.modules))))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "manifest.json"), built.store.url],
        check=True,
        capture_output=True,
        text=True,
    )

    assert json.loads(done.stdout) == []
    assert done.stderr == ""
    assert "copy 1" in Page(built.store.get(built.prefix + "report.html").decode()).words
