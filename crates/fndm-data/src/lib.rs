//! Brain MR in and out: NIfTI, layouts, slices, splits, lesion masks, a phantom.
