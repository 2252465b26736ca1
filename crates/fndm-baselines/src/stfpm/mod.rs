//! STFPM (Wang et al. 2021).
