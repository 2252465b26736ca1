//! PyTorch's two file formats: the zip archive of today, and the row of pickles from before version 1.6.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use candle_core::{DType, Tensor};

use super::Limits;
use super::element::{self, Values};
use super::pickle::{self, Id, Machine, Node, Storage, TensorInfo};
use crate::{Error, Result};

/// 0x1950a86a20f9469cfc6c, little-endian: how an old file begins.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;

/// Reads `path`, in which `key` names the state dict among others.
pub(crate) fn read_zip(
    path: &Path,
    key: Option<&str>,
    limits: &Limits,
) -> Result<BTreeMap<String, Tensor>> {
    let bad = |e: zip::result::ZipError| Error::malformed(path, format!("zip: {e}"));
    let file = File::open(path).map_err(Error::io(path))?;
    let file_bytes = file.metadata().map_err(Error::io(path))?.len();
    let mut zip = zip::ZipArchive::new(BufReader::new(file)).map_err(bad)?;
    let pickles: Vec<String> = zip
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .filter(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
        .collect();
    let [pickle_name] = pickles.as_slice() else {
        return Err(Error::malformed(
            path,
            format!(
                "PyTorch: expected one data.pkl in the archive, got {}",
                pickles.len()
            ),
        ));
    };
    let prefix = pickle_name.trim_end_matches("data.pkl").to_owned();

    if let Ok(mut entry) = zip.by_name(&format!("{prefix}byteorder")) {
        let mut order = String::new();
        let read = entry.by_ref().take(16).read_to_string(&mut order);
        if read.is_err() || order.trim() != "little" {
            return Err(Error::malformed(
                path,
                "PyTorch: values aren't little-endian",
            ));
        }
    }
    let (machine, root) = {
        let entry = zip.by_name(pickle_name).map_err(bad)?;
        limits.check_header(path, entry.size())?;
        let mut source = BufReader::new(entry.take(limits.header_bytes));
        pickle::read(&mut source).map_err(|e| Error::malformed(path, e))?
    };
    let infos = state_dict(path, &machine, root, key)?;
    let wanted = wanted_storages(path, &infos, file_bytes, limits)?;

    let mut storages = HashMap::new();
    for (key, storage) in wanted {
        let name = format!("{prefix}data/{key}");
        let mut entry = zip.by_name(&name).map_err(bad)?;
        let expected = (storage.elements as u64) * storage.element_bytes as u64;
        if entry.size() != expected {
            return Err(Error::malformed(
                path,
                format!(
                    "PyTorch: {name}: expected {expected} bytes, got {}",
                    entry.size()
                ),
            ));
        }
        storages.insert(key, read_storage(path, &mut entry, &storage)?);
    }
    assemble(path, infos, storages)
}

/// As [`read_zip`], for the old format.
pub(crate) fn read_legacy(
    path: &Path,
    key: Option<&str>,
    limits: &Limits,
) -> Result<BTreeMap<String, Tensor>> {
    let bad = |e: String| Error::malformed(path, e);
    let file = File::open(path).map_err(Error::io(path))?;
    let file_bytes = file.metadata().map_err(Error::io(path))?.len();
    let mut source = BufReader::new(file);

    let (machine, id) = pickle::read(&mut source).map_err(bad)?;
    match machine.node(id) {
        Node::Long(raw) if raw[..] == LEGACY_MAGIC => {}
        _ => {
            return Err(bad(
                "PyTorch: the magic number of an old file is missing".to_owned()
            ));
        }
    }
    let (machine, id) = pickle::read(&mut source).map_err(bad)?;
    match machine.node(id) {
        Node::Int(LEGACY_PROTOCOL) => {}
        other => {
            return Err(bad(format!(
                "PyTorch: protocol {other:?} of an old file isn't known"
            )));
        }
    }
    // What kind of machine wrote the file. Only little-endian ones are about.
    pickle::read(&mut source).map_err(bad)?;
    let (machine, root) = {
        let mut source = source.by_ref().take(limits.header_bytes);
        pickle::read(&mut source).map_err(bad)?
    };
    let infos = state_dict(path, &machine, root, key)?;
    let mut wanted = wanted_storages(path, &infos, file_bytes, limits)?;
    // Every storage of the file stands in a row, those of other dictionaries too.
    let all = storages_of(&machine);
    let (keys, root) = {
        let mut source = source.by_ref().take(limits.header_bytes);
        pickle::read(&mut source).map_err(bad)?
    };
    let Node::List(order) = keys.node(root) else {
        return Err(bad("PyTorch: the list of storages is missing".to_owned()));
    };
    let mut storages = HashMap::new();
    for &id in order {
        let Some(key) = keys.text(id) else {
            return Err(bad("PyTorch: a storage's key isn't text".to_owned()));
        };
        let Some(storage) = all.get(key) else {
            return Err(bad(format!("PyTorch: storage {key} isn't described")));
        };
        let mut count = [0; 8];
        source.read_exact(&mut count).map_err(Error::io(path))?;
        if u64::from_le_bytes(count) != storage.elements as u64 {
            return Err(bad(format!(
                "PyTorch: storage {key}: expected {} elements, got {}",
                storage.elements,
                u64::from_le_bytes(count)
            )));
        }
        match wanted.remove(key) {
            Some(storage) => {
                storages.insert(key.to_owned(), read_storage(path, &mut source, &storage)?);
            }
            None => {
                let bytes = storage
                    .elements
                    .checked_mul(storage.element_bytes)
                    .and_then(|n| i64::try_from(n).ok())
                    .ok_or_else(|| bad(format!("PyTorch: storage {key} overflows")))?;
                source.seek_relative(bytes).map_err(Error::io(path))?;
            }
        }
    }
    if source.stream_position().map_err(Error::io(path))? > file_bytes {
        return Err(bad("PyTorch: the last storage is cut off".to_owned()));
    }
    assemble(path, infos, storages)
}

type Infos = BTreeMap<String, TensorInfo>;

/// The tensors of the state dict: of the top dictionary, or of the one below it that `key` names, or of the only one
/// below it that has tensors.
fn state_dict(path: &Path, machine: &Machine, root: Id, key: Option<&str>) -> Result<Infos> {
    let bad = |e: String| Error::malformed(path, format!("PyTorch: {e}"));
    let Node::Dict(top) = machine.node(root) else {
        return Err(bad("expected a dictionary of tensors".to_owned()));
    };
    let below: BTreeMap<&str, Id> = top
        .iter()
        .filter(|(_, value)| matches!(machine.node(*value), Node::Dict(items) if !tensors(machine, items).is_empty()))
        .filter_map(|(key, value)| Some((machine.text(*key)?, *value)))
        .collect();
    let names = || below.keys().copied().collect::<Vec<_>>().join(", ");
    let chosen = match key {
        Some(key) => Some(*below.get(key).ok_or_else(|| {
            bad(format!(
                "no dictionary of tensors under {key}; there is: {}",
                names()
            ))
        })?),
        None if !tensors(machine, top).is_empty() => None,
        None => match below.len() {
            1 => below.values().next().copied(),
            0 => return Err(bad("the dictionary has no tensors".to_owned())),
            _ => {
                return Err(bad(format!(
                    "several dictionaries of tensors, name one of them: {}",
                    names()
                )));
            }
        },
    };
    let items = match chosen.map(|id| machine.node(id)) {
        Some(Node::Dict(items)) => items,
        _ => top,
    };
    Ok(tensors(machine, items))
}

fn tensors(machine: &Machine, items: &[(Id, Id)]) -> Infos {
    items
        .iter()
        .filter_map(|(key, value)| match machine.node(*value) {
            Node::Tensor(info) => Some((machine.text(*key)?.to_owned(), (**info).clone())),
            _ => None,
        })
        .collect()
}

fn storages_of(machine: &Machine) -> HashMap<String, Storage> {
    machine
        .storages()
        .map(|storage| (storage.key.clone(), storage.clone()))
        .collect()
}

/// The storages that the tensors need, after a check that every tensor lies within its own, and all within the limits.
fn wanted_storages(
    path: &Path,
    infos: &Infos,
    file_bytes: u64,
    limits: &Limits,
) -> Result<BTreeMap<String, Storage>> {
    let bad = |e: String| Error::malformed(path, format!("PyTorch: {e}"));
    let mut wanted: BTreeMap<String, Storage> = BTreeMap::new();
    let mut total = 0u64;
    for (name, info) in infos {
        let storage = &info.storage;
        let Some(dtype) = storage.dtype else {
            return Err(bad(format!(
                "{name}: {} isn't supported",
                storage.type_name
            )));
        };
        let bytes = element::size(&[storage.elements], dtype).map(|(_, bytes)| bytes);
        if bytes.is_none_or(|b| b > file_bytes) {
            return Err(bad(format!(
                "{name}: a storage of {} elements in a file of {file_bytes} bytes",
                storage.elements
            )));
        }
        let Some((_, bytes)) = element::size(&info.shape, dtype) else {
            return Err(bad(format!("{name}: shape {:?} overflows", info.shape)));
        };
        total = total.saturating_add(bytes);
        limits.check_tensors(path, total)?;
        if extent(info).is_none_or(|end| end > storage.elements) {
            return Err(bad(format!(
                "{name}: shape {:?} with strides {:?} from {} doesn't lie in its storage of {} elements",
                info.shape, info.strides, info.offset, storage.elements
            )));
        }
        match wanted.get(&storage.key) {
            Some(known) if known.dtype != storage.dtype || known.elements != storage.elements => {
                return Err(bad(format!("storage {} is described twice", storage.key)));
            }
            Some(_) => {}
            None => {
                wanted.insert(storage.key.clone(), storage.clone());
            }
        }
    }
    Ok(wanted)
}

/// One past the last element that a tensor uses of its storage.
fn extent(info: &TensorInfo) -> Option<usize> {
    if info.shape.len() != info.strides.len() {
        return None;
    }
    let start = info.offset.checked_add(info.storage.view_offset)?;
    if info.shape.contains(&0) {
        return Some(start);
    }
    info.shape
        .iter()
        .zip(&info.strides)
        .try_fold(start, |end, (side, stride)| {
            end.checked_add((side - 1).checked_mul(*stride)?)
        })?
        .checked_add(1)
}

fn read_storage(path: &Path, source: &mut dyn Read, storage: &Storage) -> Result<Values> {
    let dtype = storage.dtype.unwrap_or(DType::F32);
    element::read(source, dtype, storage.elements).map_err(Error::io(path))
}

/// Gives every tensor its values. A storage that one tensor fills is moved, any other is copied from.
fn assemble(
    path: &Path,
    infos: Infos,
    storages: HashMap<String, Values>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut uses: HashMap<String, usize> = HashMap::new();
    for info in infos.values() {
        *uses.entry(info.storage.key.clone()).or_default() += 1;
    }
    let mut storages: HashMap<String, Stored> = storages
        .into_iter()
        .map(|(key, values)| (key, Stored::Values(values)))
        .collect();
    let mut out = BTreeMap::new();
    for (name, info) in infos {
        let key = &info.storage.key;
        let Some(stored) = storages.remove(key) else {
            return Err(Error::malformed(
                path,
                format!("PyTorch: {name}: storage {key} is missing"),
            ));
        };
        let flat = match stored {
            Stored::Values(values) => values.into_tensor(&[info.storage.elements])?,
            Stored::Flat(flat) => flat,
        };
        let start = info.offset + info.storage.view_offset;
        let elements = info.shape.iter().product();
        let tensor = if is_contiguous(&info) {
            let part = flat.narrow(0, start, elements)?;
            let part = part.reshape(info.shape.as_slice())?;
            // A part of a larger storage must not keep all of it alive.
            if elements == info.storage.elements {
                part
            } else {
                part.copy()?
            }
        } else {
            let index =
                Tensor::from_vec(positions(&info, start, elements), elements, flat.device())?;
            flat.index_select(&index, 0)?
                .reshape(info.shape.as_slice())?
        };
        if let Some(left) = uses.get_mut(key) {
            *left -= 1;
            if *left > 0 {
                storages.insert(key.clone(), Stored::Flat(flat));
            }
        }
        out.insert(name, tensor);
    }
    Ok(out)
}

enum Stored {
    Values(Values),
    Flat(Tensor),
}

fn is_contiguous(info: &TensorInfo) -> bool {
    let mut expected = 1;
    for (side, stride) in info.shape.iter().zip(&info.strides).rev() {
        if *side != 1 && *stride != expected {
            return false;
        }
        expected *= side;
    }
    true
}

/// The position of every element in the storage, in the order of the shape.
fn positions(info: &TensorInfo, start: usize, elements: usize) -> Vec<i64> {
    let mut positions = Vec::with_capacity(elements);
    let mut at = vec![0; info.shape.len()];
    let mut position = start;
    for _ in 0..elements {
        positions.push(position as i64);
        for axis in (0..at.len()).rev() {
            at[axis] += 1;
            position += info.strides[axis];
            if at[axis] < info.shape[axis] {
                break;
            }
            position -= at[axis] * info.strides[axis];
            at[axis] = 0;
        }
    }
    positions
}
