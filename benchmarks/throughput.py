"""How near the preprocessing step comes to bare decoding and resizing, and how it compares: `make bench`.

Every program works on the same images, in processes of its own pinned to the same CPUs. Runs take turns, every second
turn in reverse order, so that the noise of a shared machine and what a program leaves behind (files in the page cache,
memory given back to the host) hit all of them alike; medians and ratios count. Writes benchmarks/results.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks.material import (
    Material,
    decodable,
    make_material,
    photographs_alone,
    split_cpus,
    upload_material,
)
from benchmarks.measure import Measurement, Program, ProgramFailedError, measure
from benchmarks.progress import say, work_folder
from benchmarks.proxy import running_proxy
from benchmarks.s3 import S3Place, remove, s3_place
from benchmarks.table import NOT_MEASURED, cells, machine, markdown, share, versions
from imageshards.store import Credentials, StoreSpec

RESULTS = Path(__file__).with_name("results.md")
PEERS = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"
_PEER_PACKAGES = ("img2dataset", "datasets", "pandas", "opencv-python-headless")
_PACKAGES = ("ray", "pillow", "simplejpeg", "cykooz-resizer", "kornia-rs", "pyarrow", "obstore", "numpy", "torchvision")
_HEAD = ("program", "images/s", "of decode + resize", "runs", "largest process, MB", "all together, MB", "CPU ms/image")
_DELAY_MS = 50.0
_NO_PEERS = "not installed: make bench-peers"
_NO_S3 = "not measured: no S3 server"
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "disabled",
}


@dataclass(slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: What is measured.
        program: Makes the program for a run, given a folder for its files; None where it cannot be run here.
        missing: Why not.
        repeats: How often, at most.
        clean: Removes what a run left outside of its folder.
        runs: The measurements.
    """

    name: str
    program: Callable[[Path], Program] | None
    missing: str = ""
    repeats: int = 99
    clean: Callable[[], None] = lambda: None
    runs: list[Measurement] = field(default_factory=list)


def bare_rows(material: Material, cpus: int) -> list[Row]:
    """What the others are held against."""

    def program(*more: str) -> Callable[[Path], Program]:
        arguments = ("--files", str(material.files), "--processes", str(cpus), *more)
        return lambda _: Program("benchmarks.contenders.bare", arguments)

    trimaps = str(material.files.parent / "annotations" / "trimaps")
    return [
        Row("bare decode", program()),
        Row("bare decode + resize", program("--resize")),
        Row("bare decode + resize, trimaps too", program("--resize", "--trimaps", trimaps)),
    ]


def step_row(name: str, material: Material, store: Callable[[Path], StoreSpec], **more: Any) -> Row:
    """This package's step into a store, which may depend on the folder of a run."""
    environment = more.pop("environment", {})
    raw_store = more.pop("raw_store", None)
    inputs = () if raw_store else (material.files.parent,)

    def program(folder: Path) -> Program:
        spec = folder / "spec.json"
        spec.write_text(material.job(store(folder), raw_store=raw_store).model_dump_json())
        arguments = ("--spec", str(spec), "--folder", str(folder))
        return Program("benchmarks.contenders.step", arguments, environment=environment, inputs=inputs)

    return Row(name, program, **more)


def s3_rows(place: S3Place | None, material: Material, proxies: Sequence[tuple[float, str]]) -> list[Row]:
    """The step on S3, and through proxies (delay in ms, address)."""
    names = [f"imageshards, through a proxy, GETs {delay:.0f} ms later" for delay, _ in proxies]
    if place is None:
        return [Row("imageshards, S3", None, _NO_S3), *(Row(name, None, _NO_S3) for name in names)]
    rows = []
    for name, address in [(f"imageshards, {place.name}", None), *zip(names, (url for _, url in proxies), strict=True)]:
        spec = place.spec("out", endpoint_url=address)
        rows.append(
            step_row(
                name,
                material,
                lambda _, spec=spec: spec,  # type: ignore[misc]
                raw_store=place.spec("raw", endpoint_url=address),
                environment={name: value for name, value in place.environment.items() if name != "AWS_ENDPOINT_URL"},
                clean=lambda: remove(place, "out"),
            )
        )
    return rows


def peer_rows(files: Path, images: Path, cpus: int, repeats: int) -> list[Row]:
    """What else there is for the job, on a list of files in a folder."""

    def row(name: str, module: str, *arguments: str) -> Row:
        def program(folder: Path) -> Program:
            common = ("--list", str(files), "--folder", str(folder), *arguments)
            environment = {**_QUIET, "HF_HOME": str(folder / "hf")}
            return Program(f"benchmarks.contenders.{module}", common, PEERS, environment, (images,))

        return Row(name, program if PEERS.exists() else None, _NO_PEERS, repeats)

    two = ("--processes", str(cpus))
    return [
        row("former script: Ray Data and torchvision", "former", "--cpus", str(cpus)),
        row("img2dataset, JPEG of quality 95", "by_img2dataset", *two, "--format", "jpg", "--quality", "95"),
        row("img2dataset, PNG without compression", "by_img2dataset", *two, "--format", "png", "--quality", "0"),
        row("Hugging Face datasets", "by_datasets", *two),
    ]


def run_rows(rows: Sequence[Row], repeats: int, *, cpus: Sequence[int], folder: Path) -> None:
    """Measure all rows, one run of each after another, as often as they want."""
    for turn in range(repeats):
        for row in rows if turn % 2 == 0 else reversed(rows):
            if row.program is None or turn >= row.repeats:
                continue
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="run-", dir=folder, ignore_cleanup_errors=True) as name:
                try:
                    row.runs.append(measure(row.program(Path(name)), cpus=cpus, folder=Path(name)))
                    said = f"{row.runs[-1].rate:,.0f} images/s"
                except ProgramFailedError as error:
                    if not row.missing:
                        raise  # one of ours
                    row.program, row.missing, said = None, "failed, see standard error", str(error)
                finally:
                    row.clean()
            say(f"{turn + 1}/{repeats} {row.name}: {said} ({time.monotonic() - started:.0f} s in all)")


def results(rows: Sequence[Row], bare: Sequence[Row], local: Sequence[Row], count: int, cpus: Sequence[int]) -> str:
    """The Markdown page.

    Args:
        rows: All that was measured.
        bare: Those of `bare_rows`.
        local: This package's step in a folder, of photographs alone and with trimaps.
        count: Images.
        cpus: What the programs were pinned to.
    """
    _, reference, with_trimaps = bare
    alone, whole = local
    lines = [[row.name, *(cells(row.runs, reference.runs) if row.runs else [row.missing, *[""] * 5])] for row in rows]
    starts = [run.facts["ray_seconds"] for row in rows for run in row.runs if "ray_seconds" in run.facts]
    return _PAGE.format(
        count=count,
        machine=machine(cpus),
        versions=versions(_PACKAGES),
        peers=_peer_versions(),
        command=" ".join(["python -m benchmarks.throughput", *sys.argv[1:]]),
        table=markdown(_HEAD, lines),
        ray_seconds=f"{median(starts):.1f} s" if starts else NOT_MEASURED,
        photographs=share(alone.runs, reference.runs),
        trimaps=share(whole.runs, with_trimaps.runs),
    )


_PAGE = """\
# Measured

{count:,} photographs (replicated sample) at 224 px. {machine}. {versions}{peers}. Made by `{command}`.

{table}
The step in a local folder, as a share of bare processes that decode and resize the same files in the same turn:
photographs alone {photographs}; with trimaps {trimaps}.

Medians of runs that took turns; in parentheses the least and the most. Shares in the table are those of bare decode +
resize in the same turn: the machine is shared, and its speed changes from minute to minute. Memory: the highest
resident set of any one process, files that it maps included, and the highest sum of all processes' proportional sets
(PSS, what they share counts once). Memory and CPU time are those of all processes, Ray's own among them, but not of
an S3 server or a proxy. Starts of interpreters and `ray.init` (here {ray_seconds}) are not timed; the start of
workers is, except in the bare rows. Files that a program reads lie in the page cache when its clock starts.

- *bare*: simplejpeg, and Pillow's resize of the part that the crop keeps, in plain processes, from memory; nothing is
  kept. *Trimaps too*: the png crate, and Pillow. No bound: Pillow takes 0.85 ms to resize a photograph, the step's own
  resizer 0.26 ms (imageshards/resize.py), which pays for a part of what the step does besides.
- *imageshards*: the whole step: planning, worker start, reading, trimaps, head boxes, hashes, Parquet, digests.
- *photographs alone*: the same images of a dataset without trimaps, as in the first two rows and those of the other
  programs. In imageshards' other rows nearly every image has a trimap, a PNG that is read, hashed, decoded, checked,
  placed and stored with it.
- *through a proxy*: as on S3, with a proxy of the harness between; it holds each GET back for so long.
- *former script*: gets only the files that can be decoded, for one that cannot ends it. No annotations.
- *img2dataset*: reads file:// URLs; resizes to 224 by area, without the margin of Resize(256) + CenterCrop(224); it can
  only encode, so it has no row of raw pixels. No annotations.
- *Hugging Face datasets*: `map` with Resize(256) + CenterCrop(224) to raw pixels, `to_parquet`. No annotations.
"""


def _peer_versions() -> str:
    if not PEERS.exists():
        return ""
    script = "import sys; from benchmarks.table import versions; print(versions(sys.argv[1:]))"
    found = subprocess.run([PEERS, "-c", script, *_PEER_PACKAGES], capture_output=True, text=True, check=True).stdout
    return f"; peers: {found.strip()}"


def _s3_material(place: S3Place | None, material: Material) -> None:
    if place:
        keys = place.environment
        credentials = Credentials(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]) if keys else None
        upload_material(material.images, material.annotations, place.spec("raw"), credentials=credentials)


def main() -> None:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=7400)
    parser.add_argument("--cpus", type=int, default=2, help="how many CPUs the measured programs may use")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-repeats", type=int, default=1, help="likewise of the peers, which are slow")
    parser.add_argument("--only", default="", help="rows whose name contains this, and the bare ones")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; short: sockets lie in it")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    started = time.monotonic()
    cpus, others = split_cpus(options.cpus)
    with work_folder(options.folder) as folder, ExitStack() as stack:
        say(f"making {options.images:,} images in {folder}")
        material = make_material(options.images, folder / "data")
        place = stack.enter_context(s3_place(folder, cpus=others))
        _s3_material(place, material)
        proxies = []
        for delay in (0.0, _DELAY_MS):
            server = urlsplit(place.endpoint_url).netloc if place and place.endpoint_url else ""
            address = stack.enter_context(running_proxy(server, delay, cpus=others)) if server else ""
            proxies.append((delay, address))
        files = folder / "files.txt"
        files.write_text("".join(f"{path}\n" for path in decodable(material.files)))
        bare = bare_rows(material, len(cpus))
        local = [
            step_row(f"imageshards, local folder{what}", images, lambda run: StoreSpec(url=str(run / "out")))
            for what, images in ((", photographs alone", photographs_alone(material)), ("", material))
        ]
        rows = [
            *bare,
            *local,
            *s3_rows(place, material, proxies),
            *peer_rows(files, material.files, len(cpus), options.peer_repeats),
        ]
        rows = [row for row in rows if row in bare or options.only in row.name]
        run_rows(rows, options.repeats, cpus=cpus, folder=folder)
        page = results(rows, bare, local, options.images, cpus)
    options.output.write_text(page)
    sys.stdout.write(page)
    say(f"took {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
