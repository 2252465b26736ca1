//! Bytes of a pickle, and what reading them may cost.

use std::io::{BufRead, Read};

/// Why a pickle can't be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It isn't a pickle of tensors, or a broken one.
    Malformed(String),
    /// It, or what it describes, is larger than the budget.
    TooLarge,
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

pub(crate) fn fault(reason: impl std::fmt::Display) -> Fault {
    Fault::Malformed(format!("pickle: {reason}"))
}

pub(crate) fn bad<T>(reason: impl std::fmt::Display) -> Result<T> {
    Err(fault(reason))
}

/// A reader with a budget, in bytes, for what is read and for the values that are made of it.
pub(crate) struct Source<'a> {
    inner: &'a mut dyn BufRead,
    left: u64,
}

impl<'a> Source<'a> {
    pub(crate) fn new(inner: &'a mut dyn BufRead, budget: u64) -> Self {
        Self {
            inner,
            left: budget,
        }
    }

    /// Takes `bytes` of memory from the budget. To be called before they are allocated.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<()> {
        self.left = self.left.checked_sub(bytes as u64).ok_or(Fault::TooLarge)?;
        Ok(())
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        let mut one = [0];
        self.inner.read_exact(&mut one).map_err(|_| truncated())?;
        Ok(one[0])
    }

    /// Exactly `n` bytes; memory grows with what is really there.
    pub(crate) fn bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        let mut raw = Vec::new();
        let got = Read::take(&mut *self.inner, n.min(self.left))
            .read_to_end(&mut raw)
            .map_err(|_| truncated())? as u64;
        if got == n {
            self.left -= n;
            Ok(raw)
        } else if got == self.left {
            Err(Fault::TooLarge)
        } else {
            Err(truncated())
        }
    }

    /// A little-endian number of `n` bytes, at most 8.
    pub(crate) fn number(&mut self, n: usize) -> Result<u64> {
        let mut raw = [0; 8];
        self.inner
            .read_exact(&mut raw[..n])
            .map_err(|_| truncated())?;
        Ok(u64::from_le_bytes(raw))
    }

    /// Text up to the end of the line, of at most 1023 bytes.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut raw = Vec::new();
        Read::take(&mut *self.inner, 1024)
            .read_until(b'\n', &mut raw)
            .map_err(|_| truncated())?;
        if raw.pop() != Some(b'\n') {
            return Err(truncated());
        }
        String::from_utf8(raw).map_err(|_| fault("a name isn't UTF-8"))
    }
}

fn truncated() -> Fault {
    fault("ends too early")
}
