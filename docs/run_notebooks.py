"""Runs the notebooks of the manual, each in a kernel of its own: `python docs/run_notebooks.py` keeps what they print.

With --check nothing is written, and what a notebook prints must be what it printed before, but for small differences of
numbers.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))
from helpers.manual import missing  # noqa: E402  # the tests' own comparison

LIMIT_S = 600


def run(path: Path) -> dict[str, Any]:
    """Return a notebook as it ran just now, in an empty folder.

    Raises:
        CellExecutionError: A cell raised an error.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"] = _joined(cell["outputs"])
    notebook["metadata"] = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the outputs of a cell with what it wrote to stdout in one piece; bars and logs on stderr are left out."""
    told = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    others = [output | {"metadata": {}} for output in outputs if output["output_type"] != "stream"]
    return [*([{"output_type": "stream", "name": "stdout", "text": told}] if told else []), *others]


def printed(notebook: dict[str, Any]) -> str:
    """Return all that a notebook's cells put out as text."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    texts = [
        "".join(output.get("text", "")) or "".join(output.get("data", {}).get("text/plain", "")) for output in outputs
    ]
    return "\n".join(texts)


def main() -> int:
    """Run every notebook; keep its outputs, or with --check compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where other lines are printed")
    is_check = parser.parse_args().check
    differ = False
    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        print(f"{path.name} ...", flush=True)
        ran = run(path)
        if is_check:
            before = printed(json.loads(path.read_text(encoding="utf-8")))
            lost = missing(tuple(before.splitlines()), printed(ran))
            print(*(f"  not printed any more: {line}" for line in lost), sep="\n", end="\n" if lost else "")
            differ = differ or bool(lost)
        else:
            path.write_text(json.dumps(ran, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(differ)


if __name__ == "__main__":
    raise SystemExit(main())
