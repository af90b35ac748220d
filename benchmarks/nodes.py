"""Two Ray nodes of one CPU each beside one such node: the speed of the sum, and the same bytes?

    python -m benchmarks.nodes

Writes a Markdown table to standard output. The nodes are processes on this machine, each held to a CPU of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.material import Material, make_material, split_cpus
from benchmarks.measure import Measurement, Program, measure
from benchmarks.progress import say, work_folder
from benchmarks.table import machine, markdown
from imageshards.store import StoreSpec


def run(material: Material, cpus: Sequence[int], parent: Path) -> Measurement:
    """The preprocessing step on a node for each of these CPUs."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=parent, ignore_cleanup_errors=True) as name:
        spec = Path(name) / "spec.json"
        spec.write_text(material.job(StoreSpec(url=f"{name}/out")).model_dump_json())
        nodes = ("--node-cpus", *(str(cpu) for cpu in cpus))
        program = Program("benchmarks.contenders.step", ("--spec", str(spec), "--folder", name, *nodes))
        measured = measure(program, cpus=cpus, folder=Path(name))
    say(f"{len(cpus)} nodes: {measured.rate:,.0f} images/s")
    return measured


def main() -> None:
    """Measure both, in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=3700)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; short: sockets lie in it")
    options = parser.parse_args()
    cpus, _ = split_cpus(options.nodes)
    runs: dict[int, list[Measurement]] = {1: [], options.nodes: []}
    with work_folder(options.folder) as folder:
        material = make_material(options.images, folder / "data")
        for _ in range(options.repeats):
            for nodes, measured in runs.items():
                measured.append(run(material, cpus[:nodes], folder))
    one = median(measured.rate for measured in runs[1])
    rows = [
        [
            str(nodes),
            f"{median(item.rate for item in found):,.0f}",
            f"{median(i.rate for i in found) / one / nodes:.0%}",
        ]
        for nodes, found in runs.items()
    ]
    digests = {item.facts["digest"] for found in runs.values() for item in found}
    sys.stdout.write(
        f"{options.images:,} images at 224 px, worker start included. {machine(cpus)}.\n\n"
        + markdown(("nodes of one CPU", "images/s", "of the sum of single nodes"), rows)
        + f"\nShards of all runs {'have the same digests' if len(digests) == 1 else 'DIFFER'}.\n"
    )


if __name__ == "__main__":
    main()
