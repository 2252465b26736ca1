//! Faults that were found, each with the value that is right: series of five slices of 20 x 24 pixels in
//! `regressions/dicom`, and files made here byte by byte.

use std::path::{Path, PathBuf};

use fndm_data::{Error, Limits, Volume, dicom};
use tempfile::TempDir;

fn regression(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/regressions/dicom")
        .join(name)
}

fn read(folder: &Path) -> fndm_data::Result<Volume> {
    dicom::read_series(folder, &Limits::default())
}

fn sum(volume: &Volume) -> f64 {
    volume.data.iter().map(|v| f64::from(*v)).sum()
}

/// The sum that SimpleITK and pydicom give for these five slices.
fn is_the_series(volume: &Volume) {
    assert_eq!(volume.shape(), [24, 20, 5]);
    assert_eq!(sum(volume), 598_942.0);
    let max = volume.data.iter().copied().fold(f32::MIN, f32::max);
    assert_eq!(max, 499.0);
    for (got, expected) in volume.spacing().iter().zip([1.25, 1.5, 3.0]) {
        assert!((got - expected).abs() < 1e-6, "{got}");
    }
}

#[test]
fn a_number_that_cannot_be_read_is_told_with_its_text() {
    for (name, tag, file, value) in [
        ("d04_comma_slope", "RescaleSlope", "IM000", "\"2,5\""),
        ("d05_slope_text_one", "RescaleSlope", "IM002", "\"2.5.1\""),
        (
            "d06_comma_spacing",
            "PixelSpacing",
            "IM000",
            "\"1,5\\1,25\"",
        ),
    ] {
        let folder = regression(name);
        let error = read(&folder).unwrap_err();
        assert!(matches!(error, Error::InvalidHeader { .. }), "{error}");
        let text = error.to_string();
        for part in [tag, "(0028,", file, value] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Listing says the same where it must not fail, and the series itself when it is read.
        let study = dicom::read_study(&folder, &Limits::default()).unwrap();
        let told = &study.unusable[0];
        assert!(told.damaged && told.reason.to_string() == text);
        for series in &study.series {
            let error = series.read(&Limits::default()).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
        assert!(dicom::list_series(&folder, &Limits::default()).is_err());
    }
}

#[test]
fn numbers_in_text_of_another_type_are_read() {
    is_the_series(&read(&regression("d07_ut_spacing")).unwrap());
}

#[test]
fn an_unknown_sequence_without_a_length_is_implicit() {
    is_the_series(&read(&regression("d02_un")).unwrap());
}

#[test]
fn objects_of_another_kind_are_listed_and_passed_over() {
    for (name, kind) in [
        ("d15_sc", "Secondary Capture Image Storage"),
        ("d16_enh", "PerFrameFunctionalGroupsSequence"),
    ] {
        let folder = regression(name);
        let study = dicom::read_study(&folder, &Limits::default()).unwrap();
        assert_eq!(study.series.len(), 1);
        assert_eq!((study.series[0].number(), study.series[0].len()), (7, 5));
        is_the_series(&study.series[0].read(&Limits::default()).unwrap());
        let [other] = study.unusable.as_slice() else {
            panic!("{:?}", study.unusable);
        };
        assert!(!other.damaged);
        assert!(other.path.ends_with("capture/IM000") || other.path.ends_with("e/IM000"));
        assert!(
            other
                .series
                .as_deref()
                .is_some_and(|uid| uid.starts_with("1.2.9."))
        );
        assert!(matches!(other.reason, Error::Unsupported { .. }));
        assert!(other.reason.to_string().contains(kind), "{}", other.reason);
        let listed = dicom::list_series(&folder, &Limits::default()).unwrap();
        assert_eq!(listed, study.series);
        is_the_series(&read(&folder).unwrap());
        // Alone, it is the reason that nothing can be read.
        let error = read(other.path.parent().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), other.reason.to_string());
    }
}

/// SimpleITK 2.5.7 reads the same: 12 bits, so 4095 less the stored value.
#[test]
fn monochrome1_is_turned_over() {
    let volume = read(&regression("d08_mono1")).unwrap();
    assert_eq!(volume.shape(), [24, 20, 5]);
    assert_eq!(sum(&volume), 2400.0 * 4095.0 - 598_942.0);
    assert_eq!(volume.data.iter().copied().fold(f32::MAX, f32::min), 3596.0);
    assert_eq!(volume.data.iter().copied().fold(f32::MIN, f32::max), 4095.0);
}

#[test]
fn rounded_orientations_are_one_series() {
    is_the_series(&read(&regression("d25_ioprnd")).unwrap());
}

/// Tag, type and value.
type Element = ((u16, u16), [u8; 2], Vec<u8>);

/// Elements of a file in explicit little endian, by hand.
#[derive(Clone, Default)]
struct Elements(Vec<Element>);

impl Elements {
    /// A slice of 3 x 2 pixels, the n-th of a series.
    fn slice(n: u16) -> Self {
        let mut out = Self::default();
        out.text((8, 0x16), b"UI", "1.2.840.10008.5.1.4.1.1.4");
        out.text((0x20, 0xe), b"UI", "1.2.3.4");
        out.text((0x20, 0x11), b"IS", "3");
        out.text((0x20, 0x32), b"DS", &format!("0\\0\\{}", 2 * n));
        out.text((0x20, 0x37), b"DS", "1\\0\\0\\0\\1\\0");
        out.text((0x28, 4), b"CS", "MONOCHROME2");
        out.text((0x28, 0x30), b"DS", "1\\1");
        for (element, value) in [
            (2, 1),
            (0x10, 2),
            (0x11, 3),
            (0x100, 16),
            (0x101, 16),
            (0x102, 15),
            (0x103, 0),
        ] {
            out.words((0x28, element), &[value]);
        }
        let pixels: Vec<u16> = (10 * n..10 * n + 6).collect();
        out.words((0x7fe0, 0x10), &pixels);
        out
    }

    fn put(&mut self, tag: (u16, u16), kind: &[u8; 2], value: Vec<u8>) {
        self.0.retain(|e| e.0 != tag);
        self.0.push((tag, *kind, value));
        self.0.sort();
    }

    fn text(&mut self, tag: (u16, u16), kind: &[u8; 2], value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        if bytes.len() % 2 == 1 {
            bytes.push(if kind == b"UI" { 0 } else { b' ' });
        }
        self.put(tag, kind, bytes);
    }

    fn words(&mut self, tag: (u16, u16), values: &[u16]) {
        let kind = if tag.0 == 0x7fe0 { b"OW" } else { b"US" };
        self.put(
            tag,
            kind,
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        );
    }

    /// The whole file; `insert` stands before the pixels, as it is.
    fn file(&self, insert: &[u8]) -> Vec<u8> {
        let mut out = vec![0u8; 128];
        out.extend(b"DICM");
        element(&mut out, (2, 0x10), *b"UI", b"1.2.840.10008.1.2.1\0");
        for (tag, kind, value) in &self.0 {
            if tag.0 == 0x7fe0 {
                out.extend(insert);
            }
            element(&mut out, *tag, *kind, value);
        }
        out
    }
}

fn element(out: &mut Vec<u8>, tag: (u16, u16), kind: [u8; 2], value: &[u8]) {
    out.extend(tag.0.to_le_bytes());
    out.extend(tag.1.to_le_bytes());
    out.extend(kind);
    if matches!(&kind, b"OB" | b"OW" | b"SQ" | b"UN" | b"UT") {
        out.extend([0, 0]);
        out.extend((value.len() as u32).to_le_bytes());
    } else {
        out.extend((value.len() as u16).to_le_bytes());
    }
    out.extend(value);
}

/// A folder of files.
fn folder(files: &[Vec<u8>]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (n, bytes) in files.iter().enumerate() {
        std::fs::write(root.path().join(format!("IM{n}")), bytes).unwrap();
    }
    root
}

fn series(change: impl Fn(u16, &mut Elements)) -> TempDir {
    let slice = |n| {
        let mut slice = Elements::slice(n);
        change(n, &mut slice);
        slice.file(&[])
    };
    folder(&[0, 1, 2].map(slice))
}

#[test]
fn every_number_that_cannot_be_read_is_an_error() {
    is_plain(&read(series(|_, _| {}).path()).unwrap());
    let texts = [
        ((0x18, 0x50), "SliceThickness"),
        ((0x18, 0x88), "SpacingBetweenSlices"),
        ((0x20, 0x11), "SeriesNumber"),
        ((0x20, 0x32), "ImagePositionPatient"),
        ((0x20, 0x37), "ImageOrientationPatient"),
        ((0x28, 8), "NumberOfFrames"),
        ((0x28, 0x30), "PixelSpacing"),
        ((0x28, 0x1052), "RescaleIntercept"),
        ((0x28, 0x1053), "RescaleSlope"),
    ];
    for (tag, name) in texts {
        for value in [
            "2,5", "2.5.1", "one", "1\\two", "nan", "1e999", "1\\\\2", "0x10", "--1",
        ] {
            // In the middle slice alone.
            let root = series(|n, slice| {
                if n == 1 {
                    slice.text(tag, b"DS", value);
                }
            });
            let error = read(root.path()).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidHeader { field, path, .. } if *field == name && path.ends_with("IM1")),
                "{name}, {value}: {error}"
            );
            let text = error.to_string();
            assert!(text.contains(&format!("\"{value}\"")), "{value}: {text}");
        }
    }
    // Binary numbers of the wrong size or out of their range.
    for (element, name, value) in [
        (2, "SamplesPerPixel", vec![1, 0, 0]),
        (0x10, "Rows", vec![0, 0]),
        (0x11, "Columns", vec![3]),
        (0x100, "BitsAllocated", vec![0, 0]),
        (0x101, "BitsStored", vec![17, 0]),
        (0x102, "HighBit", vec![14, 0]),
        (0x103, "PixelRepresentation", vec![2, 0]),
    ] {
        for value in [value, Vec::new()] {
            let root = series(|n, slice| {
                if n == 1 {
                    slice.put((0x28, element), b"US", value.clone());
                }
            });
            let error = read(root.path()).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidHeader { field, path, .. } if *field == name && path.ends_with("IM1")),
                "{name}: {error}"
            );
        }
    }
}

/// The series as it is made: pixels 0 to 5, 10 to 15, 20 to 25, 2 mm apart.
fn is_plain(volume: &Volume) {
    assert_eq!(volume.shape(), [3, 2, 3]);
    for ((i, j, k), value) in volume.data.indexed_iter() {
        assert_eq!(*value, (10 * k + 3 * j + i) as f32);
    }
    assert_eq!(volume.spacing(), [1.0, 1.0, 2.0]);
}

#[test]
fn valid_numbers_are_read_whatever_their_type() {
    for kind in [b"UT", b"LO", b"UN", b"SH"] {
        let root = series(|_, slice| {
            slice.text((0x28, 0x30), kind, "1.0\\1.0000");
            slice.text((0x20, 0x11), kind, " 3 ");
            slice.text((0x28, 0x1053), kind, "+1.E0");
        });
        is_plain(&read(root.path()).unwrap());
    }
    let root = series(|_, slice| {
        let spacing = [1.0f64, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        slice.put((0x28, 0x30), b"FD", spacing);
        slice.put((0x28, 0x1053), b"FL", 1f32.to_le_bytes().to_vec());
        slice.put((0x28, 0x10), b"UL", 2u32.to_le_bytes().to_vec());
        slice.put((0x28, 0x11), b"UN", 3u16.to_le_bytes().to_vec());
        slice.text((0x28, 0x100), b"IS", "16");
    });
    is_plain(&read(root.path()).unwrap());
    // Nothing in it is the same as not there.
    let root = series(|_, slice| {
        slice.text((0x28, 0x1053), b"DS", "");
        slice.text((0x28, 0x1052), b"DS", "  ");
        slice.text((0x20, 0x11), b"IS", "");
    });
    is_plain(&read(root.path()).unwrap());
}

/// An element that opens a sequence and an item, both without a length.
const OPEN: [u8; 20] = [
    0x29, 0, 0x10, 0x10, b'S', b'Q', 0, 0, 255, 255, 255, 255, 0xfe, 0xff, 0, 0xe0, 255, 255, 255,
    255,
];
/// The end of an item and of its sequence.
const CLOSE: [u8; 16] = [
    0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0,
];

#[test]
fn nested_sequences_have_a_limit() {
    // On less stack than any thread has.
    let run = || {
        for levels in [1, 8, 60, 70, 5000, 8000, 100_000] {
            let mut nested = OPEN.repeat(levels);
            nested.extend(CLOSE.repeat(levels));
            let root = folder(&[Elements::slice(0).file(&nested)]);
            let result = read(root.path());
            if levels < 64 {
                result.unwrap();
            } else {
                let error = result.unwrap_err();
                assert!(
                    matches!(
                        error,
                        Error::Limit {
                            limit: 64,
                            got: 65,
                            ..
                        }
                    ),
                    "{levels}: {error}"
                );
            }
            // Without the ends.
            let root = folder(&[Elements::slice(0).file(&OPEN.repeat(levels))]);
            assert!(read(root.path()).is_err());
            // The same with lengths: what is in a sequence that nobody asks for is not looked at.
            let mut inner = Vec::new();
            for _ in 0..levels.min(500) {
                let mut item = vec![0xfe, 0xff, 0, 0xe0];
                item.extend((inner.len() as u32).to_le_bytes());
                item.extend(inner);
                inner = Vec::new();
                element(&mut inner, (0x29, 0x1010), *b"SQ", &item);
            }
            let root = folder(&[Elements::slice(0).file(&inner)]);
            read(root.path()).unwrap();
        }
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    thread.spawn(run).unwrap().join().unwrap();
}

/// What other tools read: types of unknown length inside others, items with lengths and ends, empty items.
#[test]
fn sequences_are_read_as_others_read_them() {
    let item = |length: u32, inner: &[u8]| {
        let mut out = vec![0xfe, 0xff, 0, 0xe0];
        out.extend(length.to_le_bytes());
        out.extend(inner);
        out
    };
    let end = |element: u8| [0xfe, 0xff, element, 0xe0, 0, 0, 0, 0];
    let open = |kind: &[u8; 2], inner: &[u8]| {
        let mut out = vec![0x01, 0x20, 0x5f, 0x10];
        out.extend(kind);
        out.extend([0, 0, 255, 255, 255, 255]);
        out.extend(inner);
        out.extend(end(0xdd));
        out
    };
    // (0020,000E) = "9 " without a type.
    let implicit = [0x20, 0, 0x0e, 0, 2, 0, 0, 0, b'9', b' '];
    let mut explicit = Vec::new();
    element(&mut explicit, (0x20, 0xe), *b"UI", b"9\0");
    let closed = |inner: &[u8]| item(inner.len() as u32, inner);
    let opened = |inner: &[u8]| item(u32::MAX, &[inner, &end(0x0d)].concat());
    // Implicit inside: an element of undefined length is a sequence.
    let within = [
        &[0x01, 0x20, 0x60, 0x10, 255, 255, 255, 255][..],
        &opened(&implicit),
        &end(0xdd),
    ]
    .concat();
    for insert in [
        open(b"UN", &opened(&implicit)),
        open(b"UN", &closed(&implicit)),
        open(b"UN", &opened(&within)),
        open(b"UN", &[]),
        open(b"SQ", &opened(&explicit)),
        open(b"SQ", &closed(&explicit)),
        open(
            b"SQ",
            &[closed(&[]), opened(&[]), closed(&explicit)].concat(),
        ),
        open(b"SQ", &opened(&open(b"UN", &opened(&within)))),
        // An end although there is a length.
        open(b"SQ", &closed(&[&explicit[..], &end(0x0d)].concat())),
        // Pieces of a compressed icon.
        open(b"OB", &[closed(&[]), closed(&[1, 2, 3, 4])].concat()),
        // An end that nothing began.
        end(0xdd).to_vec(),
    ] {
        let files = [0, 1, 2].map(|n| Elements::slice(n).file(&insert));
        is_plain(&read(folder(&files).path()).unwrap());
        // Cut anywhere within, it is an error.
        let file = Elements::slice(0).file(&insert);
        for cut in 1..insert.len() + 8 {
            let file = &file[..file.len() - 24 - cut];
            assert!(read(folder(&[file.to_vec()]).path()).is_err());
        }
    }
}

#[test]
fn several_kinds_of_unusable_files_are_told_apart() {
    let root = series(|_, _| {});
    let write = |name: &str, change: &dyn Fn(&mut Elements)| {
        let mut made = Elements::slice(7);
        made.text((0x20, 0xe), b"UI", "1.2.3.99");
        change(&mut made);
        std::fs::write(root.path().join(name), made.file(&[])).unwrap();
    };
    write("a_rgb", &|e| {
        e.text((0x28, 4), b"CS", "RGB");
        e.words((0x28, 2), &[3]);
    });
    write("b_report", &|e| {
        e.text((8, 0x16), b"UI", "1.2.840.10008.5.1.4.1.1.88.11");
    });
    write("c_seg", &|e| {
        e.text((8, 0x16), b"UI", "1.2.840.10008.5.1.4.1.1.66.4");
    });
    write("d_capture", &|e| {
        e.text((8, 0x16), b"UI", "1.2.840.10008.5.1.4.1.1.7");
    });
    write("e_movie", &|e| e.text((0x28, 8), b"IS", "4"));
    write("f_mosaic", &|e| {
        e.text((8, 8), b"CS", "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC");
    });
    // The index of a disc is none, and what is not DICOM.
    write("DICOMDIR", &|e| {
        e.text((8, 0x16), b"UI", "1.2.840.10008.1.3.10");
    });
    std::fs::write(root.path().join("notes.txt"), "no image").unwrap();
    let study = dicom::read_study(root.path(), &Limits::default()).unwrap();
    let names: Vec<_> = study
        .unusable
        .iter()
        .map(|u| u.path.file_name().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "a_rgb",
            "b_report",
            "c_seg",
            "d_capture",
            "e_movie",
            "f_mosaic"
        ]
    );
    assert!(study.unusable.iter().all(|u| !u.damaged));
    is_plain(&read(root.path()).unwrap());

    // A file that could be a slice stops the reading, and leaves the list as it is.
    std::fs::write(
        root.path().join("g_cut"),
        &Elements::slice(3).file(&[])[..200],
    )
    .unwrap();
    let study = dicom::read_study(root.path(), &Limits::default()).unwrap();
    assert_eq!((study.series.len(), study.unusable.len()), (1, 7));
    let cut = study.unusable.last().unwrap();
    assert!(cut.damaged && matches!(cut.reason, Error::Truncated { .. }));
    is_plain(&study.series[0].read(&Limits::default()).unwrap());
    let error = read(root.path()).unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
}

#[test]
fn transfer_syntaxes_that_are_not_read_are_named() {
    for (uid, name) in [
        ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless"),
        ("1.2.840.10008.1.2.4.50", "JPEG Baseline"),
        ("1.2.840.10008.1.2.4.51", "JPEG Extended"),
        ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000"),
        ("1.2.840.10008.1.2.4.110", "JPEG XL"),
        ("1.2.840.10008.1.2.4.102", "MPEG"),
        ("1.2.3.4.5", "not of the standard"),
    ] {
        let plain = Elements::slice(0).file(&[]);
        let mut file = plain[..132].to_vec();
        let padded = if uid.len() % 2 == 1 {
            format!("{uid}\0")
        } else {
            uid.into()
        };
        element(&mut file, (2, 0x10), *b"UI", padded.as_bytes());
        file.extend(&plain[160..]);
        let error = read(folder(&[file]).path()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(uid), "{text}");
    }
}

#[test]
fn places_that_make_no_volume_are_refused() {
    let with = |change: &dyn Fn(u16, &mut Elements)| read(series(change).path()).unwrap_err();
    // A gap, two in one place, all in one place.
    let error = with(&|n, s| {
        s.text(
            (0x20, 0x32),
            b"DS",
            ["0\\0\\0", "0\\0\\2", "0\\0\\6"][usize::from(n)],
        );
    });
    assert!(matches!(error, Error::MissingSlices { .. }), "{error}");
    let error = with(&|_, s| s.text((0x20, 0x32), b"DS", "0\\0\\0"));
    assert!(
        matches!(error, Error::MissingSlices { gap, .. } if gap == 0.0),
        "{error}"
    );
    // Three planes.
    let planes = ["1\\0\\0\\0\\1\\0", "0\\1\\0\\0\\0\\-1", "1\\0\\0\\0\\0\\-1"];
    let error = with(&|n, s| s.text((0x20, 0x37), b"DS", planes[usize::from(n)]));
    assert!(error.to_string().contains("localiser"), "{error}");
    // Half a degree is more than rounding.
    let error = with(&|n, s| {
        let (sin, cos) = (f64::from(n) * 0.5f64.to_radians()).sin_cos();
        s.text(
            (0x20, 0x37),
            b"DS",
            &format!("{cos:.6}\\{sin:.6}\\0\\{:.6}\\{cos:.6}\\0", -sin),
        );
    });
    assert!(matches!(error, Error::MixedSeries { .. }), "{error}");
    // Numbers beyond all measure.
    for (tag, value) in [
        ((0x20, 0x32), "1e300\\0\\0"),
        ((0x28, 0x30), "1e300\\1"),
        ((0x28, 0x30), "0\\0"),
        ((0x28, 0x30), "-1\\1"),
        ((0x28, 0x1053), "1e300"),
        ((0x28, 0x1053), "0"),
        ((0x18, 0x50), "-3"),
    ] {
        let error = with(&|_, s| s.text(tag, b"DS", value));
        assert!(
            matches!(error, Error::InvalidHeader { .. }),
            "{value}: {error}"
        );
    }
    // One slice has its own thickness, and 0 is none.
    for (between, thickness, expected) in [("0", "2.5", 2.5), ("-4", "2.5", 4.0), ("0", "0", 1.0)] {
        let mut slice = Elements::slice(0);
        slice.text((0x18, 0x88), b"DS", between);
        slice.text((0x18, 0x50), b"DS", thickness);
        let volume = read(folder(&[slice.file(&[])]).path()).unwrap();
        assert_eq!(volume.spacing()[2], expected);
    }
}

#[test]
fn claims_are_checked_before_memory_is_taken() {
    // 65535 x 65535 pixels, 20,000 frames, in a file of 700 bytes.
    let mut slice = Elements::slice(0);
    slice.words((0x28, 0x10), &[u16::MAX]);
    slice.words((0x28, 0x11), &[u16::MAX]);
    let error = read(folder(&[slice.file(&[])]).path()).unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
    slice.text((0x28, 8), b"IS", "2000000000");
    let error = read(folder(&[slice.file(&[])]).path()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    // Elements that stand twice.
    let mut again = Vec::new();
    element(&mut again, (0x28, 0x30), *b"DS", b"2\\2 ");
    let error = read(folder(&[Elements::slice(0).file(&again)]).path()).unwrap_err();
    assert!(error.to_string().contains("stands twice"), "{error}");
    // Values by a table.
    let mut table = Vec::new();
    let item = [0xfe, 0xff, 0, 0xe0, 0, 0, 0, 0];
    element(&mut table, (0x28, 0x3000), *b"SQ", &item);
    let error = read(folder(&[Elements::slice(0).file(&table)]).path()).unwrap_err();
    assert!(error.to_string().contains("ModalityLUTSequence"), "{error}");
}
