"""Calls a command line module as 3D Slicer does.

usage: slicer.py PROGRAM RETURN_FILE NAME=VALUE ...

Slicer runs `PROGRAM --xml`, makes a panel of what it prints, and then runs PROGRAM with `--longflag value` for each parameter that has a
value. Simple output parameters have index 1000: they aren't given, but read from the file of --returnparameterfile.
"""

import subprocess
import sys
import xml.etree.ElementTree as tree

program, returned, *given = sys.argv[1:]
given = dict(pair.split("=", 1) for pair in given)

told = subprocess.run([program, "--xml"], capture_output=True, text=True, timeout=5)
assert told.returncode == 0, told
# Slicer takes what is printed as it stands: nothing may come before the declaration.
assert told.stdout.startswith("<?xml"), told.stdout[:100]
root = tree.fromstring(told.stdout.encode())
assert root.tag == "executable"
for name in ["category", "title", "description", "version", "license", "contributor"]:
    assert root.findtext(name), name

TYPES = {"boolean", "integer", "float", "double", "string", "file", "directory", "image", "string-enumeration"}
names, command = set(), [program]
groups = root.findall("parameters")
assert groups
for group in groups:
    children = list(group)
    assert [child.tag for child in children[:2]] == ["label", "description"]
    for parameter in children[2:]:
        assert parameter.tag in TYPES, parameter.tag
        name = parameter.findtext("name")
        assert name.isidentifier() and name not in names, name
        names.add(name)
        assert parameter.findtext("label") and parameter.findtext("description"), name
        assert parameter.findtext("channel") in (None, "input", "output"), name
        index, flag = parameter.findtext("index"), parameter.findtext("longflag")
        assert (index is None) != (flag is None), name
        if parameter.tag == "image":
            assert parameter.get("type", "scalar") in ("scalar", "label"), name
            assert parameter.get("fileExtensions") == ".nii.gz", name
            assert parameter.findtext("channel"), name
        if parameter.tag == "string-enumeration":
            elements = [element.text for element in parameter.findall("element")]
            assert parameter.findtext("default") in elements, name
        if index is not None:
            assert index == "1000" and parameter.findtext("channel") == "output", name
            continue
        value = given.pop(name, parameter.findtext("default"))
        if value:
            command += ["--" + flag, value]
assert not given, given
command += ["--returnparameterfile", returned]
run = subprocess.run(command, capture_output=True, text=True)
print(run.stdout, run.stderr)
assert run.returncode == 0, run.returncode
# What Slicer shows as progress: complete elements, one to a line, from 0 to 1.
lines = run.stdout.splitlines()
shares = [float(tree.fromstring(line).text) for line in lines if line.startswith("<filter-progress>")]
assert shares and shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1, shares
assert "<filter-start>" in lines[0] and "<filter-end>" in lines[-1]
print(" ".join(command))
