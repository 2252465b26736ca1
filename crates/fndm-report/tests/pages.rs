//! Pages as a parser of HTML sees them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fndm_report::{
    Block, Check, Column, Entry, Finding, Frame, IndexPage, Layer, LesionPart, Light, Measure,
    PatientPage, Picture, Place, Section, SliceAt,
};
use ndarray::Array3;
use scraper::{Html, Selector};
use serde_json::Value;

/// Names that would be markup, an attribute's end or a script's end, if they were let.
const HOSTILE: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "</script><!--",
    "a' onclick='b & c",
    "javascript:alert(1)",
    "HGG/Pätient 1#?%00\u{202e}\u{1}",
];

fn image(n: usize) -> Array3<f32> {
    Array3::from_shape_fn((n, 6, 5), |(z, y, x)| (z * 30 + y * 5 + x) as f32)
}

fn page(id: &str) -> PatientPage {
    let image = image(7);
    let map = image.mapv(|v| v / 200.);
    let mask = image.mapv(|v| v > 100.);
    let place = Place {
        top: -1.,
        left: 0.5,
        height: 12.,
        width: 10.,
    };
    PatientPage {
        id: id.into(),
        summary: format!("By a method of {id}."),
        back: Some(("../report.html".into(), "All patients".into())),
        frame: Frame {
            rows: 12,
            columns: 10,
            spacing: [1., 2.],
            directions: ['S', 'P', 'L'],
        },
        slices: (0..7)
            .map(|z| SliceAt {
                z: z + 3,
                stored: 20 - z,
            })
            .collect(),
        total_slices: 24,
        layers: vec![
            Layer::image(id, image.view(), [0., 209.]).unwrap(),
            Layer::map("anomaly map", map.view(), [0., 1.])
                .unwrap()
                .of_method(id)
                .at(place),
            Layer::mask("mask", mask.view()).unwrap().of_method(id),
            Layer::truth("truth", mask.view()).unwrap(),
        ],
        measures: vec![Measure {
            title: format!("mask by {id}"),
            voxels: 3,
            mm3: 6.5,
            lesions: vec![LesionPart {
                mm3: 6.5,
                first_slice: 3,
                last_slice: 4,
                largest_slice: 4,
                centre: [1., -2., 3.],
            }],
            areas: vec![0., 1., 0., 3., 3., 0., 0.],
        }],
        check: Some(Check {
            light: Light::Yellow,
            findings: vec![Finding {
                light: Light::Yellow,
                what: format!("voxel size of {id}"),
                reason: id.into(),
                advice: id.into(),
            }],
        }),
        notes: vec![format!("left out: {id}")],
        sections: vec![Section::closed(
            id,
            vec![
                Block::Text(id.into()),
                Block::List(vec![id.into()]),
                Block::Table {
                    caption: id.into(),
                    cells: vec![vec![id.into(), "b".into()], vec![id.into(), id.into()]],
                },
                Block::Chart {
                    svg:
                        "<svg width=\"1\" height=\"1\" xmlns=\"http://www.w3.org/2000/svg\"></svg>"
                            .into(),
                    alt: id.into(),
                    caption: id.into(),
                },
                Block::Pictures(vec![Picture {
                    png: vec![1, 2, 3],
                    alt: id.into(),
                    caption: id.into(),
                    link: Some((id.into(), "slice=3".into())),
                }]),
            ],
        )],
    }
}

fn index(id: &str) -> IndexPage {
    let entry = |id: &str, number| Entry {
        id: id.into(),
        page: Some(format!("{id}/report.html")),
        thumbnail: Some(vec![1, 2]),
        numbers: vec![number, None],
        check: Some(Light::Red),
        notes: vec![id.into()],
    };
    let column = |title: &str| Column {
        title: title.into(),
        digits: 1,
    };
    IndexPage {
        title: id.into(),
        summary: id.into(),
        before: vec![Section::new(id, vec![Block::Text(id.into())])],
        columns: vec![column(id), column("Lesions")],
        entries: vec![entry(id, Some(1.25)), entry("b", None)],
        left_out: vec![(id.into(), id.into())],
        after: Vec::new(),
    }
}

fn select<'a>(html: &'a Html, selector: &str) -> Vec<scraper::ElementRef<'a>> {
    html.select(&Selector::parse(selector).unwrap()).collect()
}

/// What holds of every page.
fn checked(text: &str) -> Html {
    let html = Html::parse_document(text);
    assert!(html.errors.is_empty(), "{:?}", html.errors);
    // Nothing is loaded: no address but of data in the page, and of pages beside it.
    assert!(
        !text.contains("http:") && !text.contains("https:"),
        "an address"
    );
    for element in select(&html, "*") {
        for (name, value) in element.value().attrs() {
            assert!(!name.starts_with("on"), "{name}={value}");
            if name == "src" {
                assert!(value.starts_with("data:image/png;base64,"), "{value}");
            }
            if name == "href" {
                let first = value.split('/').next().unwrap();
                assert!(!first.contains(':'), "{value}");
            }
        }
    }
    for name in [
        "link", "iframe", "object", "embed", "base", "form", "audio", "video",
    ] {
        assert!(select(&html, name).is_empty(), "{name}");
    }
    assert_eq!(select(&html, "h1").len(), 1);
    assert_eq!(select(&html, "main").len(), 1);
    assert_eq!(select(&html, "html[lang]").len(), 1);
    // Every control has a name.
    for input in select(&html, "input[id], select[id]") {
        let id = input.value().attr("id").unwrap();
        let label = format!("label[for={id}]");
        assert_eq!(select(&html, &label).len(), 1, "{id}");
    }
    for image in select(&html, "img, [role=img]") {
        let named = image
            .value()
            .attr("alt")
            .or(image.value().attr("aria-label"));
        assert!(named.is_some(), "{:?}", image.value());
    }
    let ids: Vec<&str> = select(&html, "[id]")
        .iter()
        .map(|e| e.value().attr("id").unwrap())
        .collect();
    let mut once = ids.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), ids.len(), "an id stands twice: {ids:?}");
    html
}

/// The text of an element.
fn words(html: &Html, selector: &str) -> String {
    select(html, selector)[0].text().collect()
}

#[test]
fn pages_are_well_formed_whatever_the_names_are() {
    for id in HOSTILE {
        let html = checked(&page(id).html().unwrap());
        // As it was given, but for what no HTML can hold.
        let shown = id.replace('\u{1}', "\u{fffd}");
        assert_eq!(words(&html, "h1"), shown);
        // One program and its data, no script of a name.
        let scripts = select(&html, "script");
        let types: Vec<_> = scripts.iter().map(|s| s.value().attr("type")).collect();
        let expected = [Some("application/json"), Some("text/plain")];
        assert_eq!(types[..2], expected);
        assert_eq!(types.len(), 1 + 4 + 1);
        let data: Value = serde_json::from_str(&words(&html, "#data")).unwrap();
        assert_eq!(data["id"], id);
        assert_eq!(data["layers"][0]["title"], id);

        let html = checked(&index(id).html());
        assert_eq!(words(&html, "h1"), shown);
        assert_eq!(select(&html, "script").len(), 1);
        assert_eq!(words(&html, "tbody th a"), shown);
    }
}

#[test]
fn the_policy_allows_the_program_of_the_page_alone() {
    use sha2::{Digest, Sha256};
    for text in [page("p").html().unwrap(), index("p").html()] {
        let html = checked(&text);
        let policy = select(&html, "meta[http-equiv]")[0]
            .value()
            .attr("content")
            .unwrap();
        let script = words(&html, "script:not([type])");
        let hash = STANDARD.encode(Sha256::digest(script.as_bytes()));
        assert!(
            policy.contains(&format!("script-src 'sha256-{hash}'")),
            "{policy}"
        );
        assert!(policy.contains("default-src 'none'") && policy.contains("img-src data:"));
    }
}

/// The pixels of a layer, slice by slice, as a reader of PNG finds them in the page.
fn pixels(html: &Html, layer: usize) -> Array3<u8> {
    let data: Value = serde_json::from_str(&words(html, "#data")).unwrap();
    let told = &data["layers"][layer];
    let number = |name: &str| told[name].as_u64().unwrap() as usize;
    let (height, width, columns) = (number("height"), number("width"), number("columns"));
    let bytes = STANDARD
        .decode(words(html, &format!("#layer-{layer}")))
        .unwrap();
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut all = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut all).unwrap();
    let slices = data["slices"].as_array().unwrap().len();
    assert_eq!(info.width as usize, columns * width);
    Array3::from_shape_fn((slices, height, width), |(n, y, x)| {
        let (row, column) = (n / columns * height + y, n % columns * width + x);
        all[row * info.width as usize + column]
    })
}

#[test]
fn layers_decode_to_the_pixels_that_went_in() {
    let html = checked(&page("p").html().unwrap());
    // From 0 to 209 in 8 bits.
    let byte = |v: f32| (v / 209. * 255.).round() as u8;
    assert_eq!(pixels(&html, 0), image(7).mapv(byte));
    assert_eq!(
        pixels(&html, 1),
        image(7).mapv(|v| (v / 200. * 255.).round().min(255.) as u8)
    );
    let bits = image(7).mapv(|v| 255 * u8::from(v > 100.));
    assert_eq!(pixels(&html, 2), bits);
    assert_eq!(pixels(&html, 3), bits);
    let data: Value = serde_json::from_str(&words(&html, "#data")).unwrap();
    assert_eq!(data["layers"][1]["place"]["top"], -1.);
    assert_eq!(data["layers"][1]["method"], "p");
    assert_eq!(data["layers"][3]["method"], Value::Null);
    assert_eq!(data["edges"], serde_json::json!(["R", "L", "A", "P"]));
    assert_eq!(data["slices"][6], serde_json::json!({"z": 9, "stored": 14}));
}

#[test]
fn values_that_are_no_numbers_are_black() {
    let mut image = image(1);
    image[(0, 0, 1)] = f32::NAN;
    image[(0, 0, 2)] = f32::INFINITY;
    image[(0, 0, 3)] = f32::NEG_INFINITY;
    let mut page = page("p");
    page.slices.truncate(1);
    page.measures.clear();
    page.layers = vec![Layer::image("t1", image.view(), [0., 29.]).unwrap()];
    let html = checked(&page.html().unwrap());
    let found = pixels(&html, 0);
    assert_eq!(
        [found[(0, 0, 1)], found[(0, 0, 2)], found[(0, 0, 3)]],
        [0, 255, 0]
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let no = |change: fn(&mut PatientPage), words: &str| {
        let mut page = page("p07");
        change(&mut page);
        let error = page.html().unwrap_err().to_string();
        assert!(
            error.contains(words) && error.contains("expected"),
            "{error}"
        );
    };
    no(|p| p.slices.clear(), "page of p07: slices");
    no(
        |p| p.slices.truncate(6),
        "page of p07: p07: expected (6, H, W)",
    );
    no(|p| p.layers.retain(|_| false), "page of p07: images");
    no(|p| p.layers.truncate(0), "images");
    no(|p| p.measures[0].areas.truncate(6), "areas of mask by p07");
    no(|p| p.frame.spacing[0] = 0., "frame");
    no(|p| p.frame.rows = 0, "frame");
    assert!(Layer::image("t1", Array3::zeros((0, 4, 4)).view(), [0., 1.]).is_err());
}

#[test]
fn the_same_data_give_the_same_bytes() {
    assert_eq!(page("p").html().unwrap(), page("p").html().unwrap());
    assert_eq!(index("p").html(), index("p").html());
    assert!(fndm_report::is_unchanged_page(&index("p").html()));
}

#[test]
fn the_warning_volumes_and_lesions_are_words() {
    let html = checked(&page("p").html().unwrap());
    assert!(words(&html, ".warning").starts_with("Not a medical device"));
    let text = words(&html, "main");
    for told in [
        "6.50",
        "26 neighbours",
        "slice 5",
        "4 to 5",
        "1.0, -2.0, 3.0",
        "left out: p",
        "! yellow",
        "farther out than training patients",
    ] {
        assert!(text.contains(told), "{told} in {text}");
    }
    assert_eq!(
        select(&html, "button.go")[0].value().attr("data-z"),
        Some("4")
    );
    let edges: Vec<String> = select(&html, ".edge")
        .iter()
        .map(|e| e.text().collect())
        .collect();
    assert_eq!(edges, ["R", "L", "A", "P"]);
}
