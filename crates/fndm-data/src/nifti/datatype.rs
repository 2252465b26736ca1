//! The scalar types of NIfTI.

/// How one voxel is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// Unsigned 8-bit integer, code 2.
    U8,
    /// Signed 16-bit integer, code 4.
    I16,
    /// Signed 32-bit integer, code 8.
    I32,
    /// 32-bit float, code 16.
    F32,
    /// 64-bit float, code 64.
    F64,
    /// Signed 8-bit integer, code 256.
    I8,
    /// Unsigned 16-bit integer, code 512.
    U16,
    /// Unsigned 32-bit integer, code 768.
    U32,
    /// Signed 64-bit integer, code 1024.
    I64,
    /// Unsigned 64-bit integer, code 1280.
    U64,
}

impl DataType {
    /// The type of a NIfTI code; `None` for complex, colour, 128-bit and unknown codes.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            2 => Self::U8,
            4 => Self::I16,
            8 => Self::I32,
            16 => Self::F32,
            64 => Self::F64,
            256 => Self::I8,
            512 => Self::U16,
            768 => Self::U32,
            1024 => Self::I64,
            1280 => Self::U64,
            _ => return None,
        })
    }

    /// The NIfTI code.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::U8 => 2,
            Self::I16 => 4,
            Self::I32 => 8,
            Self::F32 => 16,
            Self::F64 => 64,
            Self::I8 => 256,
            Self::U16 => 512,
            Self::U32 => 768,
            Self::I64 => 1024,
            Self::U64 => 1280,
        }
    }

    /// Bytes of one voxel.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// Smallest and largest whole number that the type holds; `None` for floats.
    pub(super) fn integer_range(self) -> Option<(f64, f64)> {
        Some(match self {
            Self::U8 => (0.0, f64::from(u8::MAX)),
            Self::I8 => (f64::from(i8::MIN), f64::from(i8::MAX)),
            Self::U16 => (0.0, f64::from(u16::MAX)),
            Self::I16 => (f64::from(i16::MIN), f64::from(i16::MAX)),
            Self::U32 => (0.0, f64::from(u32::MAX)),
            Self::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            Self::U64 => (0.0, u64::MAX as f64),
            Self::I64 => (i64::MIN as f64, i64::MAX as f64),
            Self::F32 | Self::F64 => return None,
        })
    }
}

/// What a NIfTI code is called, for messages.
pub(super) fn code_name(code: i16) -> &'static str {
    match code {
        0 => "unknown",
        1 => "one bit per voxel",
        32 => "complex, 2 x 32 bits",
        128 => "RGB colour",
        1536 => "128-bit float",
        1792 => "complex, 2 x 64 bits",
        2048 => "complex, 2 x 128 bits",
        2304 => "RGBA colour",
        _ => "not in the standard",
    }
}
