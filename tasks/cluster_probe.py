"""What is installed where the driver will run. A program: its text is sent to the cluster, where it prints one line.

Only the standard library is imported at the top, and nothing newer than Python 3.8 is used: it must also run where the
answer is that something is too old, or missing. The flow imports it to ask the same of its own installation.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

LINE_PREFIX = "imageshards-probe:"

PACKAGES = {
    "cykooz-resizer": "cykooz_resizer",
    "kornia-rs": "kornia_rs",
    "numpy": "numpy",
    "obstore": "obstore",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "ray": "ray",
    "requests": "requests",
    "simplejpeg": "simplejpeg",
    "torch": "torch",
    "torchvision": "torchvision",
}
"""Distribution and module of all that driver and workers import, for some recipes or for every one."""


def installed_version(distribution: str, module: str) -> str | None:
    """Version of a package; `unknown` where its module comes from another distribution; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown" if find_spec(module) else None


def constant(module: str, name: str) -> Any:
    """A constant of a module; None where that cannot be imported."""
    try:
        return getattr(import_module(module), name)
    except Exception:  # noqa: BLE001 (whatever an import may raise: what is missing is told by the packages)
        return None


def installation() -> dict[str, Any]:
    """Python, packages, and the versions of our formats, as JSON-ready data."""
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {name: installed_version(name, module) for name, module in PACKAGES.items()},
        "formats": {
            "shards": constant("imageshards.schema", "FORMAT_VERSION"),
            "job spec": constant("imageshards.job", "SPEC_VERSION"),
        },
    }


if __name__ == "__main__":
    sys.stdout.write(LINE_PREFIX + " " + json.dumps(installation()) + "\n")
