"""Hugging Face datasets: map with Resize(256) and CenterCrop(224), then to_parquet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torchvision.transforms import v2

from benchmarks.stopwatch import Stopwatch

_TRANSFORM = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])


def preprocess(batch: dict[str, Any]) -> dict[str, Any]:
    """Resize and crop a batch; raw pixels, as the preprocessing step writes them."""
    return {"image": [np.asarray(_TRANSFORM(image.convert("RGB"))) for image in batch["image"]]}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", type=Path, required=True, help="a file with a path on each line")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for what it writes")
    options = parser.parse_args()
    paths = options.list.read_text().splitlines()
    datasets.disable_progress_bars()
    with Stopwatch() as stopwatch:
        source = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
        features = datasets.Features({"image": datasets.Array3D((224, 224, 3), "uint8")})
        prepared = source.map(
            preprocess,
            batched=True,
            batch_size=100,
            num_proc=options.processes,
            features=features,
            cache_file_name=str(options.folder / "cache" / "images.arrow"),
        )
        prepared.to_parquet(options.folder / "images.parquet")
        stopwatch.images = len(paths)


if __name__ == "__main__":
    main()
