//! Which file is what, and what a patient is called: as careless users have their folders.

use std::fs;
use std::path::Path;

use fndm_data::layout::{
    Files, MARKER, complete_patients, find_mask, find_sequence, list_sequences,
};
use fndm_data::{
    Error, Limits, Volume, affine, list_patients, nifti, read_patient, read_patient_below,
    read_sequences, read_sequences_below,
};
use ndarray::Array3;
use tempfile::TempDir;

/// Makes the files: NIfTI images where the name says so, else empty files.
fn tree(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        add(root.path(), file);
    }
    root
}

fn add(root: &Path, file: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if !file.contains(".nii") {
        return fs::write(&path, "").unwrap();
    }
    let mut data = Array3::ones((4, 4, 5));
    data[(0, 0, 0)] = 0.0;
    nifti::write_map(&path, &Volume::new(data, affine::diagonal([1.0; 3]))).unwrap();
}

fn limits() -> Limits {
    Limits::default()
}

/// The name of the file taken for the mask of `p1`, among images of T1 and FLAIR and the given files.
fn mask(files: &[&str]) -> fndm_data::Result<Option<String>> {
    let root = tree(&["p1/p1_t1.nii.gz", "p1/p1_flair.nii.gz"]);
    for file in files {
        add(root.path(), &format!("p1/{file}"));
    }
    let found = find_mask(root.path().join("p1"))?;
    Ok(found.map(|path| path.file_name().unwrap().to_str().unwrap().to_string()))
}

#[test]
fn masks_of_lesions_are_found() {
    for name in [
        "p1_seg.nii.gz",
        "p1-seg.nii",
        "seg.nii.gz",
        "p1_msk.nii.gz",
        "p1_mask.nii.gz",
        "P1_Mask.nii.gz",
        "mask.nii.gz",
        "p1_lesion.nii.gz",
        "p1_lesions.nii.gz",
        "p1_flair_lesion.nii.gz",
        "p1_lesion_mask.nii.gz",
        "p1_lesionmask.nii.gz",
        "p1_tumor_mask.nii.gz",
        "p1_t1_label-lesion_mask.nii.gz",
        "p1_label-lesion_roi.nii.gz",
        "p1_ses-1_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz",
        "p1_desc-lesion_mask.nii.gz",
        "p1_brain_lesion_mask.nii.gz",
        "p1_ses-0001_msk.nii.gz",
        "W39_1998.09.19_Segm.nii",
        "wmh.nii.gz",
    ] {
        assert_eq!(mask(&[name]).unwrap().as_deref(), Some(name));
    }
    // The folder may be called otherwise than its files.
    let found = mask(&["case7_t2.nii.gz", "case7_mask.nii.gz"]).unwrap();
    assert_eq!(found.as_deref(), Some("case7_mask.nii.gz"));
}

/// What `BET`, HD-BET, `SynthStrip`, FAST, `FreeSurfer`, ANTs and fMRIPrep write.
#[test]
fn masks_of_brains_are_none() {
    for name in [
        "p1_flair_bet_mask.nii.gz",
        "p1_bet_mask.nii.gz",
        "p1_t1_bet.nii.gz",
        "p1_t1_brain_mask.nii.gz",
        "p1_brain_mask.nii.gz",
        "p1_desc-brain_mask.nii.gz",
        "p1_space-T1w_desc-brain_mask.nii.gz",
        "p1_t1_brainmask.nii.gz",
        "brainmask.nii.gz",
        "p1_synthstrip_mask.nii.gz",
        "p1_stripped-mask.nii.gz",
        "p1_head.nii.gz",
        "p1_head_mask.nii.gz",
        "p1_t1_brain_seg.nii.gz",
        "p1_synthseg.nii.gz",
        "p1_label-GM_mask.nii.gz",
        "p1_BrainExtractionMask.nii.gz",
        "p1_t1_hd-bet_mask.nii.gz",
        "p1_ventricle_seg.nii.gz",
    ] {
        assert_eq!(mask(&[name]).unwrap(), None, "{name}");
        // And it doesn't stand in the way of the lesion mask.
        let found = mask(&[name, "p1_seg.nii.gz"]).unwrap();
        assert_eq!(found.as_deref(), Some("p1_seg.nii.gz"), "{name}");
    }
}

#[test]
fn what_may_be_either_is_asked_about() {
    for name in [
        "p1_t1_mask.nii.gz",
        "p1_flair_seg.nii.gz",
        "p1_final_mask.nii.gz",
        "p1_desc-manual_mask.nii.gz",
    ] {
        let error = mask(&[name]).unwrap_err();
        assert!(
            matches!(&error, Error::UnclearMask { file, .. } if file.ends_with(name)),
            "{name}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("p1_seg"), "{text}");
        assert!(mask(&[name, "p1_seg.nii.gz"]).unwrap().is_some());
    }
    let error = mask(&["a_p1_seg.nii.gz", "b_p1_seg.nii.gz"]).unwrap_err();
    assert!(matches!(error, Error::AmbiguousSequence { .. }), "{error}");
}

/// Our own results beside the input or in it are neither masks nor sequences nor patients.
#[test]
fn results_are_never_data() {
    // With the marker, and of older programs, which wrote none.
    for files in [
        ["out/p1_mask.nii.gz", "out/.fndm.json"],
        ["out/p1_mask.nii.gz", "out/p1_anomaly.nii.gz"],
        ["p1_mask.nii.gz", "p1_report.json"],
        ["p1_mask.nii", "p1_anomaly.nii.gz"],
        ["a/b/.fndm.json", "a/b/c/p1_seg.nii.gz"],
    ] {
        assert_eq!(mask(&files).unwrap(), None, "{files:?}");
    }
    let root = tree(&[
        "p1/p1_t1.nii.gz",
        "p1/p1_mask.nii.gz",
        "p1/p1_anomaly.nii.gz",
        "out/p1/p1_mask.nii.gz",
        "out/p1/p1_anomaly.nii.gz",
        "out/p1/.fndm.json",
        "old/p1/p1_mask.nii.gz",
        "old/p1/p1_anomaly.nii.gz",
    ]);
    assert_eq!(MARKER, ".fndm.json");
    assert_eq!(list_sequences(root.path().join("p1")).unwrap(), ["t1"]);
    let listed = list_patients(root.path()).unwrap();
    assert_eq!(listed.ids, ["p1"]);
    assert!(listed.left_out.is_empty(), "{:?}", listed.left_out);
    let result = root.path().join("out/p1");
    for error in [
        find_sequence(&result, "t1").unwrap_err(),
        read_patient(&result, &["mask"], &limits()).unwrap_err(),
        list_patients(&result).unwrap_err(),
    ] {
        assert!(matches!(error, Error::OwnOutput { .. }), "{error}");
    }
}

/// Without a mask none is looked at: broken, of another shape, or two of them.
#[test]
fn sequences_are_read_without_a_mask() {
    let root = tree(&["p1/p1_t1.nii.gz", "p1/p1_seg.nii"]);
    let folder = root.path().join("p1");
    let mask = folder.join("p1_seg.nii");
    let small = Volume::new(Array3::ones((2, 2, 2)), affine::diagonal([3.0; 3]));
    nifti::write_map(folder.join("small.nii"), &small).unwrap();
    for step in 0..4 {
        match step {
            0 => fs::write(&mask, "").unwrap(),
            1 => drop(fs::copy(folder.join("small.nii"), &mask).unwrap()),
            2 => add(root.path(), "p1/deeper/p1_seg.nii"),
            _ => {
                fs::remove_file(&mask).unwrap();
                fs::rename(folder.join("deeper/p1_seg.nii"), folder.join("t1_mask.nii")).unwrap();
            }
        }
        assert!(read_patient(&folder, &["t1"], &limits()).is_err(), "{step}");
        let below = read_sequences_below(root.path(), "p1", &["t1"], &limits()).unwrap();
        assert_eq!(below, read_sequences(&folder, &["t1"], &limits()).unwrap());
        assert!(below.mask.is_none() && below.id == "p1");
        let (complete, left_out) = complete_patients(root.path(), &["p1"], &["t1"]).unwrap();
        assert_eq!((complete.len(), left_out.len()), (1, 0));
    }
}

/// As many ids as folders, as the user calls them.
#[test]
fn ids_are_what_the_user_calls_the_patients() {
    let mut files = Vec::new();
    for id in [
        "1.3.6.1.101",
        "1.3.6.1.202",
        "sub-03.v1",
        "sub-03.v2",
        "HGG/Brats_001",
        "LGG/Brats_001",
    ] {
        let name = id.rsplit('/').next().unwrap();
        for sequence in ["t1", "flair"] {
            files.push((id, format!("{id}/{name}_{sequence}.nii.gz")));
        }
    }
    let root = tree(&files.iter().map(|(_, f)| f.as_str()).collect::<Vec<_>>());
    let mut ids: Vec<&str> = files.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(list_patients(root.path()).unwrap().ids, ids);
    for id in &ids {
        let patient = read_patient_below(root.path(), id, &["t1"], &limits()).unwrap();
        assert_eq!(patient.id, *id);
        let name = id.rsplit('/').next().unwrap();
        for path in [
            id.to_string(),
            format!("{id}/"),
            format!("{id}/."),
            format!("./{id}"),
        ] {
            let patient = read_patient(root.path().join(path), &["t1"], &limits()).unwrap();
            assert_eq!(patient.id, name);
        }
        let inside = root.path().join(id).join("inside");
        fs::create_dir(&inside).unwrap();
        let patient = read_patient(inside.join(".."), &["t1"], &limits()).unwrap();
        assert_eq!(patient.id, name);
    }
    for id in ["../x", "", "/p", "HGG/../LGG/Brats_001", "."] {
        let error = read_patient_below(root.path(), id, &["t1"], &limits()).unwrap_err();
        assert!(
            matches!(error, Error::InvalidConfig { .. }),
            "{id}: {error}"
        );
    }
}

#[cfg(unix)]
#[test]
fn links_are_not_resolved() {
    let root = tree(&["store/a/scan/flair.nii.gz", "store/b/scan/flair.nii.gz"]);
    let links = root.path().join("links");
    fs::create_dir(&links).unwrap();
    for (id, target) in [("pat1", "a"), ("pat2", "b")] {
        let target = root.path().join("store").join(target).join("scan");
        std::os::unix::fs::symlink(target, links.join(id)).unwrap();
    }
    let listed = list_patients(&links).unwrap();
    assert_eq!(listed.ids, ["pat1", "pat2"]);
    for id in &listed.ids {
        let patient = read_patient(links.join(id), &["flair"], &limits()).unwrap();
        assert_eq!(&patient.id, id);
    }
    // A file under two names is one file.
    std::os::unix::fs::symlink("flair.nii.gz", links.join("pat1/pat1_flair.nii.gz")).unwrap();
    find_sequence(links.join("pat1"), "flair").unwrap();
    // Links back to where they lie.
    std::os::unix::fs::symlink(&links, links.join("pat2/back")).unwrap();
    std::os::unix::fs::symlink(".", links.join("self")).unwrap();
    let listed = list_patients(&links).unwrap();
    assert_eq!(listed.ids, ["pat1", "pat2"]);
    assert!(
        matches!(listed.left_out.as_slice(), [one] if one.path.ends_with("self")),
        "{:?}",
        listed.left_out
    );
    find_sequence(links.join("pat2"), "flair").unwrap();
}

/// The data folder given as one patient's must not make a user delete files.
#[test]
fn several_patients_are_told_from_one() {
    let root = tree(&[
        "a/a_t1.nii.gz",
        "a/a_flair.nii.gz",
        "b/b_t1.nii.gz",
        "b/b_flair.nii.gz",
        "c/c_mask.nii",
        "c/x/c_t1.nii",
        "c/x/d_t1.nii",
    ]);
    let error = read_patient(root.path(), &["t1"], &limits()).unwrap_err();
    assert!(matches!(error, Error::SeveralPatients { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("--data") && !text.contains("remove"),
        "{text}"
    );
    // Two files in one folder of a patient are still one patient's.
    let error = Files::find(&root.path().join("c"), &["t1"]).unwrap();
    assert!(error.sequences[0].1.ends_with("x/c_t1.nii"));
    fs::rename(
        root.path().join("c/x/c_t1.nii"),
        root.path().join("c/x/e_t1.nii"),
    )
    .unwrap();
    let error = read_patient(root.path().join("c"), &["t1"], &limits()).unwrap_err();
    assert!(matches!(error, Error::AmbiguousSequence { .. }), "{error}");
}

/// One patient that can't be read is told, and the others go on. The names of folders whose reading is refused
/// to everybody stand in for those that are refused to one.
#[cfg(target_os = "linux")]
#[test]
fn unusable_folders_are_told_and_left_out() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    let root = tree(&[
        "p1/p1_t1.nii.gz",
        "HGG/a/a_t1.nii.gz",
        "HGG/a/a_flair.nii.gz",
        "HGG/b/b_t1.nii.gz",
        "HGG/b/b_flair.nii.gz",
        "lost+found/x",
        "HGG/lost+found/x",
    ]);
    let odd = OsStr::from_bytes(b"M\xfcller");
    for folder in [root.path().to_path_buf(), root.path().join("HGG")] {
        let odd = folder.join(odd);
        fs::create_dir(&odd).unwrap();
        for name in ["t1.nii.gz", "flair.nii.gz"] {
            let mut file = odd.file_name().unwrap().to_os_string();
            file.push("_");
            file.push(name);
            fs::copy(root.path().join("p1/p1_t1.nii.gz"), odd.join(file)).unwrap();
        }
    }
    // A folder with a name like a patient's that isn't UTF-8 but holds nothing is passed over.
    fs::create_dir(root.path().join(OsStr::from_bytes(b"empty\xfc"))).unwrap();
    let locked = [
        root.path().join("lost+found"),
        root.path().join("HGG/lost+found"),
    ];
    let lock = |mode| {
        for folder in &locked {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    lock(0o000);
    // The superuser may read everything.
    let refused = fs::read_dir(&locked[0]).is_err();
    let listed = list_patients(root.path());
    lock(0o755);
    let listed = listed.unwrap();
    assert_eq!(listed.ids, ["HGG/a", "HGG/b", "p1"]);
    let not_utf8 = |n: &&fndm_data::layout::LeftOut| matches!(n.reason, Error::NotUtf8 { .. });
    assert_eq!(listed.left_out.iter().filter(not_utf8).count(), 2);
    let error = read_patient(root.path().join(odd), &["t1"], &limits()).unwrap_err();
    assert!(matches!(error, Error::NotUtf8 { .. }), "{error}");
    if refused {
        assert_eq!(listed.left_out.len(), 4, "{:?}", listed.left_out);
        for folder in &locked {
            assert!(listed.left_out.iter().any(|left| &left.path == folder));
        }
    } else {
        eprintln!("run as a user who may read everything: locked folders are not tested");
    }
}

/// BIDS tells the agent apart from the sequence; masks drawn on a sequence are not the sequence.
#[test]
fn sequences_are_told_apart() {
    let root = tree(&[
        "sub-1/anat/sub-1_ce-gadolinium_T1w.nii.gz",
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-1/anat/sub-1_mask_T2w.nii.gz",
        "p2/p2_t2_flair.nii.gz",
        "p2/p2_not_t1.nii.gz",
        "p2/p2_t1.nii.gz",
    ]);
    let file = |id: &str, sequence: &str| {
        find_sequence(root.path().join(id), sequence)
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_string())
    };
    assert!(file("sub-1", "t1ce").unwrap().contains("ce-gadolinium"));
    for missing in ["t1", "t2"] {
        let error = file("sub-1", missing).unwrap_err();
        assert!(matches!(error, Error::MissingSequence { .. }), "{error}");
    }
    add(root.path(), "sub-1/anat/sub-1_T1w.nii.gz");
    assert_eq!(file("sub-1", "t1").unwrap(), "sub-1_T1w.nii.gz");
    assert!(file("sub-1", "t1ce").unwrap().contains("ce-gadolinium"));
    let listed = list_sequences(root.path().join("sub-1")).unwrap();
    assert_eq!(listed, ["flair", "t1", "t1ce"]);

    assert_eq!(file("p2", "t1").unwrap(), "p2_t1.nii.gz");
    assert_eq!(file("p2", "flair").unwrap(), "p2_t2_flair.nii.gz");
    assert!(file("p2", "t2").is_err());
}
