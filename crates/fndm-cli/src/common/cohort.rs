//! The loop over a cohort as the commands run it: with a bar, and with words for who is left out.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{Result, bail};
use fndm::data::{PatientSlices, Preprocess};
use fndm_study::{Arm, Cohort, CohortEvent, LeftOut, PatientRead, Patients, Source, Truth};

/// What a comparison tells while it examines a patient.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(&Arm, f64) -> ControlFlow<()>;

/// Hands on the patients one by one, with the next one read meanwhile where that is wanted (`ahead`); those that were passed over before
/// stand first among those left out.
///
/// # Errors
/// When none of them can be used.
pub(crate) fn each(
    patients: &Patients<'_>,
    passed_over: Vec<LeftOut>,
    ahead: bool,
    mut visit: impl FnMut(PatientRead, Progress<'_>) -> Result<()>,
) -> Result<Cohort> {
    let total = patients.source.ids().len();
    let bar = super::bar(total as u64, "patients");
    let mut on_event = |event: CohortEvent<'_>| {
        match event {
            CohortEvent::Note(id, note) => bar.suspend(|| tell!("{id}: warning: {note}")),
            CohortEvent::Done(done, _) => bar.set_position(done as u64),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let visit = |read: PatientRead| {
        let id = read.patient.id.clone();
        visit(read, &mut |arm, share| {
            bar.set_message(format!("{id}: {} {:.0} %", arm.title, share * 100.));
            ControlFlow::Continue(())
        })
    };
    let mut cohort = match ahead {
        true => patients.each_reading_ahead(&mut on_event, visit)?,
        false => patients.each(&mut on_event, visit)?,
    };
    bar.set_message("");
    bar.finish();
    cohort.unreadable += passed_over.len();
    cohort.left_out.splice(..0, passed_over);
    if cohort.patients == 0 {
        tell_left_out(&cohort);
        bail!(
            "none of {} can be evaluated",
            fndm_files::counted(total, "patient")
        );
    }
    Ok(cohort)
}

/// The slices of every patient that has a mask, by id, in memory at once; says who is left out.
///
/// # Errors
/// When none of them can be used.
pub(crate) fn slices_with_masks(
    source: &Source,
    sequences: &[String],
    preprocess: &Preprocess,
) -> Result<(BTreeMap<String, PatientSlices>, Cohort)> {
    let mut patients = BTreeMap::new();
    let all = Patients {
        source,
        sequences,
        preprocess,
        truth: Truth::Mask,
    };
    let cohort = each(&all, Vec::new(), false, |read, _| {
        patients.insert(read.slices.id.clone(), read.slices);
        Ok(())
    })?;
    tell_left_out(&cohort);
    Ok((patients, cohort))
}

/// The exit code of a study of this cohort: 2 where some couldn't be read.
pub(crate) fn code(cohort: &Cohort) -> ExitCode {
    ExitCode::from(if cohort.unreadable == 0 { 0 } else { 2 })
}

/// Says who isn't counted.
pub(crate) fn tell_left_out(cohort: &Cohort) {
    for LeftOut { patient, reason } in &cohort.left_out {
        tell!("left out {patient}: {reason}");
    }
}

/// "9 patients, 160 slices, 89 with a lesion".
pub(crate) fn words(cohort: &Cohort) -> String {
    let Cohort {
        patients,
        slices,
        diseased,
        ..
    } = cohort;
    format!(
        "{}, {}, {diseased} with a lesion",
        fndm_files::counted(*patients, "patient"),
        fndm_files::counted(*slices, "slice")
    )
}
