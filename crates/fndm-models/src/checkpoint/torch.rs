//! PyTorch's two file formats: the zip archive of today, and the row of pickles from before version 1.6.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::rc::Rc;

use candle_core::{DType, Tensor};

use super::Limits;
use super::choose::{Infos, state_dict};
use super::element::{self, Values, View};
use super::pickle::{self, Fault, Id, Machine, Node, Storage, TensorInfo, shortened};
use crate::{Error, Result};

/// 0x1950a86a20f9469cfc6c, little-endian: how an old file begins.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;

type Tensors = BTreeMap<String, Tensor>;

/// Reads `path`, in which `key` names the state dict among others.
///
/// Checksums aren't compared: `torch.save` may be told to leave them out, and `torch.load` doesn't look at them either.
pub(crate) fn read_zip(path: &Path, key: Option<&str>, limits: &Limits) -> Result<Tensors> {
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

    let name = format!("{prefix}byteorder");
    if let Ok(mut entry) = zip.by_name(&name) {
        stored(path, &name, &entry)?;
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
        stored(path, pickle_name, &entry)?;
        limits.check_header(path, entry.size())?;
        unpickle(path, &mut BufReader::new(entry), limits)?
    };
    let wanted = wanted(
        path,
        state_dict(path, &machine, root, key)?,
        file_bytes,
        limits,
    )?;

    let mut out = BTreeMap::new();
    for (key, wanted) in wanted {
        let name = format!("{prefix}data/{key}");
        let mut entry = zip.by_name(&name).map_err(bad)?;
        stored(path, &name, &entry)?;
        if entry.size() != wanted.bytes {
            return Err(Error::malformed(
                path,
                format!(
                    "PyTorch: {}: expected {} bytes, got {}",
                    shortened(&name),
                    wanted.bytes,
                    entry.size()
                ),
            ));
        }
        wanted.read(path, &mut entry, &mut out)?;
    }
    Ok(out)
}

/// PyTorch never compresses, and what is compressed might unpack to anything.
fn stored<R: Read>(path: &Path, name: &str, entry: &zip::read::ZipFile<'_, R>) -> Result<()> {
    match entry.compression() {
        zip::CompressionMethod::Stored => Ok(()),
        other => Err(Error::malformed(
            path,
            format!(
                "PyTorch: {}: expected entries that aren't compressed, as torch.save writes them, got {other}",
                shortened(name)
            ),
        )),
    }
}

/// As [`read_zip`], for the old format.
pub(crate) fn read_legacy(path: &Path, key: Option<&str>, limits: &Limits) -> Result<Tensors> {
    let bad = |e: &str| Error::malformed(path, format!("PyTorch: {e}"));
    let file = File::open(path).map_err(Error::io(path))?;
    let file_bytes = file.metadata().map_err(Error::io(path))?.len();
    let mut source = BufReader::new(file);

    let (machine, id) = unpickle(path, &mut source, limits)?;
    match machine.node(id) {
        Node::Long(raw) if raw[..] == LEGACY_MAGIC => {}
        _ => return Err(bad("the magic number of an old file is missing")),
    }
    let (machine, id) = unpickle(path, &mut source, limits)?;
    match machine.node(id) {
        Node::Int(LEGACY_PROTOCOL) => {}
        _ => return Err(bad("the protocol of an old file isn't 1001")),
    }
    // What kind of machine wrote the file. Only little-endian ones are about.
    unpickle(path, &mut source, limits)?;
    let (machine, root) = unpickle(path, &mut source, limits)?;
    let mut wanted = wanted(
        path,
        state_dict(path, &machine, root, key)?,
        file_bytes,
        limits,
    )?;
    // Every storage of the file stands in a row, those of other dictionaries too.
    let all: HashMap<&str, &Storage> = machine.storages().map(|s| (&*s.key, s)).collect();
    let (keys, root) = unpickle(path, &mut source, limits)?;
    let Node::List(order) = keys.node(root) else {
        return Err(bad("the list of storages is missing"));
    };
    let mut out = BTreeMap::new();
    for &id in order {
        let Some(key) = keys.text(id) else {
            return Err(bad("a storage's key isn't text"));
        };
        let name = shortened(key);
        let Some(storage) = all.get(key) else {
            return Err(bad(&format!("storage {name} isn't described")));
        };
        let mut count = [0; 8];
        source
            .read_exact(&mut count)
            .map_err(Error::reading(path))?;
        if u64::from_le_bytes(count) != storage.elements as u64 {
            return Err(bad(&format!(
                "storage {name}: expected {} elements, got {}",
                storage.elements,
                u64::from_le_bytes(count)
            )));
        }
        match wanted.remove(key) {
            Some(wanted) => wanted.read(path, &mut source, &mut out)?,
            None => {
                let bytes = storage
                    .elements
                    .checked_mul(storage.kind.element_bytes)
                    .and_then(|n| i64::try_from(n).ok())
                    .ok_or_else(|| bad(&format!("storage {name} overflows")))?;
                source.seek_relative(bytes).map_err(Error::io(path))?;
            }
        }
    }
    if source.stream_position().map_err(Error::io(path))? > file_bytes {
        return Err(bad("cut short: the last storage isn't whole"));
    }
    match wanted.keys().next() {
        Some(key) => Err(bad(&format!("storage {} is missing", shortened(key)))),
        None => Ok(out),
    }
}

fn unpickle(path: &Path, source: &mut dyn BufRead, limits: &Limits) -> Result<(Machine, Id)> {
    pickle::read(source, limits.header_bytes).map_err(|fault| match fault {
        Fault::Malformed(reason) => Error::malformed(path, reason),
        Fault::TooLarge => limits.header_exceeded(path),
    })
}

/// A storage that tensors need, with those tensors. All has been checked: every tensor lies within the storage, and the
/// storage isn't larger than the file.
struct Wanted {
    dtype: DType,
    elements: usize,
    bytes: u64,
    tensors: Vec<(String, Rc<TensorInfo>)>,
}

fn wanted(
    path: &Path,
    infos: Infos,
    file_bytes: u64,
    limits: &Limits,
) -> Result<BTreeMap<Rc<str>, Wanted>> {
    let mut wanted: BTreeMap<Rc<str>, Wanted> = BTreeMap::new();
    let (mut of_tensors, mut of_storages) = (0u64, 0u64);
    for (name, info) in infos {
        let bad = |e: String| {
            let name = shortened(&name);
            Error::malformed(path, format!("PyTorch: {name}: {e}"))
        };
        let storage = &info.storage;
        let Some(dtype) = storage.kind.dtype else {
            return Err(bad(format!("{} isn't supported", storage.kind.name)));
        };
        let bytes = match element::size(&[storage.elements], dtype) {
            Some((_, bytes)) if bytes <= file_bytes => bytes,
            _ => {
                return Err(bad(format!(
                    "a storage of {} elements in a file of {file_bytes} bytes",
                    storage.elements
                )));
            }
        };
        let Some((_, tensor_bytes)) = element::size(&info.shape, dtype) else {
            return Err(bad(format!("shape {:?} overflows", info.shape)));
        };
        of_tensors = of_tensors.saturating_add(tensor_bytes);
        limits.check_tensors(path, of_tensors)?;
        if extent(&info).is_none_or(|end| end > storage.elements) {
            return Err(bad(format!(
                "shape {:?} with strides {:?} from {} doesn't lie in its storage of {} elements",
                info.shape, info.strides, info.offset, storage.elements
            )));
        }
        match wanted.get_mut(&storage.key) {
            Some(known) if known.dtype != dtype || known.elements != storage.elements => {
                return Err(bad("its storage is described twice".to_owned()));
            }
            Some(known) => known.tensors.push((name, info)),
            None => {
                of_storages = of_storages.saturating_add(bytes);
                limits.check_tensors(path, of_storages)?;
                let new = Wanted {
                    dtype,
                    elements: storage.elements,
                    bytes,
                    tensors: vec![(name, info.clone())],
                };
                wanted.insert(storage.key.clone(), new);
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

impl Wanted {
    /// Reads the storage and gives every tensor its values. A storage that one tensor fills becomes that tensor, of any
    /// other the tensors are copies, so that none keeps more alive than its own values.
    fn read(self, path: &Path, source: &mut dyn Read, out: &mut Tensors) -> Result<()> {
        let values =
            element::read(source, self.dtype, self.elements).map_err(Error::reading(path))?;
        if let [(name, info)] = self.tensors.as_slice()
            && view(info).is_contiguous()
            && info.shape.iter().product::<usize>() == values.len()
        {
            out.insert(name.clone(), values.into_tensor(&info.shape)?);
            return Ok(());
        }
        for (name, info) in self.tensors {
            let part: Values = values.copied(view(&info));
            out.insert(name, part.into_tensor(&info.shape)?);
        }
        Ok(())
    }
}

fn view(info: &TensorInfo) -> View<'_> {
    View {
        start: info.offset + info.storage.view_offset,
        shape: &info.shape,
        strides: &info.strides,
    }
}
