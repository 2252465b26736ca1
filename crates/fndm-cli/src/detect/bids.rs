//! A BIDS data set in, a BIDS derivative out.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use fndm::Method;
use fndm::data::Limits;
use fndm::data::bids::{Filter, Session, Tree};
use fndm_files::{OutputFolder, chain};
use serde_json::{Value, json};

use super::input::{Input, Listed, Names, Place, Row};

const BIDS_VERSION: &str = "1.10.0";
const DESCRIPTION: &str = "dataset_description.json";

#[derive(Debug, Args)]
pub(super) struct BidsOptions {
    /// A BIDS data set: each session of a subject is a patient, and what is written is a BIDS derivative
    #[arg(long, value_name = "DIR", group = "input")]
    pub(super) bids: Option<PathBuf>,
    /// Which files are meant, where several fit: ses=pre, run=2, acq= (without one), t1:run=2 (for one sequence). Sessions by sub= and ses=
    #[arg(long = "bids-filter", value_name = "ENTITY=VALUE", requires = "bids", conflicts_with_all = ["patient", "data", "files", "dicom"], num_args = 1..)]
    filters: Vec<Filter>,
}

/// Where a session's results lie below its folder, and what they were made from.
pub(super) struct Derivative {
    /// What the names of its files begin with: `sub-01_ses-pre`.
    prefix: String,
    /// Paths of the images below the data set.
    sources: Vec<String>,
    /// Whether the anomaly map is a probability.
    probability: bool,
}

/// The sessions that can be used, and why others can't.
pub(super) fn list(
    root: &Path,
    options: &BidsOptions,
    sequences: &[String],
    row: &Row,
) -> Result<Listed> {
    for filter in &options.filters {
        if let Some(named) = filter.sequence() {
            let known = sequences.iter().any(|s| s.eq_ignore_ascii_case(named));
            ensure!(
                known,
                "--bids-filter {filter}: the model takes {}",
                sequences.join(", ")
            );
        }
    }
    let tree = Tree::read(root, &options.filters, &Limits::default())?;
    if !tree.described {
        tell!(
            "warning: {} has no {DESCRIPTION}, which every BIDS data set has",
            root.display()
        );
    }
    let mut listed = Listed {
        inputs: Vec::new(),
        left_out: tree.left_out.iter().map(|l| chain(&l.reason)).collect(),
        unreadable: BTreeMap::new(),
    };
    let probability = row.0.gives_probabilities(&row.1);
    for session in &tree.sessions {
        match input(&tree.root, session, options, sequences, probability) {
            Ok(input) => listed.inputs.push(input),
            Err(error) => {
                let reason = chain(error.as_ref());
                listed.unreadable.insert(session.id(), reason.clone());
                listed.left_out.push(reason);
            }
        }
    }
    Ok(listed)
}

fn input(
    root: &Path,
    session: &Session,
    options: &BidsOptions,
    sequences: &[String],
    probability: bool,
) -> Result<Input> {
    let chosen = session.choose(sequences, &options.filters)?;
    let mut sources = Vec::new();
    let mut files = Vec::new();
    for (sequence, image) in chosen {
        let below = image.path.strip_prefix(root)?;
        let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
        let parts = parts.with_context(|| format!("{}: not UTF-8", below.display()))?;
        sources.push(parts.join("/"));
        files.push((sequence, image.path.clone()));
    }
    let names = files.iter().zip(&sources);
    let names = names.map(|((sequence, _), source)| format!("{sequence} is {source}"));
    say!("{}: {}", session.id(), names.collect::<Vec<_>>().join(", "));
    Ok(Input {
        id: session.id(),
        place: Place::Files(files),
        names: Names::Bids(Derivative {
            prefix: session.prefix(),
            sources,
            probability,
        }),
    })
}

impl Derivative {
    /// The name below the session's folder of what is written elsewhere as `<id>_<what>`.
    pub(super) fn file(&self, what: &str) -> String {
        let prefix = &self.prefix;
        match what {
            "mask.nii.gz" => format!("anat/{prefix}_label-lesion_mask.nii.gz"),
            "anomaly.nii.gz" if self.probability => {
                format!("anat/{prefix}_desc-anomaly_probseg.nii.gz")
            }
            // BIDS has no suffix for a map without a unit: .bidsignore has it.
            "anomaly.nii.gz" => format!("anat/{prefix}_desc-anomaly_map.nii.gz"),
            // What isn't BIDS's is called as elsewhere, by the last part of the id: the page of all patients reads it.
            other => format!("{}_{other}", prefix.rsplit('_').next().unwrap_or(prefix)),
        }
    }

    /// Writes what stands beside the images.
    pub(super) fn describe(&self, folder: &mut OutputFolder, method: Method) -> Result<()> {
        let uris = self.sources.iter();
        let uris: Vec<String> = uris.map(|path| format!("bids:raw:{path}")).collect();
        let reference = uris.first().cloned().unwrap_or_default();
        let mut mask = sidecar(&uris, &reference, method);
        mask["Description"] = "Lesions, 1 where there is one".into();
        mask["Type"] = "Lesion".into();
        folder.write_json(&beside(&self.file("mask.nii.gz")), &mask)?;
        let mut map = sidecar(&uris, &reference, method);
        map["Description"] = if self.probability {
            "Probability of a lesion".into()
        } else {
            "How anomalous each voxel is; without unit".into()
        };
        folder.write_json(&beside(&self.file("anomaly.nii.gz")), &map)?;
        Ok(())
    }
}

fn sidecar(sources: &[String], reference: &str, method: Method) -> Value {
    json!({
        "Sources": sources,
        "SpatialReference": reference,
        "Manual": false,
        "Method": method.title(),
    })
}

/// The sidecar of an image.
fn beside(image: &str) -> String {
    image.replace(".nii.gz", ".json")
}

/// Whether the output can be a derivative of our own: nothing is there, or one that these programs described.
pub(super) fn check_output(output: &Path) -> Result<()> {
    let path = output.join(DESCRIPTION);
    if !path.exists() {
        return Ok(());
    }
    let found: Value = fndm_files::read_json(&path, "description of a data set")?;
    let ours = found["GeneratedBy"][0]["Name"] == "fndm";
    ensure!(
        ours,
        "{} is a data set of others, into which nothing is written: its {DESCRIPTION} doesn't say that fndm made it",
        output.display()
    );
    Ok(())
}

/// Writes what the derivative has beside its subjects. What is there already stays: in the description no more is replaced than what this
/// run knows, and other files are left.
pub(super) fn begin(output: &Path, root: &Path) -> Result<()> {
    std::fs::create_dir_all(output)
        .with_context(|| format!("cannot make the folder {}", output.display()))?;
    let raw = root
        .canonicalize()
        .with_context(|| format!("{}", root.display()))?;
    let url = file_url(&raw);
    let mut source = json!({ "URL": url });
    let described: Result<Value, _> =
        fndm_files::read_json(raw.join(DESCRIPTION), "description of a data set");
    if let Ok(described) = described
        && let Some(doi) = described["DatasetDOI"].as_str()
    {
        source["DOI"] = doi.into();
    }
    let description = json!({
        "Name": "Lesions found by fndm",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{
            "Name": "fndm",
            "Version": env!("CARGO_PKG_VERSION"),
            "Description": "fndm detect",
        }],
        "SourceDatasets": [source],
        "DatasetLinks": { "raw": url },
    });
    let path = output.join(DESCRIPTION);
    let description = match path.exists() {
        true => renewed(
            fndm_files::read_json(&path, "description of a data set")?,
            &description,
        ),
        false => description,
    };
    fndm_files::write_json(path, &description)?;
    for (name, text) in [(".bidsignore", IGNORE), ("README.md", README)] {
        let path = output.join(name);
        match std::fs::read(&path) {
            Ok(found) if found == text.as_bytes() => {}
            Ok(_) => tell!("{} is left as it is", path.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fndm_files::write_atomic(path, text)?;
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(())
}

/// A description that is there, with what a new one says of how and from what the results were made.
fn renewed(mut there: Value, new: &Value) -> Value {
    // Ours is the first: see `check_output`.
    let (ours, now) = (&mut there["GeneratedBy"][0], &new["GeneratedBy"][0]);
    for key in ["Name", "Version", "Description"] {
        ours[key] = now[key].clone();
    }
    there["SourceDatasets"] = new["SourceDatasets"].clone();
    match there["DatasetLinks"].as_object_mut() {
        Some(links) => {
            links.insert("raw".into(), new["DatasetLinks"]["raw"].clone());
        }
        None => there["DatasetLinks"] = new["DatasetLinks"].clone(),
    }
    there
}

/// The URL of a file, after RFC 3986: what isn't plain is written by its bytes.
fn file_url(path: &Path) -> String {
    let mut url = String::from("file://");
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => url.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => url.push(byte.into()),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

const IGNORE: &str =
    "_cohort/\nrecord.json\n*_map.nii.gz\n*_map.json\n*.png\n*_report.json\n*.html\n";
const README: &str = "# Lesions found by fndm

For each session, `label-lesion_mask` is the mask of lesions and `desc-anomaly` the map that it was made from, on the grid of the first
source. `_report.json` has the settings, `_sheet.png` a picture. Found by a model, not by a person: not a medical device.
";
