//! Stored bytes to scaled values.

use super::datatype::DataType;
use super::header::Header;

/// Types that voxels can be read as: `f32` and `f64`.
pub trait Element: Copy + Default + Send + Sync + private::Sealed + 'static {}
impl Element for f32 {}
impl Element for f64 {}

mod private {
    use super::DataType;

    /// Conversions to the two element types. Those from types of up to 24 bits are exact.
    pub trait Sealed:
        bytemuck::Pod
        + fndm_runtime::Number
        + From<u8>
        + From<i8>
        + From<u16>
        + From<i16>
        + From<f32>
    {
        /// How a file has these values.
        const STORED: DataType;

        fn of(value: f64) -> Self;
    }
    impl Sealed for f32 {
        const STORED: DataType = DataType::F32;

        fn of(value: f64) -> Self {
            value as f32
        }
    }
    impl Sealed for f64 {
        const STORED: DataType = DataType::F64;

        fn of(value: f64) -> Self {
            value
        }
    }
}

/// How stored bytes become values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convert {
    datatype: DataType,
    big_endian: bool,
    /// `None` where it would change nothing.
    scaling: Option<(f64, f64)>,
}

/// Calls `$out` with an iterator over the values of `$bytes`, one loop for each way of storing.
/// `$plain` turns a stored number into a value where there is no scaling.
macro_rules! convert {
    ($self:ident, $bytes:ident, $out:ident, $type:ty, $plain:expr) => {{
        let (voxels, _) = $bytes.as_chunks::<{ size_of::<$type>() }>();
        let little = |bytes: &[u8; size_of::<$type>()]| <$type>::from_le_bytes(*bytes);
        let big = |bytes: &[u8; size_of::<$type>()]| <$type>::from_be_bytes(*bytes);
        match ($self.scaling, $self.big_endian) {
            (None, false) => $out.put(voxels.iter().map(|b| $plain(little(b)))),
            (None, true) => $out.put(voxels.iter().map(|b| $plain(big(b)))),
            (Some((slope, inter)), false) => {
                $out.put(
                    voxels
                        .iter()
                        .map(|b| T::of(little(b) as f64 * slope + inter)),
                );
            }
            (Some((slope, inter)), true) => {
                $out.put(voxels.iter().map(|b| T::of(big(b) as f64 * slope + inter)));
            }
        }
    }};
}

impl Convert {
    pub(super) fn new(header: &Header) -> Self {
        Self {
            datatype: header.datatype,
            big_endian: header.big_endian,
            scaling: header.scaling().filter(|s| *s != (1.0, 0.0)),
        }
    }

    /// Whether the stored bytes are those of the values in memory.
    pub(super) fn changes_nothing<T: Element>(&self) -> bool {
        self.datatype == T::STORED
            && self.scaling.is_none()
            && self.big_endian == cfg!(target_endian = "big")
    }

    /// Converts whole voxels.
    #[allow(clippy::cast_lossless, reason = "one text for all types")]
    pub(super) fn run<T: Element>(&self, bytes: &[u8], mut out: impl Put<T>) {
        match self.datatype {
            DataType::U8 => convert!(self, bytes, out, u8, T::from),
            DataType::I8 => convert!(self, bytes, out, i8, T::from),
            DataType::U16 => convert!(self, bytes, out, u16, T::from),
            DataType::I16 => convert!(self, bytes, out, i16, T::from),
            DataType::F32 => convert!(self, bytes, out, f32, T::from),
            DataType::U32 => convert!(self, bytes, out, u32, |v| T::of(v as f64)),
            DataType::I32 => convert!(self, bytes, out, i32, |v| T::of(v as f64)),
            DataType::U64 => convert!(self, bytes, out, u64, |v| T::of(v as f64)),
            DataType::I64 => convert!(self, bytes, out, i64, |v| T::of(v as f64)),
            DataType::F64 => convert!(self, bytes, out, f64, T::of),
        }
    }
}

/// Where values go: to the end of a vector, or into a slice of the same number.
pub(super) trait Put<T> {
    fn put(&mut self, values: impl Iterator<Item = T>);
}

impl<T> Put<T> for &mut Vec<T> {
    fn put(&mut self, values: impl Iterator<Item = T>) {
        self.extend(values);
    }
}

impl<T> Put<T> for &mut [T] {
    fn put(&mut self, values: impl Iterator<Item = T>) {
        for (place, value) in self.iter_mut().zip(values) {
            *place = value;
        }
    }
}
