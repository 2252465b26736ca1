//! What a program of kernels needs of the machine that it runs on: a GPU, or the emulator of the tests.

use candle_core::Result;

/// The type of the values in a piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    F32,
    Bf16,
    U32,
    /// Addresses.
    U64,
}

impl Kind {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
            Self::U64 => 8,
        }
    }

    /// As the names of kernels have it.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::U32 => "u32",
            Self::U64 => "u64",
        }
    }
}

/// A place in the machine's memory. Whoever makes one keeps the memory alive while programs use it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) address: u64,
    pub(crate) kind: Kind,
}

impl View {
    /// The place `n` values on.
    pub(crate) fn offset(self, n: usize) -> Self {
        Self {
            address: self.address + (n * self.kind.bytes()) as u64,
            ..self
        }
    }

    /// Whether packs of four values can be read here.
    pub(crate) fn aligned(self) -> bool {
        self.address.is_multiple_of(4 * self.kind.bytes() as u64)
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    View(View),
    U32(u32),
    U64(u64),
    F32(f32),
}

impl From<View> for Arg {
    fn from(v: View) -> Self {
        Self::View(v)
    }
}

impl From<u32> for Arg {
    fn from(v: u32) -> Self {
        Self::U32(v)
    }
}

impl From<u64> for Arg {
    fn from(v: u64) -> Self {
        Self::U64(v)
    }
}

impl From<f32> for Arg {
    fn from(v: f32) -> Self {
        Self::F32(v)
    }
}

impl From<bool> for Arg {
    fn from(v: bool) -> Self {
        Self::U32(u32::from(v))
    }
}

/// One launch: a line of blocks, each a line of threads.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a str,
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) args: &'a [Arg],
}

/// A matrix of a product, by columns: the matrices of a batch lie `step` values apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) at: View,
    /// Values from one column to the next.
    pub(crate) column: usize,
    pub(crate) step: usize,
    pub(crate) transposed: bool,
}

/// `c = alpha * a b` for a batch of matrices by columns, as in cuBLAS: `a` is `(m, k)` and `b` `(k, n)` once transposed as
/// they say. `a` and `b` are of one kind; the sum is kept in f32.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) batch: usize,
    pub(crate) alpha: f32,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
}

/// Where programs run.
pub(crate) trait Machine {
    /// Memory that is freed once what was launched before the drop is done.
    type Memory;

    /// `n` values, unspecified.
    fn alloc(&self, kind: Kind, n: usize) -> Result<Self::Memory>;

    /// Memory with these values.
    fn upload(&self, values: &[u32]) -> Result<Self::Memory>;

    /// Memory with the addresses of these places.
    fn addresses(&self, views: &[View]) -> Result<Self::Memory>;

    fn view(&self, memory: &Self::Memory) -> View;

    fn launch(&self, launch: &Launch<'_>) -> Result<()>;

    fn product(&self, product: &Product) -> Result<()>;
}

/// A size as kernels take it.
pub(crate) fn size(n: usize) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) if n <= i32::MAX as u32 => Ok(n),
        _ => candle_core::bail!("cuda: expected a size below 2^31, got {n}"),
    }
}
