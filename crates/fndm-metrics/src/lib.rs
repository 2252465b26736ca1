//! Segmentation and ranking metrics that say what they compute.
