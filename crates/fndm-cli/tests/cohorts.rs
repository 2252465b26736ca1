//! Cohorts in parts: the same files as from one process, whatever happens on the way.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "regressions/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Place, Ran, files, fndm, model};

/// A cohort of small patients, and the commands on it.
struct Cohort {
    place: Place,
}

impl Cohort {
    fn new(patients: u64) -> Self {
        let place = Place::new();
        for seed in 0..patients {
            place.patient(format!("data/p{seed:02}"), seed, 2);
        }
        Self { place }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = fndm(&self.place.root(), arguments);
        // As outside an array, wherever the tests run.
        for name in ["ID", "MIN", "MAX", "STEP", "COUNT"] {
            command.env_remove(format!("SLURM_ARRAY_TASK_{name}"));
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(arguments).output().unwrap())
    }

    /// `detect` by the student, which is quick.
    fn detect_command(&self, output: &str, more: &[&str]) -> Command {
        let mut command = self.command(&["detect", "--method", "student", "--data", "data"]);
        command.args(["--output", output, "--model"]).arg(model());
        command.args(more);
        command
    }

    fn detect(&self, output: &str, more: &[&str]) -> Ran {
        Ran::of(&self.detect_command(output, more).output().unwrap())
    }

    fn evaluate(&self, output: &str, more: &[&str]) -> Ran {
        let mut command = self.command(&["evaluate", "--split", "all", "--data", "data"]);
        command.args(["--methods", "student,flair", "--output", output]);
        command.arg("--model").arg(model()).args(more);
        Ran::of(&command.output().unwrap())
    }

    /// The files of all patients, by their paths below the folder of results. The page of all is an undivided run's; of parts `collect`
    /// writes it.
    fn results(&self, output: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        without(&self.place.path(output), |path| {
            path.starts_with("_cohort") || path == Path::new("report.html")
        })
    }

    /// All files but the times.
    fn all_but_times(&self, output: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        without(&self.place.path(output), |path| {
            path.iter()
                .any(|part| part.to_string_lossy().starts_with("times-"))
        })
    }

    fn rows(&self, output: &str) -> Vec<String> {
        let text = fs::read_to_string(self.place.path(output).join("patients.csv")).unwrap();
        text.lines().skip(1).map(String::from).collect()
    }
}

fn without(folder: &Path, left_out: impl Fn(&Path) -> bool) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = files(folder).into_iter();
    let below = all.map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes));
    below.filter(|(path, _)| !left_out(path)).collect()
}

/// The paths of two trees that differ.
fn differ(a: &BTreeMap<PathBuf, Vec<u8>>, b: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let names = a.keys().chain(b.keys());
    let mut differ: Vec<PathBuf> = names.filter(|n| a.get(*n) != b.get(*n)).cloned().collect();
    differ.dedup();
    differ
}

#[test]
fn shards_write_what_one_process_writes() {
    let cohort = Cohort::new(5);
    cohort
        .detect("whole", &["--shard", "1/1"])
        .ends_with(0)
        .says(&["5 of 5 patients done"]);
    cohort.detect("plain", &[]).ends_with(0);
    cohort.detect("ahead", &["--out-of-core"]).ends_with(0);
    cohort
        .detect("parts", &["--shard", "2/2"])
        .ends_with(0)
        .says(&["2 of 2 patients done"]);
    // Half is missing, and named.
    cohort
        .run(&["collect", "parts", "--output", "half"])
        .ends_with(2)
        .says(&["5 patients expected, 2 done, 3 missing; 2 shards"])
        .tells(&["p00: shard 1/2 was never begun", "p04"]);
    cohort
        .detect("parts", &["--shard", "1/2", "--out-of-core"])
        .ends_with(0);
    let whole = cohort.results("whole");
    for other in ["plain", "ahead", "parts"] {
        assert_eq!(
            differ(&whole, &cohort.results(other)),
            Vec::<PathBuf>::new(),
            "{other}"
        );
    }
    cohort
        .run(&["collect", "parts", "--output", "both"])
        .ends_with(0);
    cohort
        .run(&["collect", "whole", "--output", "one"])
        .ends_with(0);
    assert_eq!(cohort.rows("both"), cohort.rows("one"));
    assert_eq!(cohort.rows("both").len(), 5);
    let report = cohort.place.json("both/report.json");
    assert_eq!(report["counts"]["done"], 5);
    // Two folders are one cohort too.
    fs::create_dir(cohort.place.path("other")).unwrap();
    for name in ["p01", "p03"] {
        fs::rename(
            cohort.place.path(format!("parts/{name}")),
            cohort.place.path(format!("other/{name}")),
        )
        .unwrap();
    }
    for begin in ["shard", "times"] {
        fs::create_dir_all(cohort.place.path("other/_cohort")).unwrap();
        let name = format!("_cohort/{begin}-2-of-2");
        fs::rename(
            cohort.place.path(format!("parts/{name}")),
            cohort.place.path(format!("other/{name}")),
        )
        .unwrap();
    }
    cohort
        .run(&["collect", "parts", "other", "--output", "joined"])
        .ends_with(0);
    assert_eq!(cohort.rows("joined"), cohort.rows("one"));
}

#[test]
fn what_is_done_is_passed_over_and_what_changed_is_not() {
    let cohort = Cohort::new(3);
    let shard = ["--shard", "1/1"];
    cohort.detect("out", &shard).ends_with(0);
    let first = cohort.all_but_times("out");
    cohort
        .detect("out", &shard)
        .ends_with(0)
        .says(&["3 of 3 patients done (3 before)"]);
    assert_eq!(
        differ(&first, &cohort.all_but_times("out")),
        Vec::<PathBuf>::new()
    );
    cohort
        .detect("out", &["--shard", "1/1", "--again"])
        .ends_with(0)
        .says(&["3 of 3 patients done by"]);
    assert_eq!(
        differ(&first, &cohort.all_but_times("out")),
        Vec::<PathBuf>::new()
    );
    // Another time of a file is no change, another voxel is one.
    let file = cohort.place.path("data/p01/p01_flair.nii.gz");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes).unwrap();
    cohort
        .detect("out", &shard)
        .ends_with(0)
        .says(&["(3 before)"]);
    cohort.place.change("data/p01/p01_flair.nii.gz", |volume| {
        volume.data[[5, 5, 1]] += 40.;
    });
    cohort
        .detect("out", &shard)
        .ends_with(0)
        .says(&["(2 before)"]);
    assert_eq!(
        differ(&first, &cohort.results("out"))
            .iter()
            .filter(|p| !p.starts_with("p01") && !p.starts_with("_cohort"))
            .count(),
        0
    );
    // Another setting.
    cohort
        .detect("out", &["--shard", "1/1", "--smoothing", "1.5"])
        .ends_with(0)
        .says(&["3 of 3 patients done by"]);
    // A file that went missing is made again.
    fs::remove_file(cohort.place.path("out/p02/p02_mask.nii.gz")).unwrap();
    cohort
        .run(&["collect", "out", "--output", "c"])
        .ends_with(2)
        .tells(&["p02: what lies in out/p02 isn't what fndm wrote"]);
    cohort
        .detect("out", &["--shard", "1/1", "--smoothing", "1.5"])
        .ends_with(0)
        .says(&["(2 before)"]);
}

#[test]
fn a_result_that_was_changed_by_hand_stops_nobody_else() {
    let cohort = Cohort::new(3);
    let all = ["--shard", "1/1"];
    cohort.detect("out", &all).ends_with(0);
    let report = cohort.place.path("out/p01/p01_report.json");
    fs::write(&report, "mine").unwrap();
    fs::remove_dir_all(cohort.place.path("out/p02")).unwrap();
    cohort
        .run(&["collect", "out", "--output", "c"])
        .ends_with(2)
        .tells(&[
            "p01: what lies in out/p01 isn't",
            "p02: its results are gone",
        ]);
    cohort
        .detect("out", &all)
        .ends_with(2)
        .says(&["2 of 3 patients done (1 before)"])
        .tells(&["p01_report.json of the earlier result was changed"]);
    assert_eq!(fs::read_to_string(&report).unwrap(), "mine");
    // Another patient's results under a name.
    fs::remove_dir_all(cohort.place.path("out/p01")).unwrap();
    copy_folder(&cohort.place.path("out/p00"), &cohort.place.path("out/p01"));
    cohort.detect("out", &all).ends_with(2);
    cohort
        .run(&["collect", "out", "--output", "c"])
        .ends_with(2)
        .tells(&["p01: "]);
    // Where nobody can be written, nothing is begun.
    for id in ["p00", "p02"] {
        let report = cohort.place.path(format!("out/{id}/{id}_report.json"));
        fs::write(report, "mine").unwrap();
    }
    cohort.detect("out", &all).ends_with(1);
    cohort
        .run(&["collect", "nowhere", "--output", "c2"])
        .ends_with(1)
        .tells(&["nowhere: no such folder"]);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_patient_that_fails_stops_nobody() {
    let cohort = Cohort::new(4);
    cohort.place.put("data/p02/p02_t1.nii.gz", "no volume");
    cohort
        .detect("out", &["--shard", "1/2", "--out-of-core"])
        .ends_with(2)
        .says(&["1 of 2 patients done"])
        .tells(&["p02", "p02_t1.nii.gz"]);
    cohort.detect("out", &["--shard", "2/2"]).ends_with(0);
    let record = cohort.place.json("out/_cohort/shard-1-of-2/shard.json");
    let error = record["failed"]["p02"].as_str().unwrap();
    assert!(error.contains("p02_t1.nii.gz"), "{error}");
    cohort
        .run(&["collect", "out", "--output", "c"])
        .ends_with(2)
        .says(&["4 patients expected, 3 done, 1 failed; 2 shards"])
        .tells(&["failed:", "p02: ", "p02_t1.nii.gz"]);
    let report = cohort.place.json("c/report.json");
    assert_eq!(report["failed"][0]["patient"], "p02");
    assert!(cohort.rows("c")[2].starts_with("p02,failed,"));
    let text = fs::read_to_string(cohort.place.path("c/report.txt")).unwrap();
    assert!(text.contains("p02_t1.nii.gz"), "{text}");
    // Mended, and done.
    cohort.place.patient("data/p02", 2, 2);
    cohort
        .detect("out", &["--shard", "1/2"])
        .ends_with(0)
        .says(&["(1 before)"]);
    cohort
        .run(&["collect", "out", "--output", "c"])
        .ends_with(0);
}

#[test]
fn a_list_says_who_is_expected() {
    let cohort = Cohort::new(3);
    cohort.place.put(
        "list.txt",
        "# two, and one that isn't there\np02\np00\np77\n",
    );
    cohort
        .detect("out", &["--list", "list.txt"])
        .ends_with(2)
        .says(&["2 of 3 patients done"])
        .tells(&["p77"]);
    cohort
        .run(&["collect", "out", "--output", "c"])
        .ends_with(2)
        .tells(&["p77: "]);
    let order: Vec<String> = cohort
        .rows("c")
        .iter()
        .map(|row| row[..3].to_owned())
        .collect();
    assert_eq!(order, ["p02", "p00", "p77"], "the list's order");
    assert!(!cohort.place.path("out/p01").exists());
    // Without --data, folders.
    cohort.place.put("folders.txt", "data/p01/\ndata/p02\n");
    let mut command = cohort.command(&["detect", "--method", "student", "--list", "folders.txt"]);
    command
        .args(["--shard", "1/2", "--output", "two", "--model"])
        .arg(model());
    Ran::of(&command.output().unwrap()).ends_with(0);
    assert!(cohort.place.path("two/p01/record.json").is_file());
    assert!(!cohort.place.path("two/p02").exists());
    for (name, text, words) in [
        ("none.txt", "\n# nobody\n", "found none"),
        ("twice.txt", "p01\np01\n", "line 2"),
        ("out.txt", "../x\n", "--list"),
    ] {
        cohort.place.put(name, text);
        cohort
            .detect("new", &["--list", name])
            .ends_with(1)
            .tells(&[words]);
        assert!(!cohort.place.path("new").exists());
    }
}

/// Nobody asked for parts: the record is there all the same, and does no harm.
#[test]
fn an_undivided_run_is_part_one_of_one() {
    let cohort = Cohort::new(3);
    cohort.detect("plain", &[]).ends_with(0);
    cohort.detect("one", &["--shard", "1/1"]).ends_with(0);
    let record = "_cohort/shard-1-of-1/shard.json";
    let read = |output: &str| fs::read(cohort.place.path(output).join(record)).unwrap();
    assert_eq!(read("plain"), read("one"));
    for output in ["plain", "one"] {
        let joined = format!("{output}-joined");
        cohort
            .run(&["collect", output, "--output", &joined])
            .ends_with(0)
            .says(&["3 patients expected, 3 done"]);
    }
    assert_eq!(cohort.rows("plain-joined"), cohort.rows("one-joined"));
    // Records of shards stay, and so do their results.
    cohort.detect("parts", &["--shard", "2/2"]).ends_with(0);
    let before = cohort.all_but_times("parts/_cohort");
    cohort
        .detect("parts", &[])
        .ends_with(0)
        .says(&["(1 before)"])
        .tells(&["records of shards"]);
    assert_eq!(
        differ(&before, &cohort.all_but_times("parts/_cohort")),
        Vec::<PathBuf>::new()
    );
    // A record that somebody changed isn't written over, and is no reason to fail.
    cohort.place.put(&format!("plain/{record}"), "{");
    cohort
        .detect("plain", &[])
        .ends_with(0)
        .says(&["(3 before)"])
        .tells(&["warning: no record", "changed"]);
    assert_eq!(read("plain"), b"{");
    // One patient alone is no cohort.
    let mut one = cohort.command(&["detect", "--method", "student", "--patient", "data/p02"]);
    one.args(["--output", "single", "--model"]).arg(model());
    Ran::of(&one.output().unwrap()).ends_with(0);
    assert_eq!(cohort.place.names("single"), ["p02"]);
}

/// The cohort as a BIDS data set: every subject has one session, but for the last, which has none. The masks lie beside the images.
fn as_bids(cohort: &Cohort, patients: u64) {
    let suffixes = [
        ("flair", "FLAIR"),
        ("t1", "T1w"),
        ("t1ce", "ce-gadolinium_T1w"),
        ("t2", "T2w"),
        ("seg", "label-lesion_mask"),
    ];
    for n in 0..patients {
        let last = n + 1 == patients;
        let id = if last {
            format!("sub-{n:02}")
        } else {
            format!("sub-{n:02}/ses-a")
        };
        let prefix = id.replace('/', "_");
        for (own, suffix) in suffixes {
            let bytes = fs::read(
                cohort
                    .place
                    .path(format!("data/p{n:02}/p{n:02}_{own}.nii.gz")),
            );
            let name = format!("raw/{id}/anat/{prefix}_{suffix}.nii.gz");
            cohort.place.put(&name, bytes.unwrap());
        }
    }
    let description = r#"{"Name": "phantoms", "BIDSVersion": "1.10.0", "DatasetType": "raw"}"#;
    cohort
        .place
        .put("raw/dataset_description.json", description);
}

/// As the tasks of `--array=1-N`.
fn in_array(mut command: Command, id: u64, count: u64) -> Ran {
    let variables = [
        ("ID", id),
        ("MIN", 1),
        ("MAX", count),
        ("STEP", 1),
        ("COUNT", count),
    ];
    for (name, value) in variables {
        command.env(format!("SLURM_ARRAY_TASK_{name}"), value.to_string());
    }
    Ran::of(&command.output().unwrap())
}

#[test]
fn a_bids_data_set_in_the_tasks_of_an_array() {
    let cohort = Cohort::new(5);
    as_bids(&cohort, 5);
    let command = |output: &str, more: &[&str]| {
        let mut command = cohort.command(&["detect", "--method", "student", "--bids", "raw"]);
        command.args(["--output", output]).args(more);
        command.arg("--model").arg(model());
        command
    };
    let run = |output: &str, more: &[&str]| Ran::of(&command(output, more).output().unwrap());
    run("whole", &[])
        .ends_with(0)
        .says(&["5 of 5 patients done"]);
    in_array(command("parts", &[]), 1, 2)
        .ends_with(0)
        .says(&["3 of 3 patients done"])
        .tells(&["part 1/2"]);
    run("parts", &["--shard", "2/2", "--out-of-core"])
        .ends_with(0)
        .says(&["2 of 2 patients done"]);
    assert_eq!(
        differ(&cohort.results("whole"), &cohort.results("parts")),
        Vec::<PathBuf>::new()
    );
    assert!(
        cohort
            .place
            .path("parts/sub-01/ses-a/anat/sub-01_ses-a_label-lesion_mask.nii.gz")
            .is_file()
    );
    assert!(
        cohort
            .place
            .path("parts/dataset_description.json")
            .is_file()
    );
    for output in ["whole", "parts"] {
        let joined = format!("{output}-joined");
        cohort
            .run(&["collect", output, "--output", &joined])
            .ends_with(0);
    }
    assert_eq!(cohort.rows("parts-joined"), cohort.rows("whole-joined"));
    assert!(cohort.rows("whole-joined")[4].starts_with("sub-04,done,"));
    // Those that a list names.
    cohort
        .place
        .put("list.txt", "sub-03/ses-a\nsub-04\nsub-77\n");
    in_array(command("listed", &["--list", "list.txt"]), 2, 2)
        .ends_with(0)
        .says(&["1 of 1 patient done"]);
    assert!(cohort.place.path("listed/sub-04/record.json").is_file());
}

/// Figures of all rows, without times.
fn rows_of(cohort: &Cohort, output: &str) -> Value {
    let report = figures(&cohort.place.json(&format!("{output}/report.json")));
    serde_json::json!([report["rows"], report["volumes"]])
}

#[test]
fn a_bids_data_set_is_evaluated() {
    let cohort = Cohort::new(4);
    as_bids(&cohort, 4);
    let command = |output: &str, more: &[&str]| {
        let mut command = cohort.command(&["evaluate", "--methods", "student,flair"]);
        command.args(["--output", output]).args(more);
        command.arg("--model").arg(model());
        command
    };
    let run = |output: &str, more: &[&str]| Ran::of(&command(output, more).output().unwrap());
    run("plain", &["--data", "data", "--split", "all"]).ends_with(0);
    let bids = ["--bids", "raw"];
    run("whole", &bids).ends_with(0).says(&["4 patients"]);
    // The same patients in the same order: the same figures.
    assert_eq!(rows_of(&cohort, "whole"), rows_of(&cohort, "plain"));
    for task in [2, 1] {
        in_array(command("parts", &bids), task, 2).ends_with(0);
    }
    cohort
        .run(&["collect", "parts", "--output", "joined"])
        .ends_with(0);
    assert_eq!(rows_of(&cohort, "joined"), rows_of(&cohort, "whole"));
    // A list, and one on it who isn't there.
    cohort
        .place
        .put("list.txt", "sub-03\nsub-01/ses-a\nsub-55\n");
    run("listed", &["--bids", "raw", "--list", "list.txt"])
        .ends_with(2)
        .says(&["2 patients"])
        .tells(&["sub-55"]);
    cohort.place.put("ids.txt", "p03\np01\np55\n");
    run("ids", &["--data", "data", "--list", "ids.txt"])
        .ends_with(2)
        .tells(&["p55"]);
    assert_eq!(rows_of(&cohort, "ids"), rows_of(&cohort, "listed"));
    // The masks in a derivative, by bare names.
    for id in ["sub-00/ses-a", "sub-01/ses-a", "sub-02/ses-a", "sub-03"] {
        let prefix = id.replace('/', "_");
        let own = cohort
            .place
            .path(format!("raw/{id}/anat/{prefix}_label-lesion_mask.nii.gz"));
        let name = format!("raw/derivatives/manual/{id}/anat/{prefix}_dseg.nii.gz");
        cohort.place.put(&name, fs::read(&own).unwrap());
        fs::remove_file(own).unwrap();
    }
    run("none", &bids).ends_with(1).tells(&["no lesion mask"]);
    let masks = ["--bids-masks", "raw/derivatives/manual"];
    run("masks", &[&bids[..], &masks].concat()).ends_with(0);
    assert_eq!(rows_of(&cohort, "masks"), rows_of(&cohort, "whole"));
    // Two that may be meant: neither is taken, until one is chosen.
    let two = "raw/derivatives/manual/sub-03/anat/sub-03_space-orig_dseg.nii.gz";
    let one = cohort
        .place
        .path("raw/derivatives/manual/sub-03/anat/sub-03_dseg.nii.gz");
    cohort.place.put(two, fs::read(one).unwrap());
    run("two", &[&bids[..], &masks].concat())
        .ends_with(2)
        .tells(&["sub-03", "mask could be", "mask:space="]);
    run(
        "chosen",
        &[&bids[..], &masks, &["--bids-filter", "mask:space="]].concat(),
    )
    .ends_with(0);
    assert_eq!(rows_of(&cohort, "chosen"), rows_of(&cohort, "whole"));
}

/// The task of an array is a part, where many patients are asked for.
#[test]
fn a_task_of_an_array_is_a_part() {
    let cohort = Cohort::new(3);
    let task = |arguments: &[&str], id: &str, count: &str| {
        let mut command = cohort.detect_command("out", arguments);
        command
            .env("SLURM_ARRAY_TASK_ID", id)
            .env("SLURM_ARRAY_TASK_MIN", "0");
        command.env("SLURM_ARRAY_TASK_COUNT", count);
        Ran::of(&command.output().unwrap())
    };
    task(&[], "1", "2")
        .ends_with(0)
        .says(&["1 of 1 patient done"])
        .tells(&["part 2/2"]);
    assert!(cohort.place.path("out/p01").is_dir());
    task(&[], "5", "2").ends_with(1).tells(&["--shard"]);
    // What is asked for counts more.
    task(&["--shard", "1/1"], "1", "2")
        .ends_with(0)
        .says(&["3 of 3 patients done (1 before)"]);
    // Of parts that no shard of this division is, records are gone.
    assert_eq!(
        cohort.place.names("out/_cohort"),
        ["shard-1-of-1", "times-1-of-1"]
    );
    let mut one = cohort.command(&[
        "detect",
        "--method",
        "student",
        "--patient",
        "data/p02",
        "--output",
        "one",
        "--model",
    ]);
    one.arg(model())
        .env("SLURM_ARRAY_TASK_ID", "1")
        .env("SLURM_ARRAY_TASK_MIN", "0")
        .env("SLURM_ARRAY_TASK_COUNT", "2");
    Ran::of(&one.output().unwrap()).ends_with(0);
    for wrong in ["0/2", "3/2", "1", "a/b"] {
        cohort
            .detect("out", &["--shard", wrong])
            .ends_with(1)
            .tells(&["I/N"]);
    }
}

/// Figures without times.
fn figures(report: &Value) -> Value {
    let mut report = report.clone();
    for rows in ["rows", "volumes"] {
        for row in report[rows].as_array_mut().into_iter().flatten() {
            row.as_object_mut().unwrap().remove("ms_per_slice");
        }
    }
    report.as_object_mut().unwrap().remove("command");
    report
}

/// The figures of each case, without times.
fn cases(cohort: &Cohort, output: &str) -> Value {
    let mut all = cohort.place.json(&format!("{output}/cases.json"));
    for evaluation in all.as_array_mut().unwrap() {
        evaluation["row"]["ms_per_slice"] = Value::Null;
    }
    all
}

/// The pictures of a page, in their order.
fn pictures(page: &str) -> Vec<&str> {
    let all = page.split("data:image/png;base64,").skip(1);
    all.map(|rest| rest.split(['"', '\'', ')']).next().unwrap())
        .collect()
}

/// The page of an evaluation of parts has the pictures and words of the page of one run, and leads to the patients' pages.
fn same_pages(cohort: &Cohort, whole: &str, joined: &str, parts: &str) {
    let read = |output: &str| {
        let path = cohort.place.path(output).join("report.html");
        fs::read_to_string(path).unwrap()
    };
    let (of_one, of_parts) = (read(whole), read(joined));
    assert!(pictures(&of_one).len() > 3);
    assert!(pictures(&of_one) == pictures(&of_parts));
    // But for the places of the patients' pages, and for what made the page.
    let lines = |page: &str| -> Vec<String> {
        let mut text = page.to_owned();
        for (n, name) in cohort
            .place
            .names(&format!("{whole}/patients"))
            .iter()
            .enumerate()
        {
            let id = &name[5..name.len() - 5];
            assert_eq!(name[..4].parse(), Ok(n + 1));
            text = text.replace(
                &format!("../{parts}/{id}/report.html"),
                &format!("patients/{name}"),
            );
        }
        let made = [
            "Command",
            "Model",
            "sha256 of",
            "fndm evaluate",
            "fndm collect",
        ];
        let kept = text
            .lines()
            .filter(|line| !made.iter().any(|m| line.contains(m)));
        kept.map(String::from).collect()
    };
    let (of_one, of_parts) = (lines(&of_one), lines(&of_parts));
    let differ = of_one.iter().zip(&of_parts).find(|(a, b)| a != b);
    assert_eq!(differ, None);
    assert_eq!(of_one.len(), of_parts.len());
}

#[test]
fn joined_evaluations_are_those_of_one_run_to_the_digit() {
    let cohort = Cohort::new(5);
    // One without a mask, and one that can't be read.
    fs::remove_file(cohort.place.path("data/p01/p01_seg.nii.gz")).unwrap();
    cohort.place.put("data/p03/p03_t2.nii.gz", "no volume");
    cohort.evaluate("whole", &[]).ends_with(2);
    for shard in ["1/3", "2/3", "3/3"] {
        cohort.evaluate("parts", &["--shard", shard]);
    }
    let words = cohort
        .run(&["collect", "parts", "--output", "joined"])
        .ends_with(2);
    words.tells(&["p03"]);
    let (whole, joined) = (
        cohort.place.json("whole/report.json"),
        cohort.place.json("joined/report.json"),
    );
    assert_eq!(figures(&joined), figures(&whole));
    assert!(whole["rows"][0]["auroc"].is_f64());
    assert_eq!(cases(&cohort, "joined"), cases(&cohort, "whole"));
    same_pages(&cohort, "whole", "joined", "parts");
    // With the pixels on the disk, and the next patient read meanwhile.
    cohort.evaluate("ahead", &["--out-of-core"]).ends_with(2);
    assert_eq!(
        figures(&cohort.place.json("ahead/report.json")),
        figures(&whole)
    );
    assert_eq!(cases(&cohort, "ahead"), cases(&cohort, "whole"));
    let sheet = |output: &str| fs::read(cohort.place.path(output).join("sheet.png")).unwrap();
    assert!(sheet("ahead") == sheet("whole"));
    cohort
        .evaluate("parts-ahead", &["--shard", "1/3", "--out-of-core"])
        .ends_with(2);
    let first = |output: &str| {
        let all = cohort.results(output).into_iter();
        let own = all.filter(|(path, _)| path.starts_with("p00"));
        own.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(
        differ(&first("parts"), &first("parts-ahead")),
        Vec::<PathBuf>::new()
    );
    // Without pages there is none to join.
    cohort
        .evaluate("bare", &["--shard", "1/1", "--report", "none"])
        .ends_with(2);
    cohort
        .run(&["collect", "bare", "--output", "bare-joined"])
        .ends_with(2);
    assert!(!cohort.place.path("bare-joined/report.html").exists());
    assert!(!cohort.place.path("bare/p00/report.html").exists());
    // Again: nothing is computed, the same bytes.
    let before = cohort.all_but_times("parts");
    cohort
        .evaluate("parts", &["--shard", "1/3"])
        .says(&["1 before"]);
    assert_eq!(
        differ(&before, &cohort.all_but_times("parts")),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn joined_evaluations_by_bits_are_those_of_one_run() {
    let cohort = Cohort::new(4);
    let table = "patient,slice0,label\np00,0,diseased\np00,1,healthy\np01,,healthy\np02,,diseased\np03,0-1,healthy\n";
    cohort.place.put("labels.csv", table);
    let labels = ["--labels", "labels.csv"];
    cohort.evaluate("whole", &labels).ends_with(0);
    for shard in ["1/2", "2/2"] {
        cohort
            .evaluate("parts", &[&labels[..], &["--shard", shard]].concat())
            .ends_with(0);
    }
    cohort
        .run(&["collect", "parts", "--output", "joined"])
        .ends_with(0);
    let (whole, joined) = (
        cohort.place.json("whole/report.json"),
        cohort.place.json("joined/report.json"),
    );
    assert_eq!(figures(&joined), figures(&whole));
    same_pages(&cohort, "whole", "joined", "parts");
    cohort
        .evaluate("ahead", &[&labels[..], &["--out-of-core"]].concat())
        .ends_with(0);
    assert_eq!(
        figures(&cohort.place.json("ahead/report.json")),
        figures(&whole)
    );
    // Another way to count in the table makes all doubtful.
    let counted = [&labels[..], &["--shard", "1/2", "--slice-order", "upward"]].concat();
    let again = cohort.evaluate("counted", &counted).ends_with(0);
    again.says(&["(0 before)"]);
    cohort
        .evaluate("counted", &counted[..4])
        .ends_with(0)
        .says(&["(0 before)"]);
    cohort
        .evaluate("counted", &counted[..4])
        .ends_with(0)
        .says(&["(2 before)"]);
    // So does a changed table.
    cohort
        .place
        .put("labels.csv", table.replace("p01,,healthy", "p01,,diseased"));
    cohort
        .evaluate("parts", &[&labels[..], &["--shard", "1/2"]].concat())
        .ends_with(0)
        .says(&["(0 before)"]);
    cohort
        .run(&["collect", "parts", "--output", "joined"])
        .ends_with(1)
        .tells(&["settings"]);
}

#[test]
fn what_cannot_be_joined_is_told() {
    let cohort = Cohort::new(2);
    fs::create_dir(cohort.place.path("empty")).unwrap();
    cohort
        .run(&["collect", "empty"])
        .ends_with(1)
        .tells(&["empty", "--shard 1/1"]);
    // A folder of something else.
    cohort.place.put("other/_cohort/notes.txt", "mine");
    cohort
        .run(&["collect", "other"])
        .ends_with(1)
        .tells(&["other", "--shard 1/1"]);
    cohort
        .run(&["collect", "nowhere"])
        .ends_with(1)
        .tells(&["nowhere"]);
    assert!(!cohort.place.path("out").exists());
    cohort.detect("plain", &["--shard", "1/2"]).ends_with(0);
    cohort
        .place
        .put("plain/_cohort/shard-1-of-2/shard.json", "{");
    cohort
        .run(&["collect", "plain"])
        .ends_with(1)
        .tells(&["shard.json"]);
    cohort
        .detect("plain", &["--shard", "1/2"])
        .ends_with(1)
        .tells(&["shard.json", "changed"]);
    cohort.place.patient("data/_cohort", 7, 2);
    cohort.detect("new", &[]).ends_with(1).tells(&["_cohort"]);
    assert!(!cohort.place.path("new").exists());
}

/// A shard that was killed before its record was there has begun nothing.
#[test]
fn a_shard_without_a_record_was_never_begun() {
    let cohort = Cohort::new(3);
    cohort.detect("plain", &["--shard", "1/2"]).ends_with(0);
    let place = cohort.place.path("plain/_cohort/shard-2-of-2");
    fs::create_dir(&place).unwrap();
    let marker = cohort.place.path("plain/_cohort/shard-1-of-2/.fndm.json");
    fs::copy(marker, place.join(".fndm.json")).unwrap();
    cohort
        .run(&["collect", "plain", "--output", "joined"])
        .ends_with(2)
        .tells(&["shard 2/2 was never begun"]);
}

/// A generator of whole numbers.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Four shards at once, two of which are killed at random moments and run again.
fn killed_and_run_again(patients: u64, seed: u64) {
    let cohort = Cohort::new(patients);
    cohort.detect("whole", &["--shard", "1/1"]).ends_with(0);
    for shard in ["1/4", "2/4", "3/4", "4/4"] {
        cohort.detect("calm", &["--shard", shard]).ends_with(0);
    }
    let spawn = |shard: u64| -> Child {
        let shard = format!("{shard}/4");
        let mut command = cohort.detect_command("parts", &["--shard", &shard, "--out-of-core"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut shards: Vec<Child> = (1..=4).map(spawn).collect();
    let mut state = seed;
    for killed in [2, 3] {
        let own: Vec<u64> = (0..patients).filter(|n| n % 4 + 1 == killed).collect();
        // So many of its patients are done, and a little more time has passed: it is in the middle of the next ones.
        let wanted = (random(&mut state) % (own.len() as u64 - 1)) as usize;
        let done = || {
            let record = |n: &&u64| {
                cohort
                    .place
                    .path(format!("parts/p{n:02}/record.json"))
                    .exists()
            };
            own.iter().filter(record).count()
        };
        let begun = Instant::now();
        while done() < wanted {
            assert!(begun.elapsed() < Duration::from_secs(300));
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(random(&mut state) % 30));
        let child = &mut shards[killed as usize - 1];
        let running = child.try_wait().unwrap().is_none();
        let _ = child.kill();
        child.wait().unwrap();
        println!(
            "shard {killed} killed with {} of {} patients done, running: {running}, left: {:?}",
            done(),
            own.len(),
            cohort
                .place
                .names("parts")
                .iter()
                .filter(|name| name.starts_with('.'))
                .collect::<Vec<_>>()
        );
    }
    for child in [0, 3] {
        assert!(shards[child].wait().unwrap().success());
    }
    for killed in [2, 3] {
        assert!(spawn(killed).wait().unwrap().success());
    }
    assert_eq!(
        differ(&cohort.results("whole"), &cohort.results("parts")),
        Vec::<PathBuf>::new()
    );
    // The shards' own records too, which no kill leaves a trace in.
    assert_eq!(
        differ(
            &cohort.all_but_times("calm"),
            &cohort.all_but_times("parts")
        ),
        Vec::<PathBuf>::new()
    );
    cohort
        .run(&["collect", "parts", "--output", "c"])
        .ends_with(0);
    cohort
        .run(&["collect", "calm", "--output", "d"])
        .ends_with(0);
    // The page leads to the patients' folders, which have other names; so the marker's checksum of it is another one too.
    let page = Path::new("report.html");
    let but_the_page = |folder: &str| {
        let marker = |path: &Path| path == page || path == Path::new(".fndm.json");
        without(&cohort.place.path(folder), marker)
    };
    assert!(but_the_page("c").values().eq(but_the_page("d").values()));
    let lines = |folder: &str| -> Vec<String> {
        let text = fs::read_to_string(cohort.place.path(folder).join(page)).unwrap();
        let text = text.replace("../calm/", "../parts/");
        let lines = text.lines().filter(|line| !line.contains("sha256 of"));
        lines.map(String::from).collect()
    };
    assert!(lines("c") == lines("d"));
}

#[test]
fn killed_shards_end_with_the_same_bytes() {
    killed_and_run_again(12, 0x9e37_79b9);
}

#[test]
#[ignore = "a minute: forty patients"]
fn forty_patients_in_four_shards() {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let seed = seed.subsec_nanos().into();
    println!("seed {seed}");
    killed_and_run_again(40, seed);
}

/// What a shard was killed in the middle of is cleaned up by the next run.
#[test]
fn nothing_is_left_of_a_killed_shard() {
    let cohort = Cohort::new(2);
    let begun = Instant::now();
    let mut child = cohort
        .detect_command("out", &["--shard", "1/1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !cohort
        .place
        .names("out")
        .iter()
        .any(|name| name.ends_with(".tmp"))
    {
        assert!(begun.elapsed() < Duration::from_secs(120));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    cohort.detect("out", &["--shard", "1/1"]).ends_with(0);
    assert_eq!(cohort.place.names("out"), ["_cohort", "p00", "p01"]);
    assert_eq!(
        cohort.place.names("out/_cohort"),
        ["shard-1-of-1", "times-1-of-1"]
    );
}
