//! Crafted and broken checkpoints: always an error that says what is wrong, never a panic, never much memory.

use std::io::Write;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use fndm_models::{Error, Limits, StateDict};
use proptest::prelude::*;

/// Small, so that a reader that trusts a file fails the test on any machine.
const LIMITS: Limits = Limits {
    tensor_bytes: 1 << 20,
    header_bytes: 1 << 16,
};

fn try_read(bytes: &[u8]) -> Result<StateDict, Error> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    StateDict::read(file.path(), &LIMITS)
}

fn error_of(bytes: &[u8]) -> String {
    try_read(bytes).unwrap_err().to_string()
}

fn safetensors(header: &str, values: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + values, 0);
    bytes
}

fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

fn one(dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!("{{{}}}", entry("a", dtype, shape, from, to))
}

fn sound() -> StateDict {
    let device = &Device::Cpu;
    let tensors = [
        ("a.weight", Tensor::ones((2, 3), DType::F32, device)),
        ("b", Tensor::zeros(4, DType::F16, device)),
        ("c", Tensor::zeros((), DType::I64, device)),
    ];
    StateDict::new(
        tensors
            .into_iter()
            .map(|(n, t)| (n.to_owned(), t.unwrap()))
            .collect(),
    )
}

fn written(save: impl Fn(&StateDict, PathBuf) -> fndm_models::Result<()>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    save(&sound(), path.clone()).unwrap();
    std::fs::read(path).unwrap()
}

/// A zip archive of stored files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn safetensors_that_lie() {
    assert!(try_read(&safetensors(&one("F32", "[2]", 0, 8), 8)).is_ok());
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "neither"),
        (vec![0; 7], "neither"),
        (safetensors("", 0), "neither"),
        (safetensors("{", 0), "header"),
        (safetensors("{}", 4), "expected 0 bytes of values"),
        (
            safetensors(&one("F32", "[2]", 0, 8), 7),
            "expected 8 bytes of values",
        ),
        (
            safetensors(&one("F32", "[2]", 0, 8), 9),
            "expected 8 bytes of values",
        ),
        (
            safetensors(&one("F32", "[3]", 0, 8), 8),
            "expected 12 bytes from offset 0",
        ),
        (safetensors(&one("F32", "[2]", 4, 12), 12), "from offset 0"),
        (safetensors(&one("F32", "[2]", 8, 0), 8), "from offset 0"),
        (
            safetensors(&one("F7", "[2]", 0, 8), 8),
            "type F7 isn't supported",
        ),
        (safetensors(&one("F32", "[-1]", 0, 8), 8), "header"),
        // 100 GB declared in a file of a hundred bytes.
        (
            safetensors(&one("F32", "[25000000000]", 0, 100_000_000_000), 8),
            "bytes of values",
        ),
        (
            safetensors(&one("F32", "[4294967296,4294967296,4294967296]", 0, 8), 8),
            "overflows",
        ),
        // No element, and sides whose product overflows all the same.
        (
            safetensors(&one("F32", "[0,4294967296,4294967296,4294967296]", 0, 0), 0),
            "overflows",
        ),
        (
            safetensors(&one("U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", 0, 1), 1),
            "17 axes",
        ),
        (
            safetensors(
                &format!(
                    "{{{},{}}}",
                    entry("a", "U8", "[2]", 0, 2),
                    entry("b", "U8", "[2]", 1, 3)
                ),
                3,
            ),
            "from offset 2",
        ),
        (
            safetensors(
                &format!(
                    "{{{},{}}}",
                    entry("a", "U8", "[1]", 0, 1),
                    entry("a", "U8", "[1]", 1, 2)
                ),
                2,
            ),
            "named twice",
        ),
        (
            safetensors(&one("U8", "[2000000]", 0, 2_000_000), 2_000_000),
            "limit",
        ),
        (
            safetensors(&format!("{{{}}}", " ".repeat(1 << 17)), 0),
            "limit",
        ),
    ];
    for (bytes, wanted) in cases {
        let error = error_of(&bytes);
        assert!(error.contains(wanted), "expected \"{wanted}\" in: {error}");
    }
    // A header longer than the file, and one of almost 2^64 bytes.
    for length in [1000u64, u64::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        assert!(
            error_of(&bytes).contains("a header of"),
            "{}",
            error_of(&bytes)
        );
    }
}

/// The pickle of `{"a": tensor}` with the arguments given as pickled values.
fn tensor_pickle(
    storage: &str,
    elements: &[u8],
    offset: &[u8],
    shape: &[u8],
    stride: &[u8],
) -> Vec<u8> {
    let mut p = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    p.extend(b"X\x07\x00\x00\x00storagectorch\n");
    p.extend(storage.as_bytes());
    p.extend(b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu");
    p.extend(elements);
    p.extend(b"tQ");
    p.extend(offset);
    p.extend(shape);
    p.extend(stride);
    p.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    p
}

fn pt(pickle: &[u8], values: &[u8]) -> Vec<u8> {
    archive(&[("x/data.pkl", pickle), ("x/data/0", values)])
}

#[test]
fn pytorch_files_that_lie() {
    let sound = tensor_pickle(
        "FloatStorage",
        b"K\x02",
        b"K\x00",
        b"K\x02\x85",
        b"K\x01\x85",
    );
    assert!(try_read(&pt(&sound, &[0; 8])).is_ok());
    let long = |n: u64| [&[0x8a, 8][..], &n.to_le_bytes()].concat();
    let with = |pickle: &[u8]| pt(pickle, &[0; 8]);
    let two: (&[u8], &[u8], &[u8], &[u8]) = (b"K\x02", b"K\x00", b"K\x02\x85", b"K\x01\x85");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (archive(&[]), "neither"),
        (archive(&[("x/other", b"")]), "expected one data.pkl"),
        (
            archive(&[("x/data.pkl", &sound), ("y/data.pkl", &sound)]),
            "expected one data.pkl",
        ),
        (archive(&[("x/data.pkl", &sound)]), "zip"),
        (
            archive(&[
                ("x/data.pkl", &sound),
                ("x/data/0", &[0; 8]),
                ("x/byteorder", b"big"),
            ]),
            "little-endian",
        ),
        (pt(&sound, &[0; 7]), "expected 8 bytes, got 7"),
        (
            with(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."),
            "os.system",
        ),
        (with(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), "os.system"),
        (with(b"\x80\x02K\x01."), "expected a dictionary"),
        (with(b"\x80\x02}."), "no tensors"),
        (with(b"\x80\x02"), "ends too early"),
        (with(b"\x80\x02."), "empty stack"),
        (with(b"\x80\x02t."), "mark is missing"),
        (with(b"\x80\x02h\x05."), "memorised"),
        (with(b"\x80\x02}K\x01\x85u."), "mark is missing"),
        (with(b"\x80\x02](K\x01u."), "without a value"),
        (with(b"\x80\x02}K\x01a."), "isn't a list"),
        (with(b"\x80\x02]K\x01K\x01s."), "isn't a dictionary"),
        (with(b"\x80\x02i."), "isn't supported"),
        (with(b"\x80\x02K\x01)R."), "isn't a name"),
        (
            with(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."),
            "wrong arguments",
        ),
        (with(b"\x80\x02K\x01Q."), "expected a tuple"),
        (with(b"\x80\x02)Q."), "description of a storage"),
        // Four gigabytes of text that aren't there.
        (with(b"\x80\x02X\xff\xff\xff\xffabc."), "ends too early"),
        (
            with(b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc."),
            "ends too early",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                &long(25_000_000_000),
                two.1,
                two.2,
                two.3,
            )),
            "25000000000 elements in a file",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                &long(1 << 62),
                two.1,
                two.2,
                two.3,
            )),
            "elements in a file",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                two.0,
                b"K\x01",
                two.2,
                two.3,
            )),
            "doesn't lie",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                two.0,
                &long(u64::MAX >> 1),
                two.2,
                two.3,
            )),
            "doesn't lie",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                two.0,
                &long(u64::MAX),
                two.2,
                two.3,
            )),
            "a size of -1",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                two.0,
                two.1,
                b"K\x03\x85",
                two.3,
            )),
            "doesn't lie",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                two.0,
                two.1,
                two.2,
                b"K\x02\x85",
            )),
            "doesn't lie",
        ),
        (
            with(&tensor_pickle("FloatStorage", two.0, two.1, two.2, b")")),
            "doesn't lie",
        ),
        // A hundred million elements that are all the same one: more than the limit.
        (
            with(&tensor_pickle(
                "FloatStorage",
                two.0,
                two.1,
                b"J\x00\xe1\xf5\x05\x85",
                b"K\x00\x85",
            )),
            "limit",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                two.0,
                two.1,
                &[&long(1 << 40)[..], &long(1 << 40), b"\x86"].concat(),
                b"K\x00K\x00\x86",
            )),
            "overflows",
        ),
        (
            with(&tensor_pickle(
                "FloatStorage",
                two.0,
                two.1,
                &[b"K\x00", &long(1 << 40)[..], &long(1 << 40), b"\x87"].concat(),
                b"K\x00K\x00K\x00\x87",
            )),
            "overflows",
        ),
        (
            with(&tensor_pickle("IntStorage", two.0, two.1, two.2, two.3)),
            "IntStorage",
        ),
        (
            with(&tensor_pickle("EvilStorage", two.0, two.1, two.2, two.3)),
            "torch.EvilStorage",
        ),
    ];
    for (bytes, wanted) in cases {
        let error = error_of(&bytes);
        assert!(error.contains(wanted), "expected \"{wanted}\" in: {error}");
    }
}

#[test]
fn deep_and_circular_pickles_end() {
    let limits = Limits {
        header_bytes: 16 << 20,
        ..LIMITS
    };
    let error_of = |bytes: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let error = StateDict::read(file.path(), &limits).unwrap_err();
        error.to_string()
    };
    // Thirty thousand lists in each other.
    let mut deep = b"\x80\x02".to_vec();
    deep.extend(vec![b']'; 30_000]);
    deep.extend(vec![b'a'; 29_999]);
    deep.push(b'.');
    assert!(error_of(&pt(&deep, b"")).contains("expected a dictionary"));
    // A dictionary that holds itself.
    let circular = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.";
    assert!(error_of(&pt(circular, b"")).contains("no tensors"));
    // Lists that double: 2^60 elements if they were copied.
    let mut doubling = b"\x80\x02]q\x00".to_vec();
    for slot in 0..60u8 {
        doubling.extend([b'h', slot, b'h', slot, 0x86, b'q', slot + 1]);
    }
    doubling.push(b'.');
    assert!(error_of(&pt(&doubling, b"")).contains("expected a dictionary"));
}

/// An entry that says that it is compressed, in both of the places that say so.
#[test]
fn compressed_entries_are_refused() {
    let sound = tensor_pickle(
        "FloatStorage",
        b"K\x02",
        b"K\x00",
        b"K\x02\x85",
        b"K\x01\x85",
    );
    for which in 0..2 {
        let mut bytes = pt(&sound, &[0; 8]);
        for (mark, at) in [(&b"PK\x03\x04"[..], 8), (b"PK\x01\x02", 10)] {
            let starts: Vec<usize> = (0..bytes.len() - 4)
                .filter(|i| bytes[*i..].starts_with(mark))
                .collect();
            bytes[starts[which] + at] = 8;
        }
        let error = error_of(&bytes);
        assert!(
            error.contains("ompress") || error.contains("Deflate"),
            "{error}"
        );
    }
}

#[test]
fn strided_and_shared_storages() {
    let values: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
    // A 3x2 view of a 2x3 storage, transposed.
    let transposed = tensor_pickle(
        "FloatStorage",
        b"K\x06",
        b"K\x00",
        b"K\x03K\x02\x86",
        b"K\x01K\x03\x86",
    );
    let state = try_read(&pt(&transposed, &values)).unwrap();
    let got: Vec<Vec<f32>> = state.get("a").unwrap().to_vec2().unwrap();
    assert_eq!(got, [[0., 3.], [1., 4.], [2., 5.]]);
    // A part from the middle.
    let part = tensor_pickle(
        "FloatStorage",
        b"K\x06",
        b"K\x02",
        b"K\x03\x85",
        b"K\x01\x85",
    );
    let state = try_read(&pt(&part, &values)).unwrap();
    assert_eq!(
        state.get("a").unwrap().to_vec1::<f32>().unwrap(),
        [2., 3., 4.]
    );
}

#[test]
fn truncated_at_every_byte() {
    for bytes in [
        written(StateDict::save),
        written(StateDict::save_torch),
        legacy(&[]),
    ] {
        assert!(try_read(&bytes).is_ok());
        for n in 0..bytes.len() {
            assert!(
                try_read(&bytes[..n]).is_err(),
                "{n} of {} bytes",
                bytes.len()
            );
        }
    }
}

/// A file of the format before PyTorch 1.6, with two tensors of one storage and one of another, and `extra` at the end.
fn legacy(extra: &[u8]) -> Vec<u8> {
    let storage = |class: &str, key: &str, n: u8| {
        let mut p = b"(X\x07\x00\x00\x00storagectorch\n".to_vec();
        p.extend(format!("{class}\n").as_bytes());
        p.push(b'X');
        p.extend((key.len() as u32).to_le_bytes());
        p.extend(key.as_bytes());
        p.extend([
            b'X', 3, 0, 0, 0, b'c', b'p', b'u', b'K', n, b'N', b't', b'Q',
        ]);
        p
    };
    let tensor = |name: u8, storage: &[u8], offset: u8, n: u8| {
        let mut p = vec![b'X', 1, 0, 0, 0, name];
        p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        p.extend(storage);
        p.extend([b'K', offset, b'K', n, 0x85, b'K', 1, 0x85, 0x89]);
        p.extend(b"ccollections\nOrderedDict\n)RtR");
        p
    };
    let mut p = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    p.extend(b"\x80\x02M\xe9\x03.");
    p.extend(b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.");
    p.extend(b"\x80\x02ccollections\nOrderedDict\n)R(");
    p.extend(tensor(b'a', &storage("FloatStorage", "111", 4), 0, 2));
    p.extend(tensor(b'b', &storage("FloatStorage", "111", 4), 1, 3));
    p.extend(tensor(b'c', &storage("HalfStorage", "22", 1), 0, 1));
    p.extend(b"u}X\x09\x00\x00\x00_metadata}sb.");
    p.extend(b"\x80\x02](X\x03\x00\x00\x00111X\x02\x00\x00\x0022e.");
    p.extend(4u64.to_le_bytes());
    for v in [1f32, 2., 3., 4.] {
        p.extend(v.to_le_bytes());
    }
    p.extend(1u64.to_le_bytes());
    p.extend(0x3c00u16.to_le_bytes());
    p.extend(extra);
    p
}

#[test]
fn the_format_before_1_6() {
    let state = try_read(&legacy(&[])).unwrap();
    let values = |name: &str| -> Vec<f32> {
        let t = state.get(name).unwrap().to_dtype(DType::F32).unwrap();
        t.to_vec1().unwrap()
    };
    assert_eq!(values("a"), [1., 2.]);
    assert_eq!(values("b"), [2., 3., 4.]);
    assert_eq!(values("c"), [1.]);
    assert_eq!(state.get("c").unwrap().dtype(), DType::F16);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a sound file, reading it gives a result.
    #[test]
    fn mutations_never_panic(
        which in 0usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = match which {
            0 => written(StateDict::save),
            1 => written(StateDict::save_torch),
            _ => legacy(&[]),
        };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = try_read(&bytes);
    }

    #[test]
    fn random_pickles_never_panic(ops in prop::collection::vec(
        prop::sample::select(b"(0N}]).tuesaqhRbQK\x01\x02\x85\x86\x88J\x8a\x08XM1ld\x93\x94".to_vec()), 0..200)
    ) {
        let mut pickle = b"\x80\x02ccollections\nOrderedDict\n".to_vec();
        pickle.extend(ops);
        pickle.push(b'.');
        let _ = try_read(&pt(&pickle, &[0; 8]));
    }
}
