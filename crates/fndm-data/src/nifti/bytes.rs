//! Numbers at fixed places of a header's bytes.

/// A header's bytes and their order. Reading past the end gives zeros, so that no
/// field's place can panic; callers check the length first.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8], big_endian: bool) -> Self {
        Self { bytes, big_endian }
    }

    pub(super) fn raw<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        if let Some(found) = self.bytes.get(at..at + N) {
            out.copy_from_slice(found);
        }
        out
    }

    /// `N` bytes with the least significant first.
    fn little<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = self.raw(at);
        if self.big_endian {
            out.reverse();
        }
        out
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        u8::from_le_bytes(self.raw(at))
    }

    pub(super) fn i16(&self, at: usize) -> i16 {
        i16::from_le_bytes(self.little(at))
    }

    pub(super) fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.little(at))
    }

    pub(super) fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.little(at))
    }

    pub(super) fn f32(&self, at: usize) -> f64 {
        f64::from(f32::from_le_bytes(self.little(at)))
    }

    pub(super) fn f64(&self, at: usize) -> f64 {
        f64::from_le_bytes(self.little(at))
    }
}

/// Bytes of a header in the making, least significant first. Places come from this
/// crate alone, never from a file.
pub(super) struct Sheet(pub(super) Vec<u8>);

impl Sheet {
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn i16(&mut self, at: usize, value: i16) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn i32(&mut self, at: usize, value: i32) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn i64(&mut self, at: usize, value: i64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn f32(&mut self, at: usize, value: f64) {
        self.put(at, &(value as f32).to_le_bytes());
    }

    pub(super) fn f64(&mut self, at: usize, value: f64) {
        self.put(at, &value.to_le_bytes());
    }
}
