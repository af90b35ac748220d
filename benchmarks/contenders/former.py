"""The script that this package replaces, made runnable: read_images, Resize(256) and CenterCrop(224), write_parquet.

It dies on a file that cannot be decoded, so it gets only those that can.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from PIL import Image
from torchvision.transforms import v2

from benchmarks.stopwatch import Stopwatch


def preprocess(batch: dict[str, Any]) -> dict[str, Any]:
    """Resize and crop a batch."""
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    batch["image"] = np.stack([np.asarray(transform(Image.fromarray(image))) for image in batch["image"]])
    return batch


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", type=Path, required=True, help="a file with a path on each line")
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for what it writes")
    options = parser.parse_args()
    paths = options.list.read_text().splitlines()
    ray.init(
        address="local",
        num_cpus=options.cpus,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(options.folder / "ray"),
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    with Stopwatch() as stopwatch:
        dataset = ray.data.read_images(paths, mode="RGB", include_paths=True)
        dataset.map_batches(preprocess).write_parquet(str(options.folder / "parquet"))
        stopwatch.images = len(paths)
    ray.shutdown()


if __name__ == "__main__":
    main()
