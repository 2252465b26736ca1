//! The one hash of this crate: FNV-1a of 64 bits, by which a resumed run knows its data and processes see that they agree.

use std::hash::Hasher;

use fnv::FnvHasher;

/// The hash of whole words, each taken in at one step: what checkpoints say of intensities and labels.
pub(crate) fn of_words(words: impl IntoIterator<Item = u32>) -> u64 {
    words
        .into_iter()
        .fold(FnvHasher::default().finish(), |hash, word| {
            // A step of FNV-1a is (hash ^ word) * prime; the crate's own takes bytes alone.
            let mut step = FnvHasher::with_key(hash ^ u64::from(word));
            step.write_u8(0);
            step.finish()
        })
}

/// The hash of bytes.
pub(crate) fn of_bytes(bytes: &[u8]) -> u64 {
    let mut hash = FnvHasher::default();
    hash.write(bytes);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the page of FNV's authors: <http://www.isthe.com/chongo/tech/comp/fnv/>.
    #[test]
    fn it_is_fnv_1a() {
        assert_eq!(of_bytes(b"foobar"), 0x8594_4171_f739_67e8);
        // Words below 256 are bytes.
        assert_eq!(of_words(b"foobar".map(u32::from)), of_bytes(b"foobar"));
        let (start, prime) = (0xcbf2_9ce4_8422_2325_u64, 0x0100_0000_01b3);
        let word = 1.5_f32.to_bits();
        let step = (start ^ u64::from(word)).wrapping_mul(prime);
        assert_eq!(of_words([word]), step);
    }
}
