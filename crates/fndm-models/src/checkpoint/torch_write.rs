//! Writes what PyTorch's own `torch.save` writes for a state dict, so that `torch.load` reads it.

use std::collections::BTreeMap;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::element;
use crate::{Error, Result};

pub(crate) fn write(
    path: &Path,
    file: &mut (impl Write + Seek),
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    let bad = |e: zip::result::ZipError| match e {
        zip::result::ZipError::Io(source) => Error::io(path)(source),
        other => Error::malformed(path, format!("zip: {other}")),
    };
    let io = || Error::io(path);
    // PyTorch aligns values to 64 bytes, so that they can be mapped.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .with_alignment(64);
    let mut zip = ZipWriter::new(BufWriter::new(file));
    zip.start_file("archive/data.pkl", options).map_err(bad)?;
    zip.write_all(&describe(path, tensors)?).map_err(io())?;
    zip.start_file("archive/byteorder", options).map_err(bad)?;
    zip.write_all(b"little").map_err(io())?;
    for (i, tensor) in tensors.values().enumerate() {
        let bytes = element::size(tensor.dims(), tensor.dtype()).map_or(u64::MAX, |(_, b)| b);
        zip.start_file(
            format!("archive/data/{i}"),
            options.large_file(bytes >= u64::from(u32::MAX)),
        )
        .map_err(bad)?;
        element::write(tensor, &mut zip)?.map_err(io())?;
    }
    zip.start_file("archive/version", options).map_err(bad)?;
    zip.write_all(b"3\n").map_err(io())?;
    let mut sink = zip.finish().map_err(bad)?;
    sink.flush().map_err(io())
}

/// The pickle of an `OrderedDict` from names to tensors, protocol 2.
fn describe(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let mut out = vec![0x80, 2];
    ordered_dict(&mut out);
    out.push(b'(');
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let storage = match tensor.dtype() {
            DType::F64 => "DoubleStorage",
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            DType::I64 => "LongStorage",
            DType::U8 => "ByteStorage",
            other => {
                return Err(Error::malformed(
                    path,
                    format!("{name}: tensors of {other:?} can't be saved"),
                ));
            }
        };
        text(&mut out, name);
        global(&mut out, "torch._utils", "_rebuild_tensor_v2");
        out.extend(b"((");
        text(&mut out, "storage");
        global(&mut out, "torch", storage);
        text(&mut out, &i.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.elem_count());
        out.extend(b"tQ");
        integer(&mut out, 0);
        tuple(&mut out, tensor.dims());
        tuple(&mut out, &contiguous_strides(tensor.dims()));
        // requires_grad = False, and no hooks.
        out.push(0x89);
        ordered_dict(&mut out);
        out.extend(b"tR");
    }
    out.extend(b"u.");
    Ok(out)
}

fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.push(b'c');
    out.extend(module.as_bytes());
    out.push(b'\n');
    out.extend(name.as_bytes());
    out.push(b'\n');
}

fn ordered_dict(out: &mut Vec<u8>) {
    global(out, "collections", "OrderedDict");
    out.extend(b")R");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(b'J');
            out.extend(value.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend((value as u64).to_le_bytes());
        }
    }
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    for value in values {
        integer(out, *value);
    }
    out.push(b't');
}
