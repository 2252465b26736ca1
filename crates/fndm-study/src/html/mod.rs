//! The report of an evaluation as pages: one for each patient, and an index with tables, charts, and slices good and bad.

mod charts;
mod extremes;
mod part;
mod settings;
mod tables;

use fndm::Method;
use fndm_data::{PatientSlices, SliceImages};
use fndm_metrics::Confusion;
use fndm_pictures::{Outline, outlined_png};
use fndm_report::{Block, Column, Entry, IndexPage, PatientPage, Section, millimetres};
use ndarray::{Array2, Array3, ArrayView2, Axis, s};

use crate::{Arm, BitReport, Evaluation, MethodMap, PageBase, PageMethod, Report, Result};
use extremes::Extremes;

pub use part::PagePart;
pub use settings::{settings_section, versions_section};

/// Colours of a mask's outline, and of the truth's.
pub(crate) const MASK: [u8; 3] = [255, 70, 50];
pub(crate) const TRUTH: [u8; 3] = [60, 220, 80];

/// The pages of an evaluation so far. A page is handed out as soon as its patient is known, and only figures and a few small pictures
/// are kept.
#[derive(Debug)]
pub struct EvaluationPages {
    arms: Vec<Arm>,
    /// Which of the arms the others are held against.
    reference: usize,
    about: Section,
    entries: Vec<Entry>,
    extremes: Extremes,
    /// Area of a pixel of the model's grid in square millimetres, by patient.
    pixel_areas: Vec<(String, f64)>,
}

impl EvaluationPages {
    /// No patient yet. The other arms are held against that of this method, or against the first where there is none of it. `about` ends
    /// every page: versions and settings.
    #[must_use]
    pub fn new(arms: &[Arm], reference: Method, about: Section) -> Self {
        let found = arms.iter().position(|arm| arm.method == reference);
        Self {
            arms: arms.to_vec(),
            reference: found.unwrap_or(0),
            about,
            entries: Vec::new(),
            extremes: Extremes::default(),
            pixel_areas: Vec::new(),
        }
    }

    /// Adds a patient by what each arm found, in the order of the arms. Returns where the page belongs, relative to the index, and the
    /// page.
    ///
    /// # Errors
    /// When the maps aren't of these slices.
    pub fn add(
        &mut self,
        base: PageBase,
        slices: &PatientSlices,
        found: &[MethodMap],
    ) -> Result<(String, PatientPage)> {
        let shown = self.arms.iter().zip(found);
        let methods: Vec<PageMethod<'_>> = shown
            .clone()
            .map(|(arm, found)| PageMethod::of(&arm.title, found))
            .collect();
        let mut ordered = methods.clone();
        // The reference is what a reader sees first.
        ordered.swap(0, self.reference);
        let mut page = base.page(slices, &ordered)?;
        page.back = Some(("../report.html".into(), "All patients".into()));
        page.summary =
            "Masks and maps of every method of the evaluation, beside the truth where it is known."
                .into();
        let name = format!(
            "patients/{:04}_{}.html",
            self.entries.len() + 1,
            plain(&slices.id)
        );

        let mut figures = vec![
            ["Method", "Dice of the mask, volume", "Volume (mm³)"]
                .map(String::from)
                .to_vec(),
        ];
        let mut numbers = vec![
            page.measures
                .iter()
                .find(|m| m.title == "truth")
                .map(|m| m.mm3),
        ];
        for (arm, found) in shown {
            let dice = match &slices.mask {
                Some(truth) => Confusion::of(&found.mask.view(), &truth.view())?
                    .dice()
                    .value(),
                None => None,
            };
            let title = format!("mask by {}", arm.title);
            let volume = page
                .measures
                .iter()
                .find(|m| m.title == title)
                .map(|m| m.mm3);
            figures.push(vec![
                arm.title.clone(),
                dice.map_or_else(|| "-".into(), |d| format!("{d:.3}")),
                volume.map_or_else(|| "-".into(), millimetres),
            ]);
            numbers.extend([volume, dice]);
        }
        page.sections = vec![
            Section::new(
                "Figures of this patient",
                vec![Block::Table {
                    caption: "Dice is that of the mask by the method's own rule, over all examined slices on the model's grid.".into(),
                    cells: figures,
                }],
            ),
            self.about.clone(),
        ];
        if let Some(own) = found.get(self.reference) {
            self.extremes.add(slices, &own.mask, &name)?;
            self.entries.push(Entry {
                id: slices.id.clone(),
                page: Some(name.clone()),
                thumbnail: Some(thumbnail(slices, &own.mask)?),
                numbers,
                check: None,
                notes: slices.notes.iter().map(ToString::to_string).collect(),
            });
        }
        let [row, column] = slices.geometry.pixel_spacing();
        self.pixel_areas.push((slices.id.clone(), row * column));
        Ok((name, page))
    }

    /// The index of an evaluation against masks.
    ///
    /// # Errors
    /// When a chart can't be drawn.
    pub fn by_masks(self, report: &Report, evaluations: &[Evaluation]) -> Result<IndexPage> {
        let mut before = vec![tables::by_masks(report)];
        let charts = charts::Charts {
            arms: &self.arms,
            reference: self.reference,
            evaluations,
            pixel_areas: &self.pixel_areas,
        };
        before.extend(charts.differences()?);
        before.extend(charts.by_size()?);
        let after = vec![tables::definitions(&report.definitions)];
        let left_out = &report.left_out;
        self.index(&report.cohort, before, left_out, after)
    }

    /// The index of an evaluation against the bits of slices.
    ///
    /// # Errors
    /// When a picture can't be drawn.
    pub fn by_bits(self, report: &BitReport) -> Result<IndexPage> {
        let before = vec![tables::by_bits(report)];
        let after = vec![tables::definitions(&report.definitions)];
        self.index(&report.cohort, before, &report.left_out, after)
    }

    fn index(
        self,
        cohort: &str,
        mut before: Vec<Section>,
        left_out: &[crate::LeftOut],
        mut after: Vec<Section>,
    ) -> Result<IndexPage> {
        let reference = self.arms.get(self.reference).map_or("", |arm| &arm.title);
        before.extend(self.extremes.sections(reference));
        after.push(self.about);
        let mut columns = vec![column("True volume (mm³)", 0)];
        for arm in &self.arms {
            columns.push(column(&format!("Volume by {} (mm³)", arm.title), 0));
            columns.push(column(&format!("Dice, {}", arm.title), 3));
        }
        let left_out = left_out.iter();
        Ok(IndexPage {
            title: "Evaluation of lesions found in brain MR".into(),
            summary: cohort.into(),
            before,
            columns,
            entries: self.entries,
            left_out: left_out
                .map(|l| (l.patient.clone(), l.reason.clone()))
                .collect(),
            after,
        })
    }
}

fn column(title: &str, digits: usize) -> Column {
    Column {
        title: title.into(),
        digits,
    }
}

/// A name for a file: letters, digits, `-`, `_` and `.` of an id, the rest as `_`, cut off where it is long.
fn plain(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let kept = id.chars().take(80);
    kept.map(|c| if plain(c) { c } else { '_' }).collect()
}

/// FLAIR, which shows most lesions best, or else the first sequence.
fn shown_channel<I>(slices: &PatientSlices<I>) -> usize {
    let mut names = slices.sequences.iter();
    names.position(|name| name == "flair").unwrap_or(0)
}

/// A slice with the outlines of the mask and of the truth, at least so many pixels high, as PNG.
pub(crate) fn slice_picture<I: SliceImages>(
    slices: &PatientSlices<I>,
    mask: &Array3<bool>,
    at: usize,
    least: usize,
) -> Result<Vec<u8>> {
    let image = slices.images.part(at..at + 1)?;
    let image: ArrayView2<'_, f32> = image.slice(s![0, shown_channel(slices), .., ..]);
    let truth = slices.mask.as_ref();
    let truth: Option<Array2<bool>> = truth.map(|truth| truth.index_axis(Axis(0), at).to_owned());
    let mut outlines = vec![Outline {
        mask: mask.index_axis(Axis(0), at),
        colour: MASK,
        dashed: false,
    }];
    if let Some(truth) = &truth {
        outlines.push(Outline {
            mask: truth.view(),
            colour: TRUTH,
            dashed: true,
        });
    }
    let zoom = least.div_ceil(image.dim().0.max(1)).max(1);
    Ok(outlined_png(image, [-1., 1.], &outlines, zoom)?)
}

/// A small picture of the slice that the mask is largest in, or of the middle one, as PNG.
///
/// # Errors
/// When the mask isn't of these slices, or the image can't be read.
pub fn thumbnail<I: SliceImages>(
    slices: &PatientSlices<I>,
    mask: &Array3<bool>,
) -> Result<Vec<u8>> {
    let mut best = (0, slices.len() / 2);
    for (n, slice) in mask.outer_iter().enumerate() {
        let pixels = slice.iter().filter(|&&v| v).count();
        if pixels > best.0 {
            best = (pixels, n);
        }
    }
    slice_picture(slices, mask, best.1, 64)
}
