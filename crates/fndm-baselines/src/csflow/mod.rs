//! CS-Flow (Rudolph et al. 2022).
