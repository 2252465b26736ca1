//! The FLAIR image itself as a map.
