//! The part of Python's pickle that PyTorch's files need. Nothing is ever called: a name that isn't on the list below
//! is an error.
//!
//! Values live in one flat list and refer to each other by number. Every byte of input makes at most one value, so
//! memory is bounded by the input, and neither a deep nor a circular value can exhaust the stack.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use candle_core::DType;

/// Number of a value in the machine's list.
pub(crate) type Id = usize;

/// A tensor as the file describes it. Nothing of it has been checked against its storage.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) storage: Storage,
    /// First element, counted in elements from the storage's begin.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// Where a tensor's values are.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) key: String,
    /// None for types that candle hasn't; then `type_name` says which.
    pub(crate) dtype: Option<DType>,
    pub(crate) type_name: String,
    /// Bytes per element, for storages that are skipped.
    pub(crate) element_bytes: usize,
    pub(crate) elements: usize,
    /// Where a view begins in its storage, counted in elements; only in files from before 2016.
    pub(crate) view_offset: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    None,
    Bool,
    Int(i64),
    /// An integer of more than eight bytes, little-endian.
    Long(Vec<u8>),
    Float,
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Box<TensorInfo>),
}

/// The names that a file may use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Global {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    Storage {
        name: String,
        dtype: Option<DType>,
        bytes: usize,
    },
}

pub(crate) type Result<T> = std::result::Result<T, String>;

/// All values of one pickle.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

/// Reads one pickle: all its values, and the number of the last.
pub(crate) fn read(source: &mut dyn BufRead) -> Result<(Machine, Id)> {
    let mut machine = Machine::default();
    loop {
        let op = byte(source)?;
        if op == b'.' {
            let id = machine.pop()?;
            return Ok((machine, id));
        }
        machine.step(op, source)?;
    }
}

impl Machine {
    pub(crate) fn node(&self, id: Id) -> &Node {
        // Every number comes from `push`, and the list never shrinks.
        &self.nodes[id]
    }

    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err("pickle: a value is taken from an empty stack".to_owned());
        }
        self.stack
            .pop()
            .ok_or_else(|| "pickle: a value is taken from an empty stack".to_owned())
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.floor() => Ok(*id),
            _ => Err("pickle: a value is expected on an empty stack".to_owned()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let height = self
            .marks
            .pop()
            .ok_or_else(|| "pickle: a mark is missing".to_owned())?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    fn pop_tuple(&mut self, n: usize) -> Result<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn step(&mut self, op: u8, source: &mut dyn BufRead) -> Result<()> {
        match op {
            // Protocol, and the frames of newer protocols: nothing to do.
            0x80 => {
                byte(source)?;
            }
            0x95 => {
                bytes(source, 8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'N' => self.push(Node::None),
            0x88 | 0x89 => self.push(Node::Bool),
            b'K' => {
                let v = byte(source)?;
                self.push(Node::Int(i64::from(v)));
            }
            b'M' => {
                let v = number(source, 2)?;
                self.push(Node::Int(v as i64));
            }
            b'J' => {
                let v = number(source, 4)? as u32;
                self.push(Node::Int(i64::from(v.cast_signed())));
            }
            0x8a => {
                let n = byte(source)?;
                let raw = bytes(source, usize::from(n))?;
                self.push(long(raw));
            }
            b'G' => {
                bytes(source, 8)?;
                self.push(Node::Float);
            }
            b'X' => {
                let n = number(source, 4)?;
                self.push_text(source, n)?;
            }
            0x8c => {
                let n = byte(source)?;
                self.push_text(source, u64::from(n))?;
            }
            0x8d => {
                let n = number(source, 8)?;
                self.push_text(source, n)?;
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => self.pop_tuple(usize::from(op - 0x84))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items));
            }
            b']' => self.push(Node::List(Vec::new())),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => {
                let items = pairs(&self.pop_to_mark()?)?;
                self.push(Node::Dict(items));
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])?;
            }
            b'u' => {
                let items = pairs(&self.pop_to_mark()?)?;
                self.set(items)?;
            }
            b'q' => {
                let slot = byte(source)?;
                self.memo.insert(u32::from(slot), self.top()?);
            }
            b'r' => {
                let slot = number(source, 4)? as u32;
                self.memo.insert(slot, self.top()?);
            }
            0x94 => {
                let slot = self.memo.len() as u32;
                self.memo.insert(slot, self.top()?);
            }
            b'h' => {
                let slot = byte(source)?;
                self.recall(u32::from(slot))?;
            }
            b'j' => {
                let slot = number(source, 4)? as u32;
                self.recall(slot)?;
            }
            b'c' => {
                let (module, name) = (line(source)?, line(source)?);
                self.push(Node::Global(global(&module, &name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(name), Some(module)) = (self.text(name), self.text(module)) else {
                    return Err("pickle: a name isn't text".to_owned());
                };
                let global = global(module, name)?;
                self.push(Node::Global(global));
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Node::Storage(storage));
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.reduce(callable, arguments)?;
            }
            // The state of an object: attributes of a dictionary, which say nothing about its items.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            other => return Err(format!("pickle: operation 0x{other:02x} isn't supported")),
        }
        Ok(())
    }

    fn push_text(&mut self, source: &mut dyn BufRead, n: u64) -> Result<()> {
        let raw = bytes(source, usize::try_from(n).unwrap_or(usize::MAX))?;
        let text = String::from_utf8(raw).map_err(|_| "pickle: text isn't UTF-8".to_owned())?;
        self.push(Node::Text(text));
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        match self.memo.get(&slot) {
            Some(id) => {
                self.stack.push(*id);
                Ok(())
            }
            None => Err(format!("pickle: nothing was memorised under {slot}")),
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let id = self.top()?;
        match &mut self.nodes[id] {
            Node::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => Err("pickle: items are appended to what isn't a list".to_owned()),
        }
    }

    fn set(&mut self, items: Vec<(Id, Id)>) -> Result<()> {
        let id = self.top()?;
        match &mut self.nodes[id] {
            Node::Dict(dict) => {
                dict.extend(items);
                Ok(())
            }
            _ => Err("pickle: items are set on what isn't a dictionary".to_owned()),
        }
    }

    fn items(&self, id: Id) -> Result<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Ok(items),
            _ => Err("pickle: expected a tuple".to_owned()),
        }
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.node(id) {
            Node::Int(v) => usize::try_from(*v).map_err(|_| format!("pickle: a size of {v}")),
            _ => Err("pickle: expected a size".to_owned()),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let items = self.items(id)?;
        if items.len() > 16 {
            return Err(format!("pickle: a tensor of {} axes", items.len()));
        }
        items.iter().map(|&i| self.size(i)).collect()
    }

    /// `('storage', type, key, device, elements[, view])`.
    fn storage(&self, id: Id) -> Result<Storage> {
        let wrong = || "pickle: expected the description of a storage".to_owned();
        let items = self.items(id)?;
        let &[kind, class, key, _device, elements, ref rest @ ..] = items else {
            return Err(wrong());
        };
        let Node::Global(Global::Storage { name, dtype, bytes }) = self.node(class) else {
            return Err(wrong());
        };
        if self.text(kind) != Some("storage") {
            return Err(wrong());
        }
        let view_offset = match rest.first().map(|&v| self.node(v)) {
            Some(Node::Tuple(view)) => self.size(*view.get(1).ok_or_else(wrong)?)?,
            _ => 0,
        };
        Ok(Storage {
            key: self.text(key).ok_or_else(wrong)?.to_owned(),
            dtype: *dtype,
            type_name: name.clone(),
            element_bytes: *bytes,
            elements: self.size(elements)?,
            view_offset,
        })
    }

    fn reduce(&mut self, callable: Id, arguments: Id) -> Result<()> {
        let Node::Global(global) = self.node(callable) else {
            return Err("pickle: what is called isn't a name".to_owned());
        };
        let arguments = self.items(arguments)?;
        match (global, arguments) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::OrderedDict, &[items]) => {
                let items = self.items(items)?.to_vec();
                let mut dict = Vec::with_capacity(items.len());
                for item in items {
                    match self.items(item)? {
                        &[key, value] => dict.push((key, value)),
                        _ => return Err("pickle: expected a key and a value".to_owned()),
                    }
                }
                self.push(Node::Dict(dict));
            }
            (Global::Size, &[items]) => {
                let items = self.items(items)?.to_vec();
                self.push(Node::Tuple(items));
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let Node::Storage(storage) = self.node(storage) else {
                    return Err("pickle: a tensor without a storage".to_owned());
                };
                let info = TensorInfo {
                    storage: storage.clone(),
                    offset: self.size(offset)?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                };
                self.push(Node::Tensor(Box::new(info)));
            }
            (Global::RebuildParameter, &[tensor, ..]) => self.stack.push(tensor),
            _ => return Err(format!("pickle: {global:?} with wrong arguments")),
        }
        Ok(())
    }
}

fn global(module: &str, name: &str) -> Result<Global> {
    let storage = |dtype, bytes| {
        Ok(Global::Storage {
            name: name.to_owned(),
            dtype,
            bytes,
        })
    };
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        ("torch", "Size") => Ok(Global::Size),
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Ok(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
        ("torch", "FloatStorage") => storage(Some(DType::F32), 4),
        ("torch", "DoubleStorage") => storage(Some(DType::F64), 8),
        ("torch", "HalfStorage") => storage(Some(DType::F16), 2),
        ("torch", "BFloat16Storage") => storage(Some(DType::BF16), 2),
        ("torch", "LongStorage") => storage(Some(DType::I64), 8),
        ("torch", "ByteStorage") => storage(Some(DType::U8), 1),
        ("torch", "BoolStorage" | "CharStorage") => storage(None, 1),
        ("torch", "ShortStorage") => storage(None, 2),
        ("torch", "IntStorage") => storage(None, 4),
        ("torch", "ComplexFloatStorage") => storage(None, 8),
        _ => Err(format!(
            "pickle: the file names {module}.{name}, which isn't part of a state dict; nothing is ever executed"
        )),
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, []) = items.as_chunks::<2>() else {
        return Err("pickle: a key without a value".to_owned());
    };
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

fn byte(source: &mut dyn BufRead) -> Result<u8> {
    let mut one = [0];
    source.read_exact(&mut one).map_err(|_| truncated())?;
    Ok(one[0])
}

/// Exactly `n` bytes; memory grows with what is really there.
fn bytes(source: &mut dyn BufRead, n: usize) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    let got = Read::take(source, n as u64)
        .read_to_end(&mut raw)
        .map_err(|_| truncated())?;
    if got == n { Ok(raw) } else { Err(truncated()) }
}

fn truncated() -> String {
    "pickle: ends too early".to_owned()
}

fn number(source: &mut dyn BufRead, n: usize) -> Result<u64> {
    let mut raw = [0; 8];
    raw[..n].copy_from_slice(&bytes(source, n)?);
    Ok(u64::from_le_bytes(raw))
}

/// A two's complement integer of any length.
fn long(raw: Vec<u8>) -> Node {
    if raw.len() > 8 {
        return Node::Long(raw);
    }
    let sign = raw.last().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if sign { 0xff } else { 0 }; 8];
    wide[..raw.len()].copy_from_slice(&raw);
    Node::Int(i64::from_le_bytes(wide))
}

fn line(source: &mut dyn BufRead) -> Result<String> {
    let mut raw = Vec::new();
    Read::take(source, 1024)
        .read_until(b'\n', &mut raw)
        .map_err(|_| truncated())?;
    if raw.pop() != Some(b'\n') {
        return Err(truncated());
    }
    String::from_utf8(raw).map_err(|_| "pickle: a name isn't UTF-8".to_owned())
}
