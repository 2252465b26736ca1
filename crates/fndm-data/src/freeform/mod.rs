//! Free-form lesion masks: strokes, blobs and ellipsoids.
