//! What a pickle is made of, and the names that it may use.

use std::rc::Rc;

use candle_core::DType;

use super::source::{Result, bad};

/// Number of a value in the machine's list.
pub(crate) type Id = usize;

/// A tensor as the file describes it. Nothing of it has been checked against its storage.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) storage: Rc<Storage>,
    /// First element, counted in elements from the storage's begin.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// Where a tensor's values are.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) key: Rc<str>,
    pub(crate) kind: &'static StorageKind,
    pub(crate) elements: usize,
    /// Where a view begins in its storage, counted in elements; only in files from before 2016.
    pub(crate) view_offset: usize,
}

/// One of PyTorch's storage classes.
#[derive(Debug)]
pub(crate) struct StorageKind {
    pub(crate) name: &'static str,
    /// None for types that candle hasn't.
    pub(crate) dtype: Option<DType>,
    pub(crate) element_bytes: usize,
}

const fn kind(name: &'static str, dtype: Option<DType>, element_bytes: usize) -> StorageKind {
    StorageKind {
        name,
        dtype,
        element_bytes,
    }
}

static STORAGES: [StorageKind; 11] = [
    kind("FloatStorage", Some(DType::F32), 4),
    kind("DoubleStorage", Some(DType::F64), 8),
    kind("HalfStorage", Some(DType::F16), 2),
    kind("BFloat16Storage", Some(DType::BF16), 2),
    kind("LongStorage", Some(DType::I64), 8),
    kind("ByteStorage", Some(DType::U8), 1),
    kind("BoolStorage", None, 1),
    kind("CharStorage", None, 1),
    kind("ShortStorage", None, 2),
    kind("IntStorage", None, 4),
    kind("ComplexFloatStorage", None, 8),
];

#[derive(Clone, Debug)]
pub(crate) enum Node {
    None,
    Bool,
    Int(i64),
    /// An integer of more than eight bytes, little-endian.
    Long(Vec<u8>),
    Float,
    Text(Rc<str>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Rc<Storage>),
    Tensor(Rc<TensorInfo>),
}

/// The names that a file may use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    Storage(&'static StorageKind),
}

impl Global {
    pub(crate) fn named(module: &str, name: &str) -> Result<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => return Ok(Self::OrderedDict),
            ("torch", "Size") => return Ok(Self::Size),
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => {
                return Ok(Self::RebuildTensor);
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                return Ok(Self::RebuildParameter);
            }
            _ => {}
        }
        match STORAGES.iter().find(|kind| kind.name == name) {
            Some(kind) if module == "torch" => Ok(Self::Storage(kind)),
            _ => bad(format!(
                "the file names {}.{}, which isn't part of a state dict; nothing is ever executed",
                shortened(module),
                shortened(name)
            )),
        }
    }
}

/// At most a hundred characters of a foreign text, for messages.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// A two's complement integer of any length.
pub(crate) fn integer(raw: Vec<u8>) -> Node {
    if raw.len() > 8 {
        return Node::Long(raw);
    }
    let sign = raw.last().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if sign { 0xff } else { 0 }; 8];
    wide[..raw.len()].copy_from_slice(&raw);
    Node::Int(i64::from_le_bytes(wide))
}
