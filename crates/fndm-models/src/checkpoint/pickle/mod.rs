//! The part of Python's pickle that PyTorch's files need. Nothing is ever called: a name that isn't on the list of
//! [`Global`] is an error.
//!
//! Values live in one flat list and refer to each other by number, so neither a deep nor a circular value can exhaust
//! the stack. Every operation takes what it allocates from a budget first, so a few bytes that ask for many copies of a
//! long list are an error, too.

mod source;
mod value;

use std::collections::HashMap;
use std::io::BufRead;
use std::rc::Rc;

use source::{Result, Source, bad, fault};
use value::{Global, integer};

use super::element::MAX_AXES;

pub(crate) use source::Fault;
pub(crate) use value::{Id, Node, Storage, TensorInfo, shortened};

/// What an operation costs whatever it does: its places on the stack and in the memo.
const STEP_BYTES: usize = 24;

/// All values of one pickle.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

/// Reads one pickle of at most about `budget` bytes in the file and in memory: all its values, and the number of the
/// last.
pub(crate) fn read(source: &mut dyn BufRead, budget: u64) -> Result<(Machine, Id)> {
    let mut source = Source::new(source, budget);
    let mut machine = Machine::default();
    loop {
        let op = source.byte()?;
        if op == b'.' {
            let id = machine.pop()?;
            return Ok((machine, id));
        }
        source.spend(STEP_BYTES)?;
        machine.step(op, &mut source)?;
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
            Node::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }

    fn push(&mut self, node: Node, source: &mut Source<'_>) -> Result<()> {
        source.spend(size_of::<Node>())?;
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return bad("a value is taken from an empty stack");
        }
        self.stack
            .pop()
            .ok_or_else(|| fault("a value is taken from an empty stack"))
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.floor() => Ok(*id),
            _ => bad("a value is expected on an empty stack"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let height = self.marks.pop().ok_or_else(|| fault("a mark is missing"))?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    fn step(&mut self, op: u8, source: &mut Source<'_>) -> Result<()> {
        match op {
            // Protocol, and the frames of newer protocols: nothing to do.
            0x80 => {
                source.byte()?;
            }
            0x95 => {
                source.number(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'N' => self.push(Node::None, source)?,
            0x88 | 0x89 => self.push(Node::Bool, source)?,
            b'K' => {
                let v = source.byte()?;
                self.push(Node::Int(i64::from(v)), source)?;
            }
            b'M' => {
                let v = source.number(2)?;
                self.push(Node::Int(v as i64), source)?;
            }
            b'J' => {
                let v = source.number(4)? as u32;
                self.push(Node::Int(i64::from(v.cast_signed())), source)?;
            }
            0x8a => {
                let n = source.byte()?;
                let raw = source.bytes(u64::from(n))?;
                self.push(integer(raw), source)?;
            }
            b'G' => {
                source.number(8)?;
                self.push(Node::Float, source)?;
            }
            b'X' => {
                let n = source.number(4)?;
                self.push_text(source, n)?;
            }
            0x8c => {
                let n = source.byte()?;
                self.push_text(source, u64::from(n))?;
            }
            0x8d => {
                let n = source.number(8)?;
                self.push_text(source, n)?;
            }
            b')' => self.push(Node::Tuple(Vec::new()), source)?,
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
                items.reverse();
                source.spend(size_of_val(&items[..]))?;
                self.push(Node::Tuple(items), source)?;
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items), source)?;
            }
            b']' => self.push(Node::List(Vec::new()), source)?,
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items), source)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b'}' => self.push(Node::Dict(Vec::new()), source)?,
            b'd' => {
                let items = pairs(&self.pop_to_mark()?)?;
                self.push(Node::Dict(items), source)?;
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
                let slot = source.byte()?;
                self.memorise(u32::from(slot))?;
            }
            b'r' => {
                let slot = source.number(4)? as u32;
                self.memorise(slot)?;
            }
            0x94 => self.memorise(self.memo.len() as u32)?,
            b'h' => {
                let slot = source.byte()?;
                self.recall(u32::from(slot))?;
            }
            b'j' => {
                let slot = source.number(4)? as u32;
                self.recall(slot)?;
            }
            b'c' => {
                let (module, name) = (source.line()?, source.line()?);
                self.push(Node::Global(Global::named(&module, &name)?), source)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(name), Some(module)) = (self.text(name), self.text(module)) else {
                    return bad("a name isn't text");
                };
                let global = Global::named(module, name)?;
                self.push(Node::Global(global), source)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                source.spend(size_of::<Storage>())?;
                self.push(Node::Storage(Rc::new(storage)), source)?;
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.reduce(callable, arguments, source)?;
            }
            // The state of an object: attributes of a dictionary, which say nothing about its items.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            other => return bad(format!("operation 0x{other:02x} isn't supported")),
        }
        Ok(())
    }

    fn push_text(&mut self, source: &mut Source<'_>, n: u64) -> Result<()> {
        let text = String::from_utf8(source.bytes(n)?).map_err(|_| fault("text isn't UTF-8"))?;
        self.push(Node::Text(text.into()), source)
    }

    fn memorise(&mut self, slot: u32) -> Result<()> {
        self.memo.insert(slot, self.top()?);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        match self.memo.get(&slot) {
            Some(id) => {
                self.stack.push(*id);
                Ok(())
            }
            None => bad(format!("nothing was memorised under {slot}")),
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let id = self.top()?;
        match &mut self.nodes[id] {
            Node::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => bad("items are appended to what isn't a list"),
        }
    }

    fn set(&mut self, items: Vec<(Id, Id)>) -> Result<()> {
        let id = self.top()?;
        match &mut self.nodes[id] {
            Node::Dict(dict) => {
                dict.extend(items);
                Ok(())
            }
            _ => bad("items are set on what isn't a dictionary"),
        }
    }

    fn items(&self, id: Id) -> Result<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Ok(items),
            _ => bad("expected a tuple"),
        }
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.node(id) {
            Node::Int(v) => usize::try_from(*v).map_err(|_| fault(format!("a size of {v}"))),
            _ => bad("expected a size"),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let items = self.items(id)?;
        if items.len() > MAX_AXES {
            return bad(format!("a tensor of {} axes", items.len()));
        }
        items.iter().map(|&i| self.size(i)).collect()
    }

    /// `('storage', type, key, device, elements[, view])`.
    fn storage(&self, id: Id) -> Result<Storage> {
        let wrong = || fault("expected the description of a storage");
        let items = self.items(id)?;
        let &[kind, class, key, _device, elements, ref rest @ ..] = items else {
            return Err(wrong());
        };
        let Node::Global(Global::Storage(class)) = self.node(class) else {
            return Err(wrong());
        };
        let Node::Text(key) = self.node(key) else {
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
            key: key.clone(),
            kind: class,
            elements: self.size(elements)?,
            view_offset,
        })
    }

    fn reduce(&mut self, callable: Id, arguments: Id, source: &mut Source<'_>) -> Result<()> {
        let &Node::Global(global) = self.node(callable) else {
            return bad("what is called isn't a name");
        };
        let arguments = self.items(arguments)?;
        let made = match (global, arguments) {
            (Global::OrderedDict, []) => Node::Dict(Vec::new()),
            (Global::OrderedDict, &[items]) => {
                let items = self.items(items)?;
                source.spend(2 * size_of_val(items))?;
                let pair = |&item: &Id| match self.items(item)? {
                    &[key, value] => Ok((key, value)),
                    _ => bad("expected a key and a value"),
                };
                Node::Dict(items.iter().map(pair).collect::<Result<_>>()?)
            }
            (Global::Size, &[items]) => {
                let items = self.items(items)?;
                source.spend(size_of_val(items))?;
                Node::Tuple(items.to_vec())
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let Node::Storage(storage) = self.node(storage) else {
                    return bad("a tensor without a storage");
                };
                let info = TensorInfo {
                    storage: storage.clone(),
                    offset: self.size(offset)?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                };
                let axes = info.shape.len() + info.strides.len();
                source.spend(size_of::<TensorInfo>() + axes * size_of::<usize>())?;
                Node::Tensor(Rc::new(info))
            }
            (Global::RebuildParameter, &[tensor, ..]) => {
                self.stack.push(tensor);
                return Ok(());
            }
            (global, _) => return bad(format!("{global:?} with wrong arguments")),
        };
        self.push(made, source)
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, []) = items.as_chunks::<2>() else {
        return bad("a key without a value");
    };
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
