//! Memory bank of healthy patch features: coreset, exact nearest neighbours, coarse lesion maps.
