//! Corruptions of the conditioning image under a mask.
