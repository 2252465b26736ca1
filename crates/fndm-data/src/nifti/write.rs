//! Writing a volume: whole, or not at all.

use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use fndm_files::AtomicFile;
use ndarray::ArrayView3;

use super::datatype::DataType;
use super::header::{Header, Version};
use crate::{Error, Result, Volume, affine, is_lesion};

/// Writes a mask as unsigned bytes: 1 where the voxel [is lesion](crate::is_lesion), above 0.5.
///
/// # Errors
/// As [`write()`]; [`Error::InvalidConfig`] for a voxel that is NaN or infinite, which is neither.
pub fn write_mask(path: impl AsRef<Path>, mask: &Volume) -> Result<()> {
    if let Some(odd) = mask.data.iter().find(|v| !v.is_finite()) {
        return Err(Error::config(
            "voxel of a mask to write",
            "a finite value",
            odd,
        ));
    }
    let bit = |v: f32| f32::from(u8::from(is_lesion(v)));
    write_mapped(path.as_ref(), mask.data.view(), mask, DataType::U8, &bit)
}

/// Writes a map as 32-bit floats.
///
/// # Errors
/// As [`write()`].
pub fn write_map(path: impl AsRef<Path>, map: &Volume) -> Result<()> {
    write(path, map, DataType::F32)
}

/// Writes a volume as the given type, unscaled. The suffix `.nii` or `.nii.gz` says whether
/// it is packed. Where the volume came from a file, the header is that file's: its
/// dimensions (also of two axes, or of four with one volume), place, units and text; the data type, scaling and
/// display range are new, and extensions are left out.
///
/// # Errors
/// [`Error::InvalidConfig`] for another suffix, for a value that an integer type
/// cannot hold (it would be changed in silence), or for an affine that is not finite and
/// invertible; [`Error::Shape`] for an empty axis; [`Error::Io`], [`Error::Files`].
pub fn write(path: impl AsRef<Path>, volume: &Volume, datatype: DataType) -> Result<()> {
    write_like(path, volume.data.view(), volume, datatype)
}

/// Writes an array on the grid of another volume, with its header and affine.
///
/// # Errors
/// As [`write()`]; [`Error::Shape`] when the shapes differ.
pub fn write_like(
    path: impl AsRef<Path>,
    data: ArrayView3<'_, f32>,
    like: &Volume,
    datatype: DataType,
) -> Result<()> {
    if data.shape() != like.data.shape() {
        let expected = format!("{:?}", like.data.shape());
        return Err(Error::shape("array to write", expected, data.shape()));
    }
    check_values(&data, datatype)?;
    write_mapped(path.as_ref(), data, like, datatype, &|v| v)
}

/// Writes what `map` makes of an array of the other volume's shape: values that the type holds.
fn write_mapped(
    path: &Path,
    data: ArrayView3<'_, f32>,
    like: &Volume,
    datatype: DataType,
    map: &dyn Fn(f32) -> f32,
) -> Result<()> {
    let packed = suffix(path)?;
    let header = header_for(like, datatype)?;
    let io = |error| Error::io(path)(error);
    let file = AtomicFile::create(path)?;
    let file = if packed {
        let mut encoder = GzEncoder::new(BufWriter::new(file), Compression::new(4));
        encode(&mut encoder, &header, &data, map).map_err(io)?;
        encoder.finish().map_err(io)?
    } else {
        let mut buffer = BufWriter::new(file);
        encode(&mut buffer, &header, &data, map).map_err(io)?;
        buffer
    };
    let file = file.into_inner().map_err(|e| io(e.into_error()))?;
    Ok(file.commit()?)
}

fn suffix(path: &Path) -> Result<bool> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    if name.ends_with(".nii.gz") {
        Ok(true)
    } else if name.ends_with(".nii") {
        Ok(false)
    } else {
        Err(Error::config(
            "file name to write",
            "a name ending in .nii or .nii.gz",
            path.display(),
        ))
    }
}

fn check_values(data: &ArrayView3<'_, f32>, datatype: DataType) -> Result<()> {
    let Some((low, high)) = datatype.integer_range() else {
        return Ok(());
    };
    let wrong = data.iter().find(|v| {
        let value = f64::from(**v);
        !(value >= low && value <= high && value.fract() == 0.0)
    });
    match wrong {
        None => Ok(()),
        Some(value) => Err(Error::config(
            format!("value to write as {datatype:?}"),
            format!("whole numbers in {low}..={high}"),
            value,
        )),
    }
}

fn header_for(like: &Volume, datatype: DataType) -> Result<Header> {
    let shape = like.shape();
    let mut header = match &like.header {
        Some(header) => header.clone(),
        None => Header::fresh(&shape, datatype),
    };
    // The file's own axes are kept, unless the array was changed: a viewer asks for equal dimensions.
    if !is_same_grid(&header.shape, shape) {
        header.shape = shape.to_vec();
    }
    if like.header.is_none() || header.affine_mm() != Some(like.affine) {
        header.set_affine(&like.affine);
    }
    header.datatype = datatype;
    header.pair = false;
    header.big_endian = false;
    header.scl_slope = 1.0;
    header.scl_inter = 0.0;
    header.cal = [0.0; 2];
    header.intent_code = 0;
    if shape.iter().any(|&size| size > i16::MAX as usize) {
        header.version = Version::Two;
    }
    if shape.contains(&0) {
        return Err(Error::shape("array to write", "no empty axis", &shape));
    }
    let stored = header.stored_affine();
    if !stored.as_ref().is_some_and(affine::is_invertible) {
        return Err(Error::config(
            "affine to write",
            "finite and invertible in the numbers of the format",
            format!("{:?}", like.affine),
        ));
    }
    Ok(header)
}

/// Whether a file's shape is that of a volume but for axes of size 1.
fn is_same_grid(file: &[usize], volume: [usize; 3]) -> bool {
    let size = |axis: usize| file.get(axis).copied().unwrap_or(1);
    [0, 1, 2].map(size) == volume && file.iter().skip(3).all(|&size| size == 1)
}

/// Header, then voxels with the first axis running fastest.
fn encode(
    out: &mut impl Write,
    header: &Header,
    data: &ArrayView3<'_, f32>,
    map: &dyn Fn(f32) -> f32,
) -> std::io::Result<()> {
    out.write_all(&header.to_bytes())?;
    let mut row = Vec::with_capacity(data.dim().0 * header.datatype.size());
    for plane in data.axis_iter(ndarray::Axis(2)) {
        for line in plane.axis_iter(ndarray::Axis(1)) {
            row.clear();
            for &value in line {
                push(&mut row, map(value), header.datatype);
            }
            out.write_all(&row)?;
        }
    }
    Ok(())
}

fn push(row: &mut Vec<u8>, value: f32, datatype: DataType) {
    match datatype {
        DataType::U8 => row.push(value as u8),
        DataType::I8 => row.extend((value as i8).to_le_bytes()),
        DataType::U16 => row.extend((value as u16).to_le_bytes()),
        DataType::I16 => row.extend((value as i16).to_le_bytes()),
        DataType::U32 => row.extend((value as u32).to_le_bytes()),
        DataType::I32 => row.extend((value as i32).to_le_bytes()),
        DataType::U64 => row.extend((value as u64).to_le_bytes()),
        DataType::I64 => row.extend((value as i64).to_le_bytes()),
        DataType::F32 => row.extend(value.to_le_bytes()),
        DataType::F64 => row.extend(f64::from(value).to_le_bytes()),
    }
}
