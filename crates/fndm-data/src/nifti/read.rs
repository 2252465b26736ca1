//! Reading a file: its header, checked, then its voxels.

use std::path::Path;

use ndarray::{ArrayD, Ix3, IxDyn, ShapeBuilder};

use super::convert::Element;
use super::header::{Header, SIZE_1, SIZE_2, Version};
use super::pair::{partner, stem_and_suffix};
use super::place::BAD_QUATERNION;
use super::source::Source;
use super::voxels;
use crate::{Error, Limits, Result, Volume, affine};

/// An array of 1 to 7 axes, as a file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Image<T> {
    /// Scaled values; the axes are the file's.
    pub data: ArrayD<T>,
    /// The file's header.
    pub header: Header,
}

/// Reads a 3-D volume. Axes of size 1 beyond the third are dropped, missing ones added; the header keeps the
/// file's own. The affine is in millimetres, whatever the units of the file.
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
    let Some(matrix) = header.affine_mm() else {
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
    let values = voxels::read::<T>(source, &header, voxels)?;
    source.finish()?;
    let count = values.len();
    let data = ArrayD::from_shape_vec(IxDyn(&header.shape).f(), values)
        .map_err(|_| Error::shape("voxels", format!("{:?}", header.shape), &[count]))?;
    Ok(Image { data, header })
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
            path: source.path().to_path_buf(),
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
    Header::parse(&bytes, version, big_endian, source.path())
}
