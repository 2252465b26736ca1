//! A procedural brain with lesions of known mask.
