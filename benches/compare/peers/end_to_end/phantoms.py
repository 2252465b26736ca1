"""Patients that both sides examine."""

import os
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[4]


def program():
    """The program `fndm`: FNDM_COMPARE_FNDM, or the one of this build."""
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return os.environ.get("FNDM_COMPARE_FNDM", str(pathlib.Path(target) / "release" / "fndm"))


def phantoms(count):
    """The folder of so many phantom patients, made once: fndm-compare-phantoms-<count> in the folder for temporary files."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"fndm-compare-phantoms-{count}"
    if not folder.exists():
        new = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(new, ignore_errors=True)
        command = [program(), "phantom", "--patients", str(count), "--output", str(new)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        new.rename(folder)
    return folder
