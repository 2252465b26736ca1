//! The pages that a command writes: what its options say of them, and what all of them end with.

use std::io::{BufWriter, IntoInnerError};
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use fndm::data::{Patient, PatientSlices, SliceImages, Turned};
use fndm::{DetectConfig, Detector, Method};
use fndm_files::{AtomicFile, OutputFolder};
use fndm_study::fndm_report::{IndexPage, PatientPage, Section};
use fndm_study::{
    Arm, EvaluationPages, MethodMap, PageBase, PatientRead, settings_section, versions_section,
};
use serde::Serialize;

/// What the slices of a page show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Images {
    /// The volumes as they are, at most 320 pixels a side
    Volumes,
    /// What the model sees: smaller
    Model,
    /// No page is written
    None,
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct ReportOptions {
    /// The images in report.html, which opens in a browser
    #[arg(long = "report", value_name = "IMAGES", default_value = "volumes")]
    images: Images,
}

impl ReportOptions {
    /// Whether pages are written.
    pub(crate) fn wanted(&self) -> bool {
        self.images != Images::None
    }

    /// As [`ReportOptions::base`], of a patient that is turned to the axes of the slices, without a truth.
    pub(crate) fn base_of<I: SliceImages>(
        &self,
        turned: &Turned<'_>,
        slices: &PatientSlices<I>,
    ) -> Result<Option<PageBase>> {
        Ok(match self.images {
            Images::Volumes => Some(PageBase::of_turned(slices, turned)?),
            Images::Model => Some(PageBase::of_slices(slices)?),
            Images::None => None,
        })
    }

    /// What a page shows of a patient before anything is found; none where no page is wanted.
    pub(crate) fn base(
        &self,
        patient: &Patient,
        slices: &PatientSlices,
    ) -> Result<Option<PageBase>> {
        Ok(match self.images {
            Images::Volumes => Some(PageBase::of_volumes(slices, patient)?),
            Images::Model => Some(PageBase::of_slices(slices)?),
            Images::None => None,
        })
    }
}

/// Writes the page of a patient, a piece at a time.
pub(crate) fn write_page(folder: &mut OutputFolder, name: &str, page: &PatientPage) -> Result<()> {
    let path = folder.file(name)?;
    let mut out = BufWriter::new(AtomicFile::create(&path)?);
    page.write_html(&mut out)
        .with_context(|| path.display().to_string())?;
    let written = out.into_inner().map_err(IntoInnerError::into_error);
    let file = written.with_context(|| path.display().to_string())?;
    Ok(file.commit()?)
}

/// Program and model, and the command, which is another one in each part of a cohort.
pub(crate) fn versions(model: &Path, command: bool) -> Section {
    let mut facts = vec![
        ("Program", format!("fndm {}", env!("CARGO_PKG_VERSION"))),
        ("Model", model.display().to_string()),
    ];
    if command {
        facts.push(("Command", super::command()));
    }
    versions_section(&facts)
}

/// The page among the files that a command tells of.
pub(crate) fn named(options: &ReportOptions) -> &'static str {
    if options.wanted() {
        "report.html, "
    } else {
        ""
    }
}

/// The pages of an evaluation, where they are wanted.
pub(crate) struct Pages {
    options: ReportOptions,
    all: Option<EvaluationPages>,
}

impl Pages {
    pub(crate) fn new(
        options: &ReportOptions,
        model: &Path,
        detector: &Detector,
        arms: &[Arm],
    ) -> Self {
        let about = versions(model, true);
        let wanted = options.wanted();
        Self {
            options: options.clone(),
            all: wanted.then(|| EvaluationPages::new(arms, detector.config().method, about)),
        }
    }

    /// What the page shows of a patient before the networks run, so that the volumes needn't be kept until they have.
    pub(crate) fn base(&self, read: &PatientRead) -> Result<Option<PageBase>> {
        self.options.base(&read.patient, &read.slices)
    }

    /// Writes the page of a patient.
    pub(crate) fn add(
        &mut self,
        base: Option<PageBase>,
        slices: &PatientSlices,
        found: &[MethodMap],
        folder: &mut OutputFolder,
    ) -> Result<()> {
        if let (Some(pages), Some(base)) = (&mut self.all, base) {
            let (name, page) = pages.add(base, slices, found)?;
            write_page(folder, &name, &page)?;
        }
        Ok(())
    }

    /// Writes the index.
    pub(crate) fn finish(
        self,
        folder: &mut OutputFolder,
        settings: &[(Method, DetectConfig)],
        index: impl FnOnce(EvaluationPages) -> fndm_study::Result<IndexPage>,
    ) -> Result<()> {
        let Some(pages) = self.all else {
            return Ok(());
        };
        let mut page = index(pages)?;
        let titled = settings
            .iter()
            .map(|(m, c)| (m.title().to_string(), c.clone()));
        page.after
            .push(settings_section(&titled.collect::<Vec<_>>())?);
        Ok(folder.write("report.html", page.html())?)
    }
}
