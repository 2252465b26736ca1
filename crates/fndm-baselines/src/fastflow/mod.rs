//! `FastFlow` (Yu et al. 2021).
