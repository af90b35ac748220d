"""Seven resolutions in one pass beside seven passes of one each: `python -m benchmarks.resolutions`.

On the pets and on 12-megapixel photographs, worker start included; writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.archives import sample_archives
from benchmarks.material import Material, make_material, split_cpus, upload_material
from benchmarks.measure import Measurement, Program, measure
from benchmarks.photographs import enlarge
from benchmarks.progress import say, work_folder
from benchmarks.table import machine, markdown
from imageshards.store import StoreSpec

RESOLUTIONS = (224, 299, 336, 384, 448, 512, 600)
_HEAD = (
    "images",
    "one pass, s",
    "sum of seven, s",
    "share",
    "target",
    "CPU s, one pass",
    "CPU s, seven",
    "share of CPU",
)


def run(material: Material, resolutions: Sequence[int], cpus: Sequence[int], parent: Path) -> Measurement:
    """One pass; what it writes is removed."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=parent, ignore_cleanup_errors=True) as name:
        spec = Path(name) / "spec.json"
        spec.write_text(material.job(StoreSpec(url=f"{name}/out"), resolutions).model_dump_json())
        arguments = ("--spec", str(spec), "--folder", name)
        return measure(Program("benchmarks.contenders.step", arguments), cpus=cpus, folder=Path(name))


def row(name: str, target: str, material: Material, repeats: int, cpus: Sequence[int], folder: Path) -> list[str]:
    """Both ways, in turns."""
    together: list[Measurement] = []
    apart: dict[int, list[Measurement]] = {resolution: [] for resolution in RESOLUTIONS}
    for turn in range(repeats):
        together.append(run(material, RESOLUTIONS, cpus, folder))
        for resolution, runs in apart.items():
            runs.append(run(material, (resolution,), cpus, folder))
        times = ", ".join(f"{resolution}: {runs[-1].seconds:.1f} s" for resolution, runs in apart.items())
        say(f"{turn + 1}/{repeats} {name}: one pass {together[-1].seconds:.1f} s; {times}")
    one, seven = (
        median(run.seconds for run in together),
        sum(median(r.seconds for r in runs) for runs in apart.values()),
    )
    cpu_one = median(run.cpu_seconds for run in together)
    cpu_seven = sum(median(run.cpu_seconds for run in runs) for runs in apart.values())
    seconds = [f"{one:.1f}", f"{seven:.1f}", f"{one / seven:.0%}", target]
    return [name, *seconds, f"{cpu_one:.1f}", f"{cpu_seven:.1f}", f"{cpu_one / cpu_seven:.0%}"]


def main() -> None:
    """Measure both kinds of images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1480, help="pets; all resolutions of one take 5 MB of disk")
    parser.add_argument("--photographs", type=int, default=160, help="of 12 megapixels, at most as the sample has")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; short: sockets lie in it")
    options = parser.parse_args()
    cpus, _ = split_cpus(options.cpus)
    rows = []
    with work_folder(options.folder) as folder:
        if options.images:
            pets = make_material(options.images, folder / "pets")
            name = f"{options.images:,} photographs of about 500x375"
            rows.append(row(name, "< 65%", pets, options.repeats, cpus, folder))
        if options.photographs:
            archives = enlarge(*sample_archives(folder / "sample"), options.photographs, folder, processes=len(cpus))
            size_mb = archives[0].stat().st_size / options.photographs / 1e6
            photographs = upload_material(*archives, StoreSpec(url=str(folder / "photographs")))
            name = f"{options.photographs:,} photographs of 4000x3000, {size_mb:.1f} MB each"
            rows.append(row(name, "< 30%", photographs, options.repeats, cpus, folder))
    sys.stdout.write(f"Resolutions {', '.join(map(str, RESOLUTIONS))}. {machine(cpus)}.\n\n{markdown(_HEAD, rows)}")


if __name__ == "__main__":
    main()
