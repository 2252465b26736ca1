//! Reading a file: bytes in pieces, straight into the final array.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, Ix3, IxDyn, ShapeBuilder};

use super::datatype::DataType;
use super::gunzip::{Gunzip, MAGIC};
use super::header::{Header, SIZE_1, SIZE_2, Version};
use super::place::BAD_QUATERNION;
use crate::{Error, Limits, Result, Volume, affine};

/// Bytes unpacked and converted at a time. A multiple of every voxel size.
const PIECE: usize = 1 << 18;

/// No deflate stream unpacks to more than this many bytes per byte.
const DEFLATE_RATIO: u64 = 1032;

/// Types that voxels can be read as: `f32` and `f64`.
pub trait Element: Copy + Default + private::Sealed + 'static {}
impl Element for f32 {}
impl Element for f64 {}

mod private {
    /// Conversions to the two element types. Those from types of up to 24 bits are exact.
    pub trait Sealed: From<u8> + From<i8> + From<u16> + From<i16> + From<f32> {
        fn of(value: f64) -> Self;
    }
    impl Sealed for f32 {
        fn of(value: f64) -> Self {
            value as f32
        }
    }
    impl Sealed for f64 {
        fn of(value: f64) -> Self {
            value
        }
    }
}

/// An array of 1 to 7 axes, as a file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Image<T> {
    /// Scaled values; the axes are the file's.
    pub data: ArrayD<T>,
    /// The file's header.
    pub header: Header,
}

/// Reads a 3-D volume. Axes of size 1 beyond the third are dropped, missing ones added.
///
/// For a pair, `path` is either of the two files.
///
/// # Errors
/// Every [`Error`] about files: see its variants. More than one volume in the file is
/// [`Error::Unsupported`]; an affine that is not finite or not invertible is [`Error::InvalidHeader`].
///
/// ```
/// use fndm_data::{Limits, Volume, affine, nifti};
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("t1.nii.gz");
/// let volume = Volume::new(ndarray::Array3::ones((4, 5, 6)), affine::diagonal([1.0, 1.0, 3.0]));
/// nifti::write_map(&path, &volume)?;
/// let again = nifti::read(&path, &Limits::default())?;
/// assert_eq!((again.data, again.affine), (volume.data, volume.affine));
/// # Ok::<(), fndm_data::Error>(())
/// ```
pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Volume> {
    let path = path.as_ref();
    let Image { data, header } = read_image::<f32>(path, limits)?;
    if header.shape.iter().skip(3).any(|&size| size != 1) {
        return Err(Error::Unsupported {
            path: path.to_path_buf(),
            what: "more than one volume in a file",
            got: format!("shape {:?}", header.shape),
        });
    }
    let invalid = |field, expected: &str, got: String| Error::InvalidHeader {
        path: path.to_path_buf(),
        field,
        expected: expected.into(),
        got,
    };
    let Some(matrix) = header.affine() else {
        let got = format!("{:?}", header.quaternion);
        return Err(invalid("quatern_b, c, d", BAD_QUATERNION, got));
    };
    if !affine::is_invertible(&matrix) {
        let expected = "a finite, invertible affine";
        return Err(invalid(
            "sform, qform or pixdim",
            expected,
            format!("{matrix:?}"),
        ));
    }
    let size = |axis: usize| header.shape.get(axis).copied().unwrap_or(1);
    let shape = (size(0), size(1), size(2));
    let got = data.shape().to_vec();
    let data = data
        .into_shape_with_order((Ix3(shape.0, shape.1, shape.2), ndarray::Order::F))
        .map_err(|_| Error::shape(path.display().to_string(), "three axes", &got))?;
    Ok(Volume {
        data,
        affine: matrix,
        header: Some(header),
    })
}

/// Reads the header alone.
///
/// # Errors
/// As [`read_image`], but for the voxels.
pub fn read_header(path: impl AsRef<Path>, limits: &Limits) -> Result<Header> {
    open_header(path.as_ref(), limits).map(|(header, _)| header)
}

/// Reads an array of any number of axes as `f32` or `f64`.
///
/// # Errors
/// [`Error::Io`], [`Error::Limit`], [`Error::NotNifti`], [`Error::InvalidHeader`],
/// [`Error::Unsupported`], [`Error::Truncated`], [`Error::Gzip`].
pub fn read_image<T: Element>(path: impl AsRef<Path>, limits: &Limits) -> Result<Image<T>> {
    let path = path.as_ref();
    let (header, source) = open_header(path, limits)?;
    let mut source = if header.pair {
        check_voxels(&header, path, limits)?;
        Source::open(&partner(path, "img")?, limits)?
    } else {
        source
    };
    finish_image(header, &mut source, path, limits)
}

/// Reads a single file (not a pair) that is in memory, packed or not. Errors name it `name`.
///
/// # Errors
/// As [`read_image`].
pub fn read_bytes<T: Element>(bytes: &[u8], name: &str, limits: &Limits) -> Result<Image<T>> {
    let path = Path::new(name);
    let mut source = Source::new(bytes, bytes.len() as u64, path, limits)?;
    let header = parse_header(&mut source)?;
    if header.pair {
        return Err(Error::NotNifti {
            path: path.to_path_buf(),
            reason: "the voxels are in a second file".into(),
        });
    }
    finish_image(header, &mut source, path, limits)
}

fn check_voxels(header: &Header, path: &Path, limits: &Limits) -> Result<u64> {
    match header.voxels() {
        Some(voxels) if voxels <= limits.voxels => Ok(voxels),
        found => Err(Error::Limit {
            path: path.to_path_buf(),
            what: "number of voxels",
            limit: limits.voxels,
            got: found.unwrap_or(u64::MAX),
        }),
    }
}

fn finish_image<T: Element>(
    header: Header,
    source: &mut Source<'_>,
    path: &Path,
    limits: &Limits,
) -> Result<Image<T>> {
    let voxels = check_voxels(&header, path, limits)?;
    source.skip_to(header.vox_offset)?;
    let data = read_voxels::<T>(source, &header, voxels)?;
    source.finish()?;
    Ok(Image { data, header })
}

fn read_voxels<T: Element>(source: &mut Source, header: &Header, voxels: u64) -> Result<ArrayD<T>> {
    let width = header.datatype.size();
    // The limit on voxels was checked, but it may be set to anything.
    let bytes = voxels.saturating_mul(width as u64);
    source.expect(bytes, "the voxels")?;
    let too_large = || Error::Limit {
        path: source.path.clone(),
        what: "memory for the voxels",
        limit: usize::MAX as u64,
        got: bytes,
    };
    let count = usize::try_from(voxels).map_err(|_| too_large())?;
    let mut values: Vec<T> = Vec::new();
    values.try_reserve_exact(count).map_err(|_| too_large())?;
    let convert = Convert {
        datatype: header.datatype,
        big_endian: header.big_endian,
        scaling: header.scaling(),
    };
    let mut piece = vec![0u8; PIECE];
    let mut left = bytes;
    while left > 0 {
        let take = left.min(PIECE as u64) as usize;
        source.fill(&mut piece[..take], bytes, bytes - left, "the voxels")?;
        convert.run(&piece[..take], &mut values);
        left -= take as u64;
    }
    let shape = IxDyn(&header.shape);
    ArrayD::from_shape_vec(shape.f(), values)
        .map_err(|_| Error::shape("voxels", format!("{:?}", header.shape), &[count]))
}

/// How stored bytes become values.
struct Convert {
    datatype: DataType,
    big_endian: bool,
    scaling: Option<(f64, f64)>,
}

macro_rules! convert {
    ($self:ident, $bytes:ident, $out:ident, $type:ty) => {
        convert!($self, $bytes, $out, $type, |value| T::of(value as f64))
    };
    // `$plain` is used where there is no scaling.
    ($self:ident, $bytes:ident, $out:ident, $type:ty, $plain:expr) => {{
        const WIDTH: usize = size_of::<$type>();
        let (voxels, _) = $bytes.as_chunks::<WIDTH>();
        let scaling = $self.scaling.filter(|s| *s != (1.0, 0.0));
        match (scaling, $self.big_endian) {
            (None, false) => {
                $out.extend(
                    voxels
                        .iter()
                        .map(|b| T::of(<$type>::from_le_bytes(*b) as f64)),
                );
            }
            (None, true) => {
                $out.extend(
                    voxels
                        .iter()
                        .map(|b| T::of(<$type>::from_be_bytes(*b) as f64)),
                );
            }
            (Some((slope, inter)), big) => $out.extend(voxels.iter().map(|b| {
                let value = if big {
                    <$type>::from_be_bytes(*b)
                } else {
                    <$type>::from_le_bytes(*b)
                };
                T::of(value as f64 * slope + inter)
            })),
        }
    }};
}

impl Convert {
    #[allow(clippy::cast_lossless)]
    fn run<T: Element>(&self, bytes: &[u8], out: &mut Vec<T>) {
        match self.datatype {
            DataType::U8 => convert!(self, bytes, out, u8, T::from),
            DataType::I8 => convert!(self, bytes, out, i8, T::from),
            DataType::U16 => convert!(self, bytes, out, u16, T::from),
            DataType::I16 => convert!(self, bytes, out, i16, T::from),
            DataType::U32 => convert!(self, bytes, out, u32),
            DataType::I32 => convert!(self, bytes, out, i32),
            DataType::U64 => convert!(self, bytes, out, u64),
            DataType::I64 => convert!(self, bytes, out, i64),
            DataType::F32 => convert!(self, bytes, out, f32, T::from),
            DataType::F64 => convert!(self, bytes, out, f64),
        }
    }
}

/// Opens the file that holds the header and parses it. The source stands after the header.
fn open_header(path: &Path, limits: &Limits) -> Result<(Header, Source<'static>)> {
    let is_img = stem_and_suffix(path).is_some_and(|(_, suffix)| suffix == "img");
    let owned;
    let path = if is_img {
        owned = partner(path, "hdr")?;
        owned.as_path()
    } else {
        path
    };
    let mut source = Source::open(path, limits)?;
    let header = parse_header(&mut source)?;
    Ok((header, source))
}

/// Reads the header from the start of a source.
fn parse_header(source: &mut Source<'_>) -> Result<Header> {
    let mut bytes = vec![0; SIZE_1];
    let size_1 = SIZE_1 as u64;
    source.fill(&mut bytes[..4], size_1, 0, "the header")?;
    let start = [bytes[0], bytes[1], bytes[2], bytes[3]];
    let Some((version, big_endian)) = Header::sniff(start) else {
        return Err(Error::NotNifti {
            path: source.path.clone(),
            reason: format!(
                "the first four bytes are \"{}\", expected the header size 348 or 540",
                start.escape_ascii()
            ),
        });
    };
    if version == Version::Two {
        bytes.resize(SIZE_2, 0);
    }
    let size = bytes.len() as u64;
    source.fill(&mut bytes[4..], size, 4, "the header")?;
    Header::parse(&bytes, version, big_endian, &source.path)
}

/// File name without, and with only, its last suffix; a final `.gz` is left out.
fn stem_and_suffix(path: &Path) -> Option<(String, String)> {
    let name = path.file_name()?.to_str()?;
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let (stem, suffix) = plain.rsplit_once('.')?;
    Some((stem.to_string(), suffix.to_ascii_lowercase()))
}

/// The other file of a pair: the same name with another suffix, packed or not.
fn partner(path: &Path, suffix: &str) -> Result<PathBuf> {
    let missing = |reason: String| Error::NotNifti {
        path: path.to_path_buf(),
        reason,
    };
    let Some((stem, own)) = stem_and_suffix(path) else {
        return Err(missing("the name has no suffix .hdr or .img".into()));
    };
    if own == suffix {
        return Ok(path.to_path_buf());
    }
    if own != "hdr" && own != "img" {
        return Err(missing(format!(
            "the header says that the voxels are in a second file, but the name ends in .{own}, not .hdr"
        )));
    }
    let names = [format!("{stem}.{suffix}"), format!("{stem}.{suffix}.gz")];
    for name in &names {
        let candidate = path.with_file_name(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    Err(missing(format!(
        "the other file of the pair is missing: expected {} or {}",
        names[0], names[1]
    )))
}

/// A file being read from front to end, packed or not.
struct Source<'a> {
    reader: Box<dyn Read + 'a>,
    path: PathBuf,
    packed: bool,
    file_bytes: u64,
    /// Bytes given so far, after unpacking.
    given: u64,
    limit: u64,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({}, {} bytes)", self.path.display(), self.given)
    }
}

impl Source<'static> {
    fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let meta = file.metadata().map_err(Error::io(path))?;
        if meta.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(Error::io(path)(source));
        }
        Self::new(file, meta.len(), path, limits)
    }
}

impl<'a> Source<'a> {
    fn new(mut inner: impl Read + 'a, size: u64, path: &Path, limits: &Limits) -> Result<Self> {
        if size > limits.file_bytes {
            return Err(Error::Limit {
                path: path.to_path_buf(),
                what: "file size in bytes",
                limit: limits.file_bytes,
                got: size,
            });
        }
        let mut start = Vec::with_capacity(2);
        (&mut inner)
            .take(2)
            .read_to_end(&mut start)
            .map_err(Error::io(path))?;
        let packed = start == MAGIC;
        let whole = std::io::Cursor::new(start).chain(inner);
        let reader: Box<dyn Read + 'a> = if packed {
            Box::new(Gunzip::new(BufReader::with_capacity(1 << 16, whole)))
        } else {
            Box::new(whole)
        };
        Ok(Self {
            reader,
            path: path.to_path_buf(),
            packed,
            file_bytes: size,
            given: 0,
            limit: if packed {
                limits.unpacked_bytes
            } else {
                limits.file_bytes
            },
        })
    }

    /// Most bytes that this source can give, as far as its size on disk tells.
    fn bound(&self) -> u64 {
        if self.packed {
            self.file_bytes.saturating_mul(DEFLATE_RATIO)
        } else {
            self.file_bytes
        }
    }

    /// An error, before memory is taken, if the file cannot hold this many bytes more.
    fn expect(&self, bytes: u64, what: &'static str) -> Result<()> {
        let end = self.given.saturating_add(bytes);
        if self.packed && end > self.limit {
            return Err(self.over(end));
        }
        if end > self.bound() {
            return Err(self.truncated(what, bytes, self.bound().saturating_sub(self.given)));
        }
        Ok(())
    }

    fn over(&self, got: u64) -> Error {
        Error::Limit {
            path: self.path.clone(),
            what: "unpacked size in bytes",
            limit: self.limit,
            got,
        }
    }

    fn truncated(&self, what: &'static str, expected: u64, got: u64) -> Error {
        Error::Truncated {
            path: self.path.clone(),
            what,
            expected,
            got,
        }
    }

    fn broken(&self, source: std::io::Error) -> Error {
        if self.packed {
            Error::Gzip {
                path: self.path.clone(),
                source,
            }
        } else {
            Error::io(&self.path)(source)
        }
    }

    /// Fills the buffer, which is a part of `what`: `whole` bytes, of which `before` were given already.
    fn fill(
        &mut self,
        mut buffer: &mut [u8],
        whole: u64,
        before: u64,
        what: &'static str,
    ) -> Result<()> {
        let mut got = before;
        while !buffer.is_empty() {
            match self.reader.read(buffer) {
                Ok(0) => return Err(self.truncated(what, whole, got)),
                Ok(count) => {
                    got += count as u64;
                    self.given += count as u64;
                    if self.packed && self.given > self.limit {
                        return Err(self.over(self.given));
                    }
                    let rest = buffer;
                    buffer = &mut rest[count..];
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    fn skip_to(&mut self, offset: u64) -> Result<()> {
        let before = self.given;
        let skip = offset.saturating_sub(before);
        self.expect(skip, "the part before the voxels")?;
        let mut piece = vec![0u8; skip.min(PIECE as u64) as usize];
        let mut left = skip;
        while left > 0 {
            let take = left.min(PIECE as u64) as usize;
            self.fill(
                &mut piece[..take],
                skip,
                skip - left,
                "the part before the voxels",
            )?;
            left -= take as u64;
        }
        Ok(())
    }

    /// Reads a packed file to its end, so that its checksum and all members are checked.
    fn finish(&mut self) -> Result<()> {
        if !self.packed {
            return Ok(());
        }
        let mut piece = vec![0u8; 1 << 14];
        loop {
            match self.reader.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.given += count as u64;
                    if self.given > self.limit {
                        return Err(self.over(self.given));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }
}
