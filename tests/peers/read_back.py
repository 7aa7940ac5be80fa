"""repeng and gguf read the GGUF file that `write_ours.py` wrote; run in an environment with repeng."""

from __future__ import annotations

import warnings

import gguf
from material import FILES, model_folder, record
from repeng import ControlVector


def main() -> None:
    path = FILES / "steer_tools.gguf"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # repeng warns where a file is not quite a control vector.
        vector = ControlVector.import_gguf(path)
    reader = gguf.GGUFReader(path)
    tensors = {int(tensor.name.removeprefix("direction.")): tensor.data for tensor in reader.tensors}
    record("read_back", ("repeng", "gguf"), model_folder(), {"import_gguf": vector.directions, "GGUFReader": tensors})


if __name__ == "__main__":
    main()
