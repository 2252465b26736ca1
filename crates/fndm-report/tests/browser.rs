//! Pages in a real browser, where there is one: Chromium, Node.js, and the modules of `tests/browser/package.json`. See
//! `scripts/check-report`, which brings the modules.

use std::path::{Path, PathBuf};
use std::process::Command;

use fndm_report::{
    Column, Entry, Frame, IndexPage, Layer, LesionPart, Light, Measure, PatientPage, SliceAt,
};
use ndarray::Array3;

/// Nine slices of 16 x 16 pixels: 20 n + 90 in the left half of the picture, 20 n + 10 in the right half.
fn patient(id: &str) -> PatientPage {
    let image = Array3::from_shape_fn((9, 16, 16), |(n, _, x)| {
        (20 * n + if x < 8 { 90 } else { 10 }) as f32
    });
    let lesion = |first: usize| {
        move |(n, y, x): (usize, usize, usize)| {
            (1..4).contains(&n) && (4..8).contains(&y) && (first..first + 4).contains(&x)
        }
    };
    let shape = (9, 16, 16);
    let truth = Array3::from_shape_fn(shape, lesion(3));
    let map = |first: usize| {
        Array3::from_shape_fn(shape, lesion(first)).mapv(|v| f32::from(u8::from(v)) * 0.8)
    };
    let mask = |first: usize| Array3::from_shape_fn(shape, lesion(first));
    let measure = |title: &str| Measure {
        title: title.into(),
        voxels: 48,
        mm3: 48.,
        lesions: vec![LesionPart {
            mm3: 48.,
            first_slice: 4,
            last_slice: 6,
            largest_slice: 5,
            centre: [0., 1., 2.],
        }],
        areas: vec![0., 12., 16., 12., 0., 0., 0., 0., 0.],
    };
    let mut layers = vec![
        Layer::image("flair", image.view(), [0., 255.]).unwrap(),
        Layer::image("t1", image.mapv(|v| 255. - v).view(), [0., 255.]).unwrap(),
    ];
    for (method, first) in [("first", 4), ("second", 8)] {
        layers.push(
            Layer::map("anomaly map", map(first).view(), [0., 1.])
                .unwrap()
                .of_method(method),
        );
        layers.push(
            Layer::mask("mask", mask(first).view())
                .unwrap()
                .of_method(method),
        );
    }
    layers.push(Layer::truth("truth", truth.view()).unwrap());
    PatientPage {
        id: id.into(),
        summary: "Slices of two shades.".into(),
        back: Some(("report.html".into(), "All patients".into())),
        frame: Frame {
            rows: 16,
            columns: 16,
            spacing: [1., 1.],
            directions: ['S', 'P', 'L'],
        },
        slices: (0..9)
            .map(|n| SliceAt {
                z: n + 3,
                stored: 20 - n,
            })
            .collect(),
        total_slices: 24,
        layers,
        measures: vec![
            measure("mask by first"),
            measure("mask by second"),
            measure("truth"),
        ],
        check: None,
        notes: vec!["15 of 24 slices weren't examined".into()],
        sections: Vec::new(),
    }
}

fn index() -> IndexPage {
    let entry = |id: &str, volume: Option<f64>| Entry {
        id: id.into(),
        page: Some("patient.html".into()),
        thumbnail: None,
        numbers: vec![volume],
        check: Some(Light::Yellow),
        notes: Vec::new(),
    };
    IndexPage {
        title: "Lesions found in brain MR".into(),
        summary: "3 patients.".into(),
        columns: vec![Column {
            title: "Volume (mm³)".into(),
            digits: 1,
        }],
        entries: vec![
            entry("p2", None),
            entry("p10", Some(9.)),
            entry("p1", Some(100.)),
        ],
        left_out: vec![("p3".into(), "no FLAIR".into())],
        ..IndexPage::default()
    }
}

/// The folder with `node_modules`, or what is missing.
fn tools(tests: &Path) -> Result<PathBuf, String> {
    let works = |program: &str| {
        let run = Command::new(program).arg("--version").output();
        run.is_ok_and(|run| run.status.success())
    };
    let chromium = std::env::var("FNDM_CHROMIUM").unwrap_or("/usr/bin/chromium".into());
    for program in ["node", &chromium] {
        if !works(program) {
            return Err(format!("{program} is missing"));
        }
    }
    let own = std::env::var_os("FNDM_BROWSER_MODULES").map(PathBuf::from);
    let modules = own.unwrap_or_else(|| tests.to_path_buf());
    match modules.join("node_modules/playwright-core").is_dir() {
        true => Ok(modules),
        false => Err(format!("no node_modules in {}", modules.display())),
    }
}

#[test]
fn a_browser_shows_the_pages() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    write("patient.html", patient("p1").html().unwrap());
    write(
        "hostile.html",
        patient("</script><img src=x onerror=globalThis.touched=1>")
            .html()
            .unwrap(),
    );
    write("report.html", index().html());
    let modules = match tools(&tests) {
        Ok(modules) => modules,
        Err(missing) => {
            println!("SKIPPED: {missing}; scripts/check-report says what is needed");
            return;
        }
    };
    let run = Command::new("node")
        .arg(tests.join("check.mjs"))
        .arg(folder.path())
        .arg(modules)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    print!("{said}");
    assert!(
        run.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert!(said.contains(" passed, 0 failed"), "{said}");
}
