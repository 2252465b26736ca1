//! The safetensors format: eight bytes of length, a JSON header, values.
//!
//! Values are read by several threads, tensor by tensor, into the memory that the tensors keep, so that a file is read once
//! and never held twice.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Limits;
use super::element;
use crate::{Error, Result};

const LENGTH: u64 = 8;
const METADATA: &str = "__metadata__";

type Parts = (BTreeMap<String, Tensor>, BTreeMap<String, String>);

#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// One tensor of a header that has been checked.
#[derive(Debug)]
struct Planned {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    elements: usize,
    /// First byte, counted from the first value's.
    offset: u64,
}

pub(crate) fn read(path: &Path, limits: &Limits) -> Result<Parts> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let file_bytes = file.metadata().map_err(Error::io(path))?.len();
    let mut length = [0; LENGTH as usize];
    let header = match file.read_exact(&mut length) {
        Ok(()) => u64::from_le_bytes(length),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(Error::malformed(path, "safetensors: shorter than 8 bytes"));
        }
        Err(e) => return Err(Error::io(path)(e)),
    };
    if header > file_bytes - LENGTH {
        return Err(Error::malformed(
            path,
            format!("safetensors: a header of {header} bytes in a file of {file_bytes}"),
        ));
    }
    limits.check_header(path, header)?;
    let mut text = vec![0; header as usize];
    file.read_exact(&mut text).map_err(Error::reading(path))?;
    let (plan, metadata) = check(path, &text, file_bytes - LENGTH - header)?;
    limits.check_tensors(path, file_bytes - LENGTH - header)?;

    // Each thread has its own place in the file.
    let tensors = plan
        .into_par_iter()
        .map_init(
            || File::open(path),
            |file, planned| {
                let file = match file {
                    Ok(file) => file,
                    Err(e) => return Err(Error::io(path)(e.kind().into())),
                };
                file.seek(SeekFrom::Start(LENGTH + header + planned.offset))
                    .map_err(Error::io(path))?;
                let values = element::read(file, planned.dtype, planned.elements)
                    .map_err(Error::reading(path))?;
                Ok((planned.name, values.into_tensor(&planned.shape)?))
            },
        )
        .collect::<Result<_>>()?;
    Ok((tensors, metadata))
}

/// The tensors in the order of their values, which must fill `data` bytes with no gap and no overlap.
fn check(path: &Path, text: &[u8], data: u64) -> Result<(Vec<Planned>, BTreeMap<String, String>)> {
    let bad = |reason: String| Error::malformed(path, format!("safetensors: {reason}"));
    let header: Header = serde_json::from_slice(text).map_err(|e| bad(format!("header: {e}")))?;
    let mut entries = header.entries;
    entries.sort_by_key(|(_, e)| e.data_offsets);
    let mut names = HashSet::new();
    let mut plan = Vec::with_capacity(entries.len());
    let mut end = 0;
    for (name, entry) in entries {
        let Some(dtype) = dtype(&entry.dtype) else {
            return Err(bad(format!("{name}: type {} isn't supported", entry.dtype)));
        };
        if entry.shape.len() > element::MAX_AXES {
            let axes = entry.shape.len();
            return Err(bad(format!("{name}: a tensor of {axes} axes")));
        }
        let Some((elements, bytes)) = element::size(&entry.shape, dtype) else {
            return Err(bad(format!("{name}: shape {:?} overflows", entry.shape)));
        };
        let (from, to) = entry.data_offsets;
        if from != end || to.checked_sub(from) != Some(bytes) {
            return Err(bad(format!(
                "{name}: expected {bytes} bytes from offset {end}, got offsets {from} to {to}"
            )));
        }
        if !names.insert(name.clone()) {
            return Err(bad(format!("{name}: named twice")));
        }
        end = to;
        plan.push(Planned {
            name,
            dtype,
            shape: entry.shape,
            elements,
            offset: from,
        });
    }
    if end != data {
        return Err(bad(format!(
            "expected {end} bytes of values after the header, got {data}"
        )));
    }
    Ok((plan, header.metadata))
}

fn dtype(name: &str) -> Option<DType> {
    let dtype = match name {
        "F64" => DType::F64,
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "I64" => DType::I64,
        "U8" => DType::U8,
        _ => return None,
    };
    Some(dtype)
}

fn dtype_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I64 => "I64",
        DType::U8 => "U8",
        _ => return None,
    })
}

/// Writes to `file`; values stand in the order of the names, so equal tensors give equal bytes.
pub(crate) fn write(
    path: &Path,
    file: &mut impl Write,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA.to_owned(), json!(metadata));
    }
    let mut end = 0u64;
    for (name, tensor) in tensors {
        let dtype = tensor.dtype();
        let (Some(dtype_name), Some((_, bytes))) =
            (dtype_name(dtype), element::size(tensor.dims(), dtype))
        else {
            return Err(Error::malformed(
                path,
                format!("{name}: tensors of {dtype:?} can't be saved"),
            ));
        };
        let entry = json!({
            "dtype": dtype_name,
            "shape": tensor.dims(),
            "data_offsets": [end, end + bytes],
        });
        header.insert(name.clone(), entry);
        end += bytes;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    // Readers may map the file: values begin at a multiple of 8.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut sink = BufWriter::new(file);
    let io = || Error::io(path);
    sink.write_all(&(text.len() as u64).to_le_bytes())
        .map_err(io())?;
    sink.write_all(&text).map_err(io())?;
    for tensor in tensors.values() {
        element::write(tensor, &mut sink)?.map_err(io())?;
    }
    sink.flush().map_err(io())
}

/// A header with every name that the text has, even one that stands there twice.
#[derive(Debug, Default)]
struct Header {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        header.metadata = map.next_value()?;
                    } else {
                        header.entries.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        d.deserialize_map(Visitor)
    }
}
