"""The pages of docs/migration, run line by line there and here; run in an environment with steer-tools and the package.

`python migration.py PAGE` writes what the lines there gave to files/numbers/migration/PAGE.json.
"""

from __future__ import annotations

import json
import linecache
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.manual import Block
from helpers.migration import PACKAGES, PAGES, difference, plain, sections

NUMBERS = Path(__file__).parent / "files" / "numbers" / "migration"


def execute(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block whose source can be found, since nnsight reads it."""
    where = f"<{block.page.stem}:{block.line}>"
    linecache.cache[where] = (len(block.text), None, block.text.splitlines(keepends=True), where)
    exec(compile(block.text, where, "exec"), namespace)


def run(name: str) -> dict[str, Any]:
    """Run a page on both sides, each in a namespace and on a model of its own, and return what there was to record."""
    (page,) = (page for page in PAGES if page.stem == name)
    (setup, *rest) = sections(page)
    there, here = dict[str, Any](), dict[str, Any]()
    for namespace in (there, here):
        for block in setup.here:
            execute(block, namespace)
    results: dict[str, Any] = {}
    for section in rest:
        for namespace, code in ((there, section.there), (here, section.here)):
            namespace.pop("theirs", None)
            namespace.pop("ours", None)
            for block in code:
                execute(block, namespace)
        results[section.title] = {"code": section.digest}
        if "theirs" in there:
            theirs = results[section.title]["theirs"] = plain(there["theirs"])
            print(f"{name}: {section.title}: {difference(plain(here['ours']), theirs):.1e}")
    return results


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            results = run(name)
        packages = (*PACKAGES[name], "torch", "transformers")
        versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
        lines = [f"  {json.dumps(title)}: {json.dumps(result)}" for title, result in results.items()]
        NUMBERS.mkdir(exist_ok=True)
        text = f'{{\n "versions": {json.dumps(versions)},\n "sections": {{\n' + ",\n".join(lines) + "\n }\n}\n"
        (NUMBERS / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
