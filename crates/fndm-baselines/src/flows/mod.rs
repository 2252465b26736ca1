//! Normalising flows: coupling blocks, permutations, log-determinants, inverses.
