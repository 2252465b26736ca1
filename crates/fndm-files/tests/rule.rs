//! The one rule: nothing of a user's is removed, replaced or changed.

use std::fs;
use std::path::{Path, PathBuf};

use fndm_files::{
    Error, Inputs, MARKER, Maker, OutputFolder, WorkFolder, check_writable, is_complete,
    write_atomic, write_by, write_json,
};
use tempfile::TempDir;

fn maker() -> Maker {
    Maker::new("detect", "0.1.0", "patient p1")
}

fn root() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

fn put(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Every file below a folder with its contents.
fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else {
                all.push((path.clone(), fs::read(&path).unwrap_or_default()));
            }
        }
    }
    all.sort();
    all
}

fn result(place: &Path, text: &str) -> fndm_files::Result<()> {
    let mut out = OutputFolder::create(place, &maker(), &Inputs::new())?;
    out.write("mask.txt", text)?;
    out.finish()
}

#[test]
fn a_folder_without_a_marker_is_left_as_it_is() {
    let (_guard, root) = root();
    put(root.join("p1/notes.txt"), "mine");
    let before = snapshot(&root);
    let error = result(&root.join("p1"), "x").unwrap_err();
    assert!(matches!(error, Error::NotOurs { .. }), "{error}");
    let error = WorkFolder::open(root.join("p1"), &maker(), &Inputs::new()).unwrap_err();
    assert!(matches!(error, Error::NotOurs { .. }), "{error}");
    assert_eq!(snapshot(&root), before);
}

#[test]
fn our_folder_is_replaced_and_an_empty_one_taken() {
    let (_guard, root) = root();
    fs::create_dir(root.join("p1")).unwrap();
    result(&root.join("p1"), "first").unwrap();
    result(&root.join("p1"), "second").unwrap();
    assert_eq!(fs::read(root.join("p1/mask.txt")).unwrap(), b"second");
    assert!(root.join("p1").join(MARKER).is_file());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
}

#[test]
fn a_file_that_was_added_or_changed_is_named() {
    let (_guard, root) = root();
    let place = root.join("p1");
    result(&place, "first").unwrap();
    // The same length: only the checksum tells.
    put(place.join("mask.txt"), "fixed");
    let error = result(&place, "x").unwrap_err().to_string();
    assert!(
        error.contains("mask.txt") && error.contains("was changed"),
        "{error}"
    );
    put(place.join("mask.txt"), "first");
    put(place.join("mine/notes.txt"), "");
    let before = snapshot(&root);
    let error = result(&place, "x").unwrap_err().to_string();
    assert!(error.contains("mine/notes.txt"), "{error}");
    assert_eq!(snapshot(&root), before);
    fs::remove_dir_all(place.join("mine")).unwrap();
    // A file that the user removed is no reason to refuse.
    fs::remove_file(place.join("mask.txt")).unwrap();
    result(&place, "second").unwrap();
}

#[test]
fn a_file_that_is_added_while_we_compute_stops_the_replacing() {
    let (_guard, root) = root();
    let place = root.join("p1");
    result(&place, "first").unwrap();
    let mut out = OutputFolder::create(&place, &maker(), &Inputs::new()).unwrap();
    out.write("mask.txt", "second").unwrap();
    put(place.join("notes.txt"), "mine");
    let before = snapshot(&place);
    assert!(matches!(out.finish(), Err(Error::Foreign { .. })));
    assert_eq!(snapshot(&root), before);
}

#[test]
fn another_program_or_patient_is_not_replaced() {
    let (_guard, root) = root();
    let place = root.join("p1");
    result(&place, "first").unwrap();
    for other in [
        Maker::new("train", "0.1.0", "patient p1"),
        Maker::new("detect", "0.1.0", "patient P1"),
    ] {
        let error = OutputFolder::create(&place, &other, &Inputs::new()).unwrap_err();
        assert!(matches!(error, Error::OtherResult { .. }), "{error}");
    }
    // Another version may.
    let newer = Maker::new("detect", "0.2.0", "patient p1");
    drop(OutputFolder::create(&place, &newer, &Inputs::new()).unwrap());
}

#[test]
fn inputs_are_no_outputs() {
    let (_guard, root) = root();
    put(root.join("data/p1/p1_flair.nii"), "x");
    put(root.join("model/model.json"), "{}");
    let inputs = Inputs::new()
        .folder(root.join("data"))
        .folder(root.join("data/p1"))
        .file(root.join("data/p1/p1_flair.nii"))
        .whole(root.join("model"));
    let before = snapshot(&root);
    let refused = |output: &str| {
        let error = OutputFolder::create(root.join(output), &maker(), &inputs).unwrap_err();
        let same = OutputFolder::check(root.join(output), &maker(), &inputs).unwrap_err();
        assert_eq!(error.to_string(), same.to_string());
        error
    };
    assert!(matches!(refused("data"), Error::IsInput { .. }));
    assert!(matches!(refused("data/."), Error::IsInput { .. }));
    assert!(matches!(refused("data/new/.."), Error::IsInput { .. }));
    assert!(matches!(refused("data/p1"), Error::IsInput { .. }));
    assert!(matches!(refused("."), Error::HoldsInput { .. }));
    assert!(matches!(refused("model"), Error::IsInput { .. }));
    assert!(matches!(refused("model/out"), Error::InsideInput { .. }));
    assert!(matches!(
        refused("data/p1/p1_flair.nii/out"),
        Error::Io { .. } | Error::InsideInput { .. }
    ));
    assert_eq!(snapshot(&root), before);
    // A marked folder inside the data is passed over by readers.
    drop(OutputFolder::create(root.join("data/out/p1"), &maker(), &inputs).unwrap());
    drop(OutputFolder::create(root.join("data/p1/out"), &maker(), &inputs).unwrap());
    assert_eq!(snapshot(&root), before);

    let file = |output: &str, overwrite| inputs.check_file(root.join(output), overwrite);
    assert!(matches!(
        file("data/p1/p1_flair.nii", true),
        Err(Error::IsInput { .. })
    ));
    assert!(matches!(
        file("data/new.txt", true),
        Err(Error::InsideInput { .. })
    ));
    assert!(matches!(file("data", true), Err(Error::IsInput { .. })));
    put(root.join("table.md"), "");
    assert!(matches!(file("table.md", false), Err(Error::Exists { .. })));
    file("table.md", true).unwrap();
    file("new.md", false).unwrap();
}

#[test]
fn nothing_is_put_into_a_result() {
    let (_guard, root) = root();
    result(&root.join("p1"), "first").unwrap();
    let error = OutputFolder::create(root.join("p1/p2"), &maker(), &Inputs::new()).unwrap_err();
    assert!(matches!(error, Error::InsideResult { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn links_are_looked_through() {
    use std::os::unix::fs::symlink;
    let (_guard, root) = root();
    put(root.join("store/scan/flair.nii"), "x");
    symlink(root.join("store/scan"), root.join("pat1")).unwrap();
    symlink(root.join("store"), root.join("there")).unwrap();
    symlink(root.join("store/later"), root.join("dangling")).unwrap();
    let inputs = Inputs::new().folder(root.join("pat1"));
    let before = snapshot(&root);
    for (output, is) in [
        ("pat1", true),
        ("store/scan", true),
        ("there/scan", true),
        ("there", false),
        ("store", false),
    ] {
        let error = OutputFolder::create(root.join(output), &maker(), &inputs).unwrap_err();
        match error {
            Error::IsInput { .. } => assert!(is, "{output}"),
            Error::HoldsInput { .. } => assert!(!is, "{output}"),
            other => panic!("{output}: {other}"),
        }
    }
    // A hard link of an input file.
    fs::hard_link(root.join("store/scan/flair.nii"), root.join("twin.nii")).unwrap();
    let file = Inputs::new().file(root.join("store/scan/flair.nii"));
    let error = file.check_file(root.join("twin.nii"), true).unwrap_err();
    assert!(matches!(error, Error::IsInput { .. }), "{error}");
    fs::remove_file(root.join("twin.nii")).unwrap();
    assert_eq!(snapshot(&root), before);
    // An output that is a link: what it leads to is written, and the link stays.
    result(&root.join("dangling"), "first").unwrap();
    result(&root.join("dangling"), "second").unwrap();
    assert!(root.join("dangling").is_symlink());
    assert_eq!(
        fs::read(root.join("store/later/mask.txt")).unwrap(),
        b"second"
    );
    // A link among our files isn't ours.
    fs::remove_file(root.join("store/later/mask.txt")).unwrap();
    symlink(
        root.join("store/scan/flair.nii"),
        root.join("store/later/mask.txt"),
    )
    .unwrap();
    let error = result(&root.join("dangling"), "third").unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
}

#[test]
fn one_process_at_a_time() {
    let (_guard, root) = root();
    let place = root.join("out/p1");
    let first = OutputFolder::create(&place, &maker(), &Inputs::new()).unwrap();
    let error = result(&place, "second").unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    // Another patient isn't in the way.
    result(&root.join("out/p2"), "x").unwrap();
    drop(first);
    result(&place, "second").unwrap();
}

/// Many threads, each as a process of its own: every result that is seen is whole, and nothing is left lying about.
#[test]
fn many_writers_of_one_output() {
    let (_guard, root) = root();
    let place = root.join("p1");
    result(&place, "0").unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let place = &place;
            scope.spawn(move || {
                for _ in 0..20 {
                    match result(place, &n.to_string()) {
                        Ok(()) | Err(Error::Busy { .. }) => {}
                        Err(other) => panic!("{other}: {:?}", std::error::Error::source(&other)),
                    }
                }
            });
        }
    });
    assert_eq!(fs::read(place.join("mask.txt")).unwrap().len(), 1);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
}

#[test]
fn nothing_is_left_of_an_unfinished_output() {
    let (_guard, root) = root();
    let mut out = OutputFolder::create(root.join("a/b/p1"), &maker(), &Inputs::new()).unwrap();
    out.write("x/y.txt", "text").unwrap();
    drop(out);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn a_work_folder_is_gone_on_with() {
    let (_guard, root) = root();
    let place = root.join("fig4");
    let mut work = WorkFolder::open(&place, &maker(), &Inputs::new()).unwrap();
    assert!(matches!(
        WorkFolder::open(&place, &maker(), &Inputs::new()),
        Err(Error::Busy { .. })
    ));
    work.write("fig4.csv", "one").unwrap();
    work.write("fig4.csv", "two").unwrap();
    drop(work);
    let mut work = WorkFolder::open(&place, &maker(), &Inputs::new()).unwrap();
    work.write("fig4.csv", "three").unwrap();
    work.write("fig5.csv", "one").unwrap();
    work.discard("fig5.csv").unwrap();
    assert!(!place.join("fig5.csv").exists());
    put(place.join("fig5.csv"), "mine");
    work.discard("fig5.csv").unwrap();
    assert_eq!(fs::read(place.join("fig5.csv")).unwrap(), b"mine");
    put(place.join("fig4.csv"), "mine!");
    let error = work.discard("fig4.csv").unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    put(place.join("other.csv"), "mine");
    let error = work.write("fig4.csv", "four").unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    let error = work.write("other.csv", "four").unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert_eq!(fs::read(place.join("fig4.csv")).unwrap(), b"mine!");
    drop(work);
    let other = Maker::new("evaluate", "0.1.0", "patient p1");
    let error = WorkFolder::open(&place, &other, &Inputs::new()).unwrap_err();
    assert!(matches!(error, Error::OtherResult { .. }), "{error}");
}

/// Killed between the marker and the file, or between the file and the marker: both states of the file are ours.
#[test]
fn a_work_folder_that_was_killed_while_writing() {
    let (_guard, root) = root();
    let place = root.join("fig4");
    let mut work = WorkFolder::open(&place, &maker(), &Inputs::new()).unwrap();
    work.write("a.csv", "old").unwrap();
    let before = fs::read(place.join(MARKER)).unwrap();
    // The folder is gone from under the file, so the marker alone is written.
    let folder = place.join("a.csv");
    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::remove_dir(&folder).unwrap();
    put(&folder, "old");
    work.write("a.csv", "new").unwrap();
    drop(work);
    // The marker as it was before the second file: the file is told to be changed, as it should.
    let after = fs::read(place.join(MARKER)).unwrap();
    fs::write(place.join(MARKER), before).unwrap();
    let mut work = WorkFolder::open(&place, &maker(), &Inputs::new()).unwrap();
    assert!(matches!(
        work.write("a.csv", "x"),
        Err(Error::Changed { .. })
    ));
    drop(work);
    // The marker in between lists both.
    let mut both: serde_json::Value = serde_json::from_slice(&after).unwrap();
    let stamps = both["files"]["a.csv"].as_array_mut().unwrap();
    // FNV-1a of "old", computed apart.
    stamps.insert(0, serde_json::json!({"bytes": 3, "fnv": fnv(b"old")}));
    for text in ["old", "new"] {
        fs::write(place.join(MARKER), both.to_string()).unwrap();
        put(&folder, text);
        let mut work = WorkFolder::open(&place, &maker(), &Inputs::new()).unwrap();
        work.write("a.csv", "newer").unwrap();
    }
}

/// What was being written when a run was killed is gone when the next run has the folder.
#[test]
fn a_work_folder_is_cleaned_of_half_files() {
    let (_guard, root) = root();
    let place = root.join("fig4");
    let open = || WorkFolder::open(&place, &maker(), &Inputs::new());
    open().unwrap().write("a.csv", "one").unwrap();
    let before = snapshot(&root);
    put(place.join(".a.csv.x1Yz.tmp"), "on");
    put(place.join(format!(".{MARKER}.x1Yz.tmp")), "{");
    put(place.join(".b.csv.x1Yz.tmp"), "mine");
    // What another writer was filling, and a folder with something else in it.
    put(place.join(".fndm.x1Yz.tmp/a.csv"), "on");
    put(place.join(".fndm.x2Yz.tmp/mine"), "mine");
    drop(open().unwrap());
    assert_eq!(fs::read(place.join(".b.csv.x1Yz.tmp")).unwrap(), b"mine");
    assert_eq!(
        fs::read(place.join(".fndm.x2Yz.tmp/mine")).unwrap(),
        b"mine"
    );
    fs::remove_file(place.join(".b.csv.x1Yz.tmp")).unwrap();
    fs::remove_dir_all(place.join(".fndm.x2Yz.tmp")).unwrap();
    assert_eq!(snapshot(&root), before);
    // A run that is killed while such a writer is at it has the name in its list.
    let mut work = open().unwrap();
    let failed = work.write_by("new.png", |_| {
        Err(fndm_files::Error::Busy { path: "x".into() })
    });
    assert!(failed.is_err());
    put(place.join(".fndm.x3Yz.tmp/new.png"), "half");
    drop(work);
    let mut work = open().unwrap();
    assert!(!place.join(".fndm.x3Yz.tmp").exists());
    work.write("new.png", "whole").unwrap();
    assert_eq!(fs::read(place.join("new.png")).unwrap(), b"whole");
}

/// A run that found at once that it can't do anything leaves no folder behind.
#[test]
fn a_work_folder_that_got_nothing_is_gone() {
    let (_keep, root) = root();
    let place = root.join("deep/er/run");
    let open = || WorkFolder::open(&place, &maker(), &Inputs::new()).unwrap();
    drop(open());
    assert!(!root.join("deep").exists());
    // Something in it, by us or beside us: it stays.
    let mut work = open();
    work.write("a.txt", "one").unwrap();
    drop(work);
    drop(open());
    assert_eq!(fs::read_to_string(place.join("a.txt")).unwrap(), "one");
    fs::remove_dir_all(&place).unwrap();
    let work = open();
    put(place.join("checkpoint"), "one");
    drop(work);
    assert!(place.join("checkpoint").is_file() && place.join(MARKER).is_file());
    // A folder of the user's is the user's.
    fs::remove_dir_all(&place).unwrap();
    fs::create_dir(&place).unwrap();
    drop(open());
    assert!(place.is_dir());
}

#[test]
fn a_work_folder_is_removed_as_we_left_it() {
    let (_guard, root) = root();
    let place = root.join("fig4");
    let fill = || {
        let mut work = WorkFolder::open(&place, &maker(), &Inputs::new()).unwrap();
        work.write("a.csv", "one").unwrap();
        work
    };
    let work = fill();
    let busy = WorkFolder::remove(&place, &maker()).unwrap_err();
    assert!(matches!(busy, Error::Busy { .. }), "{busy}");
    drop(work);
    put(place.join("a.csv"), "two");
    let error = WorkFolder::remove(&place, &maker()).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    put(place.join("a.csv"), "one");
    put(place.join("notes.txt"), "mine");
    let error = WorkFolder::remove(&place, &maker()).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    fs::remove_file(place.join("notes.txt")).unwrap();
    let other = Maker::new("evaluate", "0.1.0", "patient p1");
    assert!(WorkFolder::remove(&place, &other).is_err());
    WorkFolder::remove(&place, &maker()).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    WorkFolder::remove(&place, &maker()).unwrap();
}

/// Whether a result is there and whole; what a killed run left beside it is gone afterwards.
#[test]
fn a_finished_folder_is_told_from_one_that_is_not() {
    let (_guard, root) = root();
    let place = root.join("p1");
    let finished = || OutputFolder::is_finished(&place, &maker(), &Inputs::new());
    assert!(!finished().unwrap());
    result(&place, "first").unwrap();
    let before = snapshot(&root);
    put(root.join(".p1.12.tmp/half"), "x");
    put(root.join(".p1.lock"), "");
    assert!(finished().unwrap());
    assert_eq!(
        fs::read(root.join(".p1.12.tmp/half")).unwrap(),
        b"x",
        "without a marker it isn't ours"
    );
    fs::remove_dir_all(root.join(".p1.12.tmp")).unwrap();
    assert_eq!(snapshot(&root), before);
    let unfinished = OutputFolder::create(&place, &maker(), &Inputs::new()).unwrap();
    assert!(matches!(finished(), Err(Error::Busy { .. })));
    assert!(is_complete(&place) && !is_complete(unfinished.path()));
    drop(unfinished);
    put(place.join("mask.txt"), "other");
    assert!(matches!(finished(), Err(Error::Changed { .. })));
    fs::remove_file(place.join("mask.txt")).unwrap();
    assert!(!finished().unwrap() && !is_complete(&place));
}

/// By the definition, in 128 bits.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u128, byte: &u8| ((hash ^ u128::from(*byte)) * 0x0100_0000_01b3) % (1 << 64);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step) as u64
}

#[test]
fn files_are_written_whole_or_not_at_all() {
    let (_guard, root) = root();
    let path = root.join("a.json");
    write_json(&path, &[1, 2]).unwrap();
    write_atomic(&path, "other").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"other");
    let mut half = fndm_files::AtomicFile::create(&path).unwrap();
    std::io::Write::write_all(&mut half, b"half").unwrap();
    drop(half);
    assert_eq!(fs::read(&path).unwrap(), b"other");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    // Every error names the path, and the temporary name never shows.
    let missing = root.join("no/such/a.json");
    let error = write_atomic(&missing, "x").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot write {}", missing.display())
    );
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        !source.contains("tmp") && source.contains("No such file"),
        "{source}"
    );
    assert!(matches!(
        write_atomic(&root, "x"),
        Err(Error::NotAFile { .. })
    ));
}

#[test]
fn files_of_other_writers() {
    let (_guard, root) = root();
    let path = root.join("a.bin");
    write_by(&path, |path| {
        fs::write(path, "one").map_err(|_| unreachable(path))
    })
    .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one");
    let failed = write_by(&path, |path| {
        fs::write(path, "two").unwrap();
        Err::<(), _>(unreachable(path))
    });
    assert!(failed.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    let mut work = WorkFolder::open(root.join("w"), &maker(), &Inputs::new()).unwrap();
    work.write_by("a.bin", |path| {
        fs::write(path, "x").map_err(|_| unreachable(path))
    })
    .unwrap();
    assert_eq!(fs::read(root.join("w/a.bin")).unwrap(), b"x");
    assert_eq!(fs::read_dir(root.join("w")).unwrap().count(), 2);
}

fn unreachable(path: &Path) -> Error {
    Error::Exists { path: path.into() }
}

#[cfg(unix)]
#[test]
fn a_written_file_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let (_guard, root) = root();
    fs::write(root.join("plain"), "").unwrap();
    write_atomic(root.join("ours"), "").unwrap();
    let mode = |name: &str| fs::metadata(root.join(name)).unwrap().mode();
    assert_eq!(mode("ours"), mode("plain"));
    // A link stays, its end is written.
    symlink("plain", root.join("link")).unwrap();
    write_atomic(root.join("link"), "text").unwrap();
    assert!(root.join("link").is_symlink());
    assert_eq!(fs::read(root.join("plain")).unwrap(), b"text");
    // A device is written to, not replaced.
    write_atomic("/dev/null", "text").unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn what_cannot_be_written_is_told_at_once() {
    let (_guard, root) = root();
    check_writable(root.join("not/there/yet")).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    put(root.join("file"), "");
    let error = check_writable(root.join("file/below")).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
    if Path::new("/proc/self").is_dir() {
        let error = check_writable("/proc/x").unwrap_err();
        assert_eq!(error.to_string(), "cannot write /proc/x");
        let error = OutputFolder::create("/proc/x", &maker(), &Inputs::new()).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}

/// Root may write everywhere: as root there is nothing to be seen.
#[cfg(unix)]
#[test]
fn a_parent_that_is_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let (_guard, root) = root();
    let parent = root.join("parent");
    fs::create_dir(&parent).unwrap();
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o555)).unwrap();
    let root_user = fs::write(parent.join("probe"), "").is_ok();
    if root_user {
        eprintln!("left out: this user may write into read-only folders");
    } else {
        assert!(matches!(
            check_writable(parent.join("p1")),
            Err(Error::Io { .. })
        ));
        assert!(matches!(
            result(&parent.join("p1"), "x"),
            Err(Error::Io { .. })
        ));
    }
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let (_guard, root) = root();
    let place = root.join(OsStr::from_bytes(b"M\xfcller"));
    result(&place, "first").unwrap();
    result(&place, "second").unwrap();
    assert_eq!(fs::read(place.join("mask.txt")).unwrap(), b"second");
    // One of the user's in our folder.
    put(place.join(OsStr::from_bytes(b"n\xf6tes")), "mine");
    let error = result(&place, "third").unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    write_atomic(root.join(OsStr::from_bytes(b"\xff.md")), "x").unwrap();
}
