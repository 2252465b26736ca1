//! What crafted checkpoints cost: the peak of memory while each is read, measured.

use std::io::Write;
use std::path::PathBuf;

use candle_core::DType;
use fndm_models::{Limits, StateDict, UNet, UNetConfig};
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;
const LIMITS: Limits = Limits {
    tensor_bytes: 16 << 20,
    header_bytes: 1 << 20,
};

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(write: impl FnOnce(&mut std::fs::File)) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write(&mut std::fs::File::create(&path).unwrap());
    File {
        _folder: folder,
        path,
    }
}

fn bytes(bytes: &[u8]) -> File {
    file(|f| f.write_all(bytes).unwrap())
}

/// What `StateDict::read` says, and the most memory that it had in use.
fn measured(file: &File, limits: &Limits) -> (Result<StateDict, String>, usize) {
    let before = PEAK.current_usage();
    PEAK.reset_peak_usage();
    let result = StateDict::read(&file.path, limits).map_err(|e| e.to_string());
    (result, PEAK.peak_usage() - before)
}

fn pt(pickle: &[u8], storages: &[&[u8]]) -> File {
    file(|f| {
        let mut zip = zip::ZipWriter::new(f);
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        zip.start_file("x/data.pkl", options).unwrap();
        zip.write_all(pickle).unwrap();
        for (i, values) in storages.iter().enumerate() {
            zip.start_file(format!("x/data/{i}"), options).unwrap();
            zip.write_all(values).unwrap();
        }
        zip.finish().unwrap();
    })
}

fn text(text: &[u8]) -> Vec<u8> {
    let mut p = vec![b'X'];
    p.extend((text.len() as u32).to_le_bytes());
    p.extend(text);
    p
}

fn int(v: usize) -> Vec<u8> {
    [&[0x8a, 8][..], &(v as u64).to_le_bytes()].concat()
}

/// `persistent_load(('storage', torch.<class>, key, 'cpu', elements))`.
fn storage(class: &str, key: &[u8], elements: usize) -> Vec<u8> {
    let class = format!("ctorch\n{class}\n");
    [
        b"(".to_vec(),
        text(b"storage"),
        class.into_bytes(),
        text(key),
        text(b"cpu"),
        int(elements),
        b"tQ".to_vec(),
    ]
    .concat()
}

fn tensor(storage: &[u8], shape: usize, stride: usize) -> Vec<u8> {
    let mut p = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    p.extend(storage);
    p.extend(int(0));
    p.extend([int(shape), vec![0x85], int(stride), vec![0x85]].concat());
    p.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    p
}

fn repeated(head: &[u8], part: &[u8], times: usize) -> Vec<u8> {
    let mut p = b"\x80\x02".to_vec();
    p.extend(head);
    for _ in 0..times {
        p.extend(part);
    }
    p.push(b'.');
    p
}

/// All in one test, since the allocator counts for the whole process.
#[test]
fn a_crafted_file_costs_no_more_than_the_limits() {
    let fill = |byte: u8| repeated(b"", &[byte], 900_000);
    let long_key = [
        &tensor(&storage("FloatStorage", &[b'k'; 500_000], 1), 1, 1)[..],
        b"0",
    ]
    .concat();
    // A list of a thousand pairs, memorised; then copied again and again by five bytes each.
    let pairs = |global: &str| {
        let mut head = format!("c{global}\nq\x00(").into_bytes();
        for _ in 0..1000 {
            head.extend(b"NN\x86");
        }
        head.extend(b"l\x85q\x01");
        head
    };
    let bombs: Vec<(&str, Vec<u8>)> = vec![
        ("nothing, a million times", fill(b'N')),
        ("marks", fill(b'(')),
        ("memos", repeated(b"N", b"\x94", 900_000)),
        ("empty lists", fill(b']')),
        ("long keys", repeated(b"", &long_key, 1)),
        (
            "copied storages",
            repeated(
                &[
                    &b"("[..],
                    &text(b"storage"),
                    b"ctorch\nFloatStorage\n",
                    &text(&[b'k'; 500_000]),
                    b"NK\x01tq\x00",
                ]
                .concat(),
                b"h\x00Q",
                200_000,
            ),
        ),
        (
            "copied dictionaries",
            repeated(&pairs("collections\nOrderedDict"), b"h\x00h\x01R", 100_000),
        ),
        (
            "copied sizes",
            repeated(&pairs("torch\nSize"), b"h\x00h\x01R", 100_000),
        ),
    ];
    for (what, pickle) in bombs {
        let (result, peak) = measured(&pt(&pickle, &[]), &LIMITS);
        println!("{what}: {:.1} MiB", peak as f64 / MIB as f64);
        let error = result.unwrap_err();
        if what != "long keys" {
            assert!(error.contains("limit"), "{what}: {error}");
        }
        assert!(error.len() < 1000, "{what}: {} bytes", error.len());
        assert!(peak < 4 * MIB, "{what}: {peak}");
    }

    // One byte seen as sixteen million: within the limit, and nothing beside the tensor.
    let seen = |n: usize| {
        let mut p = b"\x80\x02}".to_vec();
        p.extend(text(b"a"));
        p.extend(tensor(&storage("ByteStorage", b"0", 1), n, 0));
        p.extend(b"s.");
        pt(&p, &[&[7]])
    };
    let (result, peak) = measured(&seen(16 * MIB), &LIMITS);
    assert_eq!(result.unwrap().len_elements(), 16 * MIB);
    assert!(peak < 17 * MIB, "{peak}");
    let (result, peak) = measured(&seen(16 * MIB + 1), &LIMITS);
    assert!(result.unwrap_err().contains("limit"));
    assert!(peak < MIB, "{peak}");

    // Storages of which one value each is used: read one at a time, and their sum is limited, too.
    let values = vec![0; MIB];
    let used = |n: usize| {
        let mut p = b"\x80\x02}".to_vec();
        for i in 0..n {
            let key = i.to_string();
            p.extend(text(key.as_bytes()));
            p.extend(tensor(&storage("ByteStorage", key.as_bytes(), MIB), 1, 1));
            p.push(b's');
        }
        p.push(b'.');
        pt(&p, &vec![&values[..]; n])
    };
    let (result, peak) = measured(&used(12), &LIMITS);
    assert_eq!(result.unwrap().len_elements(), 12);
    assert!(peak < 2 * MIB, "{peak}");
    let (result, _) = measured(&used(17), &LIMITS);
    assert!(result.unwrap_err().contains("limit"));

    // An old file whose first pickle is a text of three megabytes.
    let mut old = b"\x80\x02".to_vec();
    old.extend(text(&vec![b'k'; 3 * MIB]));
    old.push(b'.');
    let (result, peak) = measured(&bytes(&old), &LIMITS);
    assert!(result.unwrap_err().contains("limit"));
    assert!(peak < 3 * MIB, "{peak}");

    // safetensors: 100 GB declared, with the file as long as it says (and without a block on the disk).
    let header = r#"{"a":{"dtype":"F32","shape":[25000000000],"data_offsets":[0,100000000000]}}"#;
    let sparse = file(|f| {
        f.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        f.write_all(header.as_bytes()).unwrap();
        f.set_len(8 + header.len() as u64 + 100_000_000_000)
            .unwrap();
    });
    let (result, peak) = measured(&sparse, &Limits::default());
    assert!(result.unwrap_err().contains("limit"));
    assert!(peak < MIB, "{peak}");
    // A header of a million bytes: of tensors without a value, of axes, of words about the file.
    let empty: Vec<String> = (0..15_000)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let axes = vec!["1"; 400_000].join(",");
    let words: Vec<String> = (0..80_000).map(|i| format!(r#""{i}":"""#)).collect();
    let safetensors = |header: String, values: usize| {
        let mut all = (header.len() as u64).to_le_bytes().to_vec();
        all.extend(header.as_bytes());
        all.resize(all.len() + values, 0);
        bytes(&all)
    };
    for (what, file) in [
        (
            "empty tensors",
            safetensors(format!("{{{}}}", empty.join(",")), 0),
        ),
        (
            "axes",
            safetensors(
                format!(r#"{{"a":{{"dtype":"U8","shape":[{axes}],"data_offsets":[0,1]}}}}"#),
                1,
            ),
        ),
        (
            "metadata",
            safetensors(format!(r#"{{"__metadata__":{{{}}}}}"#, words.join(",")), 0),
        ),
    ] {
        let (result, peak) = measured(&file, &LIMITS);
        println!("{what}: {:.1} MiB", peak as f64 / MIB as f64);
        assert_eq!(result.is_err(), what == "axes", "{what}: {result:?}");
        // Names, shapes and candle's own tensors.
        assert!(peak < 20 * MIB, "{what}: {peak}");
    }

    // A file whose config asks for a network of many gigabytes, in f16, which is widened on the CPU.
    let config = UNetConfig {
        model_channels: 16_384,
        channel_mult: vec![1., 1.],
        num_classes: Some(1 << 20),
        ..UNetConfig::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.safetensors");
    StateDict::default()
        .with_config(&config)
        .unwrap()
        .save(&path)
        .unwrap();
    for dtype in [DType::F32, DType::F16] {
        let before = PEAK.current_usage();
        PEAK.reset_peak_usage();
        let error = UNet::load(&path, &LIMITS, dtype, &candle_core::Device::Cpu).unwrap_err();
        let peak = PEAK.peak_usage() - before;
        assert!(error.to_string().contains("missing"), "{error}");
        println!(
            "a huge config, {dtype:?}: {:.1} MiB",
            peak as f64 / MIB as f64
        );
        assert!(peak < 2 * MIB, "{peak}");
    }
}
