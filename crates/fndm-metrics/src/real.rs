//! The two floating point types that scores and images come in.

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// `f32` or `f64`: the element of a score map or an image.
///
/// The trait is sealed. It exists so that every function takes either type with no conversion by
/// the caller and no copy.
pub trait Real:
    Copy
    + PartialOrd
    + Send
    + Sync
    + std::fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + sealed::Sealed
    + 'static
{
    /// An unsigned integer that sorts as the number does.
    type Key: Copy + Ord + Send + Sync + std::fmt::Debug;

    /// The number as `f64`, exactly.
    fn as_f64(self) -> f64;
    /// The nearest number of this type.
    fn nearest(value: f64) -> Self;
    /// Neither NaN nor infinite.
    fn finite(self) -> bool;
    /// The sort key of a finite number; -0 and +0 have the same key.
    fn key(self) -> Self::Key;
    /// The number of a key.
    fn of_key(key: Self::Key) -> Self;
    /// The number of bits of a key.
    const KEY_BITS: u32;
    /// The key's bits from `shift` up to 11 more: a digit of the radix sort, below 2048.
    fn digit(key: Self::Key, shift: u32) -> usize;
}

macro_rules! real {
    ($float:ty, $bits:ty) => {
        impl Real for $float {
            type Key = $bits;

            #[inline]
            fn as_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline]
            #[allow(clippy::cast_possible_truncation)]
            fn nearest(value: f64) -> Self {
                value as $float
            }
            #[inline]
            fn finite(self) -> bool {
                self.is_finite()
            }
            #[inline]
            fn key(self) -> $bits {
                // Adding +0 turns -0 into +0, so that the two zeros tie.
                let bits = (self + 0.0).to_bits();
                let sign = <$bits>::MAX / 2 + 1;
                if bits & sign == 0 { bits | sign } else { !bits }
            }
            const KEY_BITS: u32 = <$bits>::BITS;

            #[inline]
            #[allow(clippy::cast_possible_truncation)]
            fn digit(key: $bits, shift: u32) -> usize {
                (key >> shift) as usize & 0x7ff
            }
            #[inline]
            fn of_key(key: $bits) -> Self {
                let sign = <$bits>::MAX / 2 + 1;
                <$float>::from_bits(if key & sign == 0 { !key } else { key & !sign })
            }
        }
    };
}

real!(f32, u32);
real!(f64, u64);

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn keys_sort_as_the_numbers_do() {
        let numbers = [-3.5f64, -1e-310, -0.0, 0.0, 1e-310, 0.25, 7.0, 1e300];
        for pair in numbers.windows(2) {
            assert_eq!(pair[0] < pair[1], pair[0].key() < pair[1].key(), "{pair:?}");
            assert_eq!(f64::of_key(pair[0].key()), pair[0]);
            let (a, b) = (pair[0] as f32, pair[1] as f32);
            assert_eq!(a < b, a.key() < b.key());
            assert_eq!(f32::of_key(a.key()), a);
        }
    }
}
