//! Subjects, sessions and sequences of BIDS data sets: the examples are those of the BIDS specification and what its readers meet.

use std::fs;
use std::path::Path;

use fndm_data::bids::{Filter, Session, Tree};
use fndm_data::{Error, Limits};

fn tree(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    folder
}

fn filters(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn read(root: &Path, texts: &[&str]) -> Tree {
    Tree::read(root, &filters(texts), &Limits::default()).unwrap()
}

/// `id sequence=name ...` of every session, or the error.
fn chosen(tree: &Tree, sequences: &[&str], texts: &[&str]) -> Vec<String> {
    let sessions = tree.sessions.iter();
    let told = sessions.map(|session| match session.choose(sequences, &filters(texts)) {
        Ok(images) => {
            let images = images.iter();
            let images = images.map(|(sequence, image)| format!(" {sequence}={}", image.name));
            format!("{}{}", session.id(), images.collect::<String>())
        }
        Err(error) => format!("{}: {error}", session.id()),
    });
    told.collect()
}

#[test]
fn sessions_runs_and_agents() {
    let folder = tree(&[
        "dataset_description.json",
        "sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz",
        "sub-01/ses-pre/anat/sub-01_ses-pre_T1w.json",
        "sub-01/ses-pre/anat/sub-01_ses-pre_ce-gadolinium_T1w.nii.gz",
        "sub-01/ses-pre/anat/sub-01_ses-pre_FLAIR.nii.gz",
        "sub-01/ses-pre/dwi/sub-01_ses-pre_dwi.nii.gz",
        "sub-01/ses-post/anat/sub-01_ses-post_run-1_T1w.nii.gz",
        "sub-01/ses-post/anat/sub-01_ses-post_run-2_T1w.nii.gz",
        "sub-01/ses-post/anat/sub-01_ses-post_FLAIR.nii.gz",
        "sub-02/anat/sub-02_T1w.nii",
        "sub-02/anat/sub-02_FLAIR.nii",
        "derivatives/other/sub-01/anat/sub-01_FLAIR.nii.gz",
        "sourcedata/sub-09/anat/sub-09_FLAIR.nii.gz",
    ]);
    let all = read(folder.path(), &[]);
    assert!(all.described && all.left_out.is_empty());
    assert_eq!(
        chosen(&all, &["flair", "t1"], &[]),
        [
            "sub-01/ses-post: patient sub-01/ses-post: t1 could be sub-01_ses-post_run-1_T1w or sub-01_ses-post_run-2_T1w: choose by a filter, as t1:run=1",
            "sub-01/ses-pre flair=sub-01_ses-pre_FLAIR t1=sub-01_ses-pre_T1w",
            "sub-02 flair=sub-02_FLAIR t1=sub-02_T1w",
        ]
    );
    // The filter that the error proposes, with leading zeros, does it; those without runs stay.
    let told = chosen(&all, &["t1"], &["t1:run=02"]);
    assert_eq!(told[0], "sub-01/ses-post t1=sub-01_ses-post_run-2_T1w");
    assert_eq!(told[2], "sub-02 t1=sub-02_T1w");
    let told = chosen(&all, &["t1ce", "dwi"], &[]);
    assert_eq!(
        told[1],
        "sub-01/ses-pre t1ce=sub-01_ses-pre_ce-gadolinium_T1w dwi=sub-01_ses-pre_dwi"
    );
    assert!(told[2].contains("sequence t1ce not found"), "{}", told[2]);
    let pre = read(folder.path(), &["ses=pre"]);
    assert_eq!(pre.sessions.len(), 1);
    let both = read(folder.path(), &["sub=sub-02,01", "ses=,post"]);
    let ids: Vec<String> = both.sessions.iter().map(Session::id).collect();
    assert_eq!(ids, ["sub-01/ses-post"]);
    let without = read(folder.path(), &["ses="]);
    assert_eq!(without.sessions[0].id(), "sub-02");
}

#[test]
fn names_that_contradict_their_folder_are_told() {
    let folder = tree(&[
        "sub-01/anat/sub-02_FLAIR.nii.gz",
        "sub-03/anat/sub-03_ses-1_FLAIR.nii.gz",
        "sub-04/anat/sub-04_FLAIR.nii.gz",
    ]);
    let all = read(folder.path(), &[]);
    assert!(!all.described);
    assert_eq!(all.sessions.len(), 1);
    assert_eq!(all.left_out.len(), 2);
    for left_out in &all.left_out {
        let told = left_out.reason.to_string();
        assert!(told.contains("another subject's or session's"), "{told}");
    }
}

#[test]
fn nothing_to_find() {
    for files in [
        &[][..],
        &["sub-01/anat/notes.txt"],
        &["p01/p01_flair.nii.gz"],
        &["sub-01/anat/FLAIR.nii.gz"],
        &["sub-/anat/sub-_FLAIR.nii.gz"],
        &["sub-01/sub-01_FLAIR.nii.gz"],
    ] {
        let folder = tree(files);
        let error = Tree::read(folder.path(), &[], &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::NoPatients { .. }), "{error}");
    }
    let folder = tree(&["sub-01/anat/sub-01_FLAIR.nii.gz"]);
    let error = Tree::read(folder.path(), &filters(&["sub=02"]), &Limits::default());
    let told = error.unwrap_err().to_string();
    assert!(told.contains("the filters pass over 1"), "{told}");
    assert!(Tree::read(folder.path().join("none"), &[], &Limits::default()).is_err());
}

#[test]
fn own_results_are_no_data() {
    let folder = tree(&[
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
        "sub-01/ses-1/.fndm.json",
        "sub-02/anat/sub-02_FLAIR.nii.gz",
        "sub-02/.fndm.json",
    ]);
    let all = read(folder.path(), &[]);
    let ids: Vec<String> = all.sessions.iter().map(Session::id).collect();
    assert_eq!(ids, ["sub-01"]);
}
