"""img2dataset on local files, center-cropped at 224 px into Parquet. It has no raw pixels: it can only encode."""

from __future__ import annotations

import argparse
from pathlib import Path

import img2dataset

from benchmarks.stopwatch import Stopwatch

_SHARDS_PER_PROCESS = 4  # its unit of work is a shard; its default of 10,000 images would keep one process busy


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", type=Path, required=True, help="a file with a path on each line")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--threads", type=int, default=16, help="in each process")
    parser.add_argument("--format", choices=("jpg", "png"), required=True)
    parser.add_argument("--quality", type=int, required=True, help="0 to 100; for png the compression, 0 to 9")
    parser.add_argument("--folder", type=Path, required=True, help="for what it writes")
    options = parser.parse_args()
    paths = options.list.read_text().splitlines()
    urls = options.folder / "urls.txt"
    urls.write_text("".join(f"file://{path}\n" for path in paths))
    with Stopwatch() as stopwatch:
        img2dataset.download(
            url_list=str(urls),
            output_folder=str(options.folder / "out"),
            output_format="parquet",
            image_size=224,
            resize_mode="center_crop",
            encode_format=options.format,
            encode_quality=options.quality,
            processes_count=options.processes,
            thread_count=options.threads,
            number_sample_per_shard=-(-len(paths) // (_SHARDS_PER_PROCESS * options.processes)),
            extract_exif=False,
        )
        stopwatch.images = len(paths)


if __name__ == "__main__":
    main()
