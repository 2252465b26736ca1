"""The programs that run a network, one module each: `load(network, inputs, names, folder)` gives what runs it, as an array."""
