"""The bill of materials (docs/reference/sbom.json) → the page of what is installed, by licence."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

SBOM = Path(__file__).parent / "reference" / "sbom.json"
# Their metadata name none; what stands in their LICENSE does.
UNSAID = {"asttokens": "Apache-2.0", "transformers": "Apache-2.0"}
# What classifiers say of licences that have a shorter name.
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_PAGE = """# What is installed

The {count} packages that CI installs, by licence. Each of their files stands in `tests/locked.txt` with its hash. None
has a copyleft beyond its own files (MPL-2.0). [sbom.json](sbom.json) is the bill of materials (CycloneDX) with who
needs what; `make audit` makes it again and asks for known weaknesses. `pip install` takes less, for it needs no tests
and no manual. This page is made from the bill.
"""


def licences() -> dict[tuple[str, str], frozenset[str]]:
    """Return (name, version) of each package → the licences that its metadata or its LICENSE names."""
    bill = json.loads(SBOM.read_text(encoding="utf-8"))
    return {(part["name"], part["version"]): _licences_of(part) for part in bill["components"]}


def page() -> str:
    """Return the page."""
    named: dict[str, list[str]] = defaultdict(list)
    for (name, version), found in licences().items():
        named[", ".join(sorted(found))].append(f"{name} {version}")
    rows = [
        f"| {licence} | {len(packages)} | {', '.join(sorted(packages, key=str.lower))} |"
        for licence, packages in sorted(named.items(), key=lambda row: (-len(row[1]), row[0]))
    ]
    head = _PAGE.format(count=sum(map(len, named.values())))
    return "\n".join([head, "| licence | packages | |", "|---|---|---|", *rows, ""])


def _licences_of(part: dict[str, Any]) -> frozenset[str]:
    said = [entry.get("expression") or _name(entry["license"]) for entry in part.get("licenses", ())]
    names = {_CLASSIFIERS.get(name, name) for name in (said or [UNSAID[part["name"]]])}
    # A classifier says less than an identifier beside it.
    return frozenset(names - {"BSD"} if any(name.startswith("BSD-") for name in names) else names)


def _name(licence: dict[str, str]) -> str:
    return licence.get("id") or re.sub(r"^License :: (OSI Approved :: )?", "", licence["name"])
