//! `CFlow-AD` (Gudovskiy et al. 2022).
