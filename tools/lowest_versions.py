"""Print the lowest version that pyproject.toml allows of every dependency, as requirements for pip."""

import re
import sys
import tomllib
from pathlib import Path

EXTRAS = "gguf", "faces", "vocals", "training", "dev"
"""Not ``landmarks``: its library is not on every platform, and no test runs it."""
PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def lowest_versions() -> list[str]:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    rows = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS)]
    return sorted({re.sub(r">=([^,]+).*", r"==\1", row) for each in rows for row in each})


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest_versions()) + "\n")
